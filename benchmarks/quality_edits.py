"""Clips that are made from others: edited, inverted and made again, or painted anew in part.

What begins with a clip begins with a scene itself, rendered and encoded. Scenes of one thing are edited to another
color of it: what an edit shall keep, its motion and all else, the prompt of the edit names too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from quality_bench import Bench, Judged, Outcome, judgement, t2v
from quality_prompts import BATCH, Prompt, batches, videos
from torch import Tensor

from hyvideo_core.extensions import Inpainting, RFInversion
from hyvideo_core.model import DiT
from hyvideo_core.sample import Extent, Guidance, Side, Step, flow_edit, flow_sigmas, invert, sample
from hyvideo_core.types import Conditioning, Interval
from tools.demo_model.world import CLIP_FRAMES

STEPS, SHIFT = 20, 7.0


@dataclass(frozen=True)
class Work:
    """Prompts that are worked on together: the clips' latents [B, C, t, h, w], and what the transformer reads."""

    dit: DiT
    clips: Tensor
    sources: Conditioning
    targets: Conditioning
    empty: Conditioning
    noise: Tensor
    sigmas: Tensor


def edited(bench: Bench, edit: Callable[[Work], Tensor], prompts: Callable[[int], list[Prompt]] = videos) -> Outcome:
    """What an edit makes of the scenes, judged by what was asked for."""
    sources = {prompt.index: prompt for prompt in videos(bench.count)}
    dit, seconds = t2v(bench), 0.0
    judged: list[Judged] = []
    for together in batches(prompts(bench.count), BATCH):
        before = [sources[prompt.index] for prompt in together]
        work = Work(
            dit,
            bench.latent(torch.stack([prompt.truth(CLIP_FRAMES) for prompt in before])),
            bench.encoded([prompt.text for prompt in before]),
            bench.encoded([prompt.text for prompt in together]),
            bench.encoded([""]),
            torch.cat([prompt.noise(CLIP_FRAMES) for prompt in together]).to(bench.device),
            flow_sigmas(STEPS, SHIFT),
        )
        began = time.perf_counter()
        frames = bench.decoded(edit(work))
        seconds += time.perf_counter() - began
        judged += [judgement(prompt, clip, None) for prompt, clip in zip(together, frames, strict=True)]
    return Outcome(tuple(judged), seconds / max(1, len(judged)))


def by_flow_edit(work: Work, source: float, target: float, share: float) -> Tensor:
    """FlowEdit with these guidances in this share of the steps."""
    sides = (
        Side(prompt, guidance=Guidance(embedded=scale))
        for prompt, scale in ((work.sources, source), (work.targets, target))
    )
    run = flow_edit(work.dit, work.clips, *sides, sigmas=work.sigmas, extent=Extent(round(STEPS * share)))
    return _last(run)


def by_inversion(work: Work, gamma: float, eta: float, end: float) -> Tensor:
    """RF inversion with an empty prompt, and back with the target's, steered in the first part of the run."""
    noisy = _last(invert(work.dit, work.clips, work.noise, work.empty, sigmas=work.sigmas, gamma=gamma))
    steer = RFInversion(clean=work.clips, eta=eta, when=Interval(0.0, end))
    return _last(sample(work.dit, noisy, work.targets, sigmas=work.sigmas, extensions=(steer,)))


def continued(work: Work, kept_latent_frames: int) -> Tensor:
    """Inpainting: so many latent frames of the clip stay, all others are made anew."""
    mask = torch.ones_like(work.clips[:1, :1])
    mask[:, :, :kept_latent_frames] = 0
    paint = Inpainting(mask=mask, clean=work.clips, noise=work.noise)
    return _last(sample(work.dit, work.noise, work.targets, sigmas=work.sigmas, extensions=(paint,)))


def _last(run: Iterable[Step]) -> Tensor:
    (*_, last) = run
    return last.x
