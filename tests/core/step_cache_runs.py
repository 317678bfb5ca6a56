"""A short run of a very small transformer, with each of the step caches."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit
from step_cache_data import Ran
from torch import nn

from hyvideo_core.extensions.easy_cache import EasyCache
from hyvideo_core.extensions.first_block_cache import FirstBlockCache
from hyvideo_core.extensions.step_cache import StepCache
from hyvideo_core.extensions.tea_cache import TeaCache
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlock
from hyvideo_core.sample import Guidance, flow_sigmas, sample
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run

SMALL = replace(TINY, double_blocks=1, single_blocks=2, refiner_blocks=1)
DIT = random_dit(SMALL)
BLOCKS = 3
NOISE = randn(1, 4, 3, 4, 4, seed=3)
STEPS = 12
SIGMAS = flow_sigmas(STEPS, 7.0)
IMAGE = randn(1, 4, 1, 4, 4, seed=7)
NEGATIVE = prompt(seed=20, length=3)
CFG = {"negative": NEGATIVE, "guidance": Guidance(cfg=3)}
#: Each with a threshold under which this model skips some steps and computes others.
CACHES = [TeaCache(threshold=0.5), FirstBlockCache(threshold=0.6), EasyCache(threshold=0.5, warm_up=1)]
#: Above all that is ever measured, and above nothing.
EVERYTHING, NOTHING = 1e9, 1e-12
#: A test for each of them.
each_cache = pytest.mark.parametrize("cached", CACHES, ids=lambda cached: type(cached).__name__)


def start(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> Any:
    """The steps of a run under these extensions."""
    return sample(DIT, x, prompt(), **{"sigmas": SIGMAS, **options}, extensions=extensions)


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    """The latent after the last step."""
    return list(start(*extensions, **options))[-1].x


def ran(*extensions: Extension, **options: Any) -> Ran:
    """What ran under these extensions."""
    spy = Ran()
    final(*extensions, spy, **options)
    return spy


def all_but(first: int, last: int) -> list[int]:
    """The steps that are always computed."""
    return [step for step in range(STEPS) if step < first or step >= STEPS - last]


def earliest(cached: StepCache) -> int:
    """The first step that can be skipped: EasyCache must have seen two outputs."""
    return max(cached.warm_up, 2 if isinstance(cached, EasyCache) else 1)


@dataclass(frozen=True)
class Halves(Extension):
    """Evaluates the first two frames and the last one as clips of their own."""

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            parts = [replace(evaluation, x=evaluation.x[:, :, list(part)], part=part) for part in ((0, 1), (2,))]
            return torch.cat([inner(part) for part in parts], dim=2)

        return predict


@dataclass(frozen=True)
class Watched(Extension):
    """Notes the bytes in a cache's slots before each block but the first; the cache's state is to be handed in."""

    rank: ClassVar[int] = 960
    states: list[Any] = field(default_factory=list, compare=False)
    seen: list[int] = field(default_factory=list, compare=False)

    def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
        def run(block: nn.Module, stream: Stream) -> None:
            if block is not DIT.double_blocks[0]:
                self.seen.append(sum(tensor.nbytes for tensor in held(self.states[0])))
            inner(block, stream)

        return run


def held(state: Any) -> list[torch.Tensor]:
    """The tensors of the length of a latent that a cache keeps."""
    found = []
    for slot in state.slots.values():
        values = [getattr(slot, name, None) for name in ("residual", "first", "rest")]
        found += [value for value in (*values, *(getattr(slot, "kept", None) or ())) if value is not None]
    return found


def with_state(cached: StepCache, states: list[Any]) -> StepCache:
    """The same cache, which hands out its state."""

    class Told(type(cached)):  # type: ignore[misc]
        def start(self, run: Run) -> Any:
            states.append(super().start(run))
            return states[-1]

    return Told(**{each.name: getattr(cached, each.name) for each in fields(cached)})
