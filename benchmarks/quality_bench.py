"""Clips of the fixed prompts, made by the pack's own parts in any mode, judged and compared.

Prompts are sampled in batches with padded text, since that is faster; padding and company change a clip by rounding
alone, which the row "one at a time" shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from quality_distance import psnr_db, ssim
from quality_files import Files, Layout, existing
from quality_prompts import BATCH, Prompt, batches, videos
from torch import Tensor

from hyvideo_core.extensions import ImageToVideo
from hyvideo_core.model import DiT
from hyvideo_core.sample import SOLVERS, Guidance, sample
from hyvideo_core.sample.schedule import noised, partial_sigmas
from hyvideo_core.sample.seams import Extension
from hyvideo_core.text import IMAGE, VIDEO, Template, TextEncoders
from hyvideo_core.types import Conditioning
from hyvideo_core.vae import VAE, Tiling
from hyvideo_core.weights import load_clip, load_dit, load_mllm, load_vae
from tools.demo_model.judge import Verdict, obedience, see
from tools.demo_model.world import CLIP_FRAMES

#: What a clip is judged on. ``motion`` is left out where there is one frame.
COLUMNS = ("color", "shape", "motion", "background", "count", "all")
#: Modes whose clips are remembered, so that what several rows are compared with is made once.
REMEMBERED = 3


def t2v(bench: Bench) -> DiT:
    """The distilled transformer, in float32."""
    return bench.load(bench.files.t2v)


def nothing(prompt: Prompt) -> str:
    """The negative prompt of one who writes none."""
    return ""


def no_extensions(bench: Bench, dit: DiT) -> Sequence[Extension]:
    """None."""
    return ()


def nothing_more(bench: Bench, prompts: Sequence[Prompt]) -> Sequence[Extension]:
    """None."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A way to make clips. The defaults are the mode that others are compared with.

    ``model`` may raise ``Missing``. With ``denoise`` below 1 a run begins with the scene itself, with ``from_image``
    it is given the scene's first frame. ``batch`` prompts are sampled together, with ``for_batch`` extensions of their
    own; ``weighted`` ones have words in brackets weighed.
    """

    model: Callable[[Bench], DiT] = t2v
    prompts: Callable[[int], list[Prompt]] = videos
    frames: int = CLIP_FRAMES
    steps: int = 20
    shift: float = 7.0
    denoise: float = 1.0
    guidance: Guidance = field(default_factory=Guidance)
    negative: Callable[[Prompt], str] = nothing
    extensions: Callable[[Bench, DiT], Sequence[Extension]] = no_extensions
    for_batch: Callable[[Bench, Sequence[Prompt]], Sequence[Extension]] = nothing_more
    from_image: bool = False
    weighted: bool = False
    tiling: Tiling | None = None
    solver: str = "euler"
    batch: int = BATCH


BASELINE = Mode()


@dataclass(frozen=True)
class Judged:
    """One clip: which parts of what was asked are so, what was measured, and how many ``things`` were asked for."""

    index: int
    obeyed: dict[str, bool]
    numbers: dict[str, float]
    things: int = 1


@dataclass(frozen=True)
class Outcome:
    """All clips of a row, seconds that each took, and whether they are bit by bit those they were compared with."""

    judged: tuple[Judged, ...]
    seconds: float
    is_identical: bool = False
    note: str = ""


@dataclass(frozen=True)
class Made:
    """Clips [3, T, H, W] and latents [C, t, h, w] of a mode by the prompt's number, and the seconds of a clip."""

    prompts: tuple[Prompt, ...]
    latents: dict[int, Tensor]
    clips: dict[int, Tensor]
    seconds: float

    def equals(self, other: Made) -> bool:
        """Whether they are the same to the last bit."""
        parts = ((self.latents, other.latents), (self.clips, other.clips))
        return all(i in theirs and torch.equal(ours[i], theirs[i]) for ours, theirs in parts for i in ours)


