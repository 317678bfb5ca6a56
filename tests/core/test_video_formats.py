"""Every format gives back the frames it was given, as exactly as it promises, or leaves nothing behind."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from frontend_reader import embedded
from PIL import Image, ImageSequence

from hyvideo_core.errors import GeometryError, HyVideoError
from hyvideo_core.video import FORMATS, Sound, Video, ffmpeg, places, png, write
from hyvideo_core.video.writer import exact_rate

WIDTH_PX, HEIGHT_PX, COUNT, FPS, RATE = 80, 64, 9, 12.5, 22050
#: A workflow with all that a container's syntax may stumble over.
METADATA = {"prompt": {"1": 'a {quoted "}cat\\ = ; # \n é 猫'}, "workflow": {"nodes": [{"id": 1, "x": None}]}}
#: Levels of 255 that flat colours may be off, by what the format stores.
LEVELS = {
    "H.264 mp4": 3,
    "HEVC 10-bit mp4": 1.5,
    "AV1 10-bit mp4": 1.5,
    "VP9 webm": 3,
    "ProRes mov": 1,
    "GIF": 6,
    "WebP": 6,
}
EXACT = {
    ("FFV1 lossless mov", "8 bit"): {"depth": "8 bit"},
    ("FFV1 lossless mov", "16 bit"): {"depth": "16 bit"},
    ("H.264 lossless mp4", ""): {},
    ("WebP", "lossless"): {"lossless": True},
    ("PNG sequence", "8 bit"): {"depth": "8 bit"},
    ("PNG sequence", "16 bit"): {"depth": "16 bit"},
}  # fmt: skip
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (64, 128, 192), (200, 150, 30)]
EVERY = pytest.mark.parametrize("name", FORMATS)
#: One of each way to a file.
WAYS = pytest.mark.parametrize("name", ["H.264 mp4", "WebP", "GIF", "PNG sequence"])


def flat() -> torch.Tensor:
    """One colour a frame [F, H, W, 3]."""
    colours = torch.tensor([*COLOURS, *COLOURS][:COUNT]) / 255
    return colours[:, None, None].expand(COUNT, HEIGHT_PX, WIDTH_PX, 3)


def noise() -> torch.Tensor:
    return torch.rand(COUNT, HEIGHT_PX, WIDTH_PX, 3, generator=torch.Generator().manual_seed(0))


def sound(seconds: float, channels: int = 2) -> Sound:
    times = torch.arange(round(seconds * RATE)) / RATE
    return Sound(0.5 * torch.sin(2 * torch.pi * 440 * times).expand(channels, -1), RATE)


def place(folder: Path, name: str) -> Path:
    return folder / f"clip{FORMATS[name].suffix}"


def shown(path: Path, bits: int = 8) -> np.ndarray:
    """The frames [F, H, W, 3] as a player shows them."""
    if path.is_dir():
        return np.stack([raw(["-i", str(each)], bits, *size(each)) for each in sorted(path.iterdir())])[:, 0]
    if path.suffix == ".webp":
        with Image.open(path) as moving:
            return np.stack([np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(moving)])
    return raw(["-i", str(path)], bits, *size(path))


def size(path: Path) -> tuple[int, int]:
    """Width and height."""
    with av.open(str(path)) as container:
        return container.streams.video[0].width, container.streams.video[0].height


def raw(source: list[str], bits: int, width: int, height: int) -> np.ndarray:
    pixels = "rgb24" if bits == 8 else "rgb48le"
    # swscale's quick ways to RGB of 8 bits are off by up to 3 levels.
    exactly = ["-vf", "scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp"] if bits == 16 else []
    command = [ffmpeg.program(), "-v", "error", *source, *exactly, "-f", "rawvideo", "-pix_fmt", pixels]
    command += ["-fps_mode", "passthrough", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8 if bits == 8 else "<u2").reshape(-1, height, width, 3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The flat clip with sound, a workflow and where needed a preview, written once in each format."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("formats")
            video = Video(FORMATS[name], {}, FPS, METADATA, sound(0.5), folder / "preview.mp4")
            made[name] = write(flat(), [place(folder, name)], video).path
        return made[name]

    return get


@EVERY
def test_every_frame_is_there_in_its_colour(saved: Callable[[str], Path], name: str) -> None:
    exact = name not in LEVELS
    found = shown(saved(name), 8 if exact or name == "WebP" else 16)
    assert found.shape == (COUNT, HEIGHT_PX, WIDTH_PX, 3)
    levels = 255 * (found / np.iinfo(found.dtype).max - flat().numpy())
    assert np.abs(levels.mean(axis=(1, 2))).max() <= LEVELS.get(name, 1e-4)


@EVERY
def test_a_video_says_its_rate_and_its_colours(saved: Callable[[str], Path], name: str) -> None:
    path = saved(name)
    if FORMATS[name].finish == "pictures":
        return
    if FORMATS[name].finish == "webp":
        with Image.open(path) as moving:
            durations_ms = [each.load() and each.info["duration"] for each in ImageSequence.Iterator(moving)]
        assert sum(durations_ms) == pytest.approx(1000 * COUNT / FPS, abs=2)
        return
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(FPS)
        assert next(container.decode(stream)).pict_type is not None
    if FORMATS[name].finish == "remux":
        told = subprocess.run([ffmpeg.program(), "-i", str(path)], capture_output=True, text=True).stderr
        rgb = "lossless" in name
        assert re.search(r"\((pc, )?gbr/bt709/bt709" if rgb else r"\(tv, bt709[,)]", told), told


@EVERY
def test_sound_is_as_long_as_the_video(saved: Callable[[str], Path], name: str) -> None:
    if not FORMATS[name].sound:
        return
    with av.open(str(saved(name))) as container:
        (stream,) = container.streams.audio
        assert stream.channels == 2
        parts = [frame.to_ndarray() for frame in container.decode(stream)]
        rate = stream.rate
    planar = [part if part.shape[0] == 2 else part.reshape(-1, 2).T for part in parts]
    samples = np.concatenate(planar, axis=1).astype(np.float64)
    assert samples.shape[1] / rate == pytest.approx(COUNT / FPS, abs=2200 / rate)
    samples /= np.abs(samples).max()
    # The sound given lasts 0.5 s; silence follows.
    assert np.sqrt((samples[0, int(0.1 * rate) : int(0.4 * rate)] ** 2).mean()) > 0.4
    assert np.sqrt((samples[0, int(0.6 * rate) : int(0.7 * rate)] ** 2).mean()) < 0.02


@EVERY
def test_the_frontend_reads_the_workflow(saved: Callable[[str], Path], name: str) -> None:
    path = saved(name)
    if path.is_dir():
        path = path / "frame_00001.png"
    found = embedded(path if FORMATS[name].opens else path.with_suffix(".png"))
    assert found == METADATA


@EVERY
def test_what_browsers_do_not_play_has_a_preview_that_they_do(saved: Callable[[str], Path], name: str) -> None:
    preview = saved(name).parent / "preview.mp4"
    assert preview.exists() != FORMATS[name].playable
    if preview.exists():
        with av.open(str(preview)) as container:
            context = container.streams.video[0].codec_context
            assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert len(shown(preview)) == COUNT


@pytest.mark.parametrize(("name", "_"), EXACT)
def test_lossless_is_exact(tmp_path: Path, name: str, _: str) -> None:
    chosen = EXACT[name, _]
    bits = 16 if chosen.get("depth") == "16 bit" else 8
    path = write(noise(), [place(tmp_path, name)], Video(FORMATS[name], chosen, FPS)).path
    expected = (noise() * (2**bits - 1)).round().numpy().astype(int)
    assert np.array_equal(shown(path, bits).astype(int), expected)


@pytest.mark.parametrize("name", ["HEVC 10-bit mp4", "AV1 10-bit mp4", "ProRes mov"])
def test_ten_bits_hold_what_eight_cannot(tmp_path: Path, name: str) -> None:
    ramp = torch.linspace(0.4, 0.41, 128).expand(2, 64, 128)[..., None].expand(2, 64, 128, 3)
    path = write(ramp, [place(tmp_path, name)], Video(FORMATS[name], {})).path
    levels = shown(path, 16)[0, 32, :, 1]
    assert len(np.unique(levels)) > 5  # of 2.55 levels of 8 bits
    assert np.abs(levels / 65535 - ramp[0, 0, :, 0].numpy()).max() < 1.5 / 1023


@pytest.mark.parametrize(("plays", "told"), [(0, 0), (1, None), (3, 2)])
def test_a_gif_plays_as_often_as_asked(tmp_path: Path, plays: int, told: int | None) -> None:
    path = write(flat(), [tmp_path / "x.gif"], Video(FORMATS["GIF"], {"loops": plays})).path
    with Image.open(path) as moving:
        assert moving.info.get("loop") == told


@pytest.mark.parametrize("plays", [0, 3])
def test_a_webp_plays_as_often_as_asked(tmp_path: Path, plays: int) -> None:
    path = write(flat(), [tmp_path / "x.webp"], Video(FORMATS["WebP"], {"loops": plays})).path
    with Image.open(path) as moving:
        assert moving.info["loop"] == plays


def test_one_image_is_a_webp_with_its_workflow(tmp_path: Path) -> None:
    path = write(flat()[:1], [tmp_path / "x.webp"], Video(FORMATS["WebP"], metadata=METADATA)).path
    assert embedded(path) == METADATA
    with Image.open(path) as picture:
        assert picture.size == (WIDTH_PX, HEIGHT_PX)
        assert picture.getpixel((9, 9))[0] > 240


@pytest.mark.parametrize("name", ["H.264 mp4", "AV1 10-bit mp4", "ProRes mov", "FFV1 lossless mov", "WebP", "GIF"])
def test_odd_sides_are_padded_only_where_they_must_be_and_that_is_told(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd = torch.rand(2, 33, 31, 3)
    path = write(odd, [place(tmp_path, name)], Video(FORMATS[name])).path
    even = {"H.264 mp4": (34, 32), "AV1 10-bit mp4": (34, 32), "ProRes mov": (33, 32)}
    height, width = even.get(name, (33, 31))
    assert shown(path).shape == (2, height, width, 3)
    assert ("needs even sides" in caplog.text) == ((height, width) != (33, 31))


class Stopped(BaseException):
    """As the host's own exception of a stop is."""


