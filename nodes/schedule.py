"""Noise levels as the host's own SIGMAS, for native samplers and back."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError
from hyvideo_core.sample.schedule import BASE_SHIFT, partial_sigmas, shift_for
from hyvideo_core.sample.schedule import MAX_SHIFT as LARGEST_SHIFT
from hyvideo_core.types import PATCH

from .adapt import latent_samples
from .handles import CATEGORY

logger = logging.getLogger(__name__)


#: Schedulers begin so much above 1 at times.
ROUNDING = 1e-6
#: As the core has it, to the two digits that a widget shows.
MAX_SHIFT = round(LARGEST_SHIFT, 2)


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


def _size_inputs() -> list[io.Input]:
    """The two ends of the line that a shift by size lies on."""
    ends = [
        ("base_shift", BASE_SHIFT, "an image of 256×256 px"),
        ("max_shift", MAX_SHIFT, "720×1280 px and 129 frames, where 1.95 is the published shift of 7"),
    ]
    return [
        io.Float.Input(
            name,
            default=default,
            min=0.0,
            max=10.0,
            step=0.01,
            advanced=True,
            optional=True,
            tooltip=f"With a latent: the natural logarithm of the shift for {what}. Leave it unless you know better.",
        )
        for name, default, what in ends
    ]


def sigmas_input(replaced: str) -> io.Sigmas.Input:
    """Levels that are made elsewhere, in place of some settings."""
    return io.Sigmas.Input(
        "sigmas",
        optional=True,
        tooltip=f"Noise levels from 1 down, from HyVideo Schedule or a native scheduler node. They replace {replaced}.",
    )


def checked_sigmas(sigmas: torch.Tensor) -> torch.Tensor:
    """Levels of a native node, if they are some of a flow's."""
    levels = sigmas.detach().cpu().float()
    if levels.numel() and 1 < levels.max() <= 1 + ROUNDING:
        levels = levels.clamp(max=1)
    is_falling = levels.ndim == 1 and len(levels) > 1 and bool((levels.diff() < 0).all())
    if not is_falling or not 0 <= float(levels[-1]) < float(levels[0]) <= 1:
        raise HyVideoError(
            f"sigmas are {', '.join(f'{level:.3g}' for level in levels.flatten()[:4].tolist())} …, but two or more "
            "falling levels between 1 and 0 are needed. Use HyVideo Schedule, or a scheduler made for flow models."
        )
    return levels


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
            search_aliases=["sigmas", "scheduler", "flow shift", "basic scheduler", "resolution dependent shift"],
            inputs=[
                steps_input(),
                shift_input(),
                denoise_input(),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The size of the video, to choose the shift by it instead: lower for smaller and shorter "
                    "ones, which less noise hides. The log says which.",
                ),
                *_size_inputs(),
            ],
            outputs=[io.Sigmas.Output("sigmas", tooltip="For HyVideo Sampler or a native sampler.")],
        )

    @classmethod
    def execute(
        cls,
        steps: int,
        shift: float,
        denoise: float,
        latent: dict[str, Any] | None = None,
        base_shift: float = BASE_SHIFT,
        max_shift: float = MAX_SHIFT,
    ) -> io.NodeOutput:
        if latent is not None:
            frames, height, width = latent_samples(latent, "latent").shape[2:]
            shift = shift_for(frames * (height // PATCH) * (width // PATCH), base_shift, max_shift)
            logger.info("shift %.2f for %d × %d × %d latent frames, rows and columns", shift, frames, height, width)
        return io.NodeOutput(partial_sigmas(steps, shift, denoise))
