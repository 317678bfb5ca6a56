"""What old nodes say, and what that is here: frozen values for their sockets. Needs the library alone, no host.

The facts are those of ComfyUI-HunyuanVideoWrapper at its last commit of 2025-05-09. Parts of a run were inclusive at
both ends there (start ≤ step / steps ≤ end), and are not here, so they are known only once the number of steps is.
``remarks`` tell what is done another way than there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import (
    CfgZeroStar,
    ContextWindows,
    EnhanceAVideo,
    FreSca,
    Riflex,
    SeamlessLoop,
    SkipGuidance,
    TeaCache,
)
from hyvideo_core.extensions.rf_inversion import trend_shares
from hyvideo_core.extensions.skip_guidance import ATTENTION, SKIP
from hyvideo_core.sample.schedule import flow_sigmas
from hyvideo_core.sample.seams import Branch, Evaluation, Extension
from hyvideo_core.text import IMAGE, VIDEO, Template
from hyvideo_core.types import SIZE_STEP_PX, TEMPORAL_COMPRESSION, Conditioning, Interval

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


def part(start: float, end: float, steps: int) -> Interval:
    """The steps i of a run with start ≤ i / steps ≤ end, as an interval whose end is exclusive; empty if there is none.

    A hair is granted for values like 0.3 · 10, which is below 3.
    """
    if start > end:
        return Interval(0.0, 0.0)
    last = math.floor(end * steps + 1e-9)
    return Interval(min(start, 1.0), max(min(start, 1.0), min(1.0, (last + 1) / steps)))


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


class Setting:
    """Base of what travels over the sockets of options: what it adds to a run of so many steps, and what to remark."""

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """What it is here."""
        return ()

    def remarks(self) -> tuple[str, ...]:
        """What is another way than it was there."""
        return ()


@dataclass(frozen=True)
class Swap(Setting):
    """How many blocks of each group wait in the computer's memory."""

    double: int
    single: int

    def resident_blocks(self, config: DiTConfig) -> int:
        """How many blocks of such a transformer stay on the card."""
        return max(0, config.double_blocks - self.double) + max(0, config.single_blocks - self.single)


@dataclass(frozen=True)
class Compile(Setting):
    """Whether blocks are compiled."""

    blocks: bool


@dataclass(frozen=True)
class Cfg(Setting):
    """True guidance; 1 and below is off."""

    negative_prompt: str = ""
    cfg: float = 1.0
    start: float = 0.0
    end: float = 1.0
    batched: bool = False
    zero_star: bool = False

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """CFG-Zero★'s scale; no step is left out."""
        if self.cfg <= 1 or not self.zero_star:
            return ()
        return (CfgZeroStar(optimized_scale=True, zero_steps=0, when=part(self.start, self.end, steps)),)


@dataclass(frozen=True)
class Stg(Setting):
    """Spatio-temporal guidance in one single block; −1 is none."""

    mode: str
    block: int
    scale: float
    start: float
    end: float

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """One more evaluation in each step of its part."""
        if self.scale <= 0 or self.block < 0:
            return ()
        disturbance = {"STG-A": ATTENTION, "STG-R": SKIP}[self.mode]
        when = part(self.start, self.end, steps)
        return (SkipGuidance(blocks=f"single {self.block}", scale=self.scale, disturbance=disturbance, when=when),)


@dataclass(frozen=True)
class NegativeSkip(SkipGuidance):
    """Leaves blocks out where the negative prompt is evaluated; no evaluation is added."""

    @property
    def name(self) -> str:
        """The evaluation that is disturbed."""
        return "negative"

    def branches(self, evaluation: Evaluation, state: object) -> Sequence[Branch]:
        """None: cfg asks for the negative prompt itself."""
        return ()


@dataclass(frozen=True)
class Slg(Setting):
    """Blocks that are left out for the negative prompt."""

    blocks: str
    start: float
    end: float

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """What leaves them out."""
        return (NegativeSkip(blocks=self.blocks, when=part(self.start, self.end, steps)),) if self.blocks else ()


