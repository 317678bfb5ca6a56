"""Sampling as a generator: the caller owns progress, previews, checkpoints and interruption.

Closing the generator, or an exception inside it, undoes whatever extensions set up. A run that was interrupted goes on
from the last ``Checkpoint`` that the caller has of it, to the same end bit for bit.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import NumericsError
from hyvideo_core.model.dit import DiT, check_inputs
from hyvideo_core.sample.checkpoint import Checkpoint, Standing, check_resume, resumed
from hyvideo_core.sample.flow import Flow, fitted_prompts
from hyvideo_core.sample.guidance import Guidance
from hyvideo_core.sample.schedule import falls
from hyvideo_core.sample.seams import CacheNote, Extension, Run, Running, passed, started
from hyvideo_core.sample.solvers import PAST, SOLVERS, Estimate, Road, Solver
from hyvideo_core.types import Conditioning

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A finished step: its number from 0, the σ it started at, the latent after it, and the clean estimate.

    Called before the next step is asked for, ``checkpoint`` gives what ``resume`` takes to go on after this one, and
    ``notes`` what extensions have to tell of the run so far (``Extension.note``).
    """

    index: int
    sigma: float
    x: torch.Tensor
    denoised: torch.Tensor
    checkpoint: Callable[[], Checkpoint] = field(repr=False, compare=False)
    notes: Callable[[], list[CacheNote]] = field(repr=False, compare=False)


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
    numbers: Sequence[int] | None = None,
    resume: Checkpoint | None = None,
) -> Iterator[Step]:
    """Carry x [B, C, T, H, W] (model space, at noise level ``sigmas[0]``) to the end of ``sigmas``.

    Conditionings hold one prompt for all of the batch, or one for each. ``negative`` is needed where
    ``guidance.cfg`` is above 1. ``seed`` is for solvers that add noise, drawn on the CPU for each clip by its number in
    the batch it is of: ``numbers``, or 0 to B − 1. Yields a ``Step`` after each; latents are float32 on the model's
    device. With ``resume``, a checkpoint of the same run, only the steps after it.
    Raises ``NumericsError`` at the first NaN or infinity, ``ValueError`` for inputs that do not fit.
    """
    guidance = guidance or Guidance()
    if len(sigmas) < 2:
        raise ValueError(f"sigmas has {len(sigmas)} levels, but a run needs two or more: where it starts and ends.")
    if solver is not SOLVERS["euler"] and not falls(sigmas):
        raise ValueError("sigmas rise, but this solver only goes from noise to clean. Use falling levels, or euler.")
    check_run(dit.config, x, positive, negative, guidance, extensions)
    numbered = clip_numbers(numbers, len(x))
    if resume is not None:
        check_resume(resume, x, len(sigmas) - 1)
    x = x.to(dit.device, torch.float32)
    prompts = fitted_prompts(x, positive, negative, guidance)
    # Checked at the call, not at the first step.
    return _steps(dit, x, prompts, sigmas, guidance, extensions, solver, seed, numbered, resume)


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
    for extension in extensions:
        config = extension.outside(config)
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
        extension.check_beside([other for other in extensions if other is not extension], x)


def _steps(
    dit: DiT,
    x: torch.Tensor,
    prompts: Mapping[str, Conditioning],
    sigmas: torch.Tensor,
    guidance: Guidance,
    extensions: Sequence[Extension],
    solver: Solver,
    seed: int,
    numbers: Sequence[int],
    resume: Checkpoint | None,
) -> Iterator[Step]:
    levels: list[float] = sigmas.tolist()
    past: list[Estimate] = []
    # Levels that fall lead to 0, even if the run ends before; in the other direction of time, to the last one.
    clean = 0.0 if falls(sigmas) else levels[-1]
    with ExitStack() as stack:
        running = started(extensions, Run(dit, sigmas, stack, tuple(x.shape)))
        standing = Standing(running, stack)
        flow = Flow(dit, prompts, guidance, running, len(levels) - 1)
        if resume is None:
            x = passed("begin", flow.active(0), x, levels[0])
        else:
            x, past = resumed(resume, running, x.device)
        for index, sigma, sigma_next in spans(levels, made(resume)):
            x = flow.held(x, sigma, index)
            velocity = flow.velocity(x, sigma, index)
            denoised = flow.held(x + velocity * (clean - sigma), clean, index)
            here = solver.correct(Estimate(sigma, x, velocity, denoised), past)
            road = Road(past, partial(_ask, flow, index), partial(level_noise, x, seed, sigma_next, numbers=numbers))
            x = flow.held(solver.advance(here, sigma_next, road), sigma_next, index)
            past = [here, *past][:PAST]
            yield Step(index, sigma, x, denoised, standing.after(index, x, past), partial(notes, running))
        report(running)


def _ask(flow: Flow, index: int, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """The velocity elsewhere in the same step."""
    return flow.velocity(flow.held(x, sigma, index), sigma, index, stage=1)


def made(resume: Checkpoint | None) -> int:
    """How many steps need not be made again."""
    return 0 if resume is None else resume.index + 1


def spans(levels: Sequence[float], first: int) -> Iterator[tuple[int, float, float]]:
    """The steps from ``first`` on: each one's number, and the noise levels where it starts and ends."""
    return ((index, *pair) for index, pair in islice(enumerate(pairwise(levels)), first, None))


def notes(running: Sequence[Running]) -> list[CacheNote]:
    """What the extensions of a run have to tell of it so far."""
    return [note for extension, state in running if (note := extension.note(state))]


def report(running: Sequence[Running]) -> None:
    """Log what the extensions of a finished run have to tell."""
    for extension, state in running:
        if line := extension.report(state):
            logger.info("%s", line)


def clip_numbers(numbers: Sequence[int] | None, batch: int) -> tuple[int, ...]:
    """Each clip's number in the batch that it is of. Raises ``ValueError`` where they do not fit these clips."""
    found = tuple(range(batch)) if numbers is None else tuple(map(int, numbers))
    if len(found) != batch:
        raise ValueError(
            f"numbers has {len(found)} entries for a batch of {batch} latents. Give one for each, or none at all to "
            "count them from 0."
        )
    if min(found, default=0) < 0:
        raise ValueError(f"numbers holds {min(found)}, but the clips of a batch are counted from 0.")
    return found


def level_noise(
    like: torch.Tensor, seed: int, sigma: float, draw: int = 0, numbers: Sequence[int] | None = None
) -> torch.Tensor:
    """Noise to bring a latent to the level σ with, the same on every device and wherever a run began.

    ``draw`` numbers those of one level, ``numbers`` the clips: one of a number has the same noise in any company.
    """
    chosen = clip_numbers(numbers, len(like))
    generator = torch.Generator().manual_seed(random.Random(f"{seed} {sigma!r} {draw}").getrandbits(63))
    # One clip after the other: what a generator draws may depend on how much it draws at once.
    drawn = {}
    for number in range(max(chosen, default=-1) + 1):
        noise = torch.randn((1, *like.shape[1:]), generator=generator)
        if number in chosen:
            drawn[number] = noise
    return torch.cat([drawn[number] for number in chosen]).to(like.device)
