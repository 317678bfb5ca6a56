"""Noise levels as the host's own SIGMAS, for native samplers and back."""

from __future__ import annotations

from comfy_api.latest import io

from hyvideo_core.sample.schedule import partial_sigmas

from .handles import CATEGORY


def steps_input() -> io.Int.Input:
    """How many steps."""
    return io.Int.Input(
        "steps",
        default=30,
        min=1,
        max=1000,
        tooltip="More is finer and slower; 30 to 50. Fast checkpoints take 6.",
    )


def shift_input() -> io.Float.Input:
    """Where along the way they are."""
    return io.Float.Input(
        "shift",
        default=7.0,
        min=0.01,
        max=100.0,
        step=0.01,
        tooltip="More steps go to the coarse structure when higher: 7 to 9; 17 for Fast checkpoints and for "
        "image-to-video without stability.",
    )


def denoise_input() -> io.Float.Input:
    """How much of the way is run."""
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.01,
        max=1.0,
        step=0.01,
        tooltip="How much of the latent to replace: 1 starts from pure noise, lower keeps more of it.",
    )


class HyvSchedule(io.ComfyNode):
    """A flow's noise levels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSchedule",
            display_name="HyVideo Schedule",
            category=f"{CATEGORY}/sample",
            description="The noise levels that HyVideo Sampler makes of the same settings, as SIGMAS: to split, to "
            "change, or for a native sampler.",
            search_aliases=["sigmas", "scheduler", "flow shift", "basic scheduler"],
            inputs=[steps_input(), shift_input(), denoise_input()],
            outputs=[io.Sigmas.Output("sigmas", tooltip="For HyVideo Sampler or a native sampler.")],
        )

    @classmethod
    def execute(cls, steps: int, shift: float, denoise: float) -> io.NodeOutput:
        return io.NodeOutput(partial_sigmas(steps, shift, denoise))
