"""Sizes and intervals: what is valid goes through, what is not is named with the nearest valid values."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyvideo_core.errors import GeometryError
from hyvideo_core.types import Conditioning, Geometry, Interval

SIZE = st.integers(1, 128).map(lambda n: 16 * n)
FRAMES = st.integers(0, 60).map(lambda n: 4 * n + 1)


@given(SIZE, SIZE, FRAMES)
def test_every_valid_size_round_trips_through_its_latent(width: int, height: int, frames: int) -> None:
    t, h, w = (geometry := Geometry(width, height, frames)).latent_shape
    assert (8 * w, 8 * h, 4 * (t - 1) + 1) == (width, height, frames)
    assert geometry.tokens == t * (h // 2) * (w // 2)
    assert Geometry(width, height, frames) == geometry
    assert hash(Geometry(width, height, frames)) == hash(geometry)


@given(st.sampled_from(["width", "height"]), st.integers(-5000, 5000).filter(lambda n: n < 16 or n % 16))
def test_an_invalid_size_is_named_with_its_nearest_valid_values(name: str, value: int) -> None:
    with pytest.raises(GeometryError, match=rf"^{name} is {value} px") as error:
        Geometry(**{"width": 64, "height": 64, name: value})
    lower, upper = map(int, re.findall(r"Use (\d+) or (\d+)", str(error.value))[0])
    Geometry(lower, upper)
    assert lower < value < upper or (value < 16 and lower == 16)
    assert upper - lower == 16


@given(st.integers(-500, 500).filter(lambda n: n < 1 or n % 4 != 1))
def test_an_invalid_frame_count_is_named_with_its_nearest_valid_values(frames: int) -> None:
    with pytest.raises(GeometryError, match=rf"^frames is {frames},") as error:
        Geometry(64, 64, frames)
    lower, upper = map(int, re.findall(r"Use (\d+) or (\d+)", str(error.value))[0])
    assert Geometry(64, 64, lower).frames < frames < Geometry(64, 64, upper).frames or (frames < 1 and lower == 1)


def test_the_official_720p_clip_has_the_published_number_of_tokens() -> None:
    assert Geometry(1280, 720, 129).tokens == 118_800
    assert Geometry(1280, 720, 129).latent_shape == (33, 90, 160)


FRACTION = st.floats(0, 1)


@given(FRACTION, FRACTION, st.integers(1, 100))
def test_an_interval_holds_the_steps_between_its_ends(a: float, b: float, steps: int) -> None:
    start, end = sorted((a, b))
    interval = Interval(start, end)
    inside = [step for step in range(steps) if interval.contains(step, steps)]
    assert inside == [step for step in range(steps) if start <= step / steps < end]
    assert Interval() == Interval(0.0, 1.0)
    assert all(Interval().contains(step, steps) for step in range(steps))


@given(FRACTION, st.integers(1, 100))
def test_two_neighbouring_intervals_share_no_step_and_miss_none(split: float, steps: int) -> None:
    first, second = Interval(0, split), Interval(split, 1)
    assert all(first.contains(step, steps) != second.contains(step, steps) for step in range(steps))


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.2), (-0.1, 1), (0, 1.1), (float("nan"), 1), (0, float("nan"))])
def test_an_impossible_interval_is_an_error_that_shows_it(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=rf"\[{start}, {end}\]"):
        Interval(start, end)


@pytest.mark.parametrize("mask", [None, torch.ones(1, 3)])
def test_conditioning_moves_as_a_whole(mask: torch.Tensor | None) -> None:
    moved = Conditioning(torch.zeros(1, 3, 4), torch.zeros(1, 2), mask).to("meta")
    assert {moved.text.device.type, moved.pooled.device.type} == {"meta"}
    assert moved.text_mask is None if mask is None else moved.text_mask.device.type == "meta"
