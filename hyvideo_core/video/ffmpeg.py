"""ffmpeg as a program: what it can encode, frames piped into it, and its words when it fails."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np

from hyvideo_core.errors import HyVideoError
from hyvideo_core.video.frames import Frame

#: Called often while ffmpeg works; whatever it raises stops ffmpeg.
Stop = Callable[[], None]

#: Names the ffmpeg to use in place of the package's.
VARIABLE = "IMAGEIO_FFMPEG_EXE"
LOG = "ffmpeg.log"
#: Characters of ffmpeg's own words in an error: the last ones name the cause.
TOLD = 600
POLL_S = 0.05
#: Windows would open a console for each run.
_QUIET = getattr(subprocess, "CREATE_NO_WINDOW", 0)


def program() -> str:
    """The path of the ffmpeg that is used: ``IMAGEIO_FFMPEG_EXE``, or the one of the package imageio-ffmpeg.

    Raises ``HyVideoError`` if there is none.
    """
    try:
        path = os.environ.get(VARIABLE) or _packaged()
    except (ImportError, RuntimeError) as error:
        raise HyVideoError(
            "There is no ffmpeg to write videos with. Install the package imageio-ffmpeg in ComfyUI's Python, or set "
            "the environment variable IMAGEIO_FFMPEG_EXE to an ffmpeg."
        ) from error
    # It runs in other folders.
    return os.path.abspath(path) if os.path.dirname(path) else path


def _packaged() -> str:
    """The package's own program. Imported only here: what saves no video works without it."""
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def encoders() -> frozenset[str]:
    """Names of the encoders that this ffmpeg has."""
    return _encoders(program())


@cache
def _encoders(path: str) -> frozenset[str]:
    command = [path, "-hide_banner", "-encoders"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", creationflags=_QUIET
        )
    except OSError as error:
        raise HyVideoError(
            f"{path} does not run as ffmpeg ({error}). Set IMAGEIO_FFMPEG_EXE to an ffmpeg, or unset it to use the one "
            "of the package imageio-ffmpeg."
        ) from error
    _, _, table = result.stdout.partition("------")
    return frozenset(line.split()[1] for line in table.splitlines() if len(line.split()) > 1)


def need(candidates: Sequence[str], purpose: str) -> str:
    """The first of the encoders that this ffmpeg has. Raises ``HyVideoError`` if it has none."""
    for name in candidates:
        if name in encoders():
            return name
    raise HyVideoError(
        f"{program()} has no encoder {' or '.join(candidates)}, which {purpose} needs. Choose another format, or use a "
        "full build of ffmpeg: set IMAGEIO_FFMPEG_EXE to it, or unset that variable to use the one of the package "
        "imageio-ffmpeg."
    )


def run(arguments: Sequence[str], folder: Path, stop: Stop) -> None:
    """ffmpeg in ``folder``, where names without a path are. Raises ``HyVideoError`` with its words if it fails."""
    with _started(arguments, folder, piped=False) as process:
        _wait(process, folder, stop)


def encode(frames: Iterable[Frame], fps: str, arguments: Sequence[str], folder: Path, stop: Stop) -> int:
    """Pipe ``frames`` into ffmpeg as they come; returns how many there were.

    ``arguments`` are those of the output. If anything raises, ffmpeg is stopped. Raises ``HyVideoError`` with ffmpeg's
    words if it fails.
    """
    iterator = iter(frames)
    first = next(iterator)
    height, width = first.shape[:2]
    layout = "rgb24" if first.dtype == np.uint8 else "rgb48le"
    source = ["-f", "rawvideo", "-pix_fmt", layout, "-s", f"{width}x{height}", "-framerate", fps, "-i", "pipe:0"]
    count = 0
    with _started([*source, *arguments], folder, piped=True) as process:
        assert process.stdin is not None
        try:
            for frame in _with(first, iterator):
                stop()
                _send(frame, process.stdin)
                count += 1
            process.stdin.close()
        except OSError as error:
            # The pipe breaks where ffmpeg ends early; its own words tell why.
            process.wait()
            raise HyVideoError(_failure(folder)) from error
        _wait(process, folder, stop)
    return count


def _with(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _send(frame: Frame, pipe: IO[bytes]) -> None:
    little = frame if frame.dtype == np.uint8 else frame.astype("<u2", copy=False)
    pipe.write(np.ascontiguousarray(little).data)


@contextmanager
def _started(arguments: Sequence[str], folder: Path, *, piped: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A running ffmpeg that does not outlive the block."""
    command = [program(), "-nostdin" if not piped else "-hide_banner", "-y", "-v", "error", *arguments]
    with (folder / LOG).open("wb") as log:
        process = _popen(command, folder, log, piped)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin is not None:
                _close(process.stdin)


def _popen(command: list[str], folder: Path, log: IO[bytes], piped: bool) -> subprocess.Popen[bytes]:
    source = subprocess.PIPE if piped else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            command, cwd=folder, stdin=source, stdout=subprocess.DEVNULL, stderr=log, creationflags=_QUIET
        )
    except OSError as error:
        raise HyVideoError(f"{command[0]} does not run as ffmpeg ({error}). Set IMAGEIO_FFMPEG_EXE to one.") from error


def _close(pipe: IO[bytes]) -> None:
    """Close the pipe of a program that may be gone: what is still in the buffer then has no reader."""
    try:
        pipe.close()
    except OSError:
        return


def _wait(process: subprocess.Popen[bytes], folder: Path, stop: Stop) -> None:
    while process.poll() is None:
        stop()
        time.sleep(POLL_S)
    if process.returncode:
        raise HyVideoError(_failure(folder))


def _failure(folder: Path) -> str:
    words = (folder / LOG).read_text("utf-8", errors="replace").strip()[-TOLD:]
    return f"ffmpeg failed while writing a video in {folder.parent}: {words or 'it was ended from outside'}"
