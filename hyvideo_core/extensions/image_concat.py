"""Image-to-video by wider input: beside the latent, the transformer is given the latent of an image.

Source: HunyuanVideo-I2V (v1) ``hyvideo/diffusion/pipelines/pipeline_hunyuan_video.py`` (img_latents_concat,
mask_concat); SkyReels-V1 ``skyreelsinfer/pipelines/pipeline_skyreels_video.py`` (image_latents).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.extensions.given_image import GivenImage, check_image, require_whole_run, with_trace
from hyvideo_core.sample.seams import Evaluation, Predict, Run
from hyvideo_core.sample.solvers import NEARLY_ONE

#: So many frames at the beginning of a video of HunyuanVideo-I2V v1 its authors drop, after the whole latent has been
#: decoded: the first of a shorter latent would decode to one frame instead of four.
DROPPED_FRAMES = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageConcat(GivenImage):
    """For checkpoints whose input is the latent, then that of an image as frame 0 with zeros in the other frames.

    ``image`` [1 or B, C, 1, H, W] is the latent of one image, or of one for each clip, in model space. ``marked`` adds
    a channel that is 1 in frame 0: HunyuanVideo-I2V v1 (33 channels) has it, SkyReels-V1 (32) has not. ``stability``
    mixes a trace of the image into the noise of all frames, as I2V v1 always did and SkyReels-V1 never.
    """

    #: Inside of what evaluates a part of the frames or several branches at once: these see the latent alone.
    rank: ClassVar[int] = 500
    image: torch.Tensor = field(repr=False)
    marked: bool = True
    stability: bool = True

    def __post_init__(self) -> None:
        require_whole_run(self)

    def outside(self, config: DiTConfig) -> DiTConfig:
        """The configuration that a latent must fit to which the image has not been added yet.

        Raises ``CheckpointError`` for transformers that take no image, or take it in another way.
        """
        added = self.image.shape[1] + self.marked
        if config.in_channels != config.out_channels + added:
            raise CheckpointError(
                f"The transformer takes {config.in_channels} input channels, but a latent of {config.out_channels} "
                f"with {added} of an image beside it has {config.out_channels + added}. Choose a checkpoint for "
                "image-to-video v1 (33 channels) or SkyReels image-to-video (32), and the kind that belongs to it."
            )
        return replace(config, in_channels=config.out_channels)

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``GeometryError`` for latents of another size or number, ``NumericsError`` for a damaged image."""
        check_image(self.image, x)

    def start(self, run: Run) -> torch.Tensor:
        """All that goes beside the latent [1 or B, C or C + 1, T, H, W], where the model is."""
        image = self.image.to(run.dit.device, torch.float32)
        if self.marked:
            image = torch.cat((image, torch.ones_like(image[:, :1])), dim=1)
        return F.pad(image, (0, 0, 0, 0, 0, run.shape[2] - 1))

    def begin(self, x: torch.Tensor, sigma: float, state: torch.Tensor) -> torch.Tensor:
        """The noise with a trace of the image in every frame; a run that goes on from another has it already."""
        return with_trace(x, state[:, : x.shape[1], :1]) if self.stability and sigma >= NEARLY_ONE else x

    def wrap_predict(self, inner: Predict, state: torch.Tensor) -> Predict:
        """The evaluation of the latent with the image beside it."""
        return lambda evaluation: inner(beside(evaluation, state))


def a_frame_later(clip: torch.Tensor) -> torch.Tensor:
    """A clip's latent [B, C, T, H, W] with its first frame twice and without its last.

    For a run that changes a clip and whose first latent frame is left out at the end.
    Source: ComfyUI-HunyuanVideoWrapper ``hyvideo/diffusion/pipelines/pipeline_hunyuan_video.py`` (prepare_latents).
    """
    return torch.cat((clip[:, :, :1], clip[:, :, :-1]), dim=2)


def beside(evaluation: Evaluation, given: torch.Tensor) -> Evaluation:
    """The evaluation with the channels ``given`` [1 or B, C, T, H, W] after those of its latent.

    T are all frames of the run, of which the latent may be a part; it may hold the batch several times over.
    """
    x = evaluation.x
    if evaluation.part:
        given = given[:, :, list(evaluation.part)]
    rows = given.repeat(len(x) // len(given), 1, 1, 1, 1)
    return replace(evaluation, x=torch.cat((x, rows.to(x)), dim=1))
