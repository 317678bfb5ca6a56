"""From the encoded frames to the finished file: sound and tags beside them, or another format made from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hyvideo_core.video import ffmpeg, webp
from hyvideo_core.video.formats import Format
from hyvideo_core.video.sound import Sound

TAGS, SOUND, PALETTE = "tags.txt", "sound.f32", "palette.png"
_IN_QUOTES = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class Draft:
    """The encoded frames: a file in ``folder``, or a folder of pictures."""

    folder: Path
    name: str
    count: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Wanted:
    """What the finished file is to be."""

    format: Format
    chosen: Mapping[str, Any]
    rate: Fraction
    text: Mapping[str, str]
    sound: Sound | None
    stop: ffmpeg.Stop


def texts(metadata: Mapping[str, object]) -> dict[str, str]:
    """``metadata`` as JSON in ASCII, with braces in its strings escaped: of WebM files the frontend counts them."""

    def escaped(match: re.Match[str]) -> str:
        return match[0].replace("{", "\\u007b").replace("}", "\\u007d")

    return {key: _IN_QUOTES.sub(escaped, json.dumps(value)) for key, value in metadata.items()}


def needs(format: Format, with_sound: bool) -> list[tuple[list[str], str]]:
    """Encoders of which one must be there, and what for, beyond those of the frames."""
    wanted = {"gif": [["gif"], ["png"]], "webp": [["libwebp_anim"]]}.get(format.finish, [])
    if with_sound and format.sound:
        wanted = [*wanted, [codec.encoder for codec in format.sound]]
    return [(names, format.name) for names in wanted]


def finished(draft: Draft, wanted: Wanted) -> Path:
    """The finished file or folder, still in the draft's folder."""
    return _FINISH[wanted.format.finish](draft, wanted)


def _remux(draft: Draft, wanted: Wanted) -> Path:
    # A file, not arguments: a workflow may be longer than a command line can be.
    lines = [";FFMETADATA1", *(f"{_escape(key)}={_escape(value)}" for key, value in wanted.text.items())]
    (draft.folder / TAGS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    name = f"finished{wanted.format.suffix}"
    sources, maps = _sound(draft, wanted)
    # The frontend reads only the beginning of a file.
    front = [] if wanted.format.suffix == ".webm" else ["-movflags", "use_metadata_tags+faststart"]
    inputs = ["-i", draft.name, "-f", "ffmetadata", "-i", TAGS, *sources]
    outputs = ["-map", "0:v", *maps, "-map_metadata", "1", "-codec:v", "copy", *front, name]
    ffmpeg.run([*inputs, *outputs], draft.folder, wanted.stop)
    return draft.folder / name


def _sound(draft: Draft, wanted: Wanted) -> tuple[list[str], list[str]]:
    """Arguments of the sound as an input and in the output; none of it without sound."""
    if wanted.sound is None or not wanted.format.sound:
        return [], []
    wanted.sound.write(draft.folder / SOUND, float(draft.count / wanted.rate))
    encoder = ffmpeg.need([codec.encoder for codec in wanted.format.sound], wanted.format.name)
    (codec,) = (codec for codec in wanted.format.sound if codec.encoder == encoder)
    channels = len(wanted.sound.samples)
    source = ["-f", "f32le", "-ar", str(wanted.sound.rate), "-ac", str(channels), "-i", SOUND]
    return source, ["-map", "2:a", "-codec:a", encoder, *codec.arguments]


def _gif(draft: Draft, wanted: Wanted) -> Path:
    # Two passes over a file: in one, ffmpeg would hold all frames until it knows the palette.
    ffmpeg.run(["-i", draft.name, "-vf", "palettegen", "-frames:v", "1", PALETTE], draft.folder, wanted.stop)
    plays = wanted.chosen["loops"]
    # ffmpeg counts repetitions: 0 without end, -1 none.
    loop = {0: 0, 1: -1}.get(plays, plays - 1)
    use = "paletteuse=dither=sierra2_4a:diff_mode=rectangle"
    ffmpeg.run(
        ["-i", draft.name, "-i", PALETTE, "-lavfi", use, "-loop", str(loop), "finished.gif"], draft.folder, wanted.stop
    )
    return draft.folder / "finished.gif"


def _webp(draft: Draft, wanted: Wanted) -> Path:
    path = draft.folder / "finished.webp"
    chosen = wanted.chosen
    arguments = ["-lossless", str(int(chosen["lossless"])), "-quality", str(chosen["quality"])]
    arguments += ["-loop", str(chosen["loops"]), path.name]
    ffmpeg.run(
        ["-i", draft.name, "-codec:v", "libwebp_anim", "-pix_fmt", "bgra", *arguments], draft.folder, wanted.stop
    )
    if wanted.text:
        webp.add_text(path, wanted.text, draft.width_px, draft.height_px)
    return path


def _pictures(draft: Draft, wanted: Wanted) -> Path:
    return draft.folder / draft.name


_FINISH: dict[str, Callable[[Draft, Wanted], Path]] = {
    "remux": _remux,
    "gif": _gif,
    "webp": _webp,
    "pictures": _pictures,
}


def _escape(value: str) -> str:
    """A value as ffmpeg's metadata files want it. Source: ffmpeg documentation, "Metadata"."""
    return "".join("\\" + c if c in "=;#\\\n" else c for c in value)
