"""Inpainting: a mask in space and time says which part of a clip is made anew and which stays as it is.

Where the mask is 0, x is the clip with noise of its own at whatever level x is at, and the clip itself in the end.
Where it lies between 0 and 1, the clean estimate is a blend of the model's and the clip in that proportion, so the
velocity is mask·v + (1 − mask)·(x − clip)/σ. Blending x itself, as papers do, would pull it to the clip once more in
every step, until of a soft edge nothing new was left; this means the same for any number of steps.

Source: blended latent diffusion, arXiv 2206.02779, algorithm 1, and RePaint, arXiv 2201.09865, algorithm 1 without
resampling, which draw new noise for the kept part in every step. Here it has one noise for all, as in ComfyUI
``comfy/samplers.py`` (KSamplerX0Inpaint): then it moves along a straight line, as the flow means it to, and solvers
that look back see no jumps. ComfyUI blends the clean estimates too, but at soft edges it also shows the model a blend,
where here the model sees x.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.sample.schedule import falls, noised
from hyvideo_core.sample.seams import Conditional, Extension, Run
from hyvideo_core.types import TEMPORAL_COMPRESSION


@dataclass(frozen=True)
class Kept:
    """What a run keeps: the mask and the clip with its noise, all broadcastable to x [B, C, T, H, W]."""

    mask: torch.Tensor
    clean: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Inpainting(Extension):
    """Makes anew where ``mask`` is 1, keeps where it is 0, blends in between; with 1 everywhere it changes nothing.

    ``mask`` [1 or B, 1, 1 or T, H, W] is in the latent's size (``latent_mask``). ``clean`` and ``noise``
    [1 or B, C, T, H, W] are the clip's latent in model space and the noise that the run's x was made with.
    """

    #: Before a given image, which as frame 0 is without noise at every level and has the last word there.
    rank: ClassVar[int] = -550
    mask: torch.Tensor = field(repr=False)
    clean: torch.Tensor = field(repr=False)
    noise: torch.Tensor = field(repr=False)

    def __post_init__(self) -> None:
        _check_range(self.mask)
        if self.mask.ndim != 5 or self.mask.shape[1] != 1:
            raise ValueError(
                f"mask has shape {list(self.mask.shape)}, but [1 or B, 1, 1 or T, H, W] is needed. Make it with "
                "latent_mask."
            )

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``GeometryError`` for a mask, clip or noise that does not fit x, ``NumericsError`` for damaged ones."""
        frames = {1, x.shape[2]}
        for name, given, channels, lengths in (
            ("mask", self.mask, 1, frames),
            ("clip", self.clean, x.shape[1], {x.shape[2]}),
            ("noise", self.noise, x.shape[1], {x.shape[2]}),
        ):
            fits = given.ndim == 5 and len(given) in {1, len(x)} and given.shape[2] in lengths
            if not fits or [given.shape[1], *given.shape[3:]] != [channels, *x.shape[3:]]:
                raise GeometryError(
                    f"The {name} of the part to keep is {list(given.shape)}, but the latent to sample is "
                    f"{list(x.shape)}. Use one size, length and batch for all, or one clip and mask for the batch."
                )
            if not bool(torch.isfinite(given).all()):
                raise NumericsError(
                    f"The {name} of the part to keep holds NaN or infinity. It was damaged where it was made: encode "
                    "the video again, with dtype bfloat16 or float32 in HyVideo Load VAE."
                )

    def start(self, run: Run) -> Kept:
        """All where the model is. Raises ``ValueError`` for a run from clean to noise."""
        if not falls(run.sigmas):
            raise ValueError("sigmas rise, but a part is kept only on the way from noise to clean. Leave out the mask.")
        device = run.dit.device
        return Kept(*(each.to(device, torch.float32) for each in (self.mask, self.clean, self.noise)))

    def hold(self, x: torch.Tensor, sigma: float, state: Kept) -> torch.Tensor:
        """x with the clip at its level where the mask is 0."""
        return torch.where(state.mask == 0, noised(state.clean, state.noise, sigma), x)

    def velocity(self, velocity: torch.Tensor, conditional: Conditional, state: Kept) -> torch.Tensor:
        """The velocity that leads to the blend; between 0 and 1 only this acts."""
        here = conditional.evaluation
        # lerp is exact at both ends.
        return torch.lerp((here.x - state.clean) / here.sigma, velocity, state.mask)


def latent_mask(mask: torch.Tensor, latent_shape: tuple[int, ...]) -> torch.Tensor:
    """A mask of pixels, 0–1, as one of latent cells: [1 or B, 1, 1 or T, h, w] for a latent [B, C, T, h, w].

    ``mask`` is [F, H, W], [F, 1, H, W] or [1 or B, 1, F, H, W], of any H and W: it is stretched to the latent. F is 1
    for all frames, T, or the clip's 4·(T − 1) + 1: then the first latent frame stands for frame 0, each further one for
    the next four. Where T is 1, F may also be B: a mask for each image.

    A cell takes the greatest value of what it stands for: whatever is marked is made anew, and only what nothing marks
    is kept. A mean would leave cells half old and half new around every shape and, in time, frames that show both; this
    keeps black and white masks black and white. Raises ``ValueError`` for other masks.
    """
    _check_range(mask)
    if mask.ndim not in (3, 4, 5) or (mask.ndim > 3 and mask.shape[1] != 1):
        raise ValueError(
            f"mask has shape {list(mask.shape)}, but [frames, H, W], [frames, 1, H, W] or [batch, 1, frames, H, W] is "
            "needed."
        )
    batch, _, frames, height, width = latent_shape
    if mask.ndim < 5:
        clips = batch if frames == 1 and len(mask) == batch else 1
        mask = mask.reshape(clips, 1, -1, *mask.shape[-2:])
    if len(mask) not in (1, batch):
        raise ValueError(f"mask is for {len(mask)} clips, but there are {batch}. Give one mask, or one for each clip.")
    given, clip_frames = mask.shape[2], (frames - 1) * TEMPORAL_COMPRESSION + 1
    if given not in (1, frames, clip_frames):
        raise ValueError(
            f"mask has {given} frames, but the clip has {clip_frames}. Give 1 for all of them, one for each, or one "
            f"for each of the {frames} latent frames."
        )
    cells = F.adaptive_max_pool3d(mask.float(), (given, height, width))
    if given == clip_frames:
        first, rest = cells[:, :, :1], cells[:, :, 1:]
        cells = torch.cat((first, rest.unflatten(2, (-1, TEMPORAL_COMPRESSION)).amax(3)), dim=2)
    return cells


def _check_range(mask: torch.Tensor) -> None:
    """Raise ``ValueError`` for values outside 0–1, and for NaN."""
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(
            f"mask has values from {mask.min().item():g} to {mask.max().item():g}, but 0 (keep) to 1 (make anew) is "
            "needed."
        )
