"""Frames to a file, through ffmpeg as imageio-ffmpeg brings it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from hyvideo_core.errors import GeometryError
from hyvideo_core.video import colours, ffmpeg, finish, places, png, preview
from hyvideo_core.video.finish import Draft, Wanted
from hyvideo_core.video.formats import H264, Codec, Format
from hyvideo_core.video.frames import Frame, Image, frames
from hyvideo_core.video.sound import Sound

logger = logging.getLogger(__name__)

#: Rates of television, which are written with two decimals and mean n·1000/1001 frames a second.
NTSC = [Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60, 120)]
NTSC_ERROR = 0.006
PICTURES = "pictures"


def _never() -> None:
    """Nobody stops it."""


@dataclass(frozen=True)
class Video:
    """How frames are saved.

    ``chosen`` are options of the ``format``, others keep their defaults; ``metadata`` is embedded as JSON; ``preview``
    is where a small mp4 goes if browsers do not play the format; ``stop`` is called often and may raise.
    """

    format: Format = H264
    chosen: Mapping[str, Any] = field(default_factory=dict)
    fps: float = 24.0
    metadata: Mapping[str, object] = field(default_factory=dict)
    sound: Sound | None = None
    preview: Path | None = None
    stop: ffmpeg.Stop = _never


@dataclass(frozen=True)
class Saved:
    """What was written: ``path``, a file or for pictures a folder, of ``count`` frames; where they were made, a preview
    and a picture with the workflow."""

    path: Path
    count: int
    preview: Path | None = None
    beside: Path | None = None


def write_mp4(
    images: Iterable[Image],
    path: Path,
    *,
    fps: float = 24.0,
    crf: int = 16,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """``write`` as H.264, yuv420p in BT.709, with ``crf`` 0 (lossless to the eye and huge) to 51.

    Raises ``FileExistsError`` if the path is taken.
    """
    write(images, [path], Video(chosen={"crf": crf}, fps=fps, metadata=metadata or {}))


def check(video: Video) -> None:
    """Raise what ``write`` raises for ``video`` before it takes an image: for those who would compute it in vain."""
    _wanted(video)


def write(images: Iterable[Image], paths: Iterable[Path], video: Video) -> Saved:
    """Write images [H, W, 3] to the first free one of ``paths``, all in one folder and with the format's suffix.

    They are encoded as they come; odd sides are padded by repeating the last row or column where the format needs even
    ones. The file appears only when it is complete, also if another program takes names meanwhile. Raises
    ``FileExistsError`` if all are taken, ``GeometryError`` without images, where sizes differ or for an ``fps`` the
    format cannot have, ``HyVideoError`` if ffmpeg lacks an encoder, or with its words if it fails.
    """
    wanted = _wanted(video)
    candidates = iter(paths)
    card = ".png" if wanted.text and not video.format.opens else None
    path = places.first_free(candidates, card)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".hyvideo-") as folder:
        draft, first = _draft(images, wanted, Path(folder))
        finished = finish.finished(draft, wanted)
        while not places.placed(finished, path):
            path = places.first_free(candidates, card, after=path)
        beside = None if card is None else _beside(Path(folder) / "card.png", path.with_suffix(card), first, wanted)
        # Last: whatever becomes of it, the video is saved.
        shown = None
        if video.preview is not None and not video.format.playable:
            shown = preview.made(draft, path, wanted, video.preview)
    return Saved(path, draft.count, shown, beside)


def exact_rate(fps: float) -> Fraction:
    """Frames a second as a fraction: 23.98, 29.97 and 59.94 are television's 24000/1001 and so on.

    Raises ``GeometryError`` if it is not positive.
    """
    if not 0 < fps < 10**6:
        raise GeometryError(f"fps is {fps}, but must be above 0. The model was trained on 24.")
    for rate in NTSC:
        if abs(fps - rate) < NTSC_ERROR:
            return rate
    return Fraction(fps).limit_denominator(1001)


def _wanted(video: Video) -> Wanted:
    """What the file is to be, once it is sure that it can be: before frames are computed in vain."""
    rate = exact_rate(video.fps)
    if rate > video.format.most_fps:
        raise GeometryError(
            f"fps is {video.fps:g}, but a {video.format.name} shows at most {video.format.most_fps:g} frames a second: "
            "players show faster ones slowly. Lower fps, or choose another format."
        )
    chosen = video.format.choose(video.chosen)
    codecs = video.format.codecs(chosen)
    if codecs:
        ffmpeg.need([codec.encoder for codec in codecs], video.format.name)
    for names, purpose in finish.needs(video.format, video.sound is not None):
        ffmpeg.need(names, purpose)
    if video.sound is not None and not video.format.sound:
        logger.warning(
            "%s holds no sound: the audio is not saved. Choose another format to keep it.", video.format.name
        )
    return Wanted(video.format, chosen, rate, finish.texts(video.metadata), video.sound, video.stop)


def _draft(images: Iterable[Image], wanted: Wanted, folder: Path) -> tuple[Draft, Frame]:
    """The encoded frames, and the first of them."""
    iterator = iter(images)
    first = next(iterator, None)
    if first is None:
        raise GeometryError("There are no frames to save. Connect the images of a decoder.")
    both = chain([first], iterator)
    bits = wanted.format.bits(wanted.chosen)
    if wanted.format.finish == "pictures":
        return _drawn(frames(both, bits, (1, 1)), wanted, folder)
    height, width = first.shape[:2]
    codec = _codec(wanted, min(width, height))
    encoded = _First(frames(both, bits, colours.multiple_px(codec.pixels)))
    name = f"draft{wanted.format.suffix if wanted.format.finish == 'remux' else '.nut'}"
    arguments = ["-codec:v", codec.encoder, *codec.arguments, *colours.arguments(codec.pixels), name]
    count = ffmpeg.encode(encoded, str(wanted.rate), arguments, folder, wanted.stop)
    height, width = encoded.first.shape[:2]
    return Draft(folder, name, count, width, height), encoded.first


class _First:
    """Frames, of which the first is kept."""

    first: Frame

    def __init__(self, source: Iterator[Frame]) -> None:
        self._source = source

    def __iter__(self) -> Iterator[Frame]:
        for place, found in enumerate(self._source):
            if not place:
                self.first = found
            yield found


def _codec(wanted: Wanted, shorter_px: int) -> Codec:
    """The first codec that is there and takes frames of this size."""
    every = wanted.format.codecs(wanted.chosen)
    fitting = [codec for codec in every if shorter_px >= codec.least_px]
    if not fitting:
        raise GeometryError(
            f"{wanted.format.name} needs sides of {every[0].least_px} px or more. Choose another format."
        )
    name = ffmpeg.need([codec.encoder for codec in fitting], wanted.format.name)
    (codec,) = (codec for codec in fitting if codec.encoder == name)
    if codec is not every[0]:
        logger.info(
            "%s is encoded by %s: %s is not there, or not for this size.", wanted.format.name, name, every[0].encoder
        )
    return codec


def _drawn(drawn: Iterator[Frame], wanted: Wanted, folder: Path) -> tuple[Draft, Frame]:
    """A folder of pictures; the first holds the workflow."""
    (folder / PICTURES).mkdir()
    first: Frame | None = None
    count = 0
    for count, found in enumerate(drawn, 1):
        wanted.stop()
        with (folder / PICTURES / f"frame_{count:05}.png").open("wb") as file:
            png.write(file, found, wanted.text if first is None else {})
        first = found if first is None else first
    assert first is not None
    return Draft(folder, PICTURES, count, first.shape[1], first.shape[0]), first


def _beside(made: Path, path: Path, first: Frame, wanted: Wanted) -> Path | None:
    """A picture of the first frame with the workflow: where the frontend cannot read the video's format."""
    with made.open("wb") as file:
        png.write(file, first, wanted.text)
    if places.placed(made, path):
        return path
    logger.warning("%s was taken meanwhile, so no picture with the workflow is beside the video.", path)
    return None
