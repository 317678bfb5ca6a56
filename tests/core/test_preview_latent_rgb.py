"""Latent to RGB, clips beside each other, and the sheet that a clip is sent as."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hyvideo_core.errors import CheckpointError
from hyvideo_core.preview import Clip, LatentRGB, own_rows, sheet
from hyvideo_core.preview import latent_rgb as module
from hyvideo_core.preview.clip import MAX_CLIPS, as_bytes, beside


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_latent_of_zeros_has_the_colour_of_the_bias() -> None:
    clip = LatentRGB()(torch.zeros(1, 16, 3, 4, 6))
    assert clip.frames.shape == (3, 4, 6, 3)
    expected = [round(255 * (value + 1) / 2) for value in (0.0259, -0.0192, -0.0761)]
    assert (clip.frames == expected).all()


def test_each_channel_has_its_own_colour() -> None:
    base = module.rgb_of(torch.zeros(1, 16, 1, 1, 1))
    for channel, factors in enumerate(module.FACTORS):
        one = torch.zeros(1, 16, 1, 1, 1)
        one[:, channel] = 1
        torch.testing.assert_close((module.rgb_of(one) - base).flatten(), torch.tensor(factors))


def test_stretched_colours_go_from_darkest_to_lightest_and_those_of_one_grey_are_dark() -> None:
    torch.testing.assert_close(module.stretched(torch.tensor([-3.0, 1.0, 5.0])), torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(module.stretched(torch.full((2, 3), 7.0)), torch.zeros(2, 3))


def test_every_latent_frame_is_shown_in_order_at_the_clips_own_pace() -> None:
    x = torch.zeros(1, 16, 9, 2, 2)
    x[:, 10] = torch.linspace(-1, 1, 9).view(1, 9, 1, 1)
    clip = LatentRGB()(x)
    brightness = clip.frames.mean(axis=(1, 2, 3))
    assert len(clip.frames) == 9
    assert (np.diff(brightness) > 0).all()
    assert clip.fps == 6.0


def test_the_scale_is_that_of_minus_one_to_one_and_what_is_beyond_is_cut() -> None:
    rows = [[0.0] * 3 for _ in range(16)] + [[-1.0, 0.0, 1.0]]
    assert LatentRGB(rows)(torch.zeros(1, 16, 1, 1, 1)).frames.flatten().tolist() == [0, 128, 255]
    rows[-1] = [-9.0, 0.5, 9.0]
    assert LatentRGB(rows)(torch.zeros(1, 16, 1, 1, 1)).frames.flatten().tolist() == [0, 191, 255]


def test_a_preview_leaves_the_latent_as_it_is() -> None:
    x = latents(2, 16, 3, 4, 6)
    before = x.clone()
    LatentRGB()(x)
    assert torch.equal(x, before)


def test_of_a_clip_that_is_too_long_every_second_frame_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 5 * 4 * 6)
    whole = latents(1, 16, 9, 4, 6)
    clip = LatentRGB()(whole)
    assert len(clip.frames) == 5
    assert clip.fps == 3.0
    monkeypatch.undo()
    assert np.array_equal(clip.frames, LatentRGB()(whole).frames[::2])


@pytest.mark.parametrize(
    ("clips", "size", "grid"),
    [(1, (4, 6), (1, 1)), (2, (4, 6), (2, 1)), (2, (6, 4), (1, 2)), (3, (4, 6), (2, 2)), (4, (6, 4), (2, 2))],
)
def test_the_clips_of_a_batch_stand_beside_each_other(clips: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    frames = torch.stack([torch.full((5, *size, 3), 10 * (number + 1), dtype=torch.uint8) for number in range(clips)])
    shown = beside(frames)
    rows, columns = grid
    assert shown.shape == (5, rows * size[0], columns * size[1], 3)
    places = shown[0, :: size[0], :: size[1], 0].flatten().tolist()
    assert places == [10, 20, 30, 40][:clips] + [0] * (rows * columns - clips)


def test_of_a_large_batch_the_first_clips_are_shown() -> None:
    x = latents(7, 16, 2, 4, 6)
    assert np.array_equal(LatentRGB()(x).frames, LatentRGB()(x[:MAX_CLIPS]).frames)


def test_bytes_are_rounded_and_not_wrapped() -> None:
    assert as_bytes(torch.tensor([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.7])).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("size", [(6, 12), (48, 96), (17, 31)])
@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_a_sheet_holds_every_frame_in_its_cell_and_none_bleeds_into_another(size: tuple[int, int], count: int) -> None:
    values = np.linspace(0, 255, count).round()
    frames = np.broadcast_to(values.reshape(-1, 1, 1, 1), (count, *size, 3)).astype(np.uint8)
    made = sheet(Clip(frames, 6.0, "test"))
    picture = np.asarray(Image.open(io.BytesIO(made.jpeg)))
    assert (made.frames, made.height, made.width, made.fps) == (count, *size, 6.0)
    for number, value in enumerate(values):
        y, x = number // made.columns * made.cell_height, number % made.columns * made.cell_width
        cell = picture[y : y + made.height, x : x + made.width].astype(int)
        assert cell.shape == (*size, 3)
        assert np.abs(cell - value).max() <= 2
    assert 0.4 < picture.shape[0] / picture.shape[1] < 4 or count < 3


def transformer_file(folder: Path, said: str | None) -> Path:
    path = folder / "transformer.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata=None if said is None else {module.KEY: said})
    return path


def test_a_transformer_may_say_what_colours_its_latents_have(tmp_path: Path) -> None:
    assert own_rows(transformer_file(tmp_path, None)) is None
    assert own_rows(tmp_path) is None
    rows = [[float(row), 0.5, -1.0] for row in range(17)]
    assert own_rows(transformer_file(tmp_path, str(rows))) == rows


@pytest.mark.parametrize("said", ["red", "[[1, 2, 3]]", "[1, [2]]", "{}"])
def test_colours_that_are_no_table_of_17_rows_are_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(CheckpointError, match=r"transformer\.safetensors: latent_rgb in its metadata is"):
        own_rows(transformer_file(tmp_path, said))
