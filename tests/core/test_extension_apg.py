"""Adaptive projected guidance: the paper's algorithm on clean estimates, momentum by steps, silence when neutral."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from dit_data import prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.extensions.apg import PAPER_ELEMENTS, AdaptiveProjectedGuidance, Pasts
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.seams import Conditional, Evaluation, Extension, Run
from hyvideo_core.types import Interval

DIT = random_dit()
SHAPE = (1, 4, 2, 4, 4)
NOISE = randn(*SHAPE, seed=3)
STEPS = 4
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=4)}
#: Short enough to bind at the tests' sizes.
APG = AdaptiveProjectedGuidance(eta=0.2, momentum=-0.5, norm_threshold=40.0)
NEUTRAL = AdaptiveProjectedGuidance(eta=1, momentum=0, norm_threshold=0)
PROJECTED = replace(NEUTRAL, eta=0.0)
ROUNDING = 1e-5


def run(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> list[Step]:
    return list(sample(DIT, x, prompt(), **{"sigmas": flow_sigmas(STEPS, 7.0), **options}, extensions=extensions))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


def started(extension: AdaptiveProjectedGuidance, shape: tuple[int, ...] = SHAPE) -> Pasts:
    with ExitStack() as stack:
        return extension.start(Run(DIT, flow_sigmas(STEPS, 7.0), stack, shape))


def changed(
    extension: AdaptiveProjectedGuidance,
    difference: torch.Tensor,
    state: Pasts | None = None,
    *,
    velocity: torch.Tensor | None = None,
    x: torch.Tensor | None = None,
    sigma: float = 0.7,
    step: int = 0,
    stage: int = 0,
    name: str = "negative",
    side: str = "",
) -> torch.Tensor:
    """What ``extension`` makes of a difference of velocities, at some point of a run."""
    x = randn(*difference.shape, seed=50) if x is None else x
    velocity = randn(*difference.shape, seed=51) if velocity is None else velocity
    evaluation = Evaluation(x, sigma, step, STEPS, prompt(), "positive", stage=stage, side=side)
    state = started(extension) if state is None else state
    return extension.difference(difference, name, Conditional(evaluation, velocity), state)


def by_hand(
    apg: AdaptiveProjectedGuidance,
    v_c: torch.Tensor,
    v_n: torch.Tensor,
    x: torch.Tensor,
    sigma: float,
    weight: float,
    average: torch.Tensor | float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's algorithm for one clip, on clean estimates in float64: the guided velocity, the running average."""
    v_c, v_n, x = v_c.double(), v_n.double(), x.double()
    clean, clean_negative = x - sigma * v_c, x - sigma * v_n
    average = (clean - clean_negative) + apg.momentum * average
    update = average
    if apg.norm_threshold > 0:
        limit = apg.norm_threshold * (update.numel() / PAPER_ELEMENTS) ** 0.5
        update = update * min(1.0, limit / update.norm().item())
    parallel = (update * clean).sum() / (clean * clean).sum() * clean
    guided = clean + (weight - 1) * (update - parallel + apg.eta * parallel)
    return (x - guided) / sigma, average


# --- the algorithm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "apg",
    [APG, PROJECTED, replace(NEUTRAL, momentum=-0.75), replace(NEUTRAL, norm_threshold=20.0), replace(APG, eta=1.3)],
    ids=repr,
)
def test_whole_runs_follow_the_papers_algorithm(apg: AdaptiveProjectedGuidance) -> None:
    sigmas = flow_sigmas(STEPS, 7.0).tolist()
    x, average = NOISE.double(), 0.0
    for step in range(STEPS):
        level = torch.tensor([sigmas[step], 0.0])
        at = [next(iter(sample(DIT, x.float(), p, sigmas=level))).denoised for p in (prompt(), CFG["negative"])]
        v_c, v_n = ((x - clean.double()) / sigmas[step] for clean in at)
        velocity, average = by_hand(apg, v_c, v_n, x, sigmas[step], CFG["guidance"].cfg, average)
        x = x + velocity * (sigmas[step + 1] - sigmas[step])
    # Of an estimate that is taken apart again here, and through four steps of a network that is anything but smooth.
    assert rel_l2(final(apg, **CFG), x) <= 20 * ROUNDING


