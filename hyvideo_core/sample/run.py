"""Sampling as a generator: the caller owns progress, previews, checkpoints and interruption.

Closing the generator, or an exception inside it, undoes whatever extensions set up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import NumericsError
from hyvideo_core.model.dit import DiT, Seams, check_inputs
from hyvideo_core.sample.guidance import Guidance, embedded_guidance, guide, rescaled
from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run, compose, passed, started
from hyvideo_core.sample.solvers import euler
from hyvideo_core.types import Conditioning


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
) -> Iterator[Step]:
    """Carry x [B, C, T, H, W] (model space, at noise level ``sigmas[0]``) to the end of ``sigmas``.

    Conditionings hold one prompt for all of the batch, or one for each. ``negative`` is needed where
    ``guidance.cfg`` is above 1. Yields a ``Step`` after each; latents are float32 on the model's device.
    Raises ``NumericsError`` at the first NaN or infinity, ``ValueError`` for inputs that do not fit.
    """
    guidance = guidance or Guidance()
    if len(sigmas) < 2:
        raise ValueError(f"sigmas has {len(sigmas)} levels, but a run needs two or more: where it starts and ends.")
    check_run(dit.config, x, positive, negative, guidance, extensions)
    x = x.to(dit.device, torch.float32)
    prompts = {"positive": _fitted(positive, x)}
    if guidance.cfg > 1 and negative is not None:
        prompts["negative"] = _fitted(negative, x)
    # Checked at the call, not at the first step.
    return _steps(dit, x, prompts, sigmas, guidance, extensions)


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
) -> Iterator[Step]:
    steps = len(sigmas) - 1
    levels: list[float] = sigmas.tolist()
    evaluate = partial(_evaluate, dit, guidance)
    composed: dict[tuple[bool, ...], Predict] = {}
    with ExitStack() as stack:
        running = started(extensions, Run(dit, sigmas, stack))
        for index, (sigma, sigma_next) in enumerate(pairwise(levels)):
            on = tuple(extension.when.contains(index, steps) for extension, _ in running)
            active = [pair for pair, is_on in zip(running, on, strict=True) if is_on]
            if on not in composed:
                # Once per active set, so that compiled blocks see few graphs.
                composed[on] = compose(evaluate, active)
            predict, hold = composed[on], partial(passed, "hold", active)
            if index == 0:
                x = passed("begin", active, x)
            x = hold(x)
            velocity = _guided(predict, partial(Evaluation, x, sigma, index, steps), prompts, guidance)
            _check_finite(velocity, index, steps, dit)
            denoised = hold(x + velocity * (levels[-1] - sigma))
            x = hold(euler(x, velocity, sigma, sigma_next))
            yield Step(index, sigma, x, denoised)


def _guided(
    predict: Predict,
    evaluation: partial[Evaluation],
    prompts: Mapping[str, Conditioning],
    guidance: Guidance,
) -> torch.Tensor:
    probe = evaluation(conditioning=prompts["positive"], branch="positive")
    conditional = predict(probe)
    if not guidance.uses_negative(probe.step, probe.steps):
        return conditional
    negative = predict(evaluation(conditioning=prompts["negative"], branch="negative"))
    guided = guide(conditional, [(guidance.cfg - 1, negative)])
    return rescaled(guided, conditional, guidance.rescale)


def _evaluate(dit: DiT, guidance: Guidance, evaluation: Evaluation, seams: Seams) -> torch.Tensor:
    batch, device = evaluation.x.shape[0], evaluation.x.device
    timestep = torch.full((batch,), evaluation.sigma, dtype=torch.float32, device=device) * TIMESTEP_SCALE
    scale = None
    if dit.config.guidance_embed:
        scale = embedded_guidance(guidance.embedded, batch, dit.dtype, device)
    prompt = evaluation.conditioning
    with torch.inference_mode():
        return dit(
            evaluation.x,
            timestep,
            prompt.text,
            prompt.text_mask,
            prompt.pooled,
            scale,
            token_replace=evaluation.token_replace,
            seams=seams,
        )


def _fitted(prompt: Conditioning, x: torch.Tensor) -> Conditioning:
    """The prompt on the latent's device, one row for each sample."""
    prompt = prompt.to(x.device)
    batch = x.shape[0]
    if prompt.text.shape[0] == batch:
        return prompt
    mask = None if prompt.text_mask is None else prompt.text_mask.expand(batch, -1)
    return Conditioning(prompt.text.expand(batch, -1, -1), prompt.pooled.expand(batch, -1), mask)


def _check_finite(velocity: torch.Tensor, index: int, steps: int, dit: DiT) -> None:
    if bool(torch.isfinite(velocity).all()):
        return
    other = "" if dit.attention == "chunked" else "Choose attention 'chunked' in the loader; if it stays, "
    raise NumericsError(
        f"The transformer returned NaN or infinity in step {index + 1} of {steps} ({dit.dtype}, attention "
        f"'{dit.attention}'). The video would be black. {other}the checkpoint or the text encoder's output is damaged: "
        "download the file again, or try another prompt."
    )
