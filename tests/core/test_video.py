"""An mp4 shows the colours it was given, in any player, and appears whole or not at all."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from hyvideo_core.errors import GeometryError
from hyvideo_core.video import write_mp4

WIDTH_PX, HEIGHT_PX = 64, 48
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (64, 128, 192), (200, 150, 30)]
SIZES = [(WIDTH_PX, HEIGHT_PX), (1280, 720)]
LEVELS = 3
#: Luma weights of red and blue. Source: ITU-R BT.709-6, item 3.2.
KR, KB = 0.2126, 0.0722


def frames(colour: tuple[int, int, int], width: int = WIDTH_PX, height: int = HEIGHT_PX, count: int = 3) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (count, height, width, 3))


def bt709(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """Y, Cb and Cr in the 8 bits of limited range."""
    red, green, blue = (value / 255 for value in colour)
    luma = KR * red + (1 - KR - KB) * green + KB * blue
    return 16 + 219 * luma, 128 + 112 * (blue - luma) / (1 - KB), 128 + 112 * (red - luma) / (1 - KR)


def decoded(path: Path, pixel_format: str) -> np.ndarray:
    """The first frame as ffmpeg shows it by what the file says of itself."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-frames:v", "1"]
    command += ["-f", "rawvideo", "-pix_fmt", pixel_format, "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_the_file_says_which_colours_it_has(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "x.mp4"
    write_mp4(frames((1, 2, 3), *size), path, metadata={"prompt": {"1": "a"}, "workflow": {}})
    told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)], capture_output=True, text=True).stderr
    assert re.search(r"yuv420p\(tv, bt709[,)]", told), told
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert container.metadata["prompt"] == '{"1": "a"}'


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_is_stored_by_bt709_and_comes_back(
    tmp_path: Path, colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    path = tmp_path / "x.mp4"
    write_mp4(frames(colour, *size, count=1), path)
    area = size[0] * size[1]
    y, cb, cr = np.split(decoded(path, "yuv420p").astype(float), [area, area * 5 // 4])
    for plane, expected in zip((y, cb, cr), bt709(colour), strict=True):
        assert abs(plane - expected).max() <= LEVELS
    assert abs(decoded(path, "rgb24").reshape(-1, 3).astype(int) - colour).max() <= LEVELS


def test_every_frame_is_there_and_odd_sides_are_padded(tmp_path: Path) -> None:
    write_mp4(frames((9, 99, 199), 33, 31, count=7), tmp_path / "x.mp4", fps=12.5)
    with av.open(str(tmp_path / "x.mp4")) as container:
        stream = container.streams.video[0]
        shapes = [(frame.width, frame.height) for frame in container.decode(stream)]
        assert float(stream.average_rate) == 12.5
    assert shapes == [(34, 32)] * 7


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not overwritten"):
        write_mp4(frames((1, 2, 3)), tmp_path / "x.mp4")
    assert (tmp_path / "x.mp4").read_bytes() == b"mine"


@pytest.mark.parametrize("broken", [[], [frames((1, 1, 1))[0], frames((1, 1, 1), 32, 32)[0]]])
def test_frames_that_make_no_video_leave_nothing_behind(tmp_path: Path, broken: list[np.ndarray]) -> None:
    with pytest.raises(GeometryError):
        write_mp4(broken, tmp_path / "x.mp4")
    assert not list(tmp_path.iterdir())
