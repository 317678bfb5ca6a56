"""What every way of giving a video an image asks of the image's latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.sample.seams import WHOLE_RUN, Extension

#: How much of the image all frames begin with, where a video shall stay calm.
STABILITY_SHARE = 0.001


@dataclass(frozen=True)
class GivenImage(Extension):
    """Gives a video its first frame, or its first and its last."""


def check_image(image: torch.Tensor, x: torch.Tensor, frames: int = 1) -> None:
    """Raise an error unless ``image`` [1 or B, C, frames, H, W] is a latent that belongs to x [B, C, T, H, W].

    ``GeometryError`` for another size or number and for an x of one frame, ``NumericsError`` for NaN or infinity.
    """
    images, clips = len(image), len(x)
    if images not in (1, clips):
        raise GeometryError(
            f"There are {images} images for a batch of {clips} clips. Give one image, or one for each clip."
        )
    size, expected = list(image.shape[1:]), [x.shape[1], frames, *x.shape[3:]]
    if size != expected:
        raise GeometryError(
            f"The image's latent is {size} (channels, frames, height, width), but the latent to sample needs "
            f"{expected}. Encode the image for that size: in a graph, connect one latent to HyVideo Image to Video "
            "and to HyVideo Sampler."
        )
    if x.shape[2] < 2:
        raise GeometryError("The latent has 1 frame, which would be the given image itself. Choose 5 frames or more.")
    if not bool(torch.isfinite(image).all()):
        raise NumericsError(
            "The image's latent holds NaN or infinity. It was damaged where it was made: encode the image again, "
            "with dtype bfloat16 or float32 in HyVideo Load VAE."
        )


def require_whole_run(extension: Extension) -> None:
    """Raise ``ValueError`` for one that is not active in every step, where the transformer cannot do without it."""
    if extension.when != WHOLE_RUN:
        raise ValueError(
            f"when is {extension.when.start} to {extension.when.end}, but the transformer's input is wider than the "
            "latent in every step. Leave it at 0 to 1."
        )


def with_trace(x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The noise x with a trace of the image [B, C, 1, H, W] in every frame (the original's i2v_stability)."""
    return (1 - STABILITY_SHARE) * x + STABILITY_SHARE * image
