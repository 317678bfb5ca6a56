"""What caches of steps keep: as much as they state, nothing that no step can use, nothing after a run."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from step_cache_runs import (
    CACHES,
    CFG,
    DIT,
    EVERYTHING,
    NOISE,
    SMALL,
    STEPS,
    Watched,
    each_cache,
    final,
    held,
    start,
    with_state,
)
from torch import nn

from hyvideo_core.configs import HUNYUAN_VIDEO
from hyvideo_core.extensions.step_cache import StepCache
from hyvideo_core.extensions.tea_cache import TeaCache, lent
from hyvideo_core.sample import SOLVERS
from hyvideo_core.sample.seams import Extension, OnBlock, Predict
from hyvideo_core.types import Interval


@each_cache
@pytest.mark.parametrize(("branches", "turns"), [(1, 1), (2, 1), (2, 2)])
def test_the_memory_that_a_cache_takes_is_the_one_it_states(cached: StepCache, branches: int, turns: int) -> None:
    watched = Watched()
    options: dict[str, Any] = CFG if branches == 2 else {}
    final(with_state(cached, watched.states), watched, solver=SOLVERS["heun" if turns == 2 else "euler"], **options)
    stated = cached.cache_bytes(SMALL, tuple(NOISE.shape), 4, branches, turns)
    assert max(watched.seen) == stated
    assert held(watched.states[0]) == []


def test_the_memory_at_real_size_is_as_documented() -> None:
    residual = 33 * 45 * 80 * 3072 * 2
    latent = 33 * 90 * 160 * 16 * 4
    stated = [cached.cache_bytes(HUNYUAN_VIDEO, (1, 16, 33, 90, 160), 2, 2) for cached in CACHES]
    assert stated == [residual, 3 * residual, 4 * latent]
    assert CACHES[0].cache_bytes(HUNYUAN_VIDEO, (1, 16, 33, 90, 160), 2) == 0


@each_cache
def test_parts_that_are_others_in_each_step_do_not_pile_up(cached: StepCache) -> None:
    @dataclass(frozen=True)
    class Moving(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            return lambda evaluation: inner(replace(evaluation, part=(evaluation.step,)))

    watched = Watched()
    final(with_state(cached, watched.states), watched, Moving())
    assert max(watched.seen) <= cached.cache_bytes(SMALL, tuple(NOISE.shape), 4)


@pytest.mark.parametrize("cached", CACHES[:2], ids=lambda cached: type(cached).__name__)
def test_no_tokens_are_kept_that_no_step_can_use(cached: StepCache) -> None:
    watched = Watched()
    final(with_state(replace(cached, warm_up=STEPS), watched.states), watched, **CFG)
    assert max(watched.seen) == 0
    cached = replace(cached, threshold=EVERYTHING)
    states: list[Any] = []
    for step in start(with_state(replace(cached, when=Interval(0, 0.5)), states), **CFG):
        assert bool(held(states[0])) == (step.index < 5)


@each_cache
def test_closing_a_run_frees_what_was_kept(cached: StepCache) -> None:
    states: list[Any] = []
    steps = start(with_state(cached, states))
    for _ in range(4):
        next(steps)
    kept = [weakref.ref(tensor) for tensor in held(states[0])]
    assert kept
    steps.close()
    assert all(each() is None for each in kept)


@each_cache
def test_an_interrupted_run_leaves_nothing_behind(cached: StepCache) -> None:
    class Stopped(Exception):
        pass

    states: list[Any] = []

    def check() -> None:
        if len(held(states[0])) > 1 or (isinstance(cached, TeaCache) and held(states[0])):
            raise Stopped

    expected, plain, before = final(cached), final(), dict(vars(DIT))
    with pytest.raises(Stopped):
        final(with_state(cached, states), OnBlock(check=check), **CFG)
    assert held(states[0]) == []
    assert vars(DIT) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in DIT.modules())
    assert torch.equal(final(cached), expected)
    assert torch.equal(final(), plain)


@each_cache
def test_two_runs_at_a_time_do_not_meet(cached: StepCache) -> None:
    other = NOISE.flip(-1)
    pairs = list(zip(start(cached), start(cached, x=other), strict=True))
    assert torch.equal(pairs[-1][0].x, final(cached))
    assert torch.equal(pairs[-1][1].x, final(cached, x=other))


@each_cache
def test_a_cache_in_the_computers_memory_gives_the_same(cached: StepCache) -> None:
    assert torch.equal(final(replace(cached, device="cpu"), **CFG), final(cached, **CFG))
    on_card = torch.empty(1, device="meta")
    assert cached.kept_on(on_card).type == "meta"
    assert replace(cached, device="cpu").kept_on(on_card).type == "cpu"


def test_weights_that_wait_on_the_host_are_lent_to_the_device_and_taken_back() -> None:
    layer = nn.Linear(2, 2)
    before = [parameter.data_ptr() for parameter in layer.parameters()]

    def here() -> set[str]:
        return {parameter.device.type for parameter in layer.parameters()}

    with lent(layer, torch.device("meta")):
        assert here() == {"meta"}
    assert here() == {"cpu"}
    with pytest.raises(ZeroDivisionError), lent(layer, torch.device("meta")):
        raise ZeroDivisionError
    assert here() == {"cpu"}
    assert [parameter.data_ptr() for parameter in layer.parameters()] == before
