"""The first and the last frame of a video given as images, for LoRAs that widen the transformer's input.

Such a LoRA was trained on an input embedding of twice the latent's channels, which for the added ones was zero. It has
its effect there and in every layer; here are the added channels, and the zeros.

Source: dashtoon/hunyuan-video-keyframe-control-lora ``hv_control_lora_inference.py`` (prepare_conditioning, call_pipe,
setup_pipeline).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.extensions.given_image import GivenImage, check_image, require_whole_run
from hyvideo_core.extensions.image_concat import beside
from hyvideo_core.model.dit import DiT
from hyvideo_core.sample.seams import Evaluation, Predict, Run


@dataclass(frozen=True)
class Widened:
    """The transformer, its input embedding's weight with zeros for the added channels, and what these hold."""

    dit: DiT
    weight: nn.Parameter
    given: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Keyframes(GivenImage):
    """For a text-to-video checkpoint with a keyframe LoRA, without which it changes nothing.

    ``clip`` [1 or B, C, T, H, W] is the latent, in model space, of a clip that is black between its first and its last
    frame (``vae.images.keyframe_clip``), encoded as one video.
    """

    #: With the other extension that widens the input, and for its reasons.
    rank: ClassVar[int] = 500
    clip: torch.Tensor = field(repr=False)

    def __post_init__(self) -> None:
        require_whole_run(self)

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``GeometryError`` for latents of another size or number, ``NumericsError`` for a damaged clip."""
        check_image(self.clip, x, frames=x.shape[2])

    def start(self, run: Run) -> Widened:
        """The clip where the model is, and the wider weight: less than a megabyte, made once a run."""
        weight = F.pad(run.dit.img_in.proj.weight, (0, 0, 0, 0, 0, 0, 0, self.clip.shape[1]))
        given = self.clip.to(run.dit.device, torch.float32)
        return Widened(run.dit, nn.Parameter(weight, requires_grad=False), given)

    def wrap_predict(self, inner: Predict, state: Widened) -> Predict:
        """The evaluation of the latent with the clip beside it, by a transformer that takes both."""

        def predict(evaluation: Evaluation) -> torch.Tensor:
            with widened(state):
                return inner(beside(evaluation, state.given))

        return predict


@contextmanager
def widened(state: Widened) -> Iterator[None]:
    """The wider input embedding in the transformer, until the end of the context."""
    dit, proj = state.dit, state.dit.img_in.proj
    weight, config = proj.weight, dit.config
    try:
        proj.weight = state.weight
        dit.config = replace(config, in_channels=state.weight.shape[1])
        yield
    finally:
        proj.weight = weight
        dit.config = config
