"""Sampling as a generator: the caller owns progress, previews, checkpoints and interruption.

Closing the generator, or an exception inside it, undoes whatever extensions set up.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import NumericsError
from hyvideo_core.model.dit import DiT, check_inputs
from hyvideo_core.sample.flow import Flow, fitted
from hyvideo_core.sample.guidance import Guidance
from hyvideo_core.sample.seams import Extension, Run, passed, started
from hyvideo_core.sample.solvers import PAST, SOLVERS, Estimate, Road, Solver
from hyvideo_core.types import Conditioning

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A finished step: its number from 0, the σ it started at, the latent after it, and the clean estimate."""

    index: int
    sigma: float
    x: torch.Tensor
    denoised: torch.Tensor


def sample(
    dit: DiT,
    x: torch.Tensor,
    positive: Conditioning,
    *,
    sigmas: torch.Tensor,
    negative: Conditioning | None = None,
    guidance: Guidance | None = None,
    extensions: Sequence[Extension] = (),
    solver: Solver = SOLVERS["euler"],
    seed: int = 0,
) -> Iterator[Step]:
    """Carry x [B, C, T, H, W] (model space, at noise level ``sigmas[0]``) to the end of ``sigmas``.

    Conditionings hold one prompt for all of the batch, or one for each. ``negative`` is needed where
    ``guidance.cfg`` is above 1. ``seed`` is for solvers that add noise, drawn on the CPU. Yields a ``Step`` after each;
    latents are float32 on the model's device.
    Raises ``NumericsError`` at the first NaN or infinity, ``ValueError`` for inputs that do not fit.
    """
    guidance = guidance or Guidance()
    if len(sigmas) < 2:
        raise ValueError(f"sigmas has {len(sigmas)} levels, but a run needs two or more: where it starts and ends.")
    if solver is not SOLVERS["euler"] and bool((sigmas.diff() >= 0).any()):
        raise ValueError("sigmas rise, but this solver only goes from noise to clean. Use falling levels, or euler.")
    check_run(dit.config, x, positive, negative, guidance, extensions)
    x = x.to(dit.device, torch.float32)
    prompts = {"positive": fitted(positive, x)}
    if guidance.cfg > 1 and negative is not None:
        prompts["negative"] = fitted(negative, x)
    # Checked at the call, not at the first step.
    return _steps(dit, x, prompts, sigmas, guidance, extensions, solver, seed)


def check_run(
    config: DiTConfig,
    x: torch.Tensor,
    positive: Conditioning,
    negative: Conditioning | None = None,
    guidance: Guidance | None = None,
    extensions: Sequence[Extension] = (),
) -> None:
    """Raise ``ValueError`` for inputs of ``sample`` that do not fit, before any weights are loaded for them."""
    guidance = guidance or Guidance()
    if guidance.cfg > 1 and negative is None:
        raise ValueError(f"cfg is {guidance.cfg}, but there is no negative prompt. Connect one or set cfg to 1.")
    prompts = {"positive": positive} | ({"negative": negative} if guidance.cfg > 1 and negative is not None else {})
    for name, prompt in prompts.items():
        batch, rows = len(x), len(prompt.text)
        if rows not in (1, batch):
            raise ValueError(
                f"The {name} prompt has {rows} rows for a batch of {batch} latents. Give one prompt or one for each."
            )
        if len(prompt.pooled) != rows:
            raise ValueError(
                f"The {name} prompt has {rows} rows of text, but {len(prompt.pooled)} of pooled text. "
                "Both come from one encoding; encode the prompt again."
            )
        scale = torch.ones(1) if config.guidance_embed else None
        check_inputs(config, x, torch.ones(1), prompt.text, prompt.text_mask, prompt.pooled, scale)
    if not bool(torch.isfinite(x).all()):
        raise NumericsError(
            "The latent to start from holds NaN or infinity. It was damaged where it was made: encode the video again, "
            "with dtype bfloat16 or float32 in HyVideo Load VAE."
        )
    for extension in extensions:
        extension.check_latent(x)


def _steps(
    dit: DiT,
    x: torch.Tensor,
    prompts: Mapping[str, Conditioning],
    sigmas: torch.Tensor,
    guidance: Guidance,
    extensions: Sequence[Extension],
    solver: Solver,
    seed: int,
) -> Iterator[Step]:
    levels: list[float] = sigmas.tolist()
    # Where a run may end above it, the clean latent is still at σ = 0; only without flow_reverse is it elsewhere.
    clean = 0.0 if levels[0] > levels[-1] else levels[-1]
    past: list[Estimate] = []
    with ExitStack() as stack:
        running = started(extensions, Run(dit, sigmas, stack, tuple(x.shape)))
        flow = Flow(dit, prompts, guidance, running, len(levels) - 1)
        for index, (sigma, sigma_next) in enumerate(pairwise(levels)):
            hold = partial(passed, "hold", flow.active(index))
            if index == 0:
                x = passed("begin", flow.active(index), x)
            x = hold(x)
            velocity = flow.velocity(x, sigma, index)
            denoised = hold(x + velocity * (clean - sigma))
            here = solver.correct(Estimate(sigma, x, velocity, denoised), past)
            road = Road(past, partial(_ask, flow, hold, index), partial(level_noise, x, seed, sigma_next))
            x = hold(solver.advance(here, sigma_next, road))
            past = [here, *past][:PAST]
            yield Step(index, sigma, x, denoised)
        for extension, state in running:
            if line := extension.report(state):
                logger.info("%s", line)


def _ask(
    flow: Flow, hold: Callable[[torch.Tensor], torch.Tensor], index: int, x: torch.Tensor, sigma: float
) -> torch.Tensor:
    """The velocity elsewhere in the same step."""
    return flow.velocity(hold(x), sigma, index, stage=1)


def level_noise(like: torch.Tensor, seed: int, sigma: float) -> torch.Tensor:
    """Noise to bring a latent to the level σ with, the same on every device and wherever a run began."""
    generator = torch.Generator().manual_seed(random.Random(f"{seed} {sigma!r}").getrandbits(63))
    return torch.randn(like.shape, generator=generator).to(like.device)
