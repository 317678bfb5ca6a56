"""How long a step took in the runs of this session, and what that tells of another size. Nothing is assumed."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace

from hyvideo_core.extensions import (
    ContextWindows,
    FirstFrame,
    ImageConcat,
    ImageToVideo,
    Inpainting,
    Keyframes,
    RFInversion,
    ScheduledPrompts,
    SlidingTileAttention,
)
from hyvideo_core.sample import Guidance
from hyvideo_core.sampling_plan import SamplingPlan

from .handles import ModelHandle

#: Features that take next to no time, and that hold what is known only while a job runs.
FREE = (FirstFrame, ImageConcat, ImageToVideo, Inpainting, Keyframes, RFInversion, ScheduledPrompts)
#: Features whose time does not go with the operations of the whole video.
WITH_OWN_LAW = (ContextWindows, SlidingTileAttention)
#: Styles and sizes of which the last run is remembered.
REMEMBERED = 64
#: To how many times the operations, or what part of them, a time is scaled. Beyond that they do not decide: in a small
#: run most of the time goes to what is the same in a large one.
MOST_SCALED = 4.0


@dataclass(frozen=True)
class Pace:
    """Seconds of the first step and of each later one, and the latent [B, C, T, H, W] that they were measured with.

    In the first, kernels are chosen and compiled, and weights may be read. What is done between steps counts.
    """

    first_s: float
    step_s: float
    latent_shape: tuple[int, ...]

    def run_s(self, steps: int) -> float:
        """Seconds of a run of so many."""
        return self.first_s + (steps - 1) * self.step_s


_last: dict[tuple[Hashable, tuple[int, ...]], Pace] = {}


def style(model: ModelHandle, guidance: Guidance, solver: str) -> Hashable:
    """What decides on the time of a step, beside the size."""
    features = frozenset(each for each in model.extensions if not isinstance(each, FREE))
    evaluations = guidance.cfg > 1, guidance.interval, guidance.batched, solver
    return replace(model, extensions=()), features, evaluations


def keep(style: Hashable, pace: Pace) -> None:
    """Remember what a run measured."""
    key = style, pace.latent_shape
    _last.pop(key, None)
    _last[key] = pace
    while len(_last) > REMEMBERED:
        del _last[next(iter(_last))]


def nearest(style: Hashable, plan: SamplingPlan) -> Pace | None:
    """What the last run of a style measured that has the most nearly as many operations as ``plan``."""
    paces = [pace for (other, _), pace in _last.items() if other == style]
    return min(paces, key=lambda pace: abs(math.log(_scale(pace, plan))), default=None)


def expected(pace: Pace, plan: SamplingPlan, model: ModelHandle) -> Pace | None:
    """What a run as planned would take, scaled by the operations of another; None where they do not decide.

    What the first step took beyond the others does not go with the size.
    """
    if pace.latent_shape == plan.latent_shape:
        return pace
    scale = _scale(pace, plan)
    if not 1 / MOST_SCALED <= scale <= MOST_SCALED:
        return None
    if any(isinstance(each, WITH_OWN_LAW) for each in model.extensions):
        return None
    if plan.streaming_shows or replace(plan, latent_shape=pace.latent_shape).streaming_shows:
        return None
    step_s = pace.step_s * scale
    return Pace(step_s + max(0.0, pace.first_s - pace.step_s), step_s, plan.latent_shape)


def _scale(pace: Pace, plan: SamplingPlan) -> float:
    """How many times the operations of what was measured a plan has."""
    return plan.flops / replace(plan, latent_shape=pace.latent_shape).flops