@WAYS
@pytest.mark.parametrize("when", ["frames", "finish"])
def test_a_stop_leaves_nothing(tmp_path: Path, name: str, when: str) -> None:
    given = 0

    def images() -> Iterator[torch.Tensor]:
        nonlocal given
        for image in flat():
            if (when, given) == ("frames", 4):
                raise Stopped
            given += 1
            yield image

    def stop() -> None:
        if given == COUNT:
            raise Stopped

    video = Video(FORMATS[name], metadata=METADATA, preview=tmp_path / "preview.mp4", stop=stop)
    with pytest.raises(Stopped):
        write(images(), [place(tmp_path, name)], video)
    assert not list(tmp_path.iterdir())


@WAYS
def test_a_preview_that_cannot_be_written_costs_no_video(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "full").write_bytes(b"")
    video = Video(FORMATS[name], preview=tmp_path / "full" / "preview.mp4")
    found = write(flat(), [place(tmp_path, name)], video)
    assert found.path.exists()
    assert found.preview is None
    assert ("no preview in the node, but the video is saved" in caplog.text) != FORMATS[name].playable


@WAYS
def test_frames_are_not_kept(tmp_path: Path, name: str) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def images() -> Iterator[torch.Tensor]:
        nonlocal most
        for _ in range(12):
            image = torch.zeros(64, 64, 3)
            alive.append(weakref.ref(image))
            yield image
            del image
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))

    write(images(), [place(tmp_path, name)], Video(FORMATS[name]))
    assert most <= 3


