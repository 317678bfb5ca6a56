"""Image-to-video by token replacement: the video begins with a given image.

Frame 0 of the latent is the image's in every evaluation, marked as clean there, and in the result; the solver moves
the other frames.

Source: HunyuanVideo-I2V ``hyvideo/diffusion/pipelines/pipeline_hunyuan_video.py`` (token_replace, i2v_stability).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run

#: How much of the image all frames begin with.
STABILITY_SHARE = 0.001


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageToVideo(Extension):
    """For checkpoints trained so. ``image`` [1 or B, C, 1, H, W] is the latent of one image, or of one for each clip.

    It is in model space, as the latent that is sampled. ``stability`` mixes a trace of the image into the noise of all
    frames: calmer videos, made for shift 7; without it motion is livelier, made for shift 17.
    """

    #: Outside of what evaluates a part of the frames, which then knows whether frame 0 is among them.
    rank: ClassVar[int] = -500
    image: torch.Tensor = field(repr=False)
    stability: bool = True

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``GeometryError`` for latents of another size or number, ``NumericsError`` for a damaged image."""
        images, clips = len(self.image), len(x)
        if images not in (1, clips):
            raise GeometryError(
                f"There are {images} images for a batch of {clips} clips. Give one image, or one for each clip."
            )
        size, expected = list(self.image.shape[1:]), [x.shape[1], 1, *x.shape[3:]]
        if size != expected:
            raise GeometryError(
                f"The image's latent is {size} (channels, frames, height, width), but the latent to sample needs "
                f"{expected}. Encode the image for that size: in a graph, connect one latent to HyVideo Image to Video "
                "and to HyVideo Sampler."
            )
        if x.shape[2] < 2:
            raise GeometryError(
                "The latent has 1 frame, which would be the given image itself. Choose 5 frames or more."
            )
        if not bool(torch.isfinite(self.image).all()):
            raise NumericsError(
                "The image's latent holds NaN or infinity. It was damaged where it was made: encode the image again, "
                "with dtype bfloat16 or float32 in HyVideo Load VAE."
            )

    def start(self, run: Run) -> torch.Tensor:
        """The image where the model is, in the dtype of latents."""
        return self.image.to(run.dit.device, torch.float32)

    def begin(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The noise with a trace of the image in every frame."""
        return (1 - STABILITY_SHARE) * x + STABILITY_SHARE * state if self.stability else x

    def hold(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """x with the image as frame 0."""
        return torch.cat((state.expand(len(x), *state.shape[1:]), x[:, :, 1:]), dim=2)

    def wrap_predict(self, inner: Predict, state: torch.Tensor) -> Predict:
        """Tell the transformer that frame 0 has no noise."""

        def predict(evaluation: Evaluation) -> torch.Tensor:
            return inner(replace(evaluation, token_replace=True))

        return predict
