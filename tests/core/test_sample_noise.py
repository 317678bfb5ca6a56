"""The noise that a run begins with, and clips brought to a run's length."""

from __future__ import annotations

import pytest
import torch
from dit_data import randn

from hyvideo_core.sample.noise import first_noise, of_length

SHAPE = (2, 4, 3, 6, 8)


def test_a_seed_and_a_dtype_give_the_same_noise_each_time_and_always_in_float32() -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    found = {(seed, dtype): first_noise(SHAPE, seed, dtype) for seed in (0, 2**64 - 1) for dtype in dtypes}
    for (seed, dtype), noise in found.items():
        assert (noise.shape, noise.dtype) == (SHAPE, torch.float32)
        assert torch.equal(noise, first_noise(SHAPE, seed, dtype))
        assert torch.equal(noise, noise.to(dtype).float()), "what was drawn is what there is"
    whole, rounded = found[0, torch.float32], found[0, torch.bfloat16]
    assert torch.equal(whole, first_noise(SHAPE, 0))
    assert not torch.equal(whole, found[2**64 - 1, torch.float32])
    assert not torch.equal(whole, rounded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_longer_clip_loses_its_end_and_a_shorter_one_gets_noise_in_front(dtype: torch.dtype) -> None:
    clip = randn(*SHAPE, seed=1).to(dtype)
    assert torch.equal(of_length(clip, 3, 5), clip)
    assert torch.equal(of_length(clip, 2, 5), clip[:, :, :2])
    longer = of_length(clip, 5, 5)
    assert longer.dtype == dtype
    assert torch.equal(longer[:, :, 2:], clip)
    assert torch.equal(longer[:, :, :2], first_noise((2, 4, 2, 6, 8), 5).to(dtype))
