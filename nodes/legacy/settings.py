"""What the values of old widgets are here. Needs the library alone, no host.

The facts are those of ComfyUI-HunyuanVideoWrapper at its last commit of 2025-05-09.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import HyVideoError
from hyvideo_core.sample.schedule import flow_sigmas
from hyvideo_core.text import IMAGE, VIDEO, Template
from hyvideo_core.types import SIZE_STEP_PX, TEMPORAL_COMPRESSION, Interval

DTYPES = {"fp16": "float16", "fp32": "float32", "bf16": "bfloat16"}
#: Attention by the names there, and what it is here; what is not named is auto.
ATTENTIONS = {
    "sdpa": "sdpa",
    "flash_attn": "flash2",
    "flash_attn_varlen": "flash2",
    "sageattn": "sage2",
    "sageattn_varlen": "sage2",
    "comfy": "auto",
}
#: How weights are held and multiplied here, by the choice of quantization there.
STORAGES = {
    "disabled": ("auto", "auto"),
    "fp8_e4m3fn": ("fp8", "auto"),
    "fp8_e4m3fn_fast": ("fp8_tensor", "fast"),
    "fp8_e5m2": ("fp8", "auto"),
    "fp8_scaled": ("auto", "auto"),
}
SCHEDULERS = {
    "FlowMatchDiscreteScheduler": "euler",
    "SDE-DPMSolverMultistepScheduler": "euler stochastic",
    "DPMSolverMultistepScheduler": "dpm++ 2m",
    "SASolverScheduler": "euler stochastic",
    "UniPCMultistepScheduler": "unipc",
}
#: Those of them that are only nearly the same.
NEARLY = ("SDE-DPMSolverMultistepScheduler", "SASolverScheduler")
TRENDS = {"constant": "constant", "linear_increase": "rising", "linear_decrease": "falling"}
#: Blocks of HunyuanVideo.
DOUBLE_BLOCKS, SINGLE_BLOCKS = 20, 40


def levels(steps: int, shift: float, denoise: float) -> torch.Tensor:
    """The noise levels of a run: of ``steps`` the last int(steps · denoise), as diffusers counts them.

    HyVideo Sampler makes all ``steps`` instead, of a longer schedule. Raises ``HyVideoError`` where none is left.
    """
    made = min(int(steps * denoise + 1e-9), steps)
    if made < 1:
        raise HyVideoError(
            f"denoise_strength is {denoise}, which leaves none of {steps} steps. Raise it to {1 / steps:.2f} or more."
        )
    return flow_sigmas(steps, shift)[steps - made :]


def aligned(size_px: int) -> int:
    """The next multiple of 16 px that is not smaller."""
    return -(-size_px // SIZE_STEP_PX) * SIZE_STEP_PX


def tiling(enabled: bool, frames: int, size_px: int, auto: bool) -> dict[str, object]:
    """The choice of tiles of HyVideo Decode and Encode that the four old widgets mean."""
    if not enabled:
        return {"tiling": "whole"}
    if auto:
        return {"tiling": "auto"}
    frames = max(TEMPORAL_COMPRESSION, frames // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION)
    return {"tiling": "tiled", "tile_size": size_px, "tile_frames": frames, "overlap": 0.25}


def template(choice: str, own: Template | None) -> Template:
    """What ``prompt_template`` means. Raises ``HyVideoError`` for custom without one."""
    if choice == "disabled":
        return Template("disabled", "{}", crop_start=0)
    if choice == "custom":
        if own is None:
            raise HyVideoError(
                "prompt_template is custom, but nothing is connected to custom_prompt_template. Connect HunyuanVideo "
                "Custom Prompt Template, or choose video."
            )
        return own
    return {"video": VIDEO, "image": IMAGE}[choice]


def selected_blocks(chosen: Mapping[str, bool]) -> str:
    """The blocks of a LoRA that act, as HyVideo LoRA writes factors: none for what is not ``chosen`` by its prefix.

    With a choice nothing outside the blocks acted; with none at all everything did, as if there were no such node.
    """
    if not any(chosen.values()):
        return ""
    off = [name.rstrip(".").split(".") for name, is_on in chosen.items() if not is_on]
    return ", ".join([*(f"{group.removesuffix('_blocks')} {number}: 0" for group, number in off), "other: 0"])


def named_blocks(double: str, single: str) -> str:
    """Two lists of numbers as blocks are named here. Raises ``HyVideoError`` for what is no number."""
    found = []
    for group, numbers in (("double", double), ("single", single)):
        for number in (each.strip() for each in numbers.split(",") if each.strip()):
            if not number.isdecimal():
                raise HyVideoError(
                    f"{group}_blocks has '{number}', but must be numbers of blocks separated by commas, such as 20, 21."
                )
            found.append(f"{group} {number}")
    return ", ".join(found)


def step_range(first: int, end: int, steps: int) -> Interval:
    """Steps ``first`` to ``end``, exclusive, of a run. Raises ``HyVideoError`` where there is none."""
    if not 0 <= first < end or first >= steps:
        raise HyVideoError(
            f"start_step is {first} and end_step {end}, but the first must be below the second and below "
            f"steps, {steps}."
        )
    return Interval(first / steps, min(1.0, end / steps))


@dataclass(frozen=True)
class Swap:
    """How many blocks of each group wait in the computer's memory."""

    double: int
    single: int

    def resident_blocks(self, config: DiTConfig) -> int:
        """How many blocks of such a transformer stay on the card."""
        return max(0, config.double_blocks - self.double) + max(0, config.single_blocks - self.single)


@dataclass(frozen=True)
class Compile:
    """Whether blocks are compiled."""

    blocks: bool
