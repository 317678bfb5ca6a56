"""Encoded prompts made into others: mixed into one, or one after the other over a run."""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io

from hyvideo_core.errors import PromptError
from hyvideo_core.extensions import ScheduledPrompts
from hyvideo_core.text import PromptSchedule, Turn, blended

from .adapt import HostConditioning, from_host_conditioning, to_host_conditioning
from .handles import CATEGORY, HyvModel, ModelHandle

logger = logging.getLogger(__name__)


class HyvBlendPrompts(io.ComfyNode):
    """Two prompts as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvBlendPrompts",
            display_name="HyVideo Blend Prompts",
            category=f"{CATEGORY}/text",
            description="Mixes two encoded prompts into one that lies between them; chain it for more.",
            search_aliases=["conditioning average", "ConditioningAverage", "prompt mix", "prompt interpolation"],
            inputs=[
                io.Conditioning.Input("prompt_1", tooltip="An encoded prompt."),
                io.Conditioning.Input("prompt_2", tooltip="Another one, of the same text encoders."),
                io.Float.Input(
                    "share_2",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the mixture is prompt_2: 0 is prompt_1 alone, 1 prompt_2 alone.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("prompt", tooltip="The mixture; its guidance is that of the larger share.")
            ],
        )

    @classmethod
    def execute(cls, prompt_1: HostConditioning, prompt_2: HostConditioning, share_2: float) -> io.NodeOutput:
        first, guidance_1 = from_host_conditioning(prompt_1, "prompt_1")
        second, guidance_2 = from_host_conditioning(prompt_2, "prompt_2")
        mixture = to_host_conditioning(blended([(first, 1 - share_2), (second, share_2)]))
        guidance = guidance_1 if share_2 <= 0.5 else guidance_2
        if guidance is not None:
            mixture[0][1]["guidance"] = guidance
        return io.NodeOutput(mixture)


class HyvPromptSchedule(io.ComfyNode):
    """Another prompt from some part of the run on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvPromptSchedule",
            display_name="HyVideo Prompt Schedule",
            category=f"{CATEGORY}/text",
            description="Has another prompt take over while the video is made; chain it for several. Early steps "
            "decide on layout and motion, late ones on details.",
            search_aliases=[
                "prompt scheduling",
                "prompt travel",
                "BatchPromptSchedule",
                "ConditioningSetTimestepRange",
            ],
            inputs=[
                HyvModel.Input("model", tooltip="From HyVideo Load Model or another HyVideo Prompt Schedule."),
                io.Conditioning.Input(
                    "prompt", tooltip="The prompt that takes over, from the encoders of the sampler's own."
                ),
                io.Float.Input(
                    "start",
                    default=0.5,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="The part of the steps after which it is in force; before, the sampler's own prompt is, or "
                    "that of another HyVideo Prompt Schedule.",
                ),
                io.Float.Input(
                    "fade",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The part of the steps in which it gradually takes over; 0 switches from one step to the "
                    "next. Must be over when the next prompt begins.",
                ),
                io.Combo.Input(
                    "replaces",
                    options=["positive", "negative"],
                    default="positive",
                    tooltip="Which of the sampler's prompts it takes over from; negative needs cfg above 1.",
                    optional=True,
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler or another HyVideo Prompt Schedule.")],
        )

    @classmethod
    def execute(
        cls, model: ModelHandle, prompt: HostConditioning, start: float, fade: float, replaces: str = "positive"
    ) -> io.NodeOutput:
        said, own_guidance = from_host_conditioning(prompt, "prompt")
        if own_guidance is not None:
            logger.info("guidance %.2f of the scheduled prompt is left out: a run has one guidance", own_guidance)
        turn = Turn(start, said, fade)
        earlier = next((each for each in model.extensions if isinstance(each, ScheduledPrompts)), ScheduledPrompts())
        others = tuple(each for each in model.extensions if each is not earlier)
        turns = sorted((*getattr(earlier, replaces).turns, turn), key=lambda each: each.start)
        try:
            schedule = replace(earlier, **{replaces: PromptSchedule(tuple(turns))})
        except ValueError as error:
            raise PromptError(f"start, fade or prompt does not go with those before it: {error}") from error
        return io.NodeOutput(replace(model, extensions=(*others, schedule)))
