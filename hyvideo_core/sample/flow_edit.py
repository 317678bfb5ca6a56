"""FlowEdit: a clip is edited from what a source prompt says to what a target prompt says, without inverting it.

In every step the clip is brought to the step's noise level with fresh noise, and so is the edited clip with the same;
the difference of the model's velocities there, target minus source, moves the edited clip. What both prompts agree
on, cancels out.

Source: arXiv 2412.08629, algorithm 1; its authors' code fallenshock/FlowEdit ``FlowEdit_utils.py``: of 28 steps of
FLUX 24 are made, with guidance 1.5 for the source and 5.5 for the target. For HunyuanVideo logtd's ComfyUI-HunyuanLoom
``wrapper_flow_edit_nodes.py`` makes 26 of 30, with 6 and 12. Its plain steps at the end (``drift_steps``) have a shift
of their own, which takes the place of the whole schedule if there are none of them, and it makes one less than told;
here one schedule serves all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.dit import DiT
from hyvideo_core.sample.checkpoint import Checkpoint, Standing, check_resume, resumed
from hyvideo_core.sample.flow import Flow, fitted_prompts
from hyvideo_core.sample.guidance import Guidance
from hyvideo_core.sample.run import Step, check_run, clip_numbers, level_noise, made, notes, report, spans
from hyvideo_core.sample.schedule import falls, noised
from hyvideo_core.sample.seams import SOURCE, TARGET, Extension, Run, started
from hyvideo_core.types import Conditioning


@dataclass(frozen=True)
class Side:
    """One side of an edit: what the clip shows or shall show, and how strongly the prompt steers there."""

    positive: Conditioning
    negative: Conditioning | None = None
    guidance: Guidance = field(default_factory=Guidance)


@dataclass(frozen=True)
class Extent:
    """How much of a run an edit takes, in steps.

    Of the schedule only the last ``n_max`` steps are made: more change more, down to the coarsest structure. The last
    ``n_min`` of these are plain sampling by the target alone: freer in texture and detail. The others average over
    ``n_avg`` draws of noise each: steadier, at so many times the price.
    """

    n_max: int
    n_min: int = 0
    n_avg: int = 1

    def __post_init__(self) -> None:
        if self.n_avg < 1:
            raise ValueError(f"n_avg is {self.n_avg}, but at least 1 draw of noise is needed.")
        if not 0 <= self.n_min <= self.n_max:
            raise ValueError(
                f"n_min is {self.n_min} and n_max is {self.n_max}, but the steps of plain sampling are part of all: "
                "lower n_min or raise n_max."
            )


def flow_edit(
    dit: DiT,
    clip: torch.Tensor,
    source: Side,
    target: Side,
    *,
    sigmas: torch.Tensor,
    extent: Extent,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    extensions: Sequence[Extension] = (),
    resume: Checkpoint | None = None,
) -> Iterator[Step]:
    """Edit a clip's latent [B, C, T, H, W] (model space, clean); ``sigmas`` fall to 0, as for a whole run.

    Yields a ``Step`` after each of the ``extent.n_max`` last; without any the clip is the result. Noise is drawn by
    ``seed`` and each clip's number, as in ``sample``. Extensions act on both sides (``Evaluation.side``), but
    ``begin``, which is for a run's first noise, is not asked.
    Raises ``NumericsError`` at the first NaN or infinity, ``ValueError`` for inputs that do not fit.
    """
    check_edit(dit.config, clip, source, target, sigmas, extent, extensions)
    numbered = clip_numbers(numbers, len(clip))
    if resume is not None:
        check_resume(resume, clip, len(sigmas) - 1)
    # Checked at the call, not at the first step.
    clip, sides = clip.to(dit.device, torch.float32), {SOURCE: source, TARGET: target}
    return _steps(dit, clip, sides, sigmas, extent, seed, numbered, extensions, resume)


def check_edit(
    config: DiTConfig,
    clip: torch.Tensor,
    source: Side,
    target: Side,
    sigmas: torch.Tensor,
    extent: Extent,
    extensions: Sequence[Extension] = (),
) -> None:
    """Raise ``ValueError`` for inputs of ``flow_edit`` that do not fit, before any weights are loaded for them."""
    steps = len(sigmas) - 1
    if steps < 1 or not falls(sigmas) or sigmas[-1] != 0:
        raise ValueError("sigmas must be two levels or more that fall from noise to 0, which is clean.")
    if extent.n_max > steps:
        raise ValueError(f"n_max is {extent.n_max}, but the run has {steps} steps. Lower n_max or raise the steps.")
    for side in (source, target):
        check_run(config, clip, side.positive, side.negative, side.guidance, extensions)


def _steps(
    dit: DiT,
    clip: torch.Tensor,
    sides: Mapping[str, Side],
    sigmas: torch.Tensor,
    extent: Extent,
    seed: int,
    numbers: Sequence[int],
    extensions: Sequence[Extension],
    resume: Checkpoint | None,
) -> Iterator[Step]:
    levels: list[float] = sigmas.tolist()
    steps = len(levels) - 1
    with ExitStack() as stack:
        running = started(extensions, Run(dit, sigmas, stack, tuple(clip.shape)))
        standing = Standing(running, stack)
        source, target = (
            Flow(
                dit,
                fitted_prompts(clip, side.positive, side.negative, side.guidance),
                side.guidance,
                running,
                steps,
                name,
            )
            for name, side in sides.items()
        )
        # The edited clip, clean as the clip is; in the steps of plain sampling, a latent at their levels.
        x = clip if resume is None else resumed(resume, running, clip.device)[0]
        for index, sigma, sigma_next in spans(levels, max(steps - extent.n_max, made(resume))):
            if index < steps - extent.n_min:
                noises = [level_noise(clip, seed, sigma, draw, numbers) for draw in range(extent.n_avg)]
                velocity = _mean_difference(source, target, clip, x, noises, sigma, index)
                x = denoised = target.held(x + velocity * (sigma_next - sigma), 0.0, index)
            else:
                if index == steps - extent.n_min:
                    noise = level_noise(clip, seed, sigma, numbers=numbers)
                    x = _beside(noised(clip, noise, sigma), clip, x)
                x = target.held(x, sigma, index)
                velocity = target.velocity(x, sigma, index)
                denoised = target.held(x - sigma * velocity, 0.0, index)
                x = target.held(x + velocity * (sigma_next - sigma), sigma_next, index)
            yield Step(index, sigma, x, denoised, standing.after(index, x), partial(notes, running))
        report(running)


def _mean_difference(
    source: Flow,
    target: Flow,
    clip: torch.Tensor,
    edited: torch.Tensor,
    noises: Sequence[torch.Tensor],
    sigma: float,
    index: int,
) -> torch.Tensor:
    """The velocity of the edited clip: target minus source at σ, averaged over draws of noise."""
    total = torch.zeros_like(clip)
    for draw, noise in enumerate(noises):
        shown = source.held(noised(clip, noise, sigma), sigma, index)
        sought = target.held(_beside(shown, clip, edited), sigma, index)
        total += target.velocity(sought, sigma, index, draw) - source.velocity(shown, sigma, index, draw)
    return total / len(noises)


def _beside(shown: torch.Tensor, clip: torch.Tensor, edited: torch.Tensor) -> torch.Tensor:
    """The edited clip with the noise that the clip has where it is ``shown``.

    Summed in this order it is the same to the last bit where nothing has been edited.
    """
    return shown + (edited - clip)
