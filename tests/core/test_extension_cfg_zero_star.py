"""CFG-Zero★: the nearest multiple of the negative velocity, steps that stay, and silence where neither has a place."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from dit_data import prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.extensions.cfg_zero_star import CfgZeroStar
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.schedule import partial_sigmas
from hyvideo_core.sample.seams import Conditional, Evaluation, Extension, Predict, Run
from hyvideo_core.types import Interval

DIT = random_dit()
NOISE = randn(1, 4, 2, 4, 4, seed=3)
STEPS = 4
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=4)}
SCALE = CfgZeroStar(zero_steps=0)
ZERO = CfgZeroStar(optimized_scale=False, zero_steps=1)
#: The others add noise, which moves x without a velocity.
NOISELESS = [name for name in SOLVERS if name not in ("euler stochastic", "lcm")]
#: Sums over a whole latent are taken in float32.
ROUNDING = 1e-5


def run(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> list[Step]:
    return list(sample(DIT, x, prompt(), **{"sigmas": flow_sigmas(STEPS, 7.0), **options}, extensions=extensions))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


def steered_away_from(v_c: torch.Tensor, v_n: torch.Tensor, extension: CfgZeroStar = SCALE) -> torch.Tensor:
    """What ``extension`` makes of a negative velocity."""
    evaluation = Evaluation(torch.zeros_like(v_c), 0.5, 1, STEPS, prompt(), "positive")
    with ExitStack() as stack:
        state = extension.start(Run(DIT, flow_sigmas(STEPS, 7.0), stack, tuple(v_c.shape)))
        return extension.other(v_n, "negative", Conditional(evaluation, v_c), state)


@dataclass(frozen=True)
class Spy(Extension):
    """Notes which evaluations reach the outermost of the other extensions."""

    rank: ClassVar[int] = -550
    seen: list[tuple[int, str, int]] = field(default_factory=list, compare=False)

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            self.seen.append((evaluation.step, evaluation.branch, evaluation.stage))
            return inner(evaluation)

        return predict


# --- the scale ----------------------------------------------------------------------------------------------


def test_the_scale_is_that_of_the_paper_for_each_sample() -> None:
    v_c, v_n = randn(3, 4, 2, 4, 4, seed=1), randn(3, 4, 2, 4, 4, seed=2)
    found = steered_away_from(v_c, v_n)
    for i in range(3):
        c, n = v_c[i].double().flatten(), v_n[i].double().flatten()
        assert rel_l2(found[i].flatten(), torch.dot(c, n) / torch.dot(n, n) * n) <= ROUNDING


@given(seed=st.integers(0, 2**16), factor=st.floats(0.1, 10), tilt=st.floats(-2, 2))
@settings(max_examples=30, deadline=None)
def test_no_other_multiple_comes_nearer_and_how_long_the_negative_was_is_irrelevant(
    seed: int, factor: float, tilt: float
) -> None:
    v_n = randn(1, 2, 2, 4, 4, seed=seed)
    v_c = tilt * v_n + randn(1, 2, 2, 4, 4, seed=seed + 1)
    best = steered_away_from(v_c, v_n)
    assert rel_l2(steered_away_from(v_c, factor * v_n), best) <= 1e-4
    for other in (0.9 * best, 1.1 * best, v_n):
        assert (v_c - best).norm() <= (v_c - other).norm() * (1 + ROUNDING)


def test_a_negative_velocity_of_zero_stays_zero() -> None:
    assert torch.equal(steered_away_from(NOISE, torch.zeros_like(NOISE)), torch.zeros_like(NOISE))


def test_a_step_follows_the_papers_formula() -> None:
    x, sigmas = NOISE, flow_sigmas(1, 7.0)
    v_c = (run(sigmas=sigmas)[0].x - x) / -1
    v_n = (next(iter(sample(DIT, x, CFG["negative"], sigmas=sigmas))).x - x) / -1
    c, n = v_c.double().flatten(), v_n.double().flatten()
    scale, weight = torch.dot(c, n) / torch.dot(n, n), CFG["guidance"].cfg
    expected = x.double() - ((1 - weight) * scale * v_n.double() + weight * v_c.double())
    assert rel_l2(final(SCALE, sigmas=sigmas, **CFG), expected) <= ROUNDING
    assert rel_l2(final(sigmas=sigmas, **CFG), expected) > 1e-3


def test_only_the_negative_branch_is_scaled() -> None:
    evaluation = Evaluation(NOISE, 0.5, 1, STEPS, prompt(), "positive")
    with ExitStack() as stack:
        state = SCALE.start(Run(DIT, flow_sigmas(STEPS, 7.0), stack, tuple(NOISE.shape)))
        other = SCALE.other(NOISE, "skip double 2", Conditional(evaluation, -NOISE), state)
    assert other is NOISE


@pytest.mark.parametrize("batched", [False, True])
def test_a_batch_equals_its_clips_alone(batched: bool) -> None:
    options = {**CFG, "guidance": Guidance(cfg=4, batched=batched)}
    x = randn(2, 4, 2, 4, 4, seed=6)
    together = final(SCALE, x=x, **options)
    for i in range(2):
        assert rel_l2(together[i : i + 1], final(SCALE, x=x[i : i + 1], **CFG)) <= ROUNDING


# --- steps without a velocity -------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", NOISELESS)
@pytest.mark.parametrize("options", [{}, {**CFG, "guidance": Guidance(cfg=4, rescale=0.7)}], ids=["plain", "cfg"])
def test_x_stays_in_the_first_steps_and_no_longer(options: dict[str, Any], solver: str) -> None:
    steps = run(replace(ZERO, zero_steps=2), solver=SOLVERS[solver], **options)
    for step in steps[:2]:
        assert rel_l2(step.x, NOISE) <= 1e-6
    assert rel_l2(steps[2].x, NOISE) > 1e-3


@pytest.mark.parametrize("zero_steps", [0, 1, 3])
def test_the_transformer_is_not_asked_for_what_is_thrown_away(zero_steps: int) -> None:
    spy = Spy()
    final(replace(SCALE, zero_steps=zero_steps), spy, solver=SOLVERS["heun"], **CFG)
    last = STEPS - 1
    expected = [
        (step, branch, stage)
        for step in range(zero_steps, STEPS)
        for stage in ((0, 1) if step < last else (0,))
        for branch in ("positive", "negative")
    ]
    assert spy.seen == expected


def test_what_else_changes_the_velocity_begins_with_a_standstill() -> None:
    found: list[torch.Tensor] = []

    @dataclass(frozen=True)
    class Drift(Extension):
        rank: ClassVar[int] = -500

        def velocity(self, velocity: torch.Tensor, conditional: Conditional, state: Any) -> torch.Tensor:
            found.append(velocity)
            return velocity + 1

    steps = run(ZERO, Drift(), **{**CFG, "guidance": Guidance(cfg=4, rescale=0.7)})
    assert torch.equal(found[0], torch.zeros_like(NOISE))
    sigma, sigma_next = flow_sigmas(STEPS, 7.0)[:2]
    assert torch.allclose(steps[0].x, NOISE + (sigma_next - sigma))


def test_the_rest_of_the_run_is_the_run_from_the_next_level() -> None:
    rest = final(sigmas=flow_sigmas(STEPS, 7.0)[1:])
    assert torch.equal(final(ZERO), rest)


def test_a_run_that_does_not_begin_with_noise_is_left_alone() -> None:
    sigmas = partial_sigmas(STEPS, 7.0, 0.6)
    assert sigmas[0] < 1
    assert torch.equal(final(ZERO, sigmas=sigmas), final(sigmas=sigmas))


def test_a_step_outside_of_its_part_of_the_run_is_not_zeroed() -> None:
    assert torch.equal(final(replace(ZERO, when=Interval(0.25, 1))), final())


# --- laws of extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, CFG], ids=["plain", "cfg"])
def test_both_parts_off_is_bit_identical_to_none(options: dict[str, Any]) -> None:
    off = CfgZeroStar(optimized_scale=False, zero_steps=0)
    assert torch.equal(final(off, **options), final(**options))
    assert torch.equal(final(CfgZeroStar(when=Interval(0.5, 0.5)), **options), final(**options))


def test_every_option_changes_the_output() -> None:
    results = [final(*extensions, **CFG) for extensions in ([], [SCALE], [ZERO], [CfgZeroStar()])]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert rel_l2(one, other) > 1e-3
    late = replace(SCALE, when=Interval(0.5, 1))
    assert rel_l2(final(late, **CFG), results[1]) > 1e-3


def test_it_works_beside_a_rescale_which_stays_independent() -> None:
    rescaled = {**CFG, "guidance": Guidance(cfg=4, rescale=0.7)}
    assert bool(torch.isfinite(final(CfgZeroStar(), **rescaled)).all())
    assert rel_l2(final(CfgZeroStar(), **rescaled), final(CfgZeroStar(), **CFG)) > 1e-3


def test_two_runs_do_not_meet() -> None:
    both = CfgZeroStar(zero_steps=2)
    starts = [
        sample(DIT, NOISE, prompt(), sigmas=sigmas, extensions=[both], **CFG)
        for sigmas in (flow_sigmas(STEPS, 7.0), partial_sigmas(STEPS, 7.0, 0.6))
    ]
    pairs = list(zip(*starts, strict=True))
    assert torch.equal(pairs[-1][0].x, final(both, **CFG))
    assert torch.equal(pairs[-1][1].x, final(both, sigmas=partial_sigmas(STEPS, 7.0, 0.6), **CFG))


# --- what cannot work, and what has no place ----------------------------------------------------------------


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zero_steps is -1, but must be 0 or more"):
        CfgZeroStar(zero_steps=-1)


@pytest.mark.parametrize("zero_steps", [STEPS, STEPS + 1])
def test_a_run_that_would_stay_noise_is_refused(zero_steps: int) -> None:
    with pytest.raises(ValueError, match=rf"zero_steps is {zero_steps}, but the run has {STEPS} steps"):
        run(CfgZeroStar(zero_steps=zero_steps))
    run(CfgZeroStar(zero_steps=STEPS - 1))


@pytest.mark.parametrize(
    ("extension", "options", "words"),
    [
        (CfgZeroStar(), CFG, []),
        (ZERO, {}, []),
        (CfgZeroStar(optimized_scale=False, zero_steps=0), {}, []),
        (
            CfgZeroStar(),
            {},
            ["CFG-Zero★: nothing was scaled, since in the steps just made cfg was 1 wherever it is active."],
        ),
        (
            CfgZeroStar(),
            {**CFG, "sigmas": torch.tensor([0.5, 0.0])},
            ["CFG-Zero★: no step was zeroed, since the run began at σ = 0.5 and not with noise."],
        ),
    ],
)
def test_what_had_no_occasion_is_told_at_the_end(
    extension: CfgZeroStar, options: dict[str, Any], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        run(extension, **options)
    assert caplog.messages == words
