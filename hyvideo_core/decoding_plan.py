"""What decoding and encoding will take, and the tiles that fit: plain arithmetic on shapes, no tensor is made.

The factors follow from what is alive at once, and a test holds them against traced allocations.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE, VAEConfig
from hyvideo_core.errors import GeometryError, is_out_of_memory
from hyvideo_core.types import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION
from hyvideo_core.vae import Tiling, streaming
from hyvideo_core.vae.autoencoder import TIME_FACTORS
from hyvideo_core.vae.tiling import video_frames

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Allowance for the working memory of a convolution kernel, in target sizes of a piece (``vae.streaming``).
VAE_KERNEL_PIECES = 0.5
#: The summed weights of an upsampling convolution, and the copies that a kernel may make of them.
VAE_FOLDED_COPIES = 3
#: Smaller tiles to try in turn, once the original's do not fit: frames first, since that changes the result least.
TILE_FRAMES, TILE_SIZES_PX = (64, 32, 16), (256, 192, 128)


@dataclass(frozen=True)
class DecodingPlan:
    """How one VAE decodes one size: in which tiles, and what that takes of the device at most.

    ``tiling`` is None where the whole is decoded at once.
    """

    tiling: Tiling | None
    weights_bytes: int
    activation_bytes: int
    free_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Most bytes on the device at once."""
        return self.weights_bytes + self.activation_bytes

    def describe(self) -> str:
        """A line for a person."""
        tiles = "no tiles"
        if self.tiling is not None:
            tiles = f"tiles of {self.tiling.tile_size_px} px and {self.tiling.tile_frames} frames"
        return (
            f"VAE: {tiles}, predicted peak {self.peak_bytes / 1e9:.2f} GB of {max(0, self.free_bytes) / 1e9:.2f} GB "
            f"free: weights {self.weights_bytes / 1e9:.2f}, activations {self.activation_bytes / 1e9:.2f}"
        )


def plan_decoding(
    latent_shape: tuple[int, int, int],
    weights_bytes: int,
    dtype_bytes: int,
    free_bytes: int,
    config: VAEConfig = HUNYUAN_VIDEO_VAE,
) -> DecodingPlan:
    """How a latent (T, H, W) is decoded within ``free_bytes``, which the VAE's weights are part of.

    Raises ``GeometryError`` where not even the smallest tiles fit.
    """
    tiling = choose_tiling(config, latent_shape, dtype_bytes, free_bytes - weights_bytes)
    return decoding_with(tiling, latent_shape, weights_bytes, dtype_bytes, free_bytes, config)


def decoding_with(
    tiling: Tiling | None,
    latent_shape: tuple[int, int, int],
    weights_bytes: int,
    dtype_bytes: int,
    free_bytes: int,
    config: VAEConfig = HUNYUAN_VIDEO_VAE,
) -> DecodingPlan:
    """How a latent (T, H, W) is decoded with a given tiling, whether or not that fits ``free_bytes``."""
    size_px, frames = (None, None) if tiling is None else (tiling.tile_size_px, tiling.tile_frames)
    activations = vae_activation_bytes(latent_shape, size_px, frames, dtype_bytes, config)
    return DecodingPlan(tiling, weights_bytes, activations, free_bytes)


