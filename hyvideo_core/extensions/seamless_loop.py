"""Seamless loops: in every step the video is turned in time, so that no frame is always the first or the last.

The frames are taken as a ring. A step evaluates the ring from another frame on and turns the velocity back; seen over
all steps the end goes on at the beginning as everything else goes on.

Decoding: the causal VAE makes one picture of a latent's first frame and four of every other, so decoded as it is a
loop would hurry there. ``for_decoding`` puts the loop's last frames in front, and ``LEAD_FRAMES`` pictures are to be
dropped after decoding: what stays is four pictures for every latent frame, the first ones made as the successors of
the last. Also, in each step some other frame takes the place that the transformer knows as one picture.

Source: arXiv 2502.20307 (latent shift, frame-invariant latent decoding), and its code YisuiTT/Mobius
``pipeline/pipeline_cogvideo_mobius.py``: 6 latent frames a step, both prompts of a step alike, and for an odd number
of frames a lead of 3 (2 for an even one, since its VAE decodes in pairs; this one does not). Its RoPE interpolation
for loops that are longer than the model's clips is not here: combine with context windows or RIFLEx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from hyvideo_core.errors import GeometryError, HyVideoError
from hyvideo_core.extensions.given_image import GivenImage
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run
from hyvideo_core.types import TEMPORAL_COMPRESSION

#: Latent frames that a loop is decoded with in front of it, and the pictures they become.
LEAD_LATENT_FRAMES = 3
LEAD_FRAMES = (LEAD_LATENT_FRAMES - 1) * TEMPORAL_COMPRESSION + 1
LOOP_IMAGE = (
    "A seamless loop has no first frame, but this video begins with a given image. Leave out HyVideo Seamless Loop or "
    "the image."
)


@dataclass(frozen=True)
class SeamlessLoop(Extension):
    """Turns the video by ``shift_latent_frames`` more in every step; 0 is off. One latent frame is four pictures.

    One that shares no divisor with the length of the latent lets every frame be the first at some time.
    """

    #: Outside of windows, which then lie on the ring.
    rank: ClassVar[int] = -450
    shift_latent_frames: int = 6

    def __post_init__(self) -> None:
        if self.shift_latent_frames < 0:
            raise ValueError(
                f"shift_latent_frames is {self.shift_latent_frames}, but must be 0 (off) or more; 6 is usual."
            )

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``GeometryError`` for a length that this shift turns to where it was."""
        frames = x.shape[2]
        if self.shift_latent_frames and self.shift_latent_frames % frames == 0:
            advice = "Choose 5 frames or more." if frames == 1 else f"Use {self.shift_latent_frames - 1}."
            raise GeometryError(
                f"shift_latent_frames is {self.shift_latent_frames}, but the latent has {frames} frames: every step "
                f"would turn them to where they were, and nothing would loop. {advice}"
            )

    def check_beside(self, others: Sequence[Extension], x: torch.Tensor) -> None:
        """Raise ``HyVideoError`` beside a given image, which is a first frame."""
        if self.shift_latent_frames and any(isinstance(each, GivenImage) for each in others):
            raise HyVideoError(LOOP_IMAGE)

    def wrap_predict(self, inner: Predict, state: Run) -> Predict:
        """Evaluate the ring from the step's frame on."""
        if not self.shift_latent_frames:
            return inner

        def predict(evaluation: Evaluation) -> torch.Tensor:
            frames = evaluation.x.shape[2]
            shift = evaluation.step * self.shift_latent_frames % frames
            part = evaluation.part or tuple(range(frames))
            turned = replace(evaluation, x=evaluation.x.roll(-shift, dims=2), part=part[shift:] + part[:shift])
            return inner(turned).roll(shift, dims=2)

        return predict


def for_decoding(latent: torch.Tensor) -> torch.Tensor:
    """A loop [B, C, T, H, W] with its last frames in front: [B, C, 3 + T, H, W]; see ``LEAD_FRAMES``."""
    frames = latent.shape[2]
    return latent[:, :, [place % frames for place in range(-LEAD_LATENT_FRAMES, frames)]]
