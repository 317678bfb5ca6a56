"""What a job would take of the card, from names and sizes alone: what HyVideo Plan tells, and the size picker.

Nothing is loaded; only headers of files are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE, VAEConfig
from hyvideo_core.decoding_plan import DecodingPlan, decoding_with, plan_decoding, tilings, vae_activation_bytes
from hyvideo_core.extensions.seamless_loop import LEAD_LATENT_FRAMES
from hyvideo_core.sampling_plan import SamplingPlan
from hyvideo_core.types import TEMPORAL_COMPRESSION
from hyvideo_core.vae import VAE, Tiling
from hyvideo_core.weights import inspect_vae, parameter_count

from . import decode, host, memory, transformer
from .handles import FileVersion, ModelHandle, VAEHandle

#: The VAE computes in float16 on a card.
VAE_DTYPE_BYTES = 2
#: Tiles chosen by the plan.
AUTO = "auto"
#: Headers of VAEs that are read once for as long as their files stay as they are.
KEPT_HEADERS = 4


@dataclass(frozen=True)
class Decoder:
    """How a job decodes: with which VAE (None: the published one, in float16), in which tiles.

    ``tiling`` is what HyVideo Decode was told: ``AUTO``, tiles of its own, or None for the whole at once; ``loop`` as
    there.
    """

    vae: VAEHandle | None = None
    tiling: Tiling | str | None = AUTO
    loop: bool = False

    def latent_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """What is decoded of a latent (T, H, W)."""
        frames, height, width = latent_shape
        return frames + (LEAD_LATENT_FRAMES if self.loop else 0), height, width


def sampling(model: ModelHandle, latent_shape: tuple[int, ...], given_bytes: int = 0) -> SamplingPlan:
    """How a latent [B, C, T, H, W] would be sampled with ``given_bytes``, or with what is free now if that is 0.

    Raises ``DoesNotFitError``.
    """
    return transformer.plan(model, latent_shape, given_bytes or memory.plannable_bytes(host.transformer_device()))


def sampling_values(plan: SamplingPlan) -> dict[str, int | bool]:
    """A plan as clients are told it."""
    return {
        "peak_bytes": plan.peak_bytes,
        "weights_bytes": plan.weights_bytes,
        "lora_bytes": plan.lora_bytes,
        "feature_bytes": plan.feature_bytes,
        "activation_bytes": plan.activation_bytes - plan.lora_bytes - plan.feature_bytes,
        "free_bytes": plan.free_bytes,
        "blocks": plan.blocks,
        "resident_blocks": plan.resident_blocks,
        "streamed_bytes": plan.streamed_bytes,
        "streaming_shows": plan.streaming_shows,
        "head_groups": plan.head_groups,
    }


def decoding(decoder: Decoder, latent_shape: tuple[int, int, int], given_bytes: int = 0) -> DecodingPlan:
    """How a latent (T, H, W) would be decoded with ``given_bytes``, or with what is free now if that is 0.

    Raises ``GeometryError`` where tiles are to be chosen and not even the smallest fit.
    """
    config, weights, dtype_bytes = _vae(decoder.vae)
    free = given_bytes or memory.available_bytes(host.vae_device())
    shape = decoder.latent_shape(latent_shape)
    if decoder.tiling == AUTO:
        return plan_decoding(shape, weights, dtype_bytes, free, config)
    assert not isinstance(decoder.tiling, str)
    return decoding_with(decoder.tiling, shape, weights, dtype_bytes, free, config)


def least_decoding_bytes(decoder: Decoder, latent_shape: tuple[int, int, int]) -> int:
    """What decoding takes in the smallest tiles that ``AUTO`` tries."""
    config, weights, dtype_bytes = _vae(decoder.vae)
    smallest = tilings(config)[-1]
    tile = smallest.tile_size_px, smallest.tile_frames
    return weights + vae_activation_bytes(decoder.latent_shape(latent_shape), *tile, dtype_bytes, config)


def most_frames(fits: Callable[[int], bool], frames: int) -> int | None:
    """The most frames, 4n+1 and fewer than ``frames``, that fit; None if not even one does.

    ``fits`` is taken to hold for every length below one for which it holds.
    """
    low, high = -1, (frames - 1) // TEMPORAL_COMPRESSION
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * TEMPORAL_COMPRESSION + 1) else (low, middle)
    return None if low < 0 else low * TEMPORAL_COMPRESSION + 1


def _vae(handle: VAEHandle | None) -> tuple[VAEConfig, int, int]:
    """A VAE's configuration, the bytes of its weights, and of a number."""
    if handle is None:
        return HUNYUAN_VIDEO_VAE, _published_parameters() * VAE_DTYPE_BYTES, VAE_DTYPE_BYTES
    config, parameters = _inspected(handle.file)
    dtype_bytes = decode.dtype_of(handle).itemsize
    return config, parameters * dtype_bytes, dtype_bytes


@lru_cache(KEPT_HEADERS)
def _inspected(file: FileVersion) -> tuple[VAEConfig, int]:
    return inspect_vae(file.path), parameter_count(file.path)


@lru_cache(1)
def _published_parameters() -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VAE(HUNYUAN_VIDEO_VAE).parameters())