def vae_activation_bytes(
    latent_shape: tuple[int, int, int],
    tile_px: int | None,
    tile_frames: int | None,
    dtype_bytes: int,
    config: VAEConfig = HUNYUAN_VIDEO_VAE,
) -> int:
    """Peak bytes of encoding, or of decoding in parts, a latent (T, H, W); ``None`` for what is not tiled."""
    frames, height, width = latent_shape
    if tile_frames:
        frames = min(frames, tile_frames // TEMPORAL_COMPRESSION + 1)
    tile_height, tile_width = height, width
    if tile_px and max(height, width) * SPATIAL_COMPRESSION > tile_px:
        tile_height, tile_width = (min(size, tile_px // SPATIAL_COMPRESSION) for size in (height, width))
    working = _decoder_bytes(config, (frames, tile_height, tile_width), dtype_bytes)
    # The pixels of one temporal tile, and of the edges that fade: a quarter of a tile each way, of two rows at once.
    pixels = 3 * video_frames(frames) * height * width * SPATIAL_COMPRESSION**2 * dtype_bytes
    held = 0.25 * (frames < latent_shape[0])
    if (tile_height, tile_width) != (height, width):
        held += 1 + 0.5 * tile_height / height * (tile_height < height) + 0.25 * tile_width / width
    latent = config.latent_channels * math.prod(latent_shape) * dtype_bytes
    return working + math.ceil(held * pixels) + 2 * latent


def _decoder_bytes(config: VAEConfig, tile: tuple[int, int, int], dtype_bytes: int) -> int:
    """Peak of the decoder over one tile: each level's residual blocks and upsampler as ``vae.blocks`` runs them."""
    frames, height, width = tile
    target = streaming.WINDOW_BYTES // dtype_bytes
    widths = config.block_out_channels[::-1]
    before, piece, peak = widths[0], frames, 0
    for channels, time_factor in zip(widths, TIME_FACTORS, strict=True):
        area, padded = height * width, (height + 2) * (width + 2)
        shared = 2 * padded * (piece < frames)
        for source in (before, channels):
            window = (piece + 2) * padded
            # The clip with the window of a piece; then both activations with a narrower window and its result.
            first = max(source, 2 * channels) * frames * area + source * (window + max(shared, area) + padded)
            second = channels * (2 * frames * area + window + shared + piece * area)
            peak = max(peak, first, second)
        if time_factor is None:
            break
        grown = channels * 4 * time_factor
        piece = math.ceil(piece / max(1, math.ceil(piece * grown * area / target)))
        folded = VAE_FOLDED_COPIES * channels * grown * (12 if time_factor == 1 else 8)
        result = channels * 4 * area * ((frames - 1) * time_factor + 1)
        phases = grown * piece * (height + 1) * (width + 1)
        # The input has left piece by piece by the time the last of the result arrives.
        kept = channels * (area * frames + (piece + 2) * padded)
        peak = max(peak, folded + phases + max(result, kept))
        frames, piece = (frames - 1) * time_factor + 1, piece * time_factor
        height, width, before = 2 * height, 2 * width, channels
    return peak * dtype_bytes + int(VAE_KERNEL_PIECES * streaming.WINDOW_BYTES)


def choose_tiling(config: VAEConfig, latent_shape: tuple[int, int, int], dtype_bytes: int, free_bytes: int) -> Tiling:
    """The first tiling that fits ``free_bytes``: the original's, then fewer frames, then smaller pictures.

    Raises ``GeometryError`` with the smallest requirement where none does.
    """
    for tiling in tilings(config):
        need = vae_activation_bytes(latent_shape, tiling.tile_size_px, tiling.tile_frames, dtype_bytes, config)
        if need <= free_bytes:
            return tiling
    raise GeometryError(
        f"The VAE needs {need / 1e9:.1f} GB for its smallest tiles ({tiling.tile_size_px} px, {tiling.tile_frames} "
        f"frames), but {max(0, free_bytes) / 1e9:.1f} GB are free for them. Free memory on the "
        "device, or choose a smaller size."
    )


def tilings(config: VAEConfig) -> list[Tiling]:
    """What ``choose_tiling`` tries, the original's first, each smaller than the one before."""
    original = Tiling.original(config)
    fewer = [replace(original, tile_frames=frames) for frames in TILE_FRAMES if frames < original.tile_frames]
    smaller = [replace(fewer[-1], tile_size_px=size) for size in TILE_SIZES_PX if size < original.tile_size_px]
    return [original, *fewer, *smaller]


def with_smaller_tiles(
    work: Callable[[Tiling], Result], config: VAEConfig, tiling: Tiling, release: Callable[[], object]
) -> Result:
    """``work(tiling)``; each time the device runs out of memory, ``release()`` and again with the next smaller tiles.

    ``tiling`` is one of ``tilings(config)``. Raises the last error if the smallest are too large.
    """
    smaller = tilings(config)
    smaller = smaller[smaller.index(tiling) + 1 :]
    while True:
        try:
            return work(tiling)
        except RuntimeError as error:
            if not smaller or not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        # Outside of the handler, which would keep the failed run's tensors alive.
        release()
        tiling = smaller.pop(0)
        logger.warning(
            "VAE: out of memory (%s). Again with tiles of %d px and %d frames.",
            reason,
            tiling.tile_size_px,
            tiling.tile_frames,
        )


def whole_or_tiled(whole: Callable[[], Result], tiled: Callable[[], Result], release: Callable[[], object]) -> Result:
    """``whole()``; if the device runs out of memory, ``release()`` and ``tiled()``."""
    try:
        return whole()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
    # Outside of the handler, which would keep the failed run's tensors alive.
    release()
    logger.warning("VAE: out of memory (%s). Again in tiles.", reason)
    return tiled()