@WAYS
def test_nothing_is_overwritten_also_if_the_name_is_taken_meanwhile(tmp_path: Path, name: str) -> None:
    first, second = (tmp_path / f"{number}{FORMATS[name].suffix}" for number in (1, 2))

    def images() -> Iterator[torch.Tensor]:
        yield flat()[0]
        if FORMATS[name].finish == "pictures":
            first.mkdir()
        else:
            first.write_bytes(b"another's")

    assert write(images(), [first, second], Video(FORMATS[name])).path == second
    assert not list(first.iterdir()) if first.is_dir() else first.read_bytes() == b"another's"
    with pytest.raises(FileExistsError, match="not overwritten"):
        write(flat(), [first, second], Video(FORMATS[name]))
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_a_gif_does_not_overwrite_a_picture_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"mine")
    video = Video(FORMATS["GIF"], metadata=METADATA)
    saved = write(flat(), [tmp_path / "1.gif", tmp_path / "2.gif"], video)
    assert (saved.path.name, saved.beside and saved.beside.name) == ("2.gif", "2.png")
    assert (tmp_path / "1.png").read_bytes() == b"mine"


def test_without_hard_links_nothing_is_overwritten_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(places.os, "link", refuse)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    assert not places.placed(tmp_path / "new", tmp_path / "old")
    assert places.placed(tmp_path / "new", tmp_path / "free")
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "free").read_bytes()) == (b"old", b"new")


