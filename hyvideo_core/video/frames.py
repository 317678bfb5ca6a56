"""Images to the frames that an encoder reads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from hyvideo_core.errors import GeometryError

logger = logging.getLogger(__name__)

#: RGB [H, W, 3] of 8 or 16 bits.
Frame: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
#: What is saved: RGB [H, W, 3] in 0–1 on any device, or an 8-bit frame.
Image: TypeAlias = torch.Tensor | NDArray[np.uint8]


def frame(image: torch.Tensor, bits: int = 8) -> Frame:
    """An image [H, W, 3] in 0–1 on any device as a frame of 8 or 16 ``bits``."""
    if bits == 8:
        return image.mul(255).round_().clamp_(0, 255).to("cpu", torch.uint8).numpy().astype(np.uint8)
    levels = image.float().mul(65535).round_().clamp_(0, 65535)
    return levels.to("cpu", torch.int32).numpy().astype(np.uint16)


def frames(images: Iterable[Image], bits: int, multiple_px: tuple[int, int]) -> Iterator[Frame]:
    """Each image as a frame of ``bits``; width and height padded to multiples by repeating the last column and row.

    Raises ``GeometryError`` where sizes differ.
    """
    first: tuple[int, ...] | None = None
    for image in images:
        found = _as_frame(image, bits)
        if first is None:
            first = found.shape
            _tell_padding(first, multiple_px)
        elif found.shape != first:
            raise GeometryError(f"frames have different sizes: {first[1::-1]} and {found.shape[1::-1]}.")
        yield _padded(found, multiple_px)


def _as_frame(image: Image, bits: int) -> Frame:
    if isinstance(image, torch.Tensor):
        return frame(image, bits)
    # 257 takes 255 to 65535.
    return image if bits == 8 else image.astype(np.uint16) * np.uint16(257)


def _missing(shape: tuple[int, ...], multiple_px: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows that are missing to the multiples."""
    return -shape[1] % multiple_px[0], -shape[0] % multiple_px[1]


def _tell_padding(shape: tuple[int, ...], multiple_px: tuple[int, int]) -> None:
    columns, rows = _missing(shape, multiple_px)
    if columns or rows:
        logger.warning(
            "video of %d×%d px is saved as %d×%d: this format needs even sides, so the last column or row is repeated.",
            shape[1],
            shape[0],
            shape[1] + columns,
            shape[0] + rows,
        )


def _padded(found: Frame, multiple_px: tuple[int, int]) -> Frame:
    columns, rows = _missing(found.shape, multiple_px)
    if not (columns or rows):
        return found
    height, width = found.shape[:2]
    below, beside = np.arange(height + rows).clip(max=height - 1), np.arange(width + columns).clip(max=width - 1)
    return found[below][:, beside]
