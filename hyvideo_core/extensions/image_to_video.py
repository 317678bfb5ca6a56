"""Image-to-video in which frame 0 of the latent is a given image's; the solver moves the other frames.

It is the image's in every evaluation and in the result. Checkpoints trained for it are told that this frame has no
noise (token_replace); the Leapfusion LoRA was trained without being told.

Source: HunyuanVideo-I2V ``hyvideo/diffusion/pipelines/pipeline_hunyuan_video.py`` (token_replace, i2v_stability);
AeroScripts/leapfusion-hunyuan-image2video ``generate.py`` (sample_image2video).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from hyvideo_core.extensions.given_image import GivenImage, check_image, with_trace
from hyvideo_core.sample.seams import Evaluation, Predict, Run
from hyvideo_core.sample.solvers import NEARLY_ONE


@dataclass(frozen=True, eq=False, kw_only=True)
class FirstFrame(GivenImage):
    """Holds frame 0 at ``image`` [1 or B, C, 1, H, W], the latent of one image, or of one for each clip.

    It is in model space, as the latent that is sampled. Alone, this is for the Leapfusion LoRA on a text-to-video
    checkpoint. What frame 0 decodes to then looks unlike the rest, so its authors drop it: give x[:, :, 1:] to the VAE.
    """

    #: Outside of what evaluates a part of the frames, which then knows whether frame 0 is among them.
    rank: ClassVar[int] = -500
    image: torch.Tensor = field(repr=False)

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``GeometryError`` for latents of another size or number, ``NumericsError`` for a damaged image."""
        check_image(self.image, x)

    def start(self, run: Run) -> torch.Tensor:
        """The image where the model is, in the dtype of latents."""
        return self.image.to(run.dit.device, torch.float32)

    def hold(self, x: torch.Tensor, sigma: float, state: torch.Tensor) -> torch.Tensor:
        """x with the image as frame 0, without noise at every level."""
        return torch.cat((state.expand(len(x), *state.shape[1:]), x[:, :, 1:]), dim=2)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageToVideo(FirstFrame):
    """For checkpoints trained with token_replace (image-to-video v2): frame 0 is marked as clean too.

    ``stability`` mixes a trace of the image into the noise of all frames: calmer videos, made for shift 7; without it
    motion is livelier, made for shift 17.
    """

    stability: bool = True

    def begin(self, x: torch.Tensor, sigma: float, state: torch.Tensor) -> torch.Tensor:
        """The noise with a trace of the image in every frame; a run that goes on from another has it already."""
        return with_trace(x, state) if self.stability and sigma >= NEARLY_ONE else x

    def wrap_predict(self, inner: Predict, state: torch.Tensor) -> Predict:
        """Tell the transformer that frame 0 has no noise."""

        def predict(evaluation: Evaluation) -> torch.Tensor:
            return inner(replace(evaluation, token_replace=True))

        return predict
