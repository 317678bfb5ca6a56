"""The distances of the table of quality: PSNR and SSIM."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quality_distance import MOST_DB, psnr_db, ssim


def clip(seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand(3, 2, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("offset", "decibel"), [(0.02, 40.0), (0.2, 20.0), (2.0, 0.0)])
def test_psnr_of_a_constant_difference(offset: float, decibel: float) -> None:
    grey = torch.full((3, 2, 16, 16), -1.0)
    assert psnr_db(grey, grey + offset) == pytest.approx(decibel, abs=1e-3)
    assert psnr_db(grey, grey) == MOST_DB
    assert psnr_db(grey + 2, grey + 3) == MOST_DB, "both are shown as white"


def test_ssim_of_one_window_is_its_formula() -> None:
    x, y = clip(1, 11), clip(2, 11)
    weights = [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for i in range(11) for j in range(11)]
    weights = [weight / sum(weights) for weight in weights]

    def average(values: torch.Tensor) -> float:
        return sum(weight * value for weight, value in zip(weights, values.flatten().tolist(), strict=True))

    found = []
    for channel in range(3):
        for frame in range(2):
            a, b = ((part[channel, frame].double() + 1) / 2 for part in (x, y))
            ma, mb = average(a), average(b)
            va, vb, cov = average((a - ma) ** 2), average((b - mb) ** 2), average((a - ma) * (b - mb))
            found.append(
                (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
            )  # fmt: skip
    assert ssim(x, y) == pytest.approx(sum(found) / 6, abs=1e-9)


@given(st.integers(0, 99), st.floats(0.01, 0.4))
def test_ssim_is_1_for_equal_clips_and_falls_with_noise(seed: int, amount: float) -> None:
    x, noise = clip(seed) * 0.5, clip(seed + 100)
    assert ssim(x, x) == 1
    assert ssim(x, x + amount * noise) == ssim(x + amount * noise, x)
    assert 1 > ssim(x, x + amount * noise) > ssim(x, x + 2 * amount * noise) > -1
