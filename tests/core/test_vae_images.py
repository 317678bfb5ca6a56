"""Images made fit for the VAE, in the right shape and scaled as the original scales; noise on them; their light."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hyvideo_core.vae.images import DARKEST, LIGHTEST, covering, evenly_bright, fitted, with_noise

SIDES = st.integers(1, 90)
MULTIPLES = st.integers(1, 4).map(lambda n: 16 * n)
#: Pillow rounds to whole grey values, once for rows and once for columns; −1…1 is twice the range.
GREY = 2 / 255 + 1e-6


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@given(SIDES, SIDES, MULTIPLES, MULTIPLES, st.sampled_from([1, 3, 4]))
def test_any_image_becomes_a_clip_of_the_size(rows: int, columns: int, height: int, width: int, channels: int) -> None:
    clips = covering(noise(2, rows, columns, channels), height, width)
    assert clips.shape == (2, 3, 1, height, width)
    assert clips.dtype == torch.float32
    assert clips.abs().max() <= 1 + 1e-6


@given(SIDES, SIDES, MULTIPLES, MULTIPLES)
def test_a_fitted_image_is_what_covers_a_video_of_its_size(rows: int, columns: int, height: int, width: int) -> None:
    image = noise(2, rows, columns, 4)
    found = fitted(image, height, width)
    assert found.shape == (2, height, width, 3)
    assert torch.equal(covering(found, height, width), covering(image, height, width))


@given(MULTIPLES, MULTIPLES, st.integers(0, 40), st.booleans())
def test_of_an_image_that_hangs_over_the_middle_is_taken_as_it_is(
    height: int, width: int, over: int, is_wide: bool
) -> None:
    inner = noise(1, height, width, 3)
    shape = (1, height, width + 2 * over, 3) if is_wide else (1, height + 2 * over, width, 3)
    whole = torch.zeros(shape)
    top, left = (0, over) if is_wide else (over, 0)
    whole[:, top : top + height, left : left + width] = inner
    expected = inner.permute(0, 3, 1, 2)[:, :, None] * 2 - 1
    assert torch.equal(covering(whole, height, width), expected)


@pytest.mark.parametrize("factor", [3, 0.5, 1.5])
def test_it_scales_as_pillow_does_bilinearly(factor: float) -> None:
    pixels = (noise(round(48 * factor), round(64 * factor), 3) * 255).round().to(torch.uint8)
    scaled = np.asarray(Image.fromarray(pixels.numpy()).resize((64, 48), Image.Resampling.BILINEAR))
    found = covering(pixels[None] / 255, 48, 64)[0, :, 0].permute(1, 2, 0)
    expected = torch.from_numpy(scaled.copy()) / 255 * 2 - 1
    assert (found - expected).abs().max() <= GREY


def test_alpha_is_left_out_and_grey_is_grey() -> None:
    image = noise(1, 40, 50, 4)
    assert torch.equal(covering(image, 32, 48), covering(image[..., :3], 32, 48))
    grey = covering(image[..., :1], 32, 48)
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_the_shape_is_kept() -> None:
    """A square in the middle of a wide picture stays a square."""
    image = torch.zeros(1, 100, 300, 3)
    image[:, 25:75, 125:175] = 1
    lit = covering(image, 48, 64)[0, 0, 0] > 0
    rows, columns = lit.any(dim=1).sum().item(), lit.any(dim=0).sum().item()
    assert rows == columns == 24


def test_noise_is_in_proportion_to_its_strength_the_same_for_a_seed_and_leaves_black_alone() -> None:
    video = noise(1, 3, 2, 32, 48) * 2 - 1
    video[:, :, :, :8] = -1
    weak, strong = with_noise(video, 0.1), with_noise(video, 0.2)
    assert torch.equal(with_noise(video, 0.0), video)
    assert torch.equal(weak, with_noise(video, 0.1))
    assert not torch.equal(weak, with_noise(video, 0.1, seed=1))
    assert torch.equal(weak[:, :, :, :8], video[:, :, :, :8])
    everywhere = with_noise(video, 0.1, spares_black=False)
    assert torch.equal(everywhere[:, :, :, 8:], weak[:, :, :, 8:])
    assert (everywhere - video)[:, :, :, :8].std().item() == pytest.approx(0.1, rel=0.1)
    torch.testing.assert_close(strong - video, 2 * (weak - video))
    assert (weak - video)[:, :, :, 8:].std().item() == pytest.approx(0.1, rel=0.05)


def test_images_become_as_bright_as_the_one_in_the_middle_within_bounds() -> None:
    greys = torch.tensor([0.01, 0.3, 0.4, 0.5, 0.9])
    found = evenly_bright(greys[:, None, None, None].expand(5, 4, 6, 3))
    assert found.shape == (5, 4, 6, 3)
    assert found[:, 0, 0, 0].tolist() == pytest.approx([0.01 * LIGHTEST, 0.4, 0.4, 0.4, 0.9 * DARKEST], abs=1e-6)
    bright = torch.cat((torch.full((2, 4, 6, 3), 0.8), torch.full((1, 4, 6, 3), 0.5)))
    bright[2, 0] = 1
    assert evenly_bright(bright).max() == 1, "nothing is lighter than white"
