"""What a run will take, by plain arithmetic on shapes: no tensor is made.

The factors follow from what is alive at once, and a test holds them against traced allocations.
"""

from __future__ import annotations

import math

from hyvideo_core.configs import DiTConfig
from hyvideo_core.types import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION

#: Text tokens a prompt may add.
TEXT_TOKENS = 256
#: Tensors of the token stream's size alive during attention: the stream, q, k, v, the output, and working memory.
DURING_ATTENTION = 6
#: The same during the feed-forward: the stream and attention's output; and for each token of a chunk, in hidden sizes,
#: the norm (1), the wide layer (4), what it is joined to (5) and the result (1).
DURING_FEED_FORWARD, CHUNK_WIDTHS = 2, 11
#: Most tokens of a chunk, and the most a chunk may be of the sequence (``model.dit``).
CHUNK_TOKENS, CHUNK_PART = 2048, 4
#: Peak of the VAE for each pixel of each frame it works on at once, in elements: two activations of its widest level
#: at full resolution (256 channels) and the windows beside them.
VAE_ELEMENTS_PER_VOXEL = 800
#: And whatever its size: the summed weights of the widest upsampling convolution and their copy for the kernel.
VAE_FIXED_ELEMENTS = 34_000_000


def dit_activation_bytes(config: DiTConfig, latent_shape: tuple[int, ...], dtype_bytes: int) -> int:
    """Peak bytes of one forward beyond the weights, for a latent [B, C, T, H, W]."""
    batch = latent_shape[0]
    grid = [math.ceil(size / patch) for size, patch in zip(latent_shape[2:], config.patch_size, strict=True)]
    tokens = math.prod(grid) + TEXT_TOKENS
    token_bytes = batch * config.hidden_size * dtype_bytes
    chunk = min(CHUNK_TOKENS, max(1, math.prod(grid) // CHUNK_PART))
    attention = DURING_ATTENTION * tokens * token_bytes
    feed_forward = (DURING_FEED_FORWARD * tokens + CHUNK_WIDTHS * chunk) * token_bytes
    rope = tokens * config.head_dim * 4
    return max(attention, feed_forward) + rope


def vae_activation_bytes(
    latent_shape: tuple[int, int, int], tile_px: int | None, tile_frames: int | None, dtype_bytes: int
) -> int:
    """Peak bytes of encoding or decoding a latent (T, H, W); ``None`` for what is not tiled."""
    frames = (latent_shape[0] - 1) * TEMPORAL_COMPRESSION + 1
    height, width = (size * SPATIAL_COMPRESSION for size in latent_shape[1:])
    at_once_frames = min(frames, (tile_frames or frames) + 1)
    at_once_px = min(height, tile_px or height) * min(width, tile_px or width)
    video = 3 * frames * height * width * 4
    elements = at_once_frames * at_once_px * VAE_ELEMENTS_PER_VOXEL + VAE_FIXED_ELEMENTS
    return elements * dtype_bytes + 2 * video
