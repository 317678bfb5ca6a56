"""PNG pictures of 8 or 16 bits a channel, with text inside. Source: W3C, PNG Specification, third edition."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hyvideo_core.video.frames import Frame

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB = 2
#: Of zlib's 0–9: the next ones take much longer for little.
LEVEL = 4


def write(file: BinaryIO, frame: Frame, text: Mapping[str, str]) -> None:
    """Write ``frame`` with ``text`` (keys and values in Latin-1)."""
    height, width = frame.shape[:2]
    bits = frame.dtype.itemsize * 8
    file.write(SIGNATURE)
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, RGB, 0, 0, 0))
    for key, value in text.items():
        _chunk(file, b"tEXt", key.encode("latin-1")[:79] + b"\0" + value.encode("latin-1"))
    _chunk(file, b"IDAT", zlib.compress(_filtered(frame).tobytes(), LEVEL))
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


def _filtered(frame: Frame) -> NDArray[np.uint8]:
    """The rows as differences to the pixel on the left or above, whichever are smaller, after their filter's number."""
    height = frame.shape[0]
    pixel_bytes = 3 * frame.dtype.itemsize
    big_endian = np.ascontiguousarray(frame.astype(frame.dtype.newbyteorder(">"), copy=False))
    rows = big_endian.view(np.uint8).reshape(height, -1)
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, pixel_bytes:] = rows[:, :-pixel_bytes]
    above[1:] = rows[:-1]
    by_filter = [rows - left, rows - above]
    # Differences wrap around: as signed bytes, small ones of either sign are small.
    costs = [np.abs(each.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64) for each in by_filter]
    up = costs[1] < costs[0]
    result = np.empty((height, rows.shape[1] + 1), np.uint8)
    result[:, 0] = np.where(up, 2, 1)
    result[:, 1:] = np.where(up[:, None], by_filter[1], by_filter[0])
    return result
