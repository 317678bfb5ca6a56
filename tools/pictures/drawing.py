"""Panels to a WebP with captions: a still, or a clip that plays for ever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tools.console import ToolError

#: Frames [T, H, W, 3].
Frames = NDArray[np.uint8]

PANEL_PX, GAP_PX, CAPTION_PX, FONT_PX = 208, 8, 24, 14
#: The help panel is narrow: what does not fit beside stands below.
COLUMNS = 2
FRAMES_A_SECOND = 12
PAPER, INK, EDGE = "#ffffff", "#222222", "#c8c8c8"
QUALITY, EFFORT = 60, 6
MOST_BYTES = 60_000


def draw(panels: Sequence[tuple[str, Frames]], path: Path) -> None:
    """Write the picture. Raises ``ToolError`` for one that would be too large."""
    length = max(len(frames) for _, frames in panels)
    drawn = [
        _sheet([(caption, frames[min(at, len(frames) - 1)]) for caption, frames in panels]) for at in range(length)
    ]
    write(drawn, path)


def write(frames: Sequence[Image.Image], path: Path) -> None:
    """Write frames as a WebP. Raises ``ToolError`` for one that would be too large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rest = {"duration": round(1000 / FRAMES_A_SECOND), "loop": 0} if len(frames) > 1 else {}
    frames[0].save(
        path, save_all=True, append_images=frames[1:], quality=QUALITY, method=EFFORT, minimize_size=True, **rest
    )
    if path.stat().st_size > MOST_BYTES:
        raise ToolError(
            f"{path.name} has {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}: leave something out."
        )


def _sheet(panels: Sequence[tuple[str, NDArray[np.uint8]]]) -> Image.Image:
    """One frame of all panels, in rows."""
    pictures = [(caption, _enlarged(frame)) for caption, frame in panels]
    columns = min(COLUMNS, len(pictures))
    rows = [pictures[at : at + columns] for at in range(0, len(pictures), columns)]
    heights = [max(picture.height for _, picture in row) + CAPTION_PX for row in rows]
    size = (columns * (PANEL_PX + GAP_PX) + GAP_PX, sum(heights) + GAP_PX * (len(rows) + 1))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_PX)
    top = GAP_PX
    for row, height in zip(rows, heights, strict=True):
        for place, (caption, picture) in enumerate(row):
            left = GAP_PX + place * (PANEL_PX + GAP_PX)
            inset = (PANEL_PX - picture.width) // 2
            sheet.paste(picture, (left + inset, top))
            pen.rectangle((left + inset - 1, top - 1, left + inset + picture.width, top + picture.height), outline=EDGE)
            middle = (left + PANEL_PX / 2, top + picture.height + CAPTION_PX / 2 + 1)
            pen.text(middle, caption, fill=INK, font=font, anchor="mm")
        top += height + GAP_PX
    return sheet


def _enlarged(frame: NDArray[np.uint8]) -> Image.Image:
    """As wide as a panel, and no higher than that."""
    picture = Image.fromarray(frame)
    scale = min(PANEL_PX / picture.width, PANEL_PX / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)
