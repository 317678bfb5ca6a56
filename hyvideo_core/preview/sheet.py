"""A clip as one JPEG: its frames in rows, which a player shows one after the other.

One still image is encoded and decoded in one go, many times faster than an animated one of the same frames.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from PIL import Image

from hyvideo_core.preview.clip import Clip

#: JPEG codes blocks of so many pixels; frames that fill whole blocks do not bleed into each other.
BLOCK_PX = 8
QUALITY = 90


@dataclass(frozen=True)
class Sheet:
    """``frames`` frames in rows of ``columns``, each ``width``×``height`` px at the upper left of a cell."""

    jpeg: bytes
    frames: int
    columns: int
    width: int
    height: int
    cell_width: int
    cell_height: int
    fps: float


def sheet(clip: Clip) -> Sheet:
    """The sheet of a clip, about as wide as high."""
    count, height, width, _ = clip.frames.shape
    frames = np.pad(clip.frames, ((0, 0), (0, -height % BLOCK_PX), (0, -width % BLOCK_PX), (0, 0)), mode="edge")
    cell_height, cell_width = frames.shape[1:3]
    columns = min(count, max(1, round(math.sqrt(count * cell_height / cell_width))))
    frames = np.concatenate((frames, np.zeros((-count % columns, *frames.shape[1:]), np.uint8)))
    picture = rearrange(frames, "(row column) h w c -> (row h) (column w) c", column=columns)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return Sheet(file.getvalue(), count, columns, width, height, cell_width, cell_height, clip.fps)
