"""Old options of a run, and the features that they are here: frozen values for their sockets. Needs no host.

Parts of a run were inclusive at both ends there (start ≤ step / steps ≤ end), and are not here, so they are known only
once the number of steps is. ``remarks`` tell what is done another way than there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hyvideo_core.extensions import (
    CfgZeroStar,
    ContextWindows,
    EnhanceAVideo,
    FreSca,
    SeamlessLoop,
    SkipGuidance,
    TeaCache,
)
from hyvideo_core.extensions.skip_guidance import ATTENTION, SKIP, NegativeSkip
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import TEMPORAL_COMPRESSION, Interval


@dataclass(frozen=True)
class OldRun:
    """What is known only where a run begins: how many steps it has, and its seed."""

    steps: int
    seed: int = 0

    def part(self, start: float, end: float) -> Interval:
        """The steps i with start ≤ i / steps ≤ end, as an interval whose end is exclusive; empty if there is none.

        A hair is granted for values like 0.3 · 10, which is below 3.
        """
        if start > end:
            return Interval(0.0, 0.0)
        last = math.floor(end * self.steps + 1e-9)
        return Interval(min(start, 1.0), max(min(start, 1.0), min(1.0, (last + 1) / self.steps)))


class Option(ABC):
    """Base of what travels over the sockets of options."""

    @abstractmethod
    def feature(self, run: OldRun) -> Extension | None:
        """What it is here in such a run; None where it is off."""

    def remarks(self) -> tuple[str, ...]:
        """What is another way than it was there."""
        return ()


@dataclass(frozen=True)
class Cfg(Option):
    """True guidance; 1 and below is off."""

    negative_prompt: str = ""
    cfg: float = 1.0
    start: float = 0.0
    end: float = 1.0
    batched: bool = False
    zero_star: bool = False

    def feature(self, run: OldRun) -> Extension | None:
        """CFG-Zero★'s scale; no step is left out."""
        if self.cfg <= 1 or not self.zero_star:
            return None
        return CfgZeroStar(optimized_scale=True, zero_steps=0, when=run.part(self.start, self.end))


@dataclass(frozen=True)
class Stg(Option):
    """Spatio-temporal guidance in one single block; −1 is none."""

    mode: str
    block: int
    scale: float
    start: float
    end: float

    def feature(self, run: OldRun) -> Extension | None:
        """One more evaluation in each step of its part."""
        if self.scale <= 0 or self.block < 0:
            return None
        return SkipGuidance(
            blocks=f"single {self.block}",
            scale=self.scale,
            disturbance={"STG-A": ATTENTION, "STG-R": SKIP}[self.mode],
            when=run.part(self.start, self.end),
        )


@dataclass(frozen=True)
class Slg(Option):
    """Blocks that are left out for the negative prompt."""

    blocks: str
    start: float
    end: float

    def feature(self, run: OldRun) -> Extension | None:
        """What leaves them out."""
        return NegativeSkip(blocks=self.blocks, when=run.part(self.start, self.end)) if self.blocks else None


@dataclass(frozen=True)
class Enhance(Option):
    """Enhance-A-Video, in single blocks, in double ones, or in all."""

    weight: float
    single: bool
    double: bool
    start: float
    end: float

    def feature(self, run: OldRun) -> Extension | None:
        """The same weight in all blocks."""
        if not (self.single or self.double):
            return None
        return EnhanceAVideo(weight=self.weight, when=run.part(self.start, self.end))

    def remarks(self) -> tuple[str, ...]:
        """Blocks cannot be chosen."""
        if self.single == self.double:
            return ()
        kind = "single" if self.single else "double"
        return (
            f"Enhance A Video was for {kind} blocks only and acts in all blocks now; lower its weight if it shows.",
        )


@dataclass(frozen=True)
class Tea(Option):
    """TeaCache from one step to another, both counted from 0; −1 is the last one."""

    threshold: float
    device: str
    first: int
    last: int

    def feature(self, run: OldRun) -> Extension | None:
        """The steps at both ends are computed."""
        if not self.threshold:
            return None
        end = run.steps - 1 if self.last < 0 else min(self.last, run.steps - 1)
        device = {"main_device": "model", "offload_device": "cpu"}[self.device]
        return TeaCache(threshold=self.threshold, warm_up=max(1, self.first), last=run.steps - end, device=device)


@dataclass(frozen=True)
class Context(Option):
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

    def feature(self, run: OldRun) -> Extension:
        """Windows of 4n+1 frames that share 4n, at least 5."""
        window = max(5, (self.frames - 1) // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION + 1)
        return ContextWindows(
            window_frames=window,
            overlap_frames=min(self.overlap // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION, window - 1),
            schedule=self.SCHEDULES[self.schedule],
            freenoise=self.freenoise,
            seed=run.seed,
        )

    def remarks(self) -> tuple[str, ...]:
        """Windows have no holes."""
        if self.stride < 2 * TEMPORAL_COMPRESSION or self.schedule == "static_standard":
            return ()
        return (f"context_stride {self.stride} has no counterpart: windows are of frames that follow on each other.",)


@dataclass(frozen=True)
class Fresca(Option):
    """FreSca's factors; all is high at a cutoff of 0."""

    low: float
    high: float
    cutoff: int

    def feature(self, run: OldRun) -> Extension | None:
        """The same factors."""
        low = self.low if self.cutoff else self.high
        return None if low == self.high == 1 else FreSca(low=low, high=self.high, cutoff=max(1, self.cutoff))


@dataclass(frozen=True)
class Loop(Option):
    """A seamless loop."""

    shift: int
    start: float
    end: float

    def feature(self, run: OldRun) -> Extension | None:
        """The same shift."""
        when = run.part(self.start, self.end)
        return SeamlessLoop(shift_latent_frames=self.shift, when=when) if self.shift else None
