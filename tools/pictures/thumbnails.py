"""Thumbnails of the template browser, which shows nothing else of a template but its name: frames and a title."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.pictures.drawing import INK, PAPER, Frames
from tools.workflow_about import about
from tools.workflow_catalog import WORKFLOWS
from tools.workflow_graphs import Graph
from tools.workflows import FOLDER

#: The browser's cards are square, and show the whole picture.
SIZE_PX, TITLE_PX, FONT_PX, MARGIN_PX, QUALITY = (400, 400), 40, 22, 12, 88
#: Whose frames stand for a template that has no demo of its own.
INSTEAD = {
    "i2v_vision": "hyvideo_demo_i2v",
    "keyframes": "hyvideo_demo_i2v",
    "ip2v": "hyvideo_demo_i2v",
    "sparse_attention": "hyvideo_demo_t2v",
    "t2v_native_nodes": "hyvideo_demo_t2v",
    "image_native_nodes": "hyvideo_demo_image",
}
DEMO_MARK, DEMO_COLOR, REAL_COLOR, EDGE_COLOR = "demo", "#3f789e", INK, "#c0c0c0"


def make(frames_of: Callable[[Graph], Frames]) -> None:
    """Write them all; ``frames_of`` gives those that a workflow makes."""
    for name in WORKFLOWS:
        short = name.removeprefix("hyvideo_").removeprefix("demo_")
        shown = INSTEAD.get(short, f"hyvideo_demo_{short}")
        thumbnail = draw(frames_of(WORKFLOWS[shown].graph), about(name).title, "_demo_" in name)
        thumbnail.save(FOLDER / f"{name}.jpg", quality=QUALITY, optimize=True)


def draw(frames: Frames, title: str, is_demo: bool) -> Image.Image:
    """Frames [T, H, W, 3] on a ground of their first pixel's colour, the title below.

    Wide ones are two, one below the other, others four in two rows; an image is alone.
    """
    width, height = SIZE_PX[0], SIZE_PX[1] - TITLE_PX
    picture = Image.new("RGB", SIZE_PX)
    _, frame_height, frame_width, _ = frames.shape
    columns, rows = (1, 1) if len(frames) == 1 else (1, 2) if frame_width > frame_height else (2, 2)
    cell = (width // columns, height // rows)
    scale = min(cell[0] / frame_width, cell[1] / frame_height)
    shown = (round(frame_width * scale), round(frame_height * scale))
    picture.paste(Image.fromarray(frames[0, :1, :1]).resize(SIZE_PX), (0, 0))
    for number, at in enumerate(np.linspace(0, len(frames) - 1, columns * rows).round().astype(int)):
        frame = Image.fromarray(frames[at]).resize(shown, Image.Resampling.BICUBIC)
        left, top = number % columns * cell[0], number // columns * cell[1]
        picture.paste(frame, (left + (cell[0] - shown[0]) // 2, top + (cell[1] - shown[1]) // 2))
    pen = ImageDraw.Draw(picture)
    for row in range(1, rows):
        pen.line((0, row * cell[1], width, row * cell[1]), EDGE_COLOR)
    for column in range(1, columns):
        pen.line((column * cell[0], 0, column * cell[0], height), EDGE_COLOR)
    pen.rectangle((0, height, width, SIZE_PX[1]), fill=DEMO_COLOR if is_demo else REAL_COLOR)
    _write(pen, title, DEMO_MARK if is_demo else "")
    return picture


def _write(pen: ImageDraw.ImageDraw, title: str, mark: str) -> None:
    """The title in the strip at the bottom, as large as fits beside the mark at its right end."""
    right, middle = SIZE_PX[0] - MARGIN_PX, SIZE_PX[1] - TITLE_PX / 2
    font = ImageFont.load_default(FONT_PX)
    room = right - MARGIN_PX - (pen.textlength(mark, font) + MARGIN_PX if mark else 0)
    pen.text((right, middle), mark, PAPER, font, anchor="rm")
    fitting = ImageFont.load_default(min(FONT_PX, FONT_PX * room / pen.textlength(title, font)))
    pen.text((MARGIN_PX, middle), title, PAPER, fitting, anchor="lm")
