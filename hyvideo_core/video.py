"""Frames to an mp4, through ffmpeg as imageio-ffmpeg brings it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray

from hyvideo_core.errors import GeometryError, HyVideoError

Frame = NDArray[np.uint8]

#: Players take untagged video of HD size for BT.709, but swscale converts by BT.601 unless it is told: the colours are
#: converted by BT.709 whatever the size, and the file says so. Old versions of ffmpeg tag by the options alone, those
#: since 7 by what the filters say.
_TAGS = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709"}
_CONVERT = "scale=out_color_matrix=bt709:out_range=tv,setparams=" + ":".join(f"{k}={v}" for k, v in _TAGS.items())
_BT709 = ["-vf", _CONVERT, *(part for key, value in _TAGS.items() for part in (f"-{key}", value))]


def frame(image: torch.Tensor) -> Frame:
    """An image [H, W, 3] in 0–1 on any device as an 8-bit frame."""
    return image.mul(255).round_().clamp_(0, 255).to("cpu", torch.uint8).numpy().astype(np.uint8)


def write_mp4(
    frames: Iterable[Frame],
    path: Path,
    *,
    fps: float = 24.0,
    crf: int = 16,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """``write_first_free`` with one name: raises ``FileExistsError`` if it is taken."""
    write_first_free(frames, [path], fps=fps, crf=crf, metadata=metadata)


def write_first_free(
    frames: Iterable[Frame],
    paths: Iterable[Path],
    *,
    fps: float = 24.0,
    crf: int = 16,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write RGB frames [H, W, 3] to the first free one of ``paths``, all in one folder, with ``metadata`` as JSON tags.

    H.264, yuv420p in BT.709.
    ``crf`` 0 (lossless to the eye and huge) to 51. Frames are encoded as they come; odd sides are padded by
    repeating the last row or column, since yuv420p needs even ones. The file appears only when it is
    complete, also if another program takes names meanwhile. Returns its path. Raises ``FileExistsError`` if all are
    taken, ``GeometryError`` without frames or where sizes differ, ``HyVideoError`` with ffmpeg's words if it fails.
    """
    candidates = iter(paths)
    path = _free(candidates)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".hyvideo-") as folder:
        encoded, finished = Path(folder) / "encoded.mp4", Path(folder) / "finished.mp4"
        _encode(frames, encoded, fps, crf)
        _tag(encoded, finished, metadata or {}, Path(folder) / "tags.txt")
        while not _placed(finished, path):
            path = _free(candidates, after=path)
    return path


def _free(candidates: Iterator[Path], after: Path | None = None) -> Path:
    taken = after
    for path in candidates:
        if not path.exists():
            return path
        taken = path
    raise FileExistsError(f"{taken} exists already and is not overwritten. Choose another name.")


def _placed(finished: Path, path: Path) -> bool:
    """Give the file its name; False if that is taken. A rename would overwrite, a hard link does not."""
    try:
        os.link(finished, path)
    except FileExistsError:
        return False
    except OSError:
        return _moved(finished, path)
    return True


def _encode(frames: Iterable[Frame], path: Path, fps: float, crf: int) -> None:
    iterator = iter(frames)
    try:
        first = _even(next(iterator))
    except StopIteration:
        raise GeometryError("There are no frames to save. Connect the images of a decoder.") from None
    height, width = first.shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        quality=None,
        macro_block_size=1,
        output_params=["-crf", str(crf), "-preset", "medium", "-movflags", "+faststart", *_BT709],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    try:
        for frame in _checked(first, iterator):
            writer.send(np.ascontiguousarray(frame))
    except OSError as error:
        raise HyVideoError(f"ffmpeg stopped while writing {path.parent}: {error}. Is the disk full?") from error
    finally:
        writer.close()


def _checked(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    for frame in map(_even, rest):
        if frame.shape != first.shape:
            raise GeometryError(f"frames have different sizes: {first.shape[1::-1]} and {frame.shape[1::-1]}.")
        yield frame


def _even(frame: Frame) -> Frame:
    """The frame with even sides."""
    height, width = frame.shape[:2]
    if not (height % 2 or width % 2):
        return frame
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _tag(source: Path, target: Path, metadata: Mapping[str, object], tags: Path) -> None:
    # A file, not arguments: a workflow may be longer than a command line can be.
    lines = [";FFMETADATA1", *(f"{key}={_escape(json.dumps(value))}" for key, value in metadata.items())]
    tags.write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = ["-movflags", "use_metadata_tags+faststart"]
    _ffmpeg(
        "-i", str(source), "-i", str(tags), "-map", "0", "-map_metadata", "1", "-codec", "copy", *flags, str(target)
    )


def _ffmpeg(*arguments: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if result.returncode:
        raise HyVideoError(f"ffmpeg failed: {result.stderr.strip()[-500:]}")


def _escape(value: str) -> str:
    """A value as ffmpeg's metadata files want it. Source: ffmpeg documentation, "Metadata"."""
    return "".join("\\" + c if c in "=;#\\\n" else c for c in value)


def _moved(source: Path, target: Path) -> bool:
    """For file systems without hard links: take the name first, then move onto it; False if it is taken."""
    try:
        target.open("xb").close()
    except FileExistsError:
        return False
    source.replace(target)
    return True
