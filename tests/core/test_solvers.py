"""Solvers against the exact answer, against each other, and against diffusers' schedulers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from dit_data import OneByOne, prompt, randn, random_dit
from hypothesis import given
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.sample import Step, flow_sigmas, sample
from hyvideo_core.sample.run import level_noise
from hyvideo_core.sample.solvers import PAST, SOLVERS, Estimate, Road, Solver

DETERMINISTIC = ("euler", "heun", "dpm++ 2m", "unipc")
STOCHASTIC = ("euler stochastic", "lcm")
Field = Callable[[torch.Tensor, float], torch.Tensor]


def walked(solver: Solver, field: Field, x: torch.Tensor, sigmas: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """x carried along a velocity field by the solver alone."""
    generator = torch.Generator().manual_seed(seed)
    past: list[Estimate] = []
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        velocity = field(x, sigma)
        here = solver.correct(Estimate(sigma, x, velocity, x - sigma * velocity), past)
        noise = lambda x=x: torch.randn(x.shape, dtype=x.dtype, generator=generator)  # noqa: E731
        x = solver.advance(here, sigma_next, Road(past, field, noise))
        past = [here, *past][:PAST]
    return x


SPREAD, MEAN = 0.5, 2.0


def of_a_gaussian(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """The exact velocity where clean latents are normal with this mean and spread."""
    alpha = 1 - sigma
    variance = (alpha * SPREAD) ** 2 + sigma**2
    denoised = MEAN + alpha * SPREAD**2 / variance * (x - alpha * MEAN)
    noise = sigma / variance * (x - alpha * MEAN)
    return noise - denoised


def error(name: str, steps: int) -> float:
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    found = walked(SOLVERS[name], of_a_gaussian, noise, flow_sigmas(steps, 1.0).double())
    return (found - (MEAN + SPREAD * noise)).abs().max().item()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_solver_ends_at_the_exact_answer(name: str) -> None:
    assert error(name, 400) < 0.01


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpm++ 2m", 2), ("unipc", 2)])
def test_twice_the_steps_lower_the_error_by_the_order(name: str, order: int) -> None:
    assert math.log2(error(name, 100) / error(name, 200)) > order - 0.35


def test_higher_orders_are_nearer_with_as_many_steps() -> None:
    assert error("euler", 20) > 2 * error("dpm++ 2m", 20)
    assert error("dpm++ 2m", 20) > error("unipc", 20)
    assert error("euler", 20) > 2 * error("heun", 20)


@pytest.mark.parametrize("name", SOLVERS)
@given(clean=st.floats(-3, 3), steps=st.integers(1, 12), shift=st.floats(0.5, 17))
def test_where_the_answer_is_always_the_same_every_solver_gives_it(
    name: str, clean: float, steps: int, shift: float
) -> None:
    answer = torch.full((4,), clean, dtype=torch.float64)
    noise = torch.tensor([-1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
    found = walked(SOLVERS[name], lambda x, sigma: (x - answer) / sigma, noise, flow_sigmas(steps, shift).double())
    assert torch.allclose(found, answer, atol=1e-6)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_added_noise_keeps_the_spread_of_what_is_sampled(name: str) -> None:
    noise = torch.randn(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    steps = 200 if name == "euler stochastic" else 2000
    found = walked(SOLVERS[name], of_a_gaussian, noise, flow_sigmas(steps, 1.0).double())
    assert found.mean().item() == pytest.approx(MEAN, abs=0.03)
    if name == "euler stochastic":
        assert found.std().item() == pytest.approx(SPREAD, rel=0.05)


# --- diffusers as a witness --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["heun", "dpm++ 2m", "unipc"])
@pytest.mark.parametrize("shift", [1.0, 7.0])
def test_diffusers_schedulers_take_the_same_steps(name: str, shift: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    flow: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    scheduler = {
        "heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=shift),
        "dpm++ 2m": lambda: diffusers.DPMSolverMultistepScheduler(**flow),
        "unipc": lambda: diffusers.UniPCMultistepScheduler(**flow, solver_order=2, solver_type="bh2"),
    }[name]()
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas if name != "heun" else torch.cat((scheduler.sigmas[:1], scheduler.sigmas[1::2]))
    x = theirs = randn(1, 4, 2, 4, 4)

    def field(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.tanh(x + sigma) - 0.5 * x

    levels = scheduler.sigmas.tolist()
    for index, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(field(theirs, levels[index]), timestep, theirs).prev_sample
    assert rel_l2(walked(SOLVERS[name], field, x, sigmas), theirs) < 1e-4


# --- on the transformer ------------------------------------------------------------------------------------------

DIT = random_dit()
NOISE = randn(1, 4, 2, 4, 4, seed=3)


def run(name: str, **options: Any) -> list[Step]:
    return list(sample(DIT, NOISE, prompt(), sigmas=flow_sigmas(4, 7.0), solver=SOLVERS[name], **options))


def test_every_solver_makes_another_video() -> None:
    results = {name: run(name)[-1].x for name in SOLVERS}
    for name, other in pairwise(results):
        assert rel_l2(results[name], results[other]) > 1e-4, (name, other)


@pytest.mark.parametrize("name", SOLVERS)
def test_only_solvers_that_add_noise_heed_the_seed(name: str) -> None:
    assert torch.equal(run(name)[-1].x, run(name, seed=0)[-1].x)
    assert torch.equal(run(name)[-1].x, run(name, seed=1)[-1].x) is (name in DETERMINISTIC)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_step_is_the_same_for_all(name: str) -> None:
    options = {"sigmas": flow_sigmas(1, 7.0)}
    found = list(sample(DIT, NOISE, prompt(), solver=SOLVERS[name], **options))[-1].x
    assert rel_l2(found, list(sample(DIT, NOISE, prompt(), **options))[-1].x) < 1e-5


def test_a_solver_that_needs_falling_levels_says_so() -> None:
    with pytest.raises(ValueError, match="from noise to clean"):
        list(sample(DIT, NOISE, prompt(), sigmas=flow_sigmas(4, 7.0, reverse=False), solver=SOLVERS["unipc"]))


def test_the_noise_of_a_level_is_its_own() -> None:
    one, two = level_noise(NOISE, 5, 0.5), level_noise(NOISE, 5, 0.25)
    assert rel_l2(one, two) > 0.5
    assert rel_l2(one, level_noise(NOISE, 6, 0.5)) > 0.5
    assert torch.equal(one, level_noise(NOISE, 5, 0.5))


@pytest.mark.parametrize("width", [4, 3])
def test_the_noise_of_a_clip_is_its_own_in_any_company(width: int) -> None:
    like = torch.zeros(3, 1, 1, 3, width)
    drawn = level_noise(like, 5, 0.5)
    assert all(rel_l2(drawn[i], drawn[j]) > 0.5 for i in range(3) for j in range(i))
    for numbers in ([2], [1, 2], [2, 0], [1, 1], [0, 1, 2]):
        assert torch.equal(level_noise(like[: len(numbers)], 5, 0.5, numbers=numbers), drawn[numbers])


def test_the_noise_of_a_batch_of_latents_is_one_draw() -> None:
    """Of 16 numbers or a multiple of it for each clip, as every latent of 16 channels has."""
    like = torch.zeros(3, 16, 1, 3, 5)
    generator = torch.Generator().manual_seed(random.Random("5 0.5 0").getrandbits(63))
    assert torch.equal(level_noise(like, 5, 0.5), torch.randn(like.shape, generator=generator))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_clip_alone_is_the_one_of_its_number_in_a_batch_to_the_last_bit(name: str) -> None:
    noise = randn(3, 4, 2, 4, 4, seed=3)
    options = {"sigmas": flow_sigmas(3, 7.0), "solver": SOLVERS[name], "seed": 5, "extensions": [OneByOne()]}

    def final(x: torch.Tensor, **numbered: Any) -> torch.Tensor:
        return list(sample(DIT, x, prompt(), **options, **numbered))[-1].x

    whole = final(noise)
    assert torch.equal(final(noise, numbers=[0, 1, 2]), whole)
    for k in range(3):
        assert torch.equal(final(noise[k : k + 1], numbers=[k]), whole[k : k + 1])
    assert torch.equal(final(noise[1:], numbers=[1, 2]), whole[1:])
    assert rel_l2(final(noise[1:2]), whole[1:2]) > 1e-3


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_resumed_run_adds_the_noise_of_its_clips_numbers(name: str) -> None:
    options = {"sigmas": flow_sigmas(3, 7.0), "solver": SOLVERS[name], "numbers": [2]}
    steps = sample(DIT, NOISE, prompt(), **options)
    first = next(steps).checkpoint()
    whole = list(steps)[-1].x
    assert torch.equal(list(sample(DIT, NOISE, prompt(), resume=first, **options))[-1].x, whole)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([0, 1], "numbers has 2 entries for a batch of 1"), ([], "numbers has 0"), ([-1], "numbers holds -1")],
)
def test_numbers_that_do_not_fit_are_refused_at_the_call(numbers: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sample(DIT, NOISE, prompt(), sigmas=flow_sigmas(3, 7.0), numbers=numbers)


@pytest.mark.parametrize("name", ["euler", "heun", *STOCHASTIC])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_in_two_parts_is_the_whole_for_solvers_without_a_memory(name: str, at: int) -> None:
    levels = flow_sigmas(4, 7.0)
    options = {"solver": SOLVERS[name], "seed": 3}
    first = list(sample(DIT, NOISE, prompt(), sigmas=levels[: at + 1], **options))[-1].x
    second = list(sample(DIT, first, prompt(), sigmas=levels[at:], **options))[-1].x
    assert torch.equal(second, list(sample(DIT, NOISE, prompt(), sigmas=levels, **options))[-1].x)


@pytest.mark.parametrize("name", ["euler", "heun", "lcm"])
def test_the_clean_estimate_is_clean_wherever_a_run_ends(name: str) -> None:
    levels = flow_sigmas(4, 7.0)
    whole, beginning = (
        list(sample(DIT, NOISE, prompt(), sigmas=sigmas, solver=SOLVERS[name])) for sigmas in (levels, levels[:3])
    )
    for part, full in zip(beginning, whole, strict=False):
        assert torch.equal(part.denoised, full.denoised)
        assert torch.equal(part.x, full.x)


@pytest.mark.parametrize("name", ["dpm++ 2m", "unipc"])
def test_a_multistep_run_that_ends_early_is_the_beginning_of_the_whole(name: str) -> None:
    levels = flow_sigmas(6, 7.0)
    whole, beginning = (
        list(sample(DIT, NOISE, prompt(), sigmas=sigmas, solver=SOLVERS[name])) for sigmas in (levels, levels[:4])
    )
    assert len(beginning) == 3
    for part, full in zip(beginning, whole, strict=False):
        assert torch.equal(part.x, full.x)
