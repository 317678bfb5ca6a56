"""Shapes of the networks. Defaults are the full official models; variants are made with ``replace``."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class DiTConfig:
    """Dual-stream to single-stream diffusion transformer.

    Source: HunyuanVideo ``hyvideo/modules/models.py`` (HYVideo-T/2-cfgdistill).
    """

    hidden_size: int = 3072
    heads: int = 24
    double_blocks: int = 20
    single_blocks: int = 40
    rope_dims: tuple[int, int, int] = (16, 56, 56)
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    pooled_dim: int = 768
    guidance_embed: bool = True
    mlp_ratio: float = 4.0
    patch_size: tuple[int, int, int] = (1, 2, 2)
    refiner_blocks: int = 2
    rope_theta: float = 256.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}.")
        if sum(self.rope_dims) != self.head_dim or any(d % 2 for d in self.rope_dims):
            raise ValueError(f"rope_dims {self.rope_dims} must be even and add up to the head size {self.head_dim}.")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def mlp_dim(self) -> int:
        """Width of the feed-forward layers."""
        return round(self.hidden_size * self.mlp_ratio)


HUNYUAN_VIDEO = DiTConfig()
HUNYUAN_VIDEO_UNDISTILLED = replace(HUNYUAN_VIDEO, guidance_embed=False)


@dataclass(frozen=True)
class VAEConfig:
    """Causal 3D variational autoencoder, 4×8×8 compression.

    ``tile_*`` are the original's tiling defaults: pixels, frames, and the share of a tile that overlaps.
    Source: HunyuanVideo ``hyvideo/vae/autoencoder_kl_causal_3d.py`` (884-16c-hy).
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 16
    in_channels: int = 3
    out_channels: int = 3
    norm_groups: int = 32
    scaling_factor: float = 0.476986
    mid_attention: bool = True
    tile_size_px: int = 256
    tile_frames: int = 64
    tile_overlap: float = 0.25


HUNYUAN_VIDEO_VAE = VAEConfig()
