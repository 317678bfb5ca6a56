"""The predicted peaks against traced allocations of real runs."""

from __future__ import annotations

import pytest
import torch
from measure import traced_peak_bytes

from hyvideo_core.configs import DiTConfig, VAEConfig
from hyvideo_core.model import DiT
from hyvideo_core.model.dit import CHUNK_PART, CHUNK_TOKENS
from hyvideo_core.plan import CHUNK_PART as PLANNED_PART
from hyvideo_core.plan import CHUNK_TOKENS as PLANNED_TOKENS
from hyvideo_core.plan import dit_activation_bytes, vae_activation_bytes
from hyvideo_core.vae import VAE, Tiling

#: A prediction must never be too low, and not so high that it wastes the card.
FROM, TO = 1.0, 1.6


def test_the_plan_knows_the_chunks_of_the_transformer() -> None:
    assert (PLANNED_TOKENS, PLANNED_PART) == (CHUNK_TOKENS, CHUNK_PART)


@pytest.mark.parametrize("latent", [(1, 16, 5, 32, 32), (2, 16, 3, 32, 32)])
def test_the_transformers_peak_is_what_was_predicted(latent: tuple[int, ...]) -> None:
    config = DiTConfig(hidden_size=256, heads=2, double_blocks=1, single_blocks=1, text_dim=64, pooled_dim=32)
    dit = DiT(config).eval().requires_grad_(False)
    batch = latent[0]
    inputs = (
        torch.randn(latent),
        torch.full((batch,), 500.0),
        torch.randn(batch, 256, 64),
        None,
        torch.randn(batch, 32),
        torch.full((batch,), 6000.0),
    )
    ratio = dit_activation_bytes(config, latent, 4) / traced_peak_bytes(lambda: dit(*inputs))
    assert FROM <= ratio <= TO


@pytest.mark.parametrize("tiling", [None, Tiling(64, 8, 0.25)])
def test_the_vaes_peak_is_at_most_what_was_predicted(tiling: Tiling | None) -> None:
    vae = VAE(VAEConfig()).eval().requires_grad_(False)
    latent = torch.randn(1, 16, 3, 12, 12)
    tile = (None, None) if tiling is None else (tiling.tile_size_px, tiling.tile_frames)
    predicted = vae_activation_bytes((3, 12, 12), *tile, 4)
    assert traced_peak_bytes(lambda: vae.decode(latent, tiling)) <= predicted
