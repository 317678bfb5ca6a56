"""The caches of steps: equal to plain loops, skipping what they may, each evaluation with what is its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from dit_data import prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cache_data import Naive, NaiveEasyCache, NaiveFirstBlockCache, NaiveTeaCache, Ran
from step_cache_runs import (
    BLOCKS,
    CFG,
    DIT,
    EVERYTHING,
    IMAGE,
    NEGATIVE,
    NOISE,
    NOTHING,
    SIGMAS,
    SMALL,
    STEPS,
    Halves,
    all_but,
    each_cache,
    earliest,
    final,
    ran,
    start,
    with_state,
)
from torch import nn

from golden_data import rel_l2
from hyvideo_core.extensions import BlockSwap, ImageToVideo
from hyvideo_core.extensions.easy_cache import EasyCache
from hyvideo_core.extensions.first_block_cache import FirstBlockCache
from hyvideo_core.extensions.step_cache import StepCache, relative_change
from hyvideo_core.extensions.tea_cache import HUNYUAN_VIDEO_COEFFICIENTS, TeaCache, polynomial
from hyvideo_core.memory.transfers import ImmediateTransfers, Pairs
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlock, RunBlocks
from hyvideo_core.sample import SOLVERS, Guidance, sample
from hyvideo_core.sample.seams import Branch, Evaluation, Extension, Predict, Run
from hyvideo_core.types import Conditioning, Interval

NAIVE: dict[type[StepCache], type[Naive]] = {
    TeaCache: NaiveTeaCache,
    FirstBlockCache: NaiveFirstBlockCache,
    EasyCache: NaiveEasyCache,
}


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
