"""What every way of previewing makes: small frames of the whole clip, the clips of a batch beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

#: Frames a second of the videos the model was trained on, and of which a latent frame stands for four.
FPS = 24
#: Clips of a batch that are shown; more would be too small to judge.
MAX_CLIPS = 4
#: Pixels of all frames of all clips together: bounds time, memory and what is sent.
MAX_PIXELS = 10_000_000


@dataclass(frozen=True)
class Clip:
    """Frames [F, H, W, 3] as bytes of RGB, to be shown at ``fps``; ``method`` names what made them."""

    frames: NDArray[np.uint8]
    fps: float
    method: str


def as_bytes(rgb: torch.Tensor) -> torch.Tensor:
    """Numbers 0–1 as bytes 0–255, rounded, where they are."""
    return rgb.clamp(0, 1).mul(255).round().to(torch.uint8)


def beside(frames: torch.Tensor) -> NDArray[Any]:
    """The frames [B, F, H, W, 3] of up to ``MAX_CLIPS`` clips as those of one [F, H', W', 3]: two wide clips one above
    the other, two tall ones and more than two in rows of two, black where one is missing.
    """
    clips, count, height, width, channels = frames.shape
    columns = 1 if clips == 1 or (clips == 2 and width > height) else 2
    if missing := -clips % columns:
        frames = torch.cat((frames, frames.new_zeros(missing, count, height, width, channels)))
    return rearrange(frames, "(row column) f h w c -> f (row h) (column w) c", column=columns).cpu().numpy()
