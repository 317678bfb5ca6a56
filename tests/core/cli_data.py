"""How the tests of the command line call it, and what they get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av

PROMPT = 'A cat: "walks" on gra/ss?'
SHOWN = "A cat walks on grass"
ROOM = 4.0  # GB: enough for the toy model, and the same plan whatever else runs on this machine
SMALL = ["--video-size", "16", "--video-length", "1", "--infer-steps", "2", "--seed", "7", "--vram", str(ROOM)]


class Ending(NamedTuple):
    """How a call ended."""

    status: int
    files: list[Path]
    said: str


Call = Callable[..., Ending]


def frames_of(video: Path) -> list[Any]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