@EVERY
def test_a_missing_encoder_is_told_before_a_frame_is_made(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "encoders", lambda: frozenset({"rawvideo"}))

    def images() -> Iterator[torch.Tensor]:
        yield from flat() if name == "PNG sequence" else pytest.fail("a frame was asked for")

    if name == "PNG sequence":  # needs no ffmpeg, and goes without a preview
        assert write(images(), [tmp_path / "x"], Video(FORMATS[name], preview=tmp_path / "p.mp4")).preview is None
        return
    with pytest.raises(HyVideoError, match=r"has no encoder .*IMAGEIO_FFMPEG_EXE"):
        write(images(), [place(tmp_path, name)], Video(FORMATS[name]))
    assert not list(tmp_path.iterdir())


def test_av1_goes_to_the_next_encoder_if_one_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    have = ffmpeg.encoders() - {"libsvtav1"}
    monkeypatch.setattr(ffmpeg, "encoders", lambda: have)
    path = write(flat()[:2], [tmp_path / "x.mp4"], Video(FORMATS["AV1 10-bit mp4"])).path
    assert len(shown(path)) == 2
    assert "encoded by libaom-av1" in caplog.text


def test_ffmpegs_own_words_are_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HyVideoError, match="Unrecognized option"):
        ffmpeg.encode(iter([np.zeros((8, 8, 3), np.uint8)]), "1", ["-nonsense", "x", "x.mp4"], tmp_path, lambda: None)
    monkeypatch.setattr(ffmpeg, "program", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(HyVideoError, match=r"nowhere does not run as ffmpeg"):
        write(flat(), [tmp_path / "x.mp4"], Video())


def test_a_format_that_holds_no_sound_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(flat(), [tmp_path / "x"], Video(FORMATS["PNG sequence"], sound=sound(1)))
    assert "PNG sequence holds no sound" in caplog.text


@pytest.mark.parametrize(("seconds", "words"), [(0.0, "silence is added"), (9.0, "its end is cut"), (0.72, "")])
def test_sound_of_another_length_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seconds: float, words: str
) -> None:
    caplog.set_level(logging.INFO)
    sound(seconds, channels=1).write(tmp_path / "sound", 0.72)
    assert (tmp_path / "sound").stat().st_size == 4 * round(0.72 * RATE)
    assert words in caplog.text
    assert bool(words) == bool(caplog.text)


@pytest.mark.parametrize("shape", [(2,), (0, 9), (9, 9), (1, 2, 3)])
def test_what_is_no_sound_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="audio has"):
        Sound(torch.zeros(shape), RATE)


@pytest.mark.parametrize(
    ("fps", "rate"), [(24.0, 24), (23.98, "24000/1001"), (23.976, "24000/1001"), (29.97, "30000/1001"), (12.5, "25/2")]
)
def test_the_rate_is_exact(fps: float, rate: int | str) -> None:
    assert exact_rate(fps) == Fraction(rate)


def test_rates_that_are_none_are_refused(tmp_path: Path) -> None:
    for fps in (0.0, -1.0, float("nan")):
        with pytest.raises(GeometryError, match="fps is"):
            write(flat(), [tmp_path / "x.mp4"], Video(fps=fps))
    with pytest.raises(GeometryError, match="at most 50"):
        write(flat(), [tmp_path / "x.gif"], Video(FORMATS["GIF"], fps=60.0))


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="has no option"):
        write(flat(), [tmp_path / "x.gif"], Video(FORMATS["GIF"], {"crf": 3}))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pillow_reads_a_png_as_it_was_written(tmp_path: Path, dtype: type) -> None:
    picture = (noise()[0] * np.iinfo(dtype).max).numpy().astype(dtype)
    with (tmp_path / "x.png").open("wb") as file:
        png.write(file, picture, {"a": "b"})
    with Image.open(tmp_path / "x.png") as found:
        assert found.text == {"a": "b"}
        shift = 8 * (picture.itemsize - 1)
        assert np.array_equal(np.asarray(found.convert("RGB")), picture >> shift)


@pytest.mark.parametrize("folder", ["-猫 é %05d", "a;b&[x]{y}'z"])
def test_folders_of_any_name_hold_every_kind_of_file(tmp_path: Path, folder: str) -> None:
    for name in ("GIF", "PNG sequence"):
        video = Video(FORMATS[name], metadata=METADATA, preview=tmp_path / folder / f"{name}.mp4")
        assert write(flat()[:2], [place(tmp_path / folder, name)], video).path.exists()
        assert (video.preview is None or video.preview.exists()) != FORMATS[name].playable
