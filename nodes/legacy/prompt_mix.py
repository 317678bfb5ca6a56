"""The old sampler of a mixture of two prompts, which there is not here."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError

from . import sockets
from .sampler_inputs import curve_input, enhance_input, model_inputs, seed_input, step_inputs
from .sockets import CATEGORY, unused


class HyVideoPromptMixSampler(io.ComfyNode):
    """Has no counterpart; opens, and says so when it runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        second = sockets.Embeds.Input("hyvid_embeds_2", tooltip="Another encoded prompt.")
        sizes = {"width": 512, "height": 512, "num_frames": 17}
        return io.Schema(
            node_id="HyVideoPromptMixSampler",
            display_name="HunyuanVideo Prompt Mix Sampler",
            category=CATEGORY,
            description="Old, and without a counterpart: use HyVideo Blend Prompts or HyVideo Prompt Schedule.",
            is_deprecated=True,
            inputs=[
                *model_inputs(),
                second,
                *(
                    io.Int.Input(name, default=usual, min=1, tooltip="The video's size.")
                    for name, usual in sizes.items()
                ),
                *step_inputs(6.0, 9.0, 1.0, 30.0),
                unused(io.Boolean, "force_offload", default=True),
                seed_input(),
                io.Float.Input("alpha", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="How sharply they change."),
                curve_input(default=0.0, min=0.0, max=1.0, step=0.01),
                enhance_input(),
            ],
            outputs=[io.Latent.Output("samples")],
        )

    @classmethod
    def execute(cls, **_: Any) -> io.NodeOutput:
        raise HyVideoError(
            "HunyuanVideo Prompt Mix Sampler gives each frame its own share of two prompts, which has no counterpart "
            "in this pack. Use HyVideo Blend Prompts for one mixture in all frames, or HyVideo Prompt Schedule for a "
            "prompt that takes over while the video is made."
        )
