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

SIZE_PX, TITLE_PX, FONT_PX, QUALITY = (400, 186), 34, 17, 88
FRAMES = 4
#: Whose frames stand for a template that has no demo of its own.
INSTEAD = {
    "i2v_vision": "hyvideo_demo_i2v",
    "keyframes": "hyvideo_demo_i2v",
    "ip2v": "hyvideo_demo_i2v",
    "sparse_attention": "hyvideo_demo_t2v",
    "t2v_native_nodes": "hyvideo_demo_t2v",
    "image_native_nodes": "hyvideo_demo_image",
}
DEMO_MARK, DEMO_COLOR, REAL_COLOR = "demo", "#3f789e", INK


def make(frames_of: Callable[[Graph], Frames]) -> None:
    """Write them all; ``frames_of`` gives those that a workflow makes."""
    for name in WORKFLOWS:
        short = name.removeprefix("hyvideo_").removeprefix("demo_")
        shown = INSTEAD.get(short, f"hyvideo_demo_{short}")
        thumbnail = draw(frames_of(WORKFLOWS[shown].graph), about(name).title, "_demo_" in name)
        thumbnail.save(FOLDER / f"{name}.jpg", quality=QUALITY, optimize=True)


def draw(frames: Frames, title: str, is_demo: bool) -> Image.Image:
    """Frames [T, H, W, 3] in two rows, or a single one, on a ground of their first pixel's colour; the title below."""
    width, height = SIZE_PX[0], SIZE_PX[1] - TITLE_PX
    picture = Image.new("RGB", SIZE_PX)
    places = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int) if len(frames) > 1 else [0]
    columns = 2 if len(places) > 1 else 1
    cell = (width // columns, height // columns)
    picture.paste(Image.fromarray(frames[0, :1, :1]).resize(SIZE_PX), (0, 0))
    for number, at in enumerate(places):
        frame = Image.fromarray(frames[at])
        scale = min(cell[0] / frame.width, cell[1] / frame.height)
        frame = frame.resize((round(frame.width * scale), round(frame.height * scale)), Image.Resampling.BICUBIC)
        left = number % columns * cell[0] + (cell[0] - frame.width) // 2
        picture.paste(frame, (left, number // columns * cell[1] + (cell[1] - frame.height) // 2))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, height, width, SIZE_PX[1]), fill=DEMO_COLOR if is_demo else REAL_COLOR)
    font = ImageFont.load_default(FONT_PX)
    middle = height + TITLE_PX / 2
    pen.text((10, middle), title, fill=PAPER, font=font, anchor="lm")
    if is_demo:
        pen.text((width - 10, middle), DEMO_MARK, fill=PAPER, font=font, anchor="rm")
    return picture
