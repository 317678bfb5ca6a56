"""A second witness: diffusers' implementation with the same random weights, whole and tiled."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo

from golden_data import assert_close
from hyvideo_core.configs import VAEConfig
from hyvideo_core.vae import VAE, Tiling

CONFIG = VAEConfig(block_out_channels=(8, 8, 16, 16), norm_groups=4, latent_channels=4)


def diffusers_vae() -> torch.nn.Module:
    return AutoencoderKLHunyuanVideo(
        block_out_channels=CONFIG.block_out_channels,
        norm_num_groups=CONFIG.norm_groups,
        latent_channels=CONFIG.latent_channels,
    )


@pytest.fixture(scope="module")
def pair() -> tuple[VAE, torch.nn.Module]:
    torch.manual_seed(5)
    theirs = diffusers_vae().eval()
    ours = VAE(CONFIG).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def set_tiling(theirs: torch.nn.Module, spatial: bool, temporal: bool) -> None:
    # Tiling in time is on by default there.
    theirs.use_tiling = spatial
    theirs.use_framewise_encoding = theirs.use_framewise_decoding = temporal
    theirs.tile_sample_min_height = theirs.tile_sample_min_width = 32
    theirs.tile_sample_stride_height = theirs.tile_sample_stride_width = 24
    theirs.tile_sample_min_num_frames, theirs.tile_sample_stride_num_frames = 16, 12


def tilings() -> list[Tiling | None]:
    axes = [(True, False), (False, True), (True, True)]
    return [None, *(Tiling(32, 16, 0.25, spatial, temporal) for spatial, temporal in axes)]


@torch.no_grad()
@pytest.mark.parametrize("tiling", tilings())
def test_decoding_agrees_with_diffusers(pair: tuple[VAE, torch.nn.Module], tiling: Tiling | None) -> None:
    ours, theirs = pair
    set_tiling(theirs, bool(tiling and tiling.spatial), bool(tiling and tiling.temporal))
    latent = torch.randn(1, 4, 6, 5, 7, generator=torch.Generator().manual_seed(1))
    assert_close(ours.decode(latent, tiling), theirs.decode(latent).sample, rel=1e-5, max_abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("tiling", tilings())
def test_encoding_agrees_with_diffusers(pair: tuple[VAE, torch.nn.Module], tiling: Tiling | None) -> None:
    ours, theirs = pair
    set_tiling(theirs, bool(tiling and tiling.spatial), bool(tiling and tiling.temporal))
    video = torch.randn(1, 3, 21, 40, 56, generator=torch.Generator().manual_seed(2))
    expected = theirs.encode(video).latent_dist.parameters
    assert_close(ours.encode(video, tiling).moments, expected, rel=1e-5, max_abs=1e-4)
