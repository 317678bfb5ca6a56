"""The caches of steps: equal to plain loops, each evaluation with what is its own, nothing left behind."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cache_data import Naive, NaiveEasyCache, NaiveFirstBlockCache, NaiveTeaCache, Ran
from torch import nn

from golden_data import rel_l2
from hyvideo_core.configs import HUNYUAN_VIDEO
from hyvideo_core.errors import CheckpointError, HyVideoError
from hyvideo_core.extensions import BlockSwap, ImageToVideo
from hyvideo_core.extensions.easy_cache import EasyCache
from hyvideo_core.extensions.first_block_cache import FirstBlockCache
from hyvideo_core.extensions.step_cache import DEVICES, StepCache, relative_change
from hyvideo_core.extensions.tea_cache import HUNYUAN_VIDEO_COEFFICIENTS, TeaCache, TeaSlot, lent, polynomial
from hyvideo_core.extensions.tea_cache_calibration import TeaCacheCalibration, fitted, note_pair, noted_pairs
from hyvideo_core.memory.transfers import ImmediateTransfers, Pairs
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlock, RunBlocks
from hyvideo_core.sample import SOLVERS, Guidance, flow_sigmas, sample
from hyvideo_core.sample.checkpoint import read_checkpoint, write_checkpoint
from hyvideo_core.sample.flow_edit import Extent, Side, flow_edit
from hyvideo_core.sample.seams import Branch, Evaluation, Extension, OnBlock, Predict, Run
from hyvideo_core.types import Conditioning, Interval

SMALL = replace(TINY, double_blocks=1, single_blocks=2, refiner_blocks=1)
DIT = random_dit(SMALL)
BLOCKS = 3
NOISE = randn(1, 4, 3, 4, 4, seed=3)
STEPS = 12
SIGMAS = flow_sigmas(STEPS, 7.0)
NEGATIVE = prompt(seed=20, length=3)
CFG = {"negative": NEGATIVE, "guidance": Guidance(cfg=3)}
#: Each with a threshold under which this model skips some steps and computes others.
CACHES = [TeaCache(threshold=0.5), FirstBlockCache(threshold=0.6), EasyCache(threshold=0.5, warm_up=1)]
#: Above all that is ever measured, and above nothing.
EVERYTHING, NOTHING = 1e9, 1e-12
each_cache = pytest.mark.parametrize("cached", CACHES, ids=lambda cached: type(cached).__name__)


def start(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> Any:
    return sample(DIT, x, prompt(), **{"sigmas": SIGMAS, **options}, extensions=extensions)


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
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


# --- the same by plain loops --------------------------------------------------------------------------------

NAIVE: dict[type[StepCache], type[Naive]] = {
    TeaCache: NaiveTeaCache,
    FirstBlockCache: NaiveFirstBlockCache,
    EasyCache: NaiveEasyCache,
}
IMAGE = randn(1, 4, 1, 4, 4, seed=7)


@each_cache
@pytest.mark.parametrize(
    ("batch", "cfg", "image"), [(1, 1.0, None), (2, 3.0, None), (1, 3.0, IMAGE)], ids=["plain", "batch", "image"]
)
def test_a_run_equals_a_plain_loop_that_skips_the_same_steps(
    cached: StepCache, batch: int, cfg: float, image: torch.Tensor | None
) -> None:
    noise = randn(batch, 4, 3, 4, 4, seed=5)
    prompts = {"positive": prompt(), "negative": NEGATIVE} if cfg > 1 else {"positive": prompt()}
    rows = None if image is None else image.expand(batch, -1, -1, -1, -1)
    naive = NAIVE[type(cached)](DIT, prompts, cfg, rows, cached.threshold)
    if isinstance(naive, NaiveTeaCache):
        naive.coefficients = HUNYUAN_VIDEO_COEFFICIENTS
    expected = naive.run(noise, SIGMAS)
    assert 0 < len(naive.skipped) < STEPS - 2
    states: list[Any] = []
    spy, extensions = Ran(), [ImageToVideo(image=image, stability=False)] if image is not None else []
    x, added_up = noise, []
    options = {"x": noise, "negative": NEGATIVE, "guidance": Guidance(cfg=cfg)}
    for step in start(with_state(cached, states), spy, *extensions, **options):
        x = step.x
        added_up.append(getattr(states[0].slots["positive", 0, ()], "predicted", None))
    for branch in prompts:
        assert sorted({*range(STEPS)} - {*spy.computed(branch)}) == naive.skipped
    assert rel_l2(x, expected) <= 1e-4
    if not isinstance(cached, FirstBlockCache):
        assert added_up == pytest.approx(naive.totals, rel=1e-3)


@pytest.mark.parametrize("offset", [0.0, -0.25], ids=["all above 0", "some estimates below 0"])
@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3, 0.5, 0.8])
def test_tea_cache_computes_the_steps_of_a_plain_loop(threshold: float, offset: float) -> None:
    naive = NaiveTeaCache(DIT, {"positive": prompt()}, 1, None, threshold)
    naive.coefficients = coefficients = (1.0, offset)
    naive.run(NOISE, SIGMAS)
    spy = ran(TeaCache(threshold=threshold, coefficients=coefficients))
    assert spy.computed() == [step for step in range(STEPS) if step not in naive.skipped]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.floats(0, 2))
def test_the_polynomial_is_that_of_its_coefficients_the_highest_power_first(
    coefficients: list[float], x: float
) -> None:
    assert polynomial(coefficients, x) == pytest.approx(float(np.polyval(coefficients, x)), rel=1e-6, abs=1e-6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**31))
@settings(deadline=None)
def test_a_relative_change_is_that_of_all_pieces_together(sizes: list[int], seed: int) -> None:
    now, before = randn(2, sum(sizes), 3, seed=seed), randn(2, sum(sizes), 3, seed=seed + 1)
    found = relative_change(zip(now.split(sizes, dim=1), before.split(sizes, dim=1), strict=True))
    assert found == pytest.approx(((now - before).abs().mean() / before.abs().mean()).item(), rel=1e-5)


def test_a_change_from_nothing_is_infinite_and_one_of_what_is_no_number_never_small() -> None:
    zero = torch.zeros(1, 2, 3)
    assert relative_change([]) == relative_change([(zero, zero)]) == math.inf
    assert not relative_change([(zero * math.nan, zero + 1)]) < EVERYTHING


def test_the_defaults_are_the_published_ones_but_for_the_threshold_of_easy_cache() -> None:
    assert TeaCache().coefficients == (7.33226126e2, -4.01131952e2, 6.75869174e1, -3.149878, 9.61237896e-2)
    assert (TeaCache().threshold, FirstBlockCache().threshold, EasyCache().threshold) == (0.15, 0.06, 0.05)
    assert (EasyCache().warm_up, *{cached().last for cached in NAIVE}) == (5, 1)


# --- how much is skipped ------------------------------------------------------------------------------------


@each_cache
@pytest.mark.parametrize("options", [{}, CFG, {"solver": SOLVERS["heun"]}], ids=["plain", "cfg", "heun"])
def test_where_nothing_is_skipped_the_result_is_the_same_to_the_last_bit(
    cached: StepCache, options: dict[str, Any]
) -> None:
    expected = final(**options)
    for threshold in (0.0, NOTHING):
        assert torch.equal(final(replace(cached, threshold=threshold), **options), expected)


@each_cache
def test_at_threshold_0_nothing_is_wrapped_and_nothing_told(cached: StepCache) -> None:
    off = replace(cached, threshold=0.0)
    with torch.no_grad():
        state = off.start(Run(DIT, SIGMAS, _Stack(), tuple(NOISE.shape)))
    for wrap in ("wrap_predict", "wrap_blocks", "wrap_block", "wrap_attend"):
        inner = object()
        assert getattr(off, wrap)(inner, state) is inner
    assert off.report(state) == ""


class _Stack:
    def callback(self, *_: Any) -> None:
        """Nothing to undo."""


@each_cache
def test_a_higher_threshold_skips_at_least_as_much_and_in_the_end_all_it_may(cached: StepCache) -> None:
    computed = [len(ran(replace(cached, threshold=t)).computed()) for t in (NOTHING, 0.6, 1.2, EVERYTHING)]
    assert computed == sorted(computed, reverse=True)
    assert (computed[0], computed[-1]) == (STEPS, len(all_but(earliest(cached), 1)))
    assert len(set(computed)) > 2


@each_cache
@pytest.mark.parametrize(("warm_up", "last"), [(1, 1), (3, 2), (6, 0), (1, 0), (12, 12)])
def test_the_first_and_the_last_steps_are_always_computed_and_the_others_need_not_be(
    cached: StepCache, warm_up: int, last: int
) -> None:
    cached = replace(cached, threshold=EVERYTHING, warm_up=warm_up, last=last)
    assert ran(cached).computed() == all_but(earliest(cached), last)


@each_cache
def test_steps_are_skipped_only_where_the_cache_is_meant_to_act(cached: StepCache) -> None:
    spy = ran(replace(cached, threshold=EVERYTHING, when=Interval(0.25, 0.5)))
    # The first of its steps has nothing to make do with; EasyCache's second neither.
    assert spy.computed() == [step for step in range(STEPS) if not 3 + earliest(cached) <= step < 6]


@each_cache
def test_a_skipped_step_runs_no_block_but_the_one_that_decides(cached: StepCache) -> None:
    spy = ran(replace(cached, threshold=EVERYTHING))
    skipped = STEPS - len(spy.computed())
    deciding = skipped if isinstance(cached, FirstBlockCache) else 0
    assert spy.blocks.total() == BLOCKS * len(spy.computed()) + deciding


@each_cache
def test_skipped_blocks_cost_no_transfer(cached: StepCache) -> None:
    class Counted(ImmediateTransfers):
        copies = 0

        def copy(self, pairs: Pairs, after: Any) -> None:
            Counted.copies += 1
            super().copy(pairs, after)

    swap = BlockSwap(waiting=lambda: (*DIT.double_blocks, *DIT.single_blocks), transfers=lambda _: Counted())
    assert torch.equal(final(cached, swap), final(cached))
    Counted.copies = 0
    computed = len(ran(replace(cached, threshold=EVERYTHING), swap).computed())
    # The block that decides is followed by the next, which is on its way when the decision falls.
    deciding = 2 * (STEPS - computed) if isinstance(cached, FirstBlockCache) else 0
    assert Counted.copies <= BLOCKS * computed + 1 + deciding < BLOCKS * STEPS


@each_cache
def test_what_is_skipped_is_reported_in_steps_and_work(cached: StepCache, caplog: pytest.LogCaptureFixture) -> None:
    spy, told = Ran(), list[float]()
    guidance = Guidance(cfg=3, interval=Interval(0, 0.5))
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        final(replace(cached, saved=told.append), spy, negative=NEGATIVE, guidance=guidance, solver=SOLVERS["heun"])
    whole = {
        branch: [s for s in range(steps) if s not in {*spy.computed(branch), *spy.computed(branch, stage=1)}]
        for branch, steps in (("positive", STEPS), ("negative", STEPS // 2))
    }
    evaluations = 2 * STEPS - 1 + STEPS
    saved = 1 - spy.blocks.total() / BLOCKS / evaluations
    assert caplog.messages[-1] == (
        f"{cached.name} skipped {len(whole['positive'])} of 12 steps of positive, {len(whole['negative'])} of 6 steps "
        f"of negative: {saved:.0%} of the blocks' work."
    )
    assert told == [pytest.approx(saved)]
    assert whole["positive"]


# --- each evaluation has what is its own --------------------------------------------------------------------


@each_cache
def test_all_branches_of_a_step_are_skipped_or_computed_together(cached: StepCache) -> None:
    spy = ran(cached, Extra(), **CFG)
    assert spy.computed("negative") == spy.computed("extra") == spy.computed("positive")
    assert len(spy.computed()) < STEPS


@dataclass(frozen=True)
class Extra(Extension):
    """One more evaluation of another prompt, in some steps."""

    steps: Callable[[int], bool] = lambda step: True

    def branches(self, evaluation: Evaluation, state: Any) -> Sequence[Branch]:
        return [Branch("extra", 0.5, prompt(seed=40))] if self.steps(evaluation.step) else []


@each_cache
def test_a_branch_that_comes_later_is_computed_first(cached: StepCache) -> None:
    spy = ran(replace(cached, threshold=EVERYTHING), Extra(steps=lambda step: step >= 5))
    assert spy.computed() == all_but(earliest(cached), 1)
    assert spy.computed("extra") == [5, 11]


@each_cache
def test_what_was_not_evaluated_in_the_step_before_is_not_reused(cached: StepCache) -> None:
    spy = ran(replace(cached, threshold=EVERYTHING), Extra(steps=lambda step: step % 3 == 0))
    assert spy.computed("extra") == [0, 3, 6, 9]


@each_cache
def test_no_branch_reuses_what_is_older_than_the_deciding_ones(cached: StepCache) -> None:
    """The deciding evaluation is computed anew in step 6, where it gets another prompt; so must be the others."""
    spy = ran(replace(cached, threshold=EVERYTHING), OtherPrompt(first=6, branch="positive"), Extra())
    first = [6] if earliest(cached) == 1 else [6, 7]
    assert spy.computed() == spy.computed("extra") == sorted([*all_but(earliest(cached), 1), *first])


@dataclass(frozen=True)
class OtherPrompt(Extension):
    """Another prompt from step ``first`` on; the same one as another object in all."""

    first: int = 6
    branch: str = "positive"

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            own = evaluation.conditioning
            copied = Conditioning(own.text.clone(), own.pooled.clone())
            if evaluation.branch == self.branch and evaluation.step >= self.first:
                copied = prompt(seed=50)
            return inner(replace(evaluation, conditioning=copied))

        return predict


@each_cache
def test_another_prompt_is_computed_first(cached: StepCache) -> None:
    spy = ran(replace(cached, threshold=EVERYTHING), OtherPrompt(first=6, branch="negative"), **CFG)
    assert spy.computed() == all_but(earliest(cached), 1)
    assert spy.computed("negative") == sorted([*all_but(earliest(cached), 1), 6])


@each_cache
def test_both_prompts_as_one_batch_are_one_evaluation(cached: StepCache) -> None:
    batched = {"negative": NEGATIVE, "guidance": Guidance(cfg=3, batched=True)}
    spy = ran(replace(cached, threshold=EVERYTHING), **batched)
    assert spy.computed("negative and positive") == all_but(earliest(cached), 1)
    sequential, together = (final(replace(cached, threshold=EVERYTHING), **options) for options in (CFG, batched))
    assert rel_l2(together, sequential) <= 1e-4


@each_cache
def test_cfg_with_the_prompt_itself_as_negative_changes_nothing(cached: StepCache) -> None:
    guided = final(cached, negative=prompt(), guidance=Guidance(cfg=5))
    assert rel_l2(guided, final(cached)) <= 1e-6


@dataclass(frozen=True)
class Halves(Extension):
    """Evaluates the first two frames and the last one as clips of their own."""

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            parts = [replace(evaluation, x=evaluation.x[:, :, list(part)], part=part) for part in ((0, 1), (2,))]
            return torch.cat([inner(part) for part in parts], dim=2)

        return predict


@each_cache
def test_parts_of_the_frames_are_as_runs_of_their_own(cached: StepCache) -> None:
    options = {**CFG, "solver": SOLVERS["heun"]}
    together = final(cached, Halves(), **options)
    for part in (slice(0, 2), slice(2, 3)):
        assert torch.equal(together[:, :, part], final(cached, x=NOISE[:, :, part], **options))


@each_cache
def test_the_second_evaluation_of_a_step_has_its_own(cached: StepCache) -> None:
    cached = replace(cached, threshold=EVERYTHING, last=0)
    spy = ran(cached, solver=SOLVERS["heun"])
    # There is none in the last step.
    assert spy.computed() == spy.computed(stage=1) == all_but(earliest(cached), 0)


@dataclass(frozen=True)
class Shorter(Extension):
    """Leaves out frames in some steps, without saying so by ``part``."""

    steps: Callable[[int], bool] = lambda step: True

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            if not self.steps(evaluation.step):
                return inner(evaluation)
            out = inner(replace(evaluation, x=evaluation.x[:, :, :2]))
            return torch.cat((out, out[:, :, :1]), dim=2)

        return predict


@each_cache
def test_what_has_another_shape_is_never_reused(cached: StepCache) -> None:
    cached = replace(cached, threshold=EVERYTHING)
    assert ran(cached, Shorter(steps=lambda step: step % 2 == 0)).computed() == [*range(STEPS)]
    again = [6] if earliest(cached) == 1 else [6, 7]
    assert ran(cached, Shorter(steps=lambda step: step >= 6)).computed() == sorted(
        [*all_but(earliest(cached), 1), *again]
    )


@each_cache
def test_an_image_that_comes_or_goes_is_computed_first(cached: StepCache) -> None:
    @dataclass(frozen=True)
    class Marked(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            return lambda evaluation: inner(replace(evaluation, token_replace=evaluation.step >= 6))

    again = [6] if earliest(cached) == 1 else [6, 7]
    spy = ran(replace(cached, threshold=EVERYTHING), Marked())
    assert spy.computed() == sorted([*all_but(earliest(cached), 1), *again])


@each_cache
def test_a_part_with_nothing_but_the_image_is_never_near(cached: StepCache) -> None:
    @dataclass(frozen=True)
    class ImageApart(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            def predict(evaluation: Evaluation) -> torch.Tensor:
                image = replace(evaluation, x=evaluation.x[:, :, :1], part=(0,))
                others = replace(evaluation, x=evaluation.x[:, :, 1:], part=(1, 2), token_replace=False)
                return torch.cat((inner(image), inner(others)), dim=2)

            return predict

    cached = replace(cached, threshold=EVERYTHING)
    if isinstance(cached, TeaCache):
        cached = replace(cached, coefficients=(-1.0, 0.0))
    spy = ran(cached, ImageApart(), ImageToVideo(image=IMAGE))
    assert spy.computed(part=(0,)) == [*range(STEPS)]
    assert spy.computed(part=(1, 2)) == all_but(earliest(cached), 1)


@each_cache
def test_what_was_found_with_other_extensions_around_is_not_reused(cached: StepCache) -> None:
    @dataclass(frozen=True)
    class Halved(Extension):
        def wrap_blocks(self, inner: RunBlocks, state: Any) -> RunBlocks:
            return inner

    again = [3, 9] if earliest(cached) == 1 else [3, 4, 9, 10]
    spy = ran(replace(cached, threshold=EVERYTHING), Halved(when=Interval(0.25, 0.75)))
    assert spy.computed() == sorted([*all_but(earliest(cached), 1), *again])


@each_cache
def test_the_order_of_extensions_is_irrelevant(cached: StepCache) -> None:
    others = [Halves(), Extra(), LeavesOut(), ImageToVideo(image=IMAGE)]
    assert torch.equal(final(cached, *others), final(*reversed(others), cached))


@dataclass(frozen=True)
class LeavesOut(Extension):
    """Leaves out blocks, the first among them, in one branch."""

    rank: ClassVar[int] = -100
    left_out: tuple[nn.Module, ...] = (DIT.double_blocks[0], DIT.single_blocks[1])

    def start(self, run: Run) -> list[str]:
        return []

    def wrap_predict(self, inner: Predict, state: list[str]) -> Predict:
        return lambda evaluation: (state.__setitem__(slice(None), [evaluation.branch]), inner(evaluation))[1]

    def wrap_block(self, inner: RunBlock, state: list[str]) -> RunBlock:
        def run(block: nn.Module, stream: Stream) -> None:
            if state != ["extra"] or block not in self.left_out:
                inner(block, stream)

        return run


@each_cache
def test_blocks_that_others_leave_out_stay_out(cached: StepCache) -> None:
    expected = final(LeavesOut(), Extra())
    assert rel_l2(expected, final(Extra())) > 1e-3
    assert torch.equal(final(replace(cached, threshold=NOTHING), LeavesOut(), Extra()), expected)
    spy = ran(replace(cached, threshold=EVERYTHING), LeavesOut(), Extra())
    assert spy.blocks[0, "extra", 0, ()] == BLOCKS - 2
    assert spy.blocks[10, "extra", 0, ()] == 0


@pytest.mark.parametrize("groups", [1, 2])
@each_cache
def test_heads_in_groups_change_nothing_but_rounding(cached: StepCache, groups: int) -> None:
    dit = random_dit(SMALL, head_groups=groups)
    steps = list(sample(dit, NOISE, prompt(), sigmas=SIGMAS, extensions=[cached]))
    assert rel_l2(steps[-1].x, final(cached)) <= 1e-4


# --- memory -------------------------------------------------------------------------------------------------


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


# --- calibration --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Synthetic(Extension):
    """Instead of the blocks' result, one whose relative change is ``rate`` times that of the first block's input.

    What changes in the input is added to a constant 1/rate times as large: so large that no sign ever turns.
    """

    rank: ClassVar[int] = 950
    rate: float = 0.25

    def start(self, run: Run) -> dict[str, torch.Tensor]:
        return {}

    def wrap_blocks(self, inner: RunBlocks, state: dict[str, torch.Tensor]) -> RunBlocks:
        def run(stream: Stream) -> None:
            shift, scale = DIT.double_blocks[0].img_mod(stream.vec)[:2]
            tokens = stream.video
            normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift
            then = state.setdefault("input", normed)
            level = state.setdefault("level", normed.abs().mean())
            moved = state.setdefault("result", torch.full_like(normed, level.item() / self.rate))
            state["result"] = moved + (normed - then) * (level / then.abs().mean())
            state["input"] = normed
            tokens.add_(state["result"])

        return run


def test_calibration_changes_nothing() -> None:
    assert torch.equal(final(TeaCacheCalibration(), **CFG), final(**CFG))


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_calibration_finds_a_known_relation(rate: float) -> None:
    pairs: list[tuple[float, float]] = []
    final(TeaCacheCalibration(found=pairs.append), Synthetic(rate=rate))
    assert len(pairs) == STEPS - 1
    slope, offset = fitted(pairs)
    assert (slope, offset) == (pytest.approx(rate, rel=0.05), 0.0)


def test_calibration_measures_what_a_plain_loop_does() -> None:
    found: list[tuple[float, float]] = []
    final(TeaCacheCalibration(found=found.append), **CFG)

    class Measured(NaiveTeaCache):
        def blocks(self, branch: str, stream: Stream, inner: Any) -> None:
            if branch == "positive":
                self.inputs.append(self.modulated(stream))
            tokens = stream.video.clone()
            inner(stream)
            if branch == "positive":
                self.results.append(stream.video - tokens)

    naive = Measured(DIT, {"positive": prompt(), "negative": NEGATIVE}, 3, None, 0.0)
    naive.inputs, naive.results = [], []
    naive.run(NOISE, SIGMAS)
    expected = [
        tuple(((now - then).abs().mean() / then.abs().mean()).item() for then, now in (pair_in, pair_out))
        for pair_in, pair_out in zip(pairwise(naive.inputs), pairwise(naive.results), strict=True)
    ]
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-4)


@given(st.lists(st.tuples(st.floats(1e-3, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_calibrated_estimates_add_up_to_what_was_measured(pairs: list[tuple[float, float]]) -> None:
    estimated = sum(polynomial(fitted(pairs), change) for change, _ in pairs)
    assert estimated == pytest.approx(sum(result for _, result in pairs), rel=1e-6, abs=1e-12)


def test_the_coefficients_are_reported_so_that_a_cache_can_be_given_them(caplog: pytest.LogCaptureFixture) -> None:
    pairs: list[tuple[float, float]] = []
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        final(TeaCacheCalibration(found=pairs.append))
    slope, _ = fitted(pairs)
    assert caplog.messages[-1] == (
        f"TeaCache: the coefficients for this checkpoint are {slope:.6g}, 0 (from 11 changes)."
    )
    own = TeaCache(threshold=0.5, coefficients=fitted(pairs))
    assert ran(own).computed() != ran(replace(own, coefficients=HUNYUAN_VIDEO_COEFFICIENTS)).computed()


def test_what_is_measured_is_noted_and_read_again(tmp_path: Path) -> None:
    path, pairs = tmp_path / "new" / "some.txt", []
    final(TeaCacheCalibration(found=partial(note_pair, path)))
    final(TeaCacheCalibration(found=pairs.append))
    assert noted_pairs(path) == pairs
    # Another run adds to it.
    note_pair(path, (0.5, 0.25))
    assert noted_pairs(path) == [*pairs, (0.5, 0.25)]


def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    with pytest.raises(CheckpointError, match=r"some\.txt is no calibration"):
        noted_pairs(path)
    for line in ("", "0.5", "a b", "0.5 nan", "-1 0.5", "1 2 3", "inf 1"):
        path.write_text(f"0.5 0.25\n{line}\n0.5 0.25\n")
        with pytest.raises(
            CheckpointError, match=r"some\.txt is no calibration of TeaCache: its line 2 is .*two numbers"
        ):
            noted_pairs(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"some\.txt is no calibration"):
        noted_pairs(path)
    with pytest.raises(HyVideoError, match="cannot be written"):
        note_pair(path / "below.txt", (0.5, 0.25))


def test_calibration_holds_what_it_states() -> None:
    stated = TeaCacheCalibration().cache_bytes(SMALL, tuple(NOISE.shape), 4)
    states: list[Any] = []

    class Told(TeaCacheCalibration):
        def start(self, run: Run) -> Any:
            states.append(super().start(run))
            return states[-1]

    watched = Watched(states=states)
    final(Told(), watched, **CFG)
    assert max(watched.seen) == stated


def test_calibration_needs_something_to_measure(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        final(TeaCacheCalibration(), sigmas=flow_sigmas(1, 7.0))
    assert caplog.messages[-1] == "TeaCache: there is nothing to calibrate from. Run two steps or more."
    for nothing in ([], [(0.0, 0.0)]):
        with pytest.raises(ValueError, match="never changed"):
            fitted(nothing)


# --- what cannot work ---------------------------------------------------------------------------------------


@each_cache
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"threshold": -0.1}, r"threshold is -0\.1, but must be 0 \(off\) or a positive number"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": math.inf}, "threshold is inf"),
        ({"warm_up": 0}, "warm_up is 0, but must be 1 or more"),
        ({"last": -1}, "last is -1, but must be 0 or more"),
        ({"device": "cuda"}, "device is 'cuda', but must be one of model, cpu"),
    ],
    ids=repr,
)
def test_bad_settings_are_refused(cached: StepCache, bad: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        replace(cached, **bad)


@pytest.mark.parametrize("bad", [(), (1.0, math.nan)])
def test_bad_coefficients_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^coefficients is \(.*numbers, the highest power first"):
        TeaCache(coefficients=bad)


# --- going on ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nothing(Extension):
    """Another set of extensions, and nothing else."""


def goes_on(begin: Callable[..., Any], steps: Sequence[int], path: Path) -> None:
    """A run that goes on from its file, after any of these steps, makes the steps of the whole one."""
    files, whole = {}, {}
    for step in begin():
        whole[step.index] = step.x
        if step.index in steps:
            write_checkpoint(path / "run", step.checkpoint(), {})
            files[step.index] = read_checkpoint(path / "run", {})
    for index, made in files.items():
        rest = {step.index: step.x for step in begin(resume=made)}
        assert list(rest) == [each for each in whole if each > index]
        assert all(torch.equal(x, whole[each]) for each, x in rest.items())


GOING_ON: dict[str, tuple[list[Extension], dict[str, Any]]] = {
    "cfg and a solver of two evaluations": ([], {**CFG, "solver": SOLVERS["heun"]}),
    "an image, and others that come and go": ([ImageToVideo(image=IMAGE), Nothing(when=Interval(0.25, 0.75))], {}),
    "parts": ([Halves()], {}),
}


@each_cache
@pytest.mark.parametrize("case", GOING_ON.values(), ids=GOING_ON)
def test_a_run_that_goes_on_is_the_whole_one_to_the_last_bit(
    cached: StepCache, case: tuple[list[Extension], dict[str, Any]], tmp_path: Path
) -> None:
    others, options = case
    # In step 2 the others come, in step 6 they go: after steps 1 and 5 what is kept must be forgotten, after 3 not.
    goes_on(partial(start, cached, *others, sigmas=flow_sigmas(8, 7.0), **options), (1, 3, 5), tmp_path)


@pytest.mark.parametrize("device", DEVICES)
@each_cache
def test_what_a_cache_remembers_is_needed(cached: StepCache, device: str) -> None:
    cached = replace(cached, threshold=EVERYTHING, device=device)
    steps = start(cached)
    made = [next(steps) for _ in range(5)][-1].checkpoint()
    whole = list(steps)[-1].x
    assert torch.equal(list(start(cached, resume=made))[-1].x, whole)
    assert rel_l2(list(start(cached, resume=replace(made, kept={})))[-1].x, whole) > 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_results_that_are_remembered_go_to_where_a_cache_keeps_them(device: str) -> None:
    slot = TeaSlot(Evaluation(NOISE, 0.5, 1, STEPS, prompt(), "positive"), True, NOISE, (NOISE, NOISE), math.nan)
    found = TeaSlot(slot.last)
    found.recall(slot.remembered(), torch.device("meta" if device == "model" else "cpu"))
    assert found.residual is not None
    assert found.modulation is not None
    assert found.residual.device.type == ("meta" if device == "model" else "cpu")
    assert all(torch.equal(each, NOISE) for each in found.modulation)
    assert found.is_filled is True
    assert math.isnan(found.predicted)


@each_cache
def test_off_it_remembers_nothing(cached: StepCache) -> None:
    steps = start(replace(cached, threshold=0.0))
    assert next(steps).checkpoint().kept == {}


# --- the two sides of an edit ---------------------------------------------------------------------------------


def edit(*extensions: Extension, **options: Any) -> Any:
    source, target = Side(prompt()), Side(prompt(seed=40), NEGATIVE, Guidance(cfg=3))
    extent = Extent(n_max=10, n_min=2)
    return flow_edit(DIT, NOISE, source, target, sigmas=SIGMAS, extent=extent, extensions=extensions, **options)


@each_cache
def test_both_sides_of_an_edit_skip_the_same_steps(cached: StepCache, caplog: pytest.LogCaptureFixture) -> None:
    spy = Ran()
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        list(edit(replace(cached, threshold=EVERYTHING), spy))
    first, last = [2, *([3] if earliest(cached) == 2 else [])], [STEPS - 1]
    assert spy.computed("target positive") == spy.computed("target negative") == [*first, *last]
    assert spy.computed("source positive") == first
    told = caplog.messages[-1]
    skipped = 10 - len(first) - 1
    assert f"skipped {skipped} of 10 steps of target positive" in told
    assert f"{skipped - 1} of 8 steps of source positive" in told


@each_cache
def test_an_edit_that_goes_on_is_the_whole_one_to_the_last_bit(cached: StepCache, tmp_path: Path) -> None:
    goes_on(partial(edit, cached, Nothing(when=Interval(0.5, 1))), (4, 5), tmp_path)
