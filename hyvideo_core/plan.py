"""What a run will take, by plain arithmetic on shapes: no tensor is made.

The factors are measured on CPU allocations (``benchmarks/run.py``) and rounded up.
"""

from __future__ import annotations

import math

from hyvideo_core.configs import DiTConfig
from hyvideo_core.types import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION

#: Text tokens a prompt may add.
TEXT_TOKENS = 256
#: Live tensors of the size of the token stream: the stream, q, k, v, attention's output, and its working memory.
STREAM_TENSORS = 6
#: Widest chunk of the feed-forward, in hidden sizes per token: the layer, its activation, and the joined input.
CHUNK_WIDTHS = 16
#: Peak of the VAE in bytes for each pixel and frame of what it works on at once, per byte of the dtype.
VAE_BYTES_PER_VOXEL = 1400


def dit_activation_bytes(
    config: DiTConfig, latent_shape: tuple[int, ...], dtype_bytes: int, chunk_tokens: int = 2048
) -> int:
    """Peak bytes of one forward beyond the weights, for a latent [B, C, T, H, W]."""
    batch = latent_shape[0]
    grid = [math.ceil(size / patch) for size, patch in zip(latent_shape[2:], config.patch_size, strict=True)]
    tokens = math.prod(grid) + TEXT_TOKENS
    stream = batch * tokens * config.hidden_size * dtype_bytes
    chunk = batch * min(tokens, chunk_tokens) * config.hidden_size * CHUNK_WIDTHS * dtype_bytes
    rope = tokens * config.head_dim * 4
    return STREAM_TENSORS * stream + chunk + rope


def vae_activation_bytes(
    latent_shape: tuple[int, int, int], tile_px: int | None, tile_frames: int | None, dtype_bytes: int
) -> int:
    """Peak bytes of encoding or decoding a latent (T, H, W); ``None`` for what is not tiled."""
    frames = (latent_shape[0] - 1) * TEMPORAL_COMPRESSION + 1
    height, width = (size * SPATIAL_COMPRESSION for size in latent_shape[1:])
    at_once_frames = min(frames, (tile_frames or frames) + 1)
    at_once_px = min(height, tile_px or height) * min(width, tile_px or width)
    video = 3 * frames * height * width * 4
    return at_once_frames * at_once_px * VAE_BYTES_PER_VOXEL * dtype_bytes + 2 * video
