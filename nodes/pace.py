"""How long a step took in the runs of this session, and what that tells of another size. Nothing is assumed."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import fmean

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
from hyvideo_core.sample import Guidance, Step
from hyvideo_core.sampling_plan import SamplingPlan

from . import host
from .handles import ModelHandle

#: Features that take next to no time, and that hold what is known only while a job runs.
FREE = (FirstFrame, ImageConcat, ImageToVideo, Inpainting, Keyframes, RFInversion, ScheduledPrompts)
#: Features whose time does not go with the operations of the whole video.
WITH_OWN_LAW = (ContextWindows, SlidingTileAttention)
#: Styles of which the last run is remembered.
REMEMBERED = 16


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, and the latent [B, C, T, H, W] that they were measured with."""

    step_s: float
    latent_shape: tuple[int, ...]


_last: dict[Hashable, Pace] = {}


def style(model: ModelHandle, guidance: Guidance, solver: str) -> Hashable:
    """What decides on the time of a step, beside the size."""
    features = frozenset(each for each in model.extensions if not isinstance(each, FREE))
    evaluations = guidance.cfg > 1, guidance.interval, guidance.batched, solver
    return replace(model, extensions=()), features, evaluations


def timed(steps: Iterator[Step], latent_shape: tuple[int, ...], style: Hashable) -> Iterator[Step]:
    """The steps of a generator as they come; once all are made, their mean time is kept.

    The first is left out, since kernels are chosen and compiled in it. What is done between two steps does not count.
    """
    times = []
    with closing(steps):  # type: ignore[type-var]
        while True:
            started = time.perf_counter()
            step = next(steps, None)
            if step is None:
                break
            host.finish(step.denoised.device)
            times.append(time.perf_counter() - started)
            yield step
    if len(times) > 1:
        _last.pop(style, None)
        _last[style] = Pace(fmean(times[1:]), latent_shape)
        while len(_last) > REMEMBERED:
            del _last[next(iter(_last))]


def known(style: Hashable) -> Pace | None:
    """What the last run of a style measured."""
    return _last.get(style)


def expected_s(pace: Pace, plan: SamplingPlan, latent_shape: tuple[int, ...], model: ModelHandle) -> float | None:
    """Seconds of a step of another size, scaled by the operations of the plan; None where they do not decide."""
    if pace.latent_shape == latent_shape:
        return pace.step_s
    measured = replace(plan, latent_shape=pace.latent_shape)
    if any(isinstance(each, WITH_OWN_LAW) for each in model.extensions):
        return None
    if plan.streaming_shows or measured.streaming_shows:
        return None
    return pace.step_s * plan.flops / measured.flops
