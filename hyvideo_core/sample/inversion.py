"""RF inversion: a clip's latent is carried to noise from which a run finds back to it, steered there and back.

On the way up, from clean to noise, the velocity is a blend of the model's and of the straight one to a given noise:
v + γ·((noise − x)/(1 − σ) − v). The way down, ``extensions.RFInversion``, is steered to the clip alike.

Source: arXiv 2410.10792, algorithm 1 (controlled forward ODE; its t on the way up is σ). Diffusers'
``examples/community/pipeline_flux_rf_inversion.py`` has γ = 0.5, an empty prompt and guidance 0.
ComfyUI-HunyuanVideoWrapper ``nodes_rf_inversion.py`` begins at the schedule's last level above 0 as if the clean latent
were there, and its re-sampling ends there; here both have σ = 0 at that end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import GeometryError
from hyvideo_core.model.dit import DiT
from hyvideo_core.sample.checkpoint import Checkpoint, Standing, check_resume, resumed
from hyvideo_core.sample.flow import Flow, fitted
from hyvideo_core.sample.guidance import Guidance
from hyvideo_core.sample.run import Step, check_run, made, notes, report, spans
from hyvideo_core.sample.schedule import falls
from hyvideo_core.sample.seams import INVERSION, Extension, Run, started
from hyvideo_core.types import Conditioning


def invert(
    dit: DiT,
    clean: torch.Tensor,
    noise: torch.Tensor,
    prompt: Conditioning,
    *,
    sigmas: torch.Tensor,
    gamma: float | Sequence[float] = 0.5,
    embedded_guidance: float = 0.0,
    extensions: Sequence[Extension] = (),
    resume: Checkpoint | None = None,
) -> Iterator[Step]:
    """Carry a clip's latent [B, C, T, H, W] (model space, at ``sigmas[-1]``, usually 0) up to ``sigmas[0]``.

    ``sigmas`` fall, as for the run that comes back, and are walked from their end. ``gamma`` 0 follows the model alone:
    what comes of it is most faithful to the clip; 1 goes straight to ``noise``, which leaves nothing of the clip. It is
    one number for all steps, or one for each, in the order in which they are made. ``prompt`` is usually an empty one.
    Yields a ``Step`` after each, as ``sample`` does. Extensions act at the noise levels at which they act on the way
    back; ``begin`` is not asked.
    Raises ``NumericsError`` at the first NaN or infinity, ``ValueError`` for inputs that do not fit.
    """
    check_inversion(dit.config, clean, noise, prompt, sigmas, gamma, extensions)
    if resume is not None:
        check_resume(resume, clean, len(sigmas) - 1)
    clean, noise = (each.to(dit.device, torch.float32) for each in (clean, noise))
    # Checked at the call, not at the first step.
    guidance = Guidance(embedded=embedded_guidance)
    gammas = gamma if isinstance(gamma, Sequence) else [gamma] * (len(sigmas) - 1)
    return _steps(dit, clean, noise, fitted(prompt, clean), sigmas.flip(0), gammas, guidance, extensions, resume)


def check_inversion(
    config: DiTConfig,
    clean: torch.Tensor,
    noise: torch.Tensor,
    prompt: Conditioning,
    sigmas: torch.Tensor,
    gamma: float | Sequence[float],
    extensions: Sequence[Extension] = (),
) -> None:
    """Raise ``ValueError`` for inputs of ``invert`` that do not fit, before any weights are loaded for them."""
    for g in gamma if isinstance(gamma, Sequence) else [gamma]:
        if not 0 <= g <= 1:
            raise ValueError(f"gamma is {g}, but must lie between 0 (the model alone) and 1 (straight to the noise).")
    if isinstance(gamma, Sequence) and len(gamma) != len(sigmas) - 1:
        raise ValueError(
            f"gamma is a list of {len(gamma)} for {len(sigmas) - 1} steps. Give one for each, or one number for all."
        )
    if len(sigmas) < 2 or not falls(sigmas):
        raise ValueError("sigmas must be two levels or more that fall: an inversion walks them from the end by itself.")
    if noise.shape != clean.shape:
        raise GeometryError(
            f"The noise is {list(noise.shape)}, but the clip's latent {list(clean.shape)}. Make it alike."
        )
    check_run(config, clean, prompt, extensions=extensions)


def _steps(
    dit: DiT,
    x: torch.Tensor,
    noise: torch.Tensor,
    prompt: Conditioning,
    sigmas: torch.Tensor,
    gammas: Sequence[float],
    guidance: Guidance,
    extensions: Sequence[Extension],
    resume: Checkpoint | None,
) -> Iterator[Step]:
    levels: list[float] = sigmas.tolist()
    with ExitStack() as stack:
        running = started(extensions, Run(dit, sigmas, stack, tuple(x.shape)))
        standing = Standing(running, stack)
        flow = Flow(dit, {"positive": prompt}, guidance, running, len(levels) - 1, INVERSION, backwards=True)
        if resume is not None:
            x, _ = resumed(resume, running, x.device)
        for index, sigma, sigma_next in spans(levels, made(resume)):
            x = flow.held(x, sigma, index)
            velocity = flow.velocity(x, sigma, index)
            denoised = flow.held(x - sigma * velocity, 0.0, index)
            # Euler's step along the blend. Of the straight part a step makes this share of the way that is left; lerp
            # is exact at both ends, so γ = 1 ends at the noise itself, and γ = 0 is the plain step.
            gamma = gammas[index]
            share = gamma * (sigma_next - sigma) / (1 - sigma)
            x = torch.lerp(x, noise, share) + velocity * ((1 - gamma) * (sigma_next - sigma))
            x = flow.held(x, sigma_next, index)
            yield Step(index, sigma, x, denoised, standing.after(index, x), partial(notes, running))
        report(running)
