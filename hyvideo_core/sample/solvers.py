"""Solvers of the flow's differential equation dx/dσ = v(x, σ), each a pure function of one step.

A solver takes the model's estimate at the point where it is, the noise level to go to, and the ``Road``: estimates of
earlier steps, a way to ask the model elsewhere, and noise. It returns the latent at the next level. All
speak the flow's own terms: α = 1 − σ, λ = log(α/σ), and the clean estimate D = x − σ·v.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

#: λ is infinite at σ = 1; it is taken this near to it instead.
NEARLY_ONE = 1 - 1e-6


@dataclass(frozen=True)
class Estimate:
    """What the model said at one point: x [B, C, T, H, W] there, its velocity, and the clean latent D it leads to."""

    sigma: float
    x: torch.Tensor
    velocity: torch.Tensor
    denoised: torch.Tensor


@dataclass(frozen=True)
class Road:
    """What a solver may look at beside the point where it is.

    ``past`` are the estimates of the steps before, the last one first; ``ask`` is the model's velocity at another x
    and σ; ``noise`` is fresh noise of the latent's shape, the same for the same seed and level.
    """

    past: Sequence[Estimate]
    ask: Callable[[torch.Tensor, float], torch.Tensor]
    noise: Callable[[], torch.Tensor]


def _as_it_is(here: Estimate, past: Sequence[Estimate]) -> Estimate:
    return here


@dataclass(frozen=True)
class Solver:
    """``advance`` makes the step; ``correct`` may move x by what the model said at it, before the step is made."""

    advance: Callable[[Estimate, float, Road], torch.Tensor]
    correct: Callable[[Estimate, Sequence[Estimate]], Estimate] = _as_it_is


#: How many earlier estimates the solvers look at.
PAST = 2


def euler(here: Estimate, sigma_next: float, road: Road | None = None) -> torch.Tensor:
    """One explicit Euler step: x + v·(σ′ − σ). The original's solver."""
    return here.x + here.velocity * (sigma_next - here.sigma)


def heun(here: Estimate, sigma_next: float, road: Road) -> torch.Tensor:
    """A step along the mean of the velocities at its two ends: second order, two evaluations.

    Source: arXiv 2206.00364, algorithm 1; the last step is Euler's, since there is no velocity at σ = 0.
    """
    ahead = euler(here, sigma_next)
    if sigma_next == 0:
        return ahead
    mean = (here.velocity + road.ask(ahead, sigma_next)) / 2
    return here.x + mean * (sigma_next - here.sigma)


def dpmpp_2m(here: Estimate, sigma_next: float, road: Road) -> torch.Tensor:
    """DPM-Solver++(2M): the clean estimate is carried on along a line through the last two. Second order.

    Source: arXiv 2211.01095, algorithm 2; the first step and the last are of first order.
    """
    h = _log_snr(sigma_next) - _log_snr(here.sigma)
    denoised = here.denoised
    if road.past and sigma_next > 0:
        last = road.past[0]
        ratio = (_log_snr(here.sigma) - _log_snr(last.sigma)) / h
        denoised = denoised + (denoised - last.denoised) / (2 * ratio)
    return _exponential_step(here.x, denoised, here.sigma, sigma_next)


def unic(here: Estimate, past: Sequence[Estimate]) -> Estimate:
    """UniC of order 2 with B(h) = e^h − 1: x corrected by what the model said there.

    Source: arXiv 2302.04867, §3.2 and its appendix on data prediction; with one earlier estimate of first order.
    """
    if not past:
        return here
    last = past[0]
    h = _log_snr(here.sigma) - _log_snr(last.sigma)
    change = here.denoised - last.denoised
    if len(past) == 1:
        slope = change / 2
    else:
        # Two weights, so that the step is exact for clean estimates that are a parabola in λ.
        ratio = (_log_snr(past[1].sigma) - _log_snr(last.sigma)) / h
        first = (math.expm1(-h) / -h - 1) / math.expm1(-h)
        second = ((math.expm1(-h) / -h - 1) / -h - 0.5) * 2 / math.expm1(-h)
        here_weight = (second - ratio * first) / (1 - ratio)
        slope = here_weight * change + (first - here_weight) / ratio * (past[1].denoised - last.denoised)
    return replace(here, x=_exponential_step(last.x, last.denoised + slope, last.sigma, here.sigma))


def euler_stochastic(here: Estimate, sigma_next: float, road: Road) -> torch.Tensor:
    """Euler to a lower level than asked for, σ′²/σ, and noise back up to σ′: every marginal stays the flow's.

    Source: arXiv 2006.11239's ancestral sampling with the flow's α = 1 − σ: scaled by α′/α_down, the noise that is
    lacking has the variance σ′² − (σ_down·α′/α_down)².
    """
    down = sigma_next**2 / here.sigma
    scale = (1 - sigma_next) / (1 - down) if down < 1 else 1.0
    lacking = math.sqrt(max(0.0, sigma_next**2 - (down * scale) ** 2))
    x = scale * euler(here, down)
    return x + lacking * road.noise() if lacking else x


def lcm(here: Estimate, sigma_next: float, road: Road) -> torch.Tensor:
    """To the clean estimate and back to σ′ with fresh noise; for checkpoints distilled to few steps.

    Source: arXiv 2303.01469, algorithm 1, with the flow's way of adding noise.
    """
    if sigma_next == 0:
        return here.denoised
    return (1 - sigma_next) * here.denoised + sigma_next * road.noise()


SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "euler": Solver(euler),
        "heun": Solver(heun),
        "dpm++ 2m": Solver(dpmpp_2m),
        "unipc": Solver(dpmpp_2m, correct=unic),
        "euler stochastic": Solver(euler_stochastic),
        "lcm": Solver(lcm),
    }
)


def _exponential_step(x: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """From σ to σ′ as if the clean estimate were ``denoised`` all the way."""
    h = _log_snr(sigma_next) - _log_snr(sigma)
    return (sigma_next / sigma) * x - (1 - sigma_next) * math.expm1(-h) * denoised


def _log_snr(sigma: float) -> float:
    """λ = log((1 − σ)/σ); infinite at σ = 0."""
    sigma = min(sigma, NEARLY_ONE)
    return math.inf if sigma == 0 else math.log1p(-sigma) - math.log(sigma)
