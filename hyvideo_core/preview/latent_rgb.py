"""Latent to RGB: each latent pixel's colour as a linear function of its 16 channels. Immediate, blurred, no file.

Source: the factors that ComfyUI ``comfy/latent_formats.py`` has for HunyuanVideo, for latents as the transformer sees
them and colours in −1…1. A transformer for another VAE says its own in its file (``KEY``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F

from hyvideo_core.errors import CheckpointError
from hyvideo_core.preview.clip import FPS, MAX_CLIPS, MAX_PIXELS, Clip, as_bytes, beside
from hyvideo_core.types import TEMPORAL_COMPRESSION
from hyvideo_core.weights.files import SAFETENSORS_SUFFIXES, SafetensorsCheckpoint

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
#: In the metadata of a transformer's safetensors: JSON of 17 rows of red, green and blue, the last one the bias.
KEY = "latent_rgb"

Rows = Sequence[Sequence[float]]


class LatentRGB:
    """Frames of the latent's own size, one for each latent frame; ``rows`` are those of ``KEY``."""

    name: ClassVar[str] = "latent-to-RGB"

    def __init__(self, rows: Rows = (*FACTORS, BIAS)) -> None:
        self._rows = rows

    def __call__(self, latents: torch.Tensor) -> Clip:
        """The clip that latents [B, 16, T, H, W] in model space show.

        Of a clip too long for ``MAX_PIXELS`` every second, third … latent frame.
        """
        latents = latents[:MAX_CLIPS]
        clips, _, frames, height, width = latents.shape
        every = math.ceil(frames * clips * height * width / MAX_PIXELS)
        rgb = as_bytes((rgb_of(latents[:, :, ::every], self._rows) + 1) / 2)
        return Clip(beside(rgb), FPS / TEMPORAL_COMPRESSION / every, self.name)


def rgb_of(latents: torch.Tensor, rows: Rows = (*FACTORS, BIAS)) -> torch.Tensor:
    """Colours [B, T, H, W, 3] in about −1…1 of latents [B, 16, T, H, W] in model space."""
    latents = latents.float()
    *factors, bias = latents.new_tensor(rows)
    return F.linear(latents.movedim(1, -1), torch.stack(factors, dim=1), bias)


def stretched(colours: torch.Tensor) -> torch.Tensor:
    """Colours of any range in 0–1: the darkest value of them all is 0, the lightest 1."""
    darkest, lightest = colours.min(), colours.max()
    return (colours - darkest) / (lightest - darkest).clamp(min=1e-6)


def own_rows(path: Path) -> Rows | None:
    """What a transformer's file says of the colours of its latents; None for HunyuanVideo's own.

    Raises ``CheckpointError`` for what is not 17 rows of three numbers.
    """
    if not path.is_file() or path.suffix.lower() not in SAFETENSORS_SUFFIXES:
        return None
    said = SafetensorsCheckpoint(path).metadata.get(KEY)
    if said is None:
        return None
    try:
        rows = torch.tensor(json.loads(said), dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path.name}: {KEY} in its metadata is no table of numbers ({error}).") from error
    if rows.shape != (len(FACTORS) + 1, 3):
        raise CheckpointError(
            f"{path.name}: {KEY} in its metadata is a table of {list(rows.shape)}, but {len(FACTORS) + 1} rows of 3 "
            "numbers were expected."
        )
    found: Rows = rows.tolist()
    return found