@given(seed=st.integers(0, 999), eta=st.floats(-1, 2), sigma=st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_what_stays_along_the_clean_estimate_is_eta_of_it(seed: int, eta: float, sigma: float) -> None:
    difference, velocity, x = (randn(*SHAPE, seed=seed + i) for i in range(3))
    found = changed(replace(PROJECTED, eta=eta), difference, velocity=velocity, x=x, sigma=sigma).double()
    clean = (x - sigma * velocity).double()
    before, after = ((d.double() * clean).sum() for d in (difference, found))
    size = difference.norm() * clean.norm()
    assert abs(after - eta * before) <= ROUNDING * size

    def across(d: torch.Tensor) -> torch.Tensor:
        return d - (d * clean).sum() / clean.square().sum() * clean

    assert (across(found) - across(difference.double())).norm() <= ROUNDING * difference.norm()


@given(seed=st.integers(0, 999), threshold=st.floats(0.1, 1000), sigma=st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_the_clean_estimates_difference_is_no_longer_than_the_limit(seed: int, threshold: float, sigma: float) -> None:
    difference = randn(*SHAPE, seed=seed)
    found = changed(replace(NEUTRAL, norm_threshold=threshold), difference, sigma=sigma)
    limit = threshold * (difference.numel() / PAPER_ELEMENTS) ** 0.5
    length = sigma * difference.norm().item()
    assert sigma * found.norm().item() == pytest.approx(min(length, limit), rel=1e-4)
    assert torch.nn.functional.cosine_similarity(found.flatten(), difference.flatten(), dim=0) > 0.9999


def test_a_limit_means_the_same_for_every_size() -> None:
    small = randn(*SHAPE, seed=1)
    large = small.repeat(1, 1, 3, 2, 2)
    limit = replace(NEUTRAL, norm_threshold=20.0)
    found = changed(limit, small)
    assert rel_l2(found, small) > 0.1
    assert rel_l2(changed(limit, large), found.repeat(1, 1, 3, 2, 2)) <= ROUNDING


def test_at_the_papers_size_a_limit_is_the_papers() -> None:
    difference = randn(1, 4, 1, 128, 128)
    found = changed(replace(NEUTRAL, norm_threshold=15.0), difference, sigma=0.5)
    assert 0.5 * found.norm().item() == pytest.approx(15, rel=1e-4)


def test_a_difference_of_zero_stays_zero() -> None:
    zero = torch.zeros(SHAPE)
    assert torch.equal(changed(APG, zero), zero)


def test_samples_do_not_mix() -> None:
    difference, velocity, x = (randn(3, *SHAPE[1:], seed=i) * torch.tensor([1.0, 5, 25])[:, None, None, None, None]
                               for i in range(3))  # fmt: skip
    together = changed(APG, difference, velocity=velocity, x=x)
    for i in range(3):
        one = slice(i, i + 1)
        assert rel_l2(together[one], changed(APG, difference[one], velocity=velocity[one], x=x[one])) <= ROUNDING


def test_only_the_negative_branch_is_changed() -> None:
    state = started(APG)
    assert changed(APG, NOISE, state, name="skip double 2") is NOISE
    assert state == Pasts(DIT.device)


def test_where_the_estimate_is_clean_already_nothing_is_changed() -> None:
    assert changed(APG, NOISE, sigma=0.0) is NOISE


# --- momentum -----------------------------------------------------------------------------------------------


def test_momentum_sums_what_earlier_steps_added_to_the_clean_estimate() -> None:
    apg, state = replace(NEUTRAL, momentum=-0.5), started(APG)
    differences = [randn(*SHAPE, seed=i) for i in range(3)]
    sigmas = (1.0, 0.8, 0.3)
    total = torch.zeros(SHAPE)
    for step, (difference, sigma) in enumerate(zip(differences, sigmas, strict=True)):
        total = -sigma * difference - 0.5 * total
        found = changed(apg, difference, state, sigma=sigma, step=step)
        assert rel_l2(found, total / -sigma) <= ROUNDING


def test_a_solvers_second_evaluation_leans_on_the_same_past_and_leaves_it_as_it_is() -> None:
    apg, once, twice = replace(NEUTRAL, momentum=-0.5), started(APG), started(APG)
    first, again, second = (randn(*SHAPE, seed=i) for i in range(3))
    assert torch.equal(changed(apg, first, once, sigma=1.0), changed(apg, first, twice, sigma=1.0))
    # In the first step there is no past yet, for neither evaluation.
    assert rel_l2(changed(apg, again, twice, sigma=0.8, stage=1), again) <= ROUNDING
    for _ in range(2):
        changed(apg, again, twice, sigma=0.8, stage=1)
    next_step = {"sigma": 0.8, "step": 1}
    assert torch.equal(changed(apg, second, once, **next_step), changed(apg, second, twice, **next_step))
    expected = second + 0.5 * -1.0 / 0.8 * first
    found = changed(apg, second, twice, sigma=0.8, step=1, stage=1)
    assert rel_l2(found, expected) <= ROUNDING


def test_momentum_is_the_same_for_a_solver_that_asks_twice() -> None:
    @dataclass(frozen=True)
    class Noted(AdaptiveProjectedGuidance):
        pasts: list[torch.Tensor | None] = field(default_factory=list, compare=False)

        def difference(self, difference: torch.Tensor, name: str, conditional: Conditional, state: Pasts) -> Any:
            found = super().difference(difference, name, conditional, state)
            self.pasts.append(state.sides[""].before)
            return found

    noted = Noted()
    final(noted, solver=SOLVERS["heun"], **CFG)
    pasts = noted.pasts
    assert len(pasts) == 2 * STEPS - 1
    assert pasts[0] is None
    assert all(pasts[i] is pasts[i + 1] for i in range(0, 2 * STEPS - 2, 2))
    assert len({id(past) for past in pasts}) == STEPS


def test_the_sides_of_an_edit_have_pasts_of_their_own() -> None:
    apg = replace(NEUTRAL, momentum=-0.5)
    together, alone = started(apg), {"source": started(apg), "target": started(apg)}
    for step in range(3):
        for side, state in alone.items():
            difference = randn(*SHAPE, seed=2 * step + len(side))
            found = changed(apg, difference, together, step=step, side=side)
            assert torch.equal(found, changed(apg, difference, state, step=step))


@pytest.mark.parametrize("apg", [APG, NEUTRAL], ids=["apg", "neutral"])
def test_a_run_that_goes_on_from_a_checkpoint_ends_alike(apg: AdaptiveProjectedGuidance) -> None:
    start = partial(sample, DIT, NOISE, prompt(), sigmas=flow_sigmas(STEPS, 7.0), extensions=[apg], **CFG)
    steps = start()
    next(steps)
    checkpoint = next(steps).checkpoint()
    assert bool(checkpoint.kept) == (apg is APG)
    whole = list(steps)[-1].x
    assert torch.equal(list(start(resume=checkpoint))[-1].x, whole)
    forgetful = replace(checkpoint, kept={})
    assert (rel_l2(list(start(resume=forgetful))[-1].x, whole) > 1e-3) == (apg is APG)


def test_two_runs_have_pasts_of_their_own() -> None:
    starts = [
        sample(DIT, x, prompt(), sigmas=flow_sigmas(STEPS, 7.0), extensions=[APG], **CFG)
        for x in (NOISE, randn(*SHAPE, seed=9))
    ]
    pairs = list(zip(*starts, strict=True))
    assert torch.equal(pairs[-1][0].x, final(APG, **CFG))
    assert torch.equal(pairs[-1][1].x, final(APG, x=randn(*SHAPE, seed=9), **CFG))
    assert torch.equal(final(APG, **CFG), final(APG, **CFG))


# --- laws of extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("batched", [False, True])
def test_neutral_is_bit_identical_to_none(solver: str, batched: bool) -> None:
    options = {**CFG, "guidance": Guidance(cfg=4, rescale=0.5, batched=batched), "solver": SOLVERS[solver]}
    assert torch.equal(final(NEUTRAL, **options), final(**options))
    assert torch.equal(final(replace(APG, when=Interval(0.5, 0.5)), **options), final(**options))


def test_every_option_changes_the_output() -> None:
    variants = [
        APG,
        replace(APG, eta=1.0),
        replace(APG, momentum=0.0),
        replace(APG, norm_threshold=0.0),
        replace(APG, norm_threshold=20.0),
        replace(APG, when=Interval(0.5, 1)),
        NEUTRAL,
    ]
    results = [final(apg, **CFG) for apg in variants]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert rel_l2(one, other) > 1e-3


def test_it_works_from_clean_to_noise_too() -> None:
    rising = flow_sigmas(STEPS, 7.0).flip(0)
    assert bool(torch.isfinite(final(APG, sigmas=rising, **CFG)).all())


def test_without_guidance_it_says_that_it_did_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        assert torch.equal(final(APG), final())
        assert caplog.messages == ["APG had nothing to act on: in the steps just made cfg was 1 wherever it is active."]
        caplog.clear()
        run(APG, **CFG)
        run(NEUTRAL, **CFG)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eta": float("nan")}, "eta is nan, but must be a number"),
        ({"momentum": -1.0}, r"momentum is -1\.0, but must lie between -1 and 1"),
        ({"momentum": 1.0}, r"momentum is 1\.0, but must lie between -1 and 1"),
        ({"momentum": float("nan")}, "momentum is nan, but must lie between -1 and 1"),
        ({"norm_threshold": -1.0}, r"norm_threshold is -1\.0, but must be 0 or more"),
        ({"norm_threshold": float("inf")}, "norm_threshold is inf, but must be 0 or more"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        AdaptiveProjectedGuidance(**changes)
