"""Extensions: called where promised, nested by rank, neutral when idle, undone whatever happens."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from dit_data import prompt, randn, random_dit

from golden_data import rel_l2
from hyvideo_core.attention import AttentionKernel
from hyvideo_core.model.blocks import Attention
from hyvideo_core.model.dit import Rope, RunBlock, RunBlocks
from hyvideo_core.sample import Guidance, flow_sigmas, sample
from hyvideo_core.sample.seams import Extension, OnBlock, Predict, Run
from hyvideo_core.sample.solvers import SOLVERS
from hyvideo_core.types import Interval

DIT = random_dit()
BLOCKS = 4
NOISE = randn(1, 4, 1, 4, 4, seed=3)
STEPS = 4


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return list(start(*extensions, **options))[-1].x


def start(*extensions: Extension, **options: Any) -> Any:
    return sample(DIT, NOISE, prompt(), sigmas=flow_sigmas(STEPS, 7.0), extensions=extensions, **options)


@dataclass(frozen=True)
class Neutral(Extension):
    """Wraps everything and changes nothing; counts in its run's state and, for the test, in ``counts``."""

    counts: Counter[str] = field(default_factory=Counter, compare=False)

    def _counted(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.counts[name] += 1
            return inner(*args)

        return call

    def start(self, run: Run) -> Any:
        self.counts["start"] += 1
        return self

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        return self._counted("predict", inner)

    def wrap_blocks(self, inner: RunBlocks, state: Any) -> RunBlocks:
        return self._counted("blocks", inner)

    def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
        return self._counted("block", inner)

    def wrap_attention(self, inner: Attention, state: Any) -> Attention:
        return self._counted("attention", inner)

    def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
        return self._counted("attend", inner)

    def wrap_rope(self, inner: Rope, state: Any) -> Rope:
        return self._counted("rope", inner)


@dataclass(frozen=True)
class Affine(Extension):
    """Scales and shifts the velocity, so that the order of two of these shows."""

    rank: ClassVar[int] = 5
    scale: float = 1.0
    shift: float = 0.0

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        return lambda evaluation: inner(evaluation) * self.scale + self.shift


@dataclass(frozen=True)
class OuterAffine(Affine):
    """The same further out."""

    rank: ClassVar[int] = 1


@dataclass(frozen=True)
class DoubledAttention(Extension):
    """Changes every attention call."""

    def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
        return lambda q, k, v: 2 * inner(q, k, v)


@dataclass(frozen=True)
class Cleanup(Extension):
    """Notes that it was undone."""

    undone: list[str] = field(default_factory=list)
    fails: bool = False

    def start(self, run: Run) -> Any:
        run.stack.callback(self.undone.append, "undone")
        if self.fails:
            raise RuntimeError("cannot start")
        return None


def test_a_neutral_extension_is_bit_identical_to_none() -> None:
    neutral = Neutral()
    assert torch.equal(final(neutral), final())
    assert torch.equal(final(Extension()), final())
    assert neutral.counts.total() > 0


def test_every_seam_is_passed_as_often_as_promised() -> None:
    neutral = Neutral()
    final(neutral)
    assert neutral.counts == {
        "start": 1,
        "predict": STEPS,
        "blocks": STEPS,
        "block": STEPS * BLOCKS,
        "attention": STEPS * BLOCKS,
        "attend": STEPS * BLOCKS,
        "rope": STEPS,
    }


def test_true_cfg_passes_every_seam_once_more_for_the_negative() -> None:
    neutral = Neutral()
    final(neutral, negative=prompt(seed=30), guidance=Guidance(cfg=2))
    assert neutral.counts["predict"] == neutral.counts["blocks"] == 2 * STEPS
    assert neutral.counts["block"] == neutral.counts["attend"] == 2 * STEPS * BLOCKS


def test_an_extension_acts_only_when_it_is_meant_to() -> None:
    neutral = Neutral(when=Interval(0.25, 0.75))
    final(neutral)
    assert neutral.counts.pop("start") == 1
    assert neutral.counts == dict.fromkeys(("predict", "blocks", "rope"), 2) | dict.fromkeys(
        ("block", "attention", "attend"), 2 * BLOCKS
    )
    never = Interval(0.5, 0.5)
    assert torch.equal(final(Affine(scale=3.0, when=never), DoubledAttention(when=never)), final())


@dataclass(frozen=True)
class HalvedAttention(Extension):
    """Changes what comes of all heads."""

    def wrap_attention(self, inner: Attention, state: Any) -> Attention:
        return lambda stream, heads, projections: inner(stream, heads, projections) / 2


@dataclass(frozen=True)
class Standing(Extension):
    """The same position for every token."""

    def wrap_rope(self, inner: Rope, state: Any) -> Rope:
        return lambda *args: torch.ones_like(inner(*args))


@pytest.mark.parametrize(
    "extension",
    [Affine(scale=1.5), Affine(shift=0.5), DoubledAttention(), HalvedAttention(), Standing()],
    ids=repr,
)
def test_a_wrap_reaches_the_video(extension: Extension) -> None:
    assert rel_l2(final(extension), final()) > 1e-3


def test_the_order_in_which_extensions_are_added_is_irrelevant() -> None:
    mixed = [Affine(scale=1.1), Affine(shift=0.2), OuterAffine(scale=0.9, shift=0.1), DoubledAttention()]
    results = [final(*order) for order in itertools.permutations(mixed)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_lower_rank_is_further_out() -> None:
    first = next(iter(start())).denoised - NOISE
    both = next(iter(start(Affine(shift=1.0), OuterAffine(scale=2.0)))).denoised - NOISE
    assert torch.allclose(both, 2 * (first - 1.0), atol=1e-4)  # σ goes from 1 to 0: minus the velocity


def test_what_an_extension_reports_is_logged_at_the_end_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Reports(Extension):
        def report(self, state: Any) -> str:
            return "skipped nothing"

    run = start(Reports(), Neutral())
    with caplog.at_level("INFO", "hyvideo_core"):
        for _ in range(STEPS):
            next(run)
            assert not caplog.messages
        assert list(run) == []
    assert caplog.messages == ["skipped nothing"]


@dataclass(frozen=True)
class Held(Extension):
    """Adds to the latent a run begins with, and keeps the first row of every latent at a value."""

    rank: ClassVar[int] = 1
    value: float = 0.5
    shift: float = 0.0

    def begin(self, x: torch.Tensor, sigma: float, state: Any) -> torch.Tensor:
        return x + self.shift

    def hold(self, x: torch.Tensor, sigma: float, state: Any) -> torch.Tensor:
        return torch.cat((torch.full_like(x[..., :1, :], self.value), x[..., 1:, :]), dim=-2)


@dataclass(frozen=True)
class HeldFurtherIn(Held):
    """The same, after it."""

    rank: ClassVar[int] = 2


def test_what_is_held_stays_in_every_latent_and_estimate_and_is_what_the_model_sees() -> None:
    seen: list[torch.Tensor] = []

    @dataclass(frozen=True)
    class Spy(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            return lambda evaluation: (seen.append(evaluation.x), inner(evaluation))[1]

    steps = list(start(Held(), Spy()))
    latents = [*seen, *(step.x for step in steps), *(step.denoised for step in steps)]
    assert len(latents) == 3 * STEPS
    assert all((latent[..., 0, :] == 0.5).all() for latent in latents)
    assert not torch.equal(steps[-1].x[..., 1:, :], final()[..., 1:, :])


def test_a_hold_acts_only_when_it_is_meant_to() -> None:
    steps = list(start(Held(when=Interval(0.5, 0.75))))
    assert [(step.x[..., 0, :] == 0.5).all().item() for step in steps] == [False, False, True, False]


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_hold_is_told_the_level_that_the_latent_is_at(solver: str) -> None:
    levels: list[float] = []

    @dataclass(frozen=True)
    class Listens(Extension):
        def hold(self, x: torch.Tensor, sigma: float, state: Any) -> torch.Tensor:
            levels.append(sigma)
            return x

    final(Listens(), solver=SOLVERS[solver])
    expected = []
    for sigma, after in pairwise(flow_sigmas(STEPS, 7.0).tolist()):
        # Before the step, for the clean estimate, where a solver asks once more, and after the step.
        expected += [sigma, 0.0, after, after] if solver == "heun" and after > 0 else [sigma, 0.0, after]
    assert levels == expected


def test_a_beginning_is_changed_once_and_only_by_what_is_active_then() -> None:
    shifted = list(sample(DIT, NOISE + 0.25, prompt(), sigmas=flow_sigmas(STEPS, 7.0), extensions=[Held()]))[-1].x
    assert torch.equal(final(Held(shift=0.25)), shifted)
    late = Interval(0.25, 1)
    assert torch.equal(final(Held(shift=0.25, when=late)), final(Held(when=late)))


def test_of_two_holds_the_one_further_in_has_the_last_word() -> None:
    for order in ([Held(), HeldFurtherIn(value=-1.0)], [HeldFurtherIn(value=-1.0), Held()]):
        assert (final(*order)[..., 0, :] == -1.0).all()


def test_what_was_set_up_is_undone_at_the_end_of_the_run() -> None:
    undone: list[str] = []
    for step in start(Cleanup(undone=undone)):
        assert undone == [], step.index
    assert undone == ["undone"]


def test_closing_the_generator_undoes_what_was_set_up() -> None:
    undone: list[str] = []
    steps = start(Cleanup(undone=undone))
    next(steps)
    assert undone == []
    steps.close()
    assert undone == ["undone"]


def test_an_exception_inside_undoes_what_was_set_up() -> None:
    @dataclass(frozen=True)
    class Fails(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            def predict(evaluation: Any) -> torch.Tensor:
                raise ZeroDivisionError

            return predict

    undone: list[str] = []
    steps = start(Cleanup(undone=undone), Fails(when=Interval(0.5, 1)))
    assert [next(steps).index, next(steps).index] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(steps)
    assert undone == ["undone"]


def test_a_failing_start_undoes_those_before_it() -> None:
    undone: list[str] = []
    with pytest.raises(RuntimeError, match="cannot start"):
        next(start(Cleanup(undone=undone), Cleanup(undone=undone, fails=True)))
    assert undone == ["undone", "undone"]


@pytest.mark.parametrize("blocks_allowed", [0, 1, 5])
def test_an_interrupt_stops_within_one_block(blocks_allowed: int) -> None:
    checked: list[None] = []
    ran = Neutral()

    class Interrupted(Exception):
        pass

    def check() -> None:
        if len(checked) == blocks_allowed:
            raise Interrupted
        checked.append(None)

    undone: list[str] = []
    with pytest.raises(Interrupted):
        list(start(OnBlock(check=check), ran, Cleanup(undone=undone)))
    assert ran.counts["block"] == blocks_allowed
    assert undone == ["undone"]
    assert torch.equal(final(), final(OnBlock()))


def test_state_is_not_shared_between_runs() -> None:
    @dataclass(frozen=True)
    class Drifts(Extension):
        def start(self, run: Run) -> list[int]:
            return []

        def wrap_predict(self, inner: Predict, state: list[int]) -> Predict:
            def predict(evaluation: Any) -> torch.Tensor:
                state.append(1)
                return inner(evaluation) * len(state)

            return predict

    drifts = Drifts()
    first = final(drifts)
    assert rel_l2(first, final()) > 1e-3
    assert torch.equal(final(drifts), first)
    one, other = start(drifts), start(drifts)
    interleaved = list(zip(one, other, strict=True))
    assert torch.equal(interleaved[-1][0].x, first)
    assert torch.equal(interleaved[-1][1].x, first)


def test_the_model_keeps_nothing_of_an_extension() -> None:
    before = dict(vars(DIT))
    steps = start(DoubledAttention(), Neutral())
    next(steps)
    steps.close()
    assert vars(DIT) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in DIT.modules())