class Bench:
    """The networks and the number of prompts; ``folder`` takes files in other layouts."""

    def __init__(self, files: Files, count: int, folder: Path, device: str = "cpu") -> None:
        self.files, self.count, self.folder, self.device = files, count, folder, torch.device(device)
        self._made: dict[Mode, Made] = {}
        self._encoded: dict[tuple[Any, ...], Conditioning] = {}

    @cached_property
    def vae(self) -> VAE:
        """The VAE in float32."""
        return load_vae(existing(self.files.vae), dtype=torch.float32, device=self.device)

    @cached_property
    def encoders(self) -> TextEncoders:
        """The text encoders in float32."""
        options: dict[str, Any] = {"dtype": torch.float32, "device": self.device}
        return TextEncoders(
            load_mllm(existing(self.files.llama), **options), load_clip(existing(self.files.clip), **options)
        )

    def load(self, path: Path, layout: Layout | None = None, **options: Any) -> DiT:
        """A transformer, in float32 unless ``options`` of ``load_dit`` say otherwise, perhaps from another layout."""
        path = existing(path) if layout is None else layout(existing(path), self.folder)
        settings: dict[str, Any] = {"dtype": torch.float32, "device": self.device} | options
        return load_dit(path, **settings)

    def outcome(self, mode: Mode, against: Mode | None = None) -> Outcome:
        """What a mode's clips show, and how far they are from another's."""
        made, other = self.made(mode), None if against is None else self.made(against)
        judged = []
        for prompt in made.prompts:
            numbers, clip = {}, made.clips[prompt.index]
            if mode.from_image:
                numbers["first_frame_db"] = psnr_db(clip[:, :1], prompt.truth(1))
            judged.append(judgement(prompt, clip, None if other is None else other.clips[prompt.index], numbers))
        return Outcome(tuple(judged), made.seconds, other is not None and made.equals(other))

    def made(self, mode: Mode) -> Made:
        """The clips of a mode; those asked for last are remembered."""
        found = self._made.pop(mode, None) or self._make(mode)
        self._made[mode] = found
        for old in list(self._made)[:-REMEMBERED]:
            del self._made[old]
        return found

    def encoded(self, texts: Sequence[str], template: Template = VIDEO, weighted: bool = False) -> Conditioning:
        """Texts as the transformer reads them."""
        key = (template.name, weighted, *texts)
        if key not in self._encoded:
            self._encoded[key] = self.encoders.encode(list(texts), template, weighted=weighted)
        return self._encoded[key]

    def latent(self, clips: Tensor) -> Tensor:
        """Clips [B, 3, T, H, W] as latents in model space."""
        return self.vae.encode(clips.to(self.device)).mode() * self.vae.scaling_factor

    def decoded(self, latents: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Latents [B, C, t, h, w] in model space as clips in −1…1, on the CPU."""
        return self.vae.decode(latents / self.vae.scaling_factor, tiling).clamp(-1, 1).cpu()

    def _make(self, mode: Mode) -> Made:
        dit = mode.model(self)
        extensions = mode.extensions(self, dit)
        latents, clips, seconds = {}, {}, 0.0
        prompts = mode.prompts(self.count)
        for together in batches(prompts, mode.batch):
            conditions = self._conditions(mode, together)
            given = (*mode.for_batch(self, together), *(self._given(together) if mode.from_image else ()))
            x, sigmas = self._beginning(mode, together)
            began = time.perf_counter()
            x = _sampled(mode, dit, x, sigmas, conditions, (*extensions, *given))
            frames = self.decoded(x, mode.tiling)
            seconds += time.perf_counter() - began
            for prompt, latent, clip in zip(together, x.cpu(), frames, strict=True):
                latents[prompt.index], clips[prompt.index] = latent, clip
        return Made(tuple(prompts), latents, clips, seconds / max(1, len(prompts)))

    def _conditions(self, mode: Mode, prompts: Sequence[Prompt]) -> tuple[Conditioning, Conditioning | None]:
        """The prompts and, where they matter, the negative ones."""
        template = IMAGE if mode.frames == 1 else VIDEO
        positive = self.encoded([prompt.text for prompt in prompts], template, mode.weighted)
        if mode.guidance.cfg <= 1:
            return positive, None
        return positive, self.encoded([mode.negative(prompt) for prompt in prompts], template)

    def _beginning(self, mode: Mode, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Latents [B, C, t, h, w] to begin with, and the noise levels from there on."""
        noise = torch.cat([prompt.noise(mode.frames) for prompt in prompts])
        sigmas = partial_sigmas(mode.steps, mode.shift, mode.denoise)
        if mode.denoise == 1:
            return noise, sigmas
        clips = torch.stack([prompt.truth(mode.frames) for prompt in prompts])
        return noised(self.latent(clips), noise.to(self.device), float(sigmas[0])), sigmas

    def _given(self, prompts: Sequence[Prompt]) -> tuple[Extension]:
        """The first frames of the prompts' scenes."""
        return (ImageToVideo(image=self.latent(torch.stack([prompt.truth(1) for prompt in prompts]))),)


def judgement(prompt: Prompt, clip: Tensor, other: Tensor | None, numbers: dict[str, float] | None = None) -> Judged:
    """What a clip [3, T, H, W] shows of what its prompt asks, and its distance from another."""
    numbers = dict(numbers or {})
    if other is not None:
        numbers |= {"psnr_db": psnr_db(clip, other), "ssim": ssim(clip, other)}
    verdict: Verdict = obedience(see(clip), prompt.caption)
    columns = [name for name in COLUMNS if name != "motion" or clip.shape[1] > 1]
    obeyed = {name: getattr(verdict, name) for name in columns}
    return Judged(prompt.index, obeyed, numbers, len(prompt.scene.things))


def _sampled(
    mode: Mode,
    dit: DiT,
    x: Tensor,
    sigmas: Tensor,
    conditions: tuple[Conditioning, Conditioning | None],
    extensions: Sequence[Extension],
) -> Tensor:
    """The latents [B, C, t, h, w] that come of x."""
    positive, negative = conditions
    options: dict[str, Any] = {"guidance": mode.guidance, "solver": SOLVERS[mode.solver]}
    run = sample(dit, x, positive, negative=negative, sigmas=sigmas, extensions=extensions, **options)
    for step in run:
        x = step.x
    return x
