"""Latent to RGB: each latent pixel's colour as a linear function of its 16 channels. Immediate, blurred, no file.

Source: the factors that ComfyUI ``comfy/latent_formats.py`` has for HunyuanVideo, for latents as the transformer sees
them and colours in −1…1.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F

from hyvideo_core.preview.clip import FPS, MAX_CLIPS, MAX_PIXELS, Clip, as_bytes, beside
from hyvideo_core.types import TEMPORAL_COMPRESSION

#: Red, green and blue of each channel.
FACTORS = (
    (-0.0395, -0.0331, 0.0445),
    (0.0696, 0.0795, 0.0518),
    (0.0135, -0.0945, -0.0282),
    (0.0108, -0.0250, -0.0765),
    (-0.0209, 0.0032, 0.0224),
    (-0.0804, -0.0254, -0.0639),
    (-0.0991, 0.0271, -0.0669),
    (-0.0646, -0.0422, -0.0400),
    (-0.0696, -0.0595, -0.0894),
    (-0.0799, -0.0208, -0.0375),
    (0.1166, 0.1627, 0.0962),
    (0.1165, 0.0432, 0.0407),
    (-0.2315, -0.1920, -0.1355),
    (-0.0270, 0.0401, -0.0821),
    (-0.0616, -0.0997, -0.0727),
    (0.0249, -0.0469, -0.1703),
)
BIAS = (0.0259, -0.0192, -0.0761)


class LatentRGB:
    """Frames of the latent's own size, one for each latent frame."""

    name: ClassVar[str] = "latent-to-RGB"

    def __call__(self, latents: torch.Tensor) -> Clip:
        """The clip that latents [B, 16, T, H, W] in model space show.

        Of a clip too long for ``MAX_PIXELS`` every second, third … latent frame.
        """
        latents = latents[:MAX_CLIPS]
        clips, _, frames, height, width = latents.shape
        every = math.ceil(frames * clips * height * width / MAX_PIXELS)
        rgb = as_bytes((rgb_of(latents[:, :, ::every]) + 1) / 2)
        return Clip(beside(rgb), FPS / TEMPORAL_COMPRESSION / every, self.name)


def rgb_of(latents: torch.Tensor) -> torch.Tensor:
    """Colours [B, T, H, W, 3] in about −1…1 of latents [B, 16, T, H, W] in model space."""
    latents = latents.float()
    factors, bias = latents.new_tensor(FACTORS), latents.new_tensor(BIAS)
    return F.linear(latents.movedim(1, -1), factors.T, bias)