@dataclass(frozen=True)
class Enhance(Setting):
    """Enhance-A-Video, in single blocks, in double ones, or in all."""

    weight: float
    single: bool
    double: bool
    start: float
    end: float

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """The same weight in all blocks."""
        if not (self.single or self.double):
            return ()
        return (EnhanceAVideo(weight=self.weight, when=part(self.start, self.end, steps)),)

    def remarks(self) -> tuple[str, ...]:
        """Blocks cannot be chosen."""
        if self.single == self.double:
            return ()
        kind = "single" if self.single else "double"
        return (
            f"Enhance A Video was for {kind} blocks only and acts in all blocks now; lower its weight if it shows.",
        )


@dataclass(frozen=True)
class Tea(Setting):
    """TeaCache from one step to another, both counted from 0; −1 is the last one."""

    threshold: float
    device: str
    first: int
    last: int

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """The steps at both ends are computed."""
        if not self.threshold:
            return ()
        end = steps - 1 if self.last < 0 else min(self.last, steps - 1)
        device = {"main_device": "model", "offload_device": "cpu"}[self.device]
        return (TeaCache(threshold=self.threshold, warm_up=max(1, self.first), last=steps - end, device=device),)


@dataclass(frozen=True)
class Context(Setting):
    """Context windows, in frames of the video."""

    SCHEDULES: ClassVar[Mapping[str, str]] = {
        "uniform_standard": "uniform",
        "uniform_looped": "looped",
        "static_standard": "static",
    }
    schedule: str
    frames: int
    stride: int
    overlap: int
    freenoise: bool

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """Windows of 4n+1 frames that share 4n, at least 5."""
        window = max(5, (self.frames - 1) // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION + 1)
        overlap = min(self.overlap // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION, window - 1)
        schedule = self.SCHEDULES[self.schedule]
        return (
            ContextWindows(
                window_frames=window, overlap_frames=overlap, schedule=schedule, freenoise=self.freenoise, seed=seed
            ),
        )

    def remarks(self) -> tuple[str, ...]:
        """Windows have no holes."""
        if self.stride < 2 * TEMPORAL_COMPRESSION or self.schedule == "static_standard":
            return ()
        return (f"context_stride {self.stride} has no counterpart: windows are of frames that follow on each other.",)


@dataclass(frozen=True)
class Fresca(Setting):
    """FreSca's factors; all is high at a cutoff of 0."""

    low: float
    high: float
    cutoff: int

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """The same factors."""
        low = self.low if self.cutoff else self.high
        return () if low == self.high == 1 else (FreSca(low=low, high=self.high, cutoff=max(1, self.cutoff)),)


@dataclass(frozen=True)
class Loop(Setting):
    """A seamless loop."""

    shift: int
    start: float
    end: float

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """The same shift."""
        if not self.shift:
            return ()
        return (SeamlessLoop(shift_latent_frames=self.shift, when=part(self.start, self.end, steps)),)


@dataclass(frozen=True)
class RiflexIndex(Setting):
    """The number of the frequency that is lowered, whatever the length; 0 is off."""

    k: int

    def features(self, steps: int, seed: int) -> tuple[Extension, ...]:
        """The same frequency."""
        return (Riflex(k=self.k, above_frames=0),) if self.k else ()


@dataclass(frozen=True, eq=False)
class Embeds:
    """An encoded prompt with its negative one, and how strongly that acts."""

    positive: Conditioning = field(repr=False)
    negative: Conditioning | None = field(default=None, repr=False)
    cfg: Cfg = field(default_factory=Cfg)


def step_range(first: int, end: int, steps: int) -> Interval:
    """Steps ``first`` to ``end``, exclusive, of a run. Raises ``HyVideoError`` where there is none."""
    if not 0 <= first < end or first >= steps:
        raise HyVideoError(
            f"start_step is {first} and end_step {end}, but the first must be below the second and below "
            f"steps, {steps}."
        )
    return Interval(first / steps, min(1.0, end / steps))


def trended(strength: float, trend: str, levels: Sequence[float], first: int, end: int) -> list[float]:
    """A strength for each step, which start at these noise levels: by its trend in some of them, 0 in the others.

    Raises ``HyVideoError`` as ``step_range``.
    """
    step_range(first, end, len(levels))
    active = range(first, min(end, len(levels)))
    shares = trend_shares([levels[step] for step in active], TRENDS[trend])
    return [strength * shares[step - first] if step in active else 0.0 for step in range(len(levels))]
