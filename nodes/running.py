"""A run of a model's steps: checked, loaded as planned, shown, stopped at any block, kept, tried again with less."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import comfy.sample
import torch

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import (
    BlockSwap,
    ContextWindows,
    ImageConcat,
    ImageToVideo,
    Inpainting,
    Loras,
    latent_mask,
)
from hyvideo_core.model import DiT
from hyvideo_core.sample import Step
from hyvideo_core.sample.checkpoint import Checkpoint
from hyvideo_core.sample.run import made
from hyvideo_core.sample.seams import Extension, OnBlock
from hyvideo_core.sampling_plan import SamplingPlan, retrying

from . import host, pace, transformer
from .adapt import host_latent, latent_samples
from .handles import ModelHandle
from .progress import Progress
from .resume import Saved
from .watching import Watching

logger = logging.getLogger(__name__)

#: Begins the steps of a run with a transformer and all extensions, after those that a checkpoint holds.
Begin = Callable[[DiT, Sequence[Extension], Checkpoint | None], Iterator[Step]]


def model_space(latent: dict[str, Any], field: str = "latent") -> torch.Tensor:
    """The samples [B, C, T, H, W] of a LATENT as the transformer sees them; ``field`` is the input it came in by."""
    return latent_samples(latent, field) * HUNYUAN_VIDEO_VAE.scaling_factor


def noise_for(latent: dict[str, Any], seed: int) -> torch.Tensor:
    """Noise like the samples of a LATENT, drawn on the CPU by its batch's own numbers: the same on every device."""
    return comfy.sample.prepare_noise(latent_samples(latent, "latent"), seed, clip_numbers(latent))


def clip_numbers(latent: dict[str, Any]) -> list[int] | None:
    """The numbers that the clips of a LATENT have in the batch they were taken from, if it says so."""
    numbers, count = latent.get("batch_index"), len(latent_samples(latent, "latent"))
    if numbers is not None and len(numbers) != count:
        raise HyVideoError(
            f"latent holds {count} clips, but the numbers of {len(numbers)} (its batch_index). A node before changed "
            "only one of them; take clips out of a batch with Latent From Batch."
        )
    return numbers


def finished(x: torch.Tensor, latent: dict[str, Any]) -> dict[str, Any]:
    """The LATENT of a run's result, its clips numbered as those of the ``latent`` that it came of."""
    numbers = {"batch_index": latent["batch_index"]} if "batch_index" in latent else {}
    return host_latent(x / HUNYUAN_VIDEO_VAE.scaling_factor) | numbers


def with_mask(model: ModelHandle, latent: dict[str, Any], noise: torch.Tensor) -> ModelHandle:
    """The model with what the noise mask of a LATENT keeps, if it has one; ``noise`` is what the run adds to it."""
    mask = latent.get("noise_mask")
    if mask is None:
        return model
    clean = model_space(latent)
    try:
        cells = latent_mask(mask, tuple(clean.shape))
    except ValueError as error:
        raise HyVideoError(f"latent's noise mask: {error}") from error
    return model.extended(Inpainting(mask=cells, clean=clean, noise=noise))


def keeping_noise(model: ModelHandle, reason: str) -> ModelHandle:
    """The model without what would change the noise that a run begins with; the log says so, with the reason."""
    kept = []
    for each in model.extensions:
        if isinstance(each, ContextWindows) and each.freenoise:
            logger.info("freenoise of HyVideo Context Windows is left out: %s", reason)
            each = replace(each, freenoise=False)
        if isinstance(each, ImageToVideo | ImageConcat) and each.stability:
            logger.info("stability of HyVideo Image to Video is left out: %s", reason)
            each = replace(each, stability=False)
        kept.append(each)
    return replace(model, extensions=tuple(kept))


def run(
    model: ModelHandle,
    shape: tuple[int, ...],
    steps: range,
    begin: Begin,
    node_id: str | None,
    *,
    what: str = "sampling",
    saved: Saved | None = None,
    style: Hashable = None,
) -> torch.Tensor:
    """The latent after the last of ``steps``, the numbers of those that ``begin`` makes of a new run.

    ``shape`` [B, C, T, H, W] is of all that is evaluated at once. With ``saved`` the run leaves checkpoints on its way
    and goes on from the one that is there; with ``style`` its times are remembered (``pace``).
    """
    hosted = transformer.loaded(model, shape)
    extensions = [
        OnBlock(check=host.check_interrupt),
        BlockSwap(waiting=hosted.waiting),
        Loras(loras=model.loras),
        *model.extensions,
    ]

    watching = Watching(node_id, model.file.path, shape, hosted.load_device)

    def attempt(plan: SamplingPlan) -> torch.Tensor:
        dit = transformer.following(hosted, plan, model)
        last = None if saved is None else saved.found()
        first = max(steps.start, made(last))
        done = first - steps.start
        progress = Progress(len(steps), "step", node_id, done=done, has_text=not watching.has_panel)
        with (
            watching.attempt(progress, plan) as watch,
            transformer.peak_reported(hosted, plan, watch.measured),
            closing(begin(dit, extensions, last)) as each,  # type: ignore[type-var]
        ):
            for step in each:
                if saved is not None:
                    saved.after(step, steps)
                watch.after(step, step.index + 1 - steps.start)
            progress.close(what)
            standing = progress.standing
            if style is not None and standing.made > 1:
                pace.keep(style, pace.Pace(standing.first_s, standing.each_s, shape))
        return step.x

    return retrying(transformer.plan_of(hosted), attempt, logger.warning)
