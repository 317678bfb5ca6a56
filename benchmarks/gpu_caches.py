"""The caches of steps at the true size: what watching costs, what a skipped step takes, and whole runs.

With random weights it says nothing of a trained model which steps a cache skips. So each is measured where nothing may
be skipped and where everything may be, and each row has the number of blocks that ran: from the seconds of both kinds
of steps follows what a run takes that skips as many as a trained model lets it.
"""

from __future__ import annotations

import logging
import statistics
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from card import Card
from gpu_sampling import Held, Result, Sampling, goals
from scale import Scale
from torch import nn

from cases import Missing
from hyvideo_core.extensions import BlockSwap, EasyCache, FirstBlockCache, TeaCache
from hyvideo_core.extensions.step_cache import StepCache
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlock
from hyvideo_core.sample.seams import Extension
from hyvideo_core.sampling_plan import SamplingPlan

#: Each as it is by default.
CACHES: dict[str, StepCache] = {cache.name: cache for cache in (TeaCache(), FirstBlockCache(), EasyCache())}
#: Thresholds that no change is below, and that every change is. At 0 a cache would not even watch.
NOTHING, EVERYTHING = sys.float_info.min, sys.float_info.max
#: EasyCache knows what a change of the input does after two steps; the others need one.
COMPUTED_FIRST = 2


@dataclass(frozen=True)
class BlocksRun(Extension):
    """Counts the blocks that run, inside of the caches."""

    rank: ClassVar[int] = BlockSwap.rank - 1
    ran: list[int] = field(default_factory=lambda: [0], compare=False, repr=False)

    def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
        """Count it."""

        def run(block: nn.Module, stream: Stream) -> None:
            self.ran[0] += 1
            inner(block, stream)

        return run


class Caches:
    """Rows of the caches, with the model of the rows of steps."""

    def __init__(self, card: Card, scale: Scale, sampling: Sampling) -> None:
        self._card, self._scale, self._sampling = card, scale, sampling
        #: Seconds of a whole run without a cache, by size.
        self._plain_run_s: dict[str, float] = {}

    def computed(self, size: str, name: str) -> Result:
        """One row: a step in which the cache decides and keeps but skips nothing, beside one without it."""
        cache = replace(CACHES[name], threshold=NOTHING, warm_up=1, last=0)
        held, plan = self._sampling.resident(size, cache)
        count = BlocksRun()
        cached = self._sampling.steps(held, plan, [cache, count])
        result = self._sampling.result(plan, cached[1:])
        if count.ran[0] != plan.blocks * len(cached):
            raise Missing(f"{name} skipped blocks although its threshold is {NOTHING}")
        # At once, so that the card is as warm.
        plain_s = statistics.median(self._sampling.steps(held, plan, [BlocksRun()])[1:])
        return result | {
            "slowdown_percent": round(100 * (statistics.median(cached[1:]) / plain_s - 1), 2),
            "plain_s": round(plain_s, 3),
            "blocks_run": f"{plan.blocks} of {plan.blocks}",
            "goals": goals(size, "bf16", None, False, result),
        }

    def skipped(self, size: str, name: str) -> Result:
        """One row: a skipped step, beside the computed one before it."""
        cache = replace(CACHES[name], threshold=EVERYTHING, warm_up=COMPUTED_FIRST, last=0)
        held, plan = self._sampling.resident(size, cache)
        count = BlocksRun()
        steps = COMPUTED_FIRST + 1 + self._scale.steps
        with reports() as told, closing(self._sampling.begun(held, plan, steps, [cache, count])) as run:
            seconds = [self._card.seconds(lambda: next(run)) for _ in range(steps)]
            next(run, None)
        in_skipped = (count.ran[0] - plan.blocks * COMPUTED_FIRST) / (steps - COMPUTED_FIRST)
        if in_skipped > 1:
            raise Missing(f"{name} skipped nothing although its threshold is {EVERYTHING}")
        # The first of a kind warms up.
        computed_s, measured = seconds[COMPUTED_FIRST - 1], seconds[COMPUTED_FIRST + 1 :]
        result = self._sampling.result(plan, measured)
        return result | {
            # Milliseconds, maybe.
            "seconds": round(statistics.median(measured), 5),
            "computed_s": round(computed_s, 3),
            "computed_percent": round(100 * statistics.median(measured) / computed_s, 2),
            "blocks_run": f"{in_skipped:.0f} of {plan.blocks}",
            "reported": " ".join(told),
            "goals": goals(size, "bf16", None, False, result),
        }

    def run(self, size: str, name: str, threshold: float | None = None) -> Result:
        """One row: a whole run by the cache's defaults, or with another threshold, beside the same run without."""
        default = CACHES[name]
        cache = default if threshold is None else replace(default, threshold=threshold)
        held, plan = self._sampling.resident(size, cache)
        if size not in self._plain_run_s:
            self._plain_run_s[size] = self._whole_run(held, plan, [BlocksRun()])
        plain_s = self._plain_run_s[size]
        self._card.reset_peak()
        count = BlocksRun()
        with reports() as told:
            seconds = self._whole_run(held, plan, [cache, count])
        result = self._sampling.result(plan, [seconds])
        return result | {
            "settings": self._settings(cache),
            "plain_s": round(plain_s, 3),
            "times_faster": round(plain_s / seconds, 3),
            "blocks_run": f"{count.ran[0]} of {plan.blocks * self._scale.run_steps}",
            "reported": " ".join(told),
            "goals": goals(size, "bf16", None, False, result),
        }

    def _settings(self, cache: StepCache) -> str:
        threshold = "no limit" if cache.threshold == EVERYTHING else f"threshold {cache.threshold:g}"
        return f"{self._scale.run_steps} steps, {threshold}, the first {cache.warm_up} and last {cache.last} computed"

    def _whole_run(self, held: Held, plan: SamplingPlan, extensions: list[Extension]) -> float:
        """Seconds of a run, after a step to warm up."""
        with closing(self._sampling.begun(held, plan, 1)) as warm_up:
            next(warm_up)
        with closing(self._sampling.begun(held, plan, self._scale.run_steps, extensions)) as run:
            return self._card.seconds(lambda: [None for _ in run])


@contextmanager
def reports() -> Iterator[list[str]]:
    """What extensions tell at the end of the runs within it."""
    lines: list[str] = []
    logger = logging.getLogger("hyvideo_core.sample.run")
    listener = logging.Handler()
    listener.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
