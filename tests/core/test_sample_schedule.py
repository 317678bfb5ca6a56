"""The shift that goes with the size of a video."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyvideo_core.sample.schedule import falls, flow_sigmas, shift_for
from hyvideo_core.types import Geometry


def test_the_longest_video_of_720p_has_the_shift_that_was_published() -> None:
    assert shift_for(Geometry(1280, 720, 129).tokens) == pytest.approx(7, abs=1e-12)


def test_an_image_of_256_px_has_that_of_flux() -> None:
    assert Geometry(256, 256).tokens == 256
    assert shift_for(256) == pytest.approx(math.exp(0.5))


def test_small_videos_have_what_is_advised_for_them() -> None:
    for geometry in (Geometry(960, 544, 129), Geometry(832, 480, 129), Geometry(960, 544, 97)):
        assert 2 < shift_for(geometry.tokens) < 5


@pytest.mark.parametrize(("base", "top"), [(0.5, 1.15), (0.95, 2.05)])
def test_other_anchors_give_a_line_of_their_own(base: float, top: float) -> None:
    assert shift_for(256, base, top) == pytest.approx(math.exp(base))
    assert shift_for(118_800, base, top) == pytest.approx(math.exp(top))
    assert shift_for(59_528, base, top) == pytest.approx(math.exp((base + top) / 2))


@given(tokens=st.integers(1, 300_000))
def test_more_tokens_have_a_higher_shift_and_the_logarithm_is_a_straight_line(tokens: int) -> None:
    logs = [math.log(shift_for(tokens + more)) for more in (0, 1000, 2000)]
    assert logs[0] < logs[1] < logs[2]
    assert logs[1] - logs[0] == pytest.approx(logs[2] - logs[1], rel=1e-6)
    assert bool(torch.isfinite(flow_sigmas(4, shift_for(tokens))).all())


@given(shift=st.floats(0.01, 100), steps=st.integers(1, 60))
def test_a_run_begins_with_nothing_but_noise_at_any_shift(shift: float, steps: int) -> None:
    sigmas = flow_sigmas(steps, shift)
    assert sigmas[0] == 1
    assert flow_sigmas(steps, shift, reverse=False)[0] == 0
    assert falls(sigmas)


@pytest.mark.parametrize("tokens", [0, -5])
def test_a_video_without_tokens_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"tokens is {tokens}, but"):
        shift_for(tokens)


@pytest.mark.parametrize(
    ("sigmas", "expected"), [([1, 0.5, 0], True), ([0.5, 0.1], True), ([0, 0.5, 1], False), ([1, 0.5, 0.5, 0], False)]
)
def test_levels_fall_if_each_is_below_the_one_before(sigmas: list[float], expected: bool) -> None:
    assert falls(torch.tensor(sigmas)) is expected
