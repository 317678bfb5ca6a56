"""Several prompts for the clips of one batch."""

from __future__ import annotations

from comfy_api.latest import io

from hyvideo_core.errors import PromptError
from hyvideo_core.sample.flow import joined

from .adapt import from_host_conditioning, to_host_conditioning
from .handles import CATEGORY

MOST_PROMPTS = 64


class HyvBatchPrompts(io.ComfyNode):
    """Prompts joined as the rows of one CONDITIONING; the host has a node for latents, images and masks only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        each = io.Conditioning.Input("prompt", tooltip="A prompt, for the next clip of the batch.")
        return io.Schema(
            node_id="HyvBatchPrompts",
            display_name="HyVideo Batch Prompts",
            category=f"{CATEGORY}/text",
            description="Joins prompts as a batch: clip after clip each has its own. The latent needs as many clips.",
            search_aliases=["batch conditioning", "prompt list", "several prompts", "conditioning batch"],
            inputs=[
                io.Autogrow.Input(
                    "prompts",
                    template=io.Autogrow.TemplatePrefix(each, prefix="prompt", min=2, max=MOST_PROMPTS),
                    tooltip="One prompt for each clip, in the order of the clips.",
                )
            ],
            outputs=[io.Conditioning.Output("prompts", tooltip="For HyVideo Sampler, with a latent of that batch.")],
        )

    @classmethod
    def execute(cls, prompts: io.Autogrow.Type) -> io.NodeOutput:
        found = {name: from_host_conditioning(given, name) for name, given in prompts.items()}
        guidances = {guidance for _, guidance in found.values()}
        if len(guidances) > 1:
            raise PromptError(
                f"The prompts have different guidance ({', '.join(map(str, guidances))}), but a batch has one. Put "
                "FluxGuidance behind HyVideo Batch Prompts."
            )
        batch = to_host_conditioning(joined(*(prompt for prompt, _ in found.values())))
        (guidance,) = guidances
        if guidance is not None:
            batch[0][1]["guidance"] = guidance
        return io.NodeOutput(batch)
