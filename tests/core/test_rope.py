"""Rotary positions equal the original's, at small sizes and at 720p × 129 frames."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_data import assert_close, golden
from hyvideo_core.model.rope import rope_table, rotate

DIMS, THETA = (16, 56, 56), 256.0
DATA, META = golden("rope")
TOLERANCE = {"rel": 1e-6, "max_abs": 1e-5}


def parts(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines as the original keeps them: each entry for both channels of its pair."""
    return table.real.repeat_interleave(2, dim=-1), table.imag.repeat_interleave(2, dim=-1)


@pytest.mark.parametrize("grid", [(1, 5, 2), (2, 3, 4)])
def test_small_grids_equal_the_originals(grid: tuple[int, int, int]) -> None:
    name = "grid{}x{}x{}".format(*grid)
    cos, sin = parts(rope_table(grid, DIMS, THETA))
    assert_close(cos, DATA[f"{name}/cos"], **TOLERANCE)
    assert_close(sin, DATA[f"{name}/sin"], **TOLERANCE)


def test_the_table_of_129_frames_in_720p_equals_the_originals() -> None:
    rows, checks = DATA["grid33x45x80/rows"], META["checks"]["grid33x45x80"]
    for kind, values in zip(("cos", "sin"), parts(rope_table((33, 45, 80), DIMS, THETA)), strict=True):
        assert_close(values[rows], DATA[f"grid33x45x80/{kind}_rows"], rel=1e-5, max_abs=1e-5)
        assert list(values.shape) == checks[kind]["shape"]
        assert values.double().sum().item() == pytest.approx(checks[kind]["sum"], rel=1e-6)
        assert values.double().square().sum().item() == pytest.approx(checks[kind]["sum_sq"], rel=1e-6)


@pytest.mark.parametrize("name", ["q", "k"])
def test_rotation_equals_the_originals(name: str) -> None:
    rotated = rotate(DATA[f"apply/{name}"], rope_table((2, 3, 4), DIMS, THETA))
    assert_close(rotated, DATA[f"apply/{name}_out"], **TOLERANCE)


@given(st.tuples(*[st.integers(0, 40)] * 3), st.tuples(*[st.integers(0, 20)] * 3), st.integers(0, 99))
def test_only_the_distance_of_two_tokens_matters(place: tuple[int, ...], shift: tuple[int, ...], seed: int) -> None:
    q, k = torch.randn(2, 1, 1, 1, 128, generator=torch.Generator().manual_seed(seed))

    def score(at_q: tuple[int, ...], at_k: tuple[int, ...]) -> torch.Tensor:
        return (rotate(q, row(at_q)) * rotate(k, row(at_k))).sum()

    moved = tuple(p + s for p, s in zip(place, shift, strict=True))
    assert torch.allclose(score((0, 0, 0), place), score(shift, moved), atol=1e-2)


def row(place: tuple[int, ...]) -> torch.Tensor:
    """The table's row of one token."""
    t, h, w = place
    return rope_table((t + 1, h + 1, w + 1), DIMS, THETA)[-1:]
