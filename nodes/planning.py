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
from .handles import FileVersion, ModelHandle

#: Tiles chosen by the plan.
AUTO = "auto"
#: Headers of VAEs that are read once for as long as their files stay as they are.
KEPT_HEADERS = 4
#: What a card that is only thought of computes as.
CARD = torch.device("cuda")


@dataclass(frozen=True)
class Room:
    """The memory that the plans of a job count on, looked up once so that they agree.

    ``is_given`` if it is that of a card that is only thought of. ``free_bytes`` is what is free where the transformer
    runs, ``decoding_bytes`` where the VAE does. ``sampling_bytes`` is that too, or with ``is_all_memory`` all memory of
    the machine, since mapped weights give way.
    """

    sampling_bytes: int
    decoding_bytes: int
    free_bytes: int
    is_given: bool = False
    is_all_memory: bool = False

    @classmethod
    def of(cls, given_gb: float = 0.0) -> Room:
        """A card with so much free, or this machine as it is now if that is 0."""
        if given_gb:
            given = int(given_gb * 1e9)
            return cls(given, given, given, is_given=True)
        device = host.transformer_device()
        is_all_memory = device.type == "cpu"
        free, decoding = memory.available_bytes(device), memory.available_bytes(host.vae_device())
        return cls(memory.plannable_bytes(device) if is_all_memory else free, decoding, free, False, is_all_memory)


@dataclass(frozen=True)
class Decoder:
    """How a job decodes: with which VAE (None: the published one), computing in what, in which tiles.

    ``dtype`` is what HyVideo Load VAE was told. ``tiling`` is what HyVideo Decode was told: ``AUTO``, tiles of its own,
    or None for the whole at once; ``loop`` as there.
    """

    vae: FileVersion | None = None
    dtype: str = "auto"
    tiling: Tiling | str | None = AUTO
    loop: bool = False

    def latent_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """What is decoded of a latent (T, H, W)."""
        frames, height, width = latent_shape
        return frames + (LEAD_LATENT_FRAMES if self.loop else 0), height, width


def sampling(model: ModelHandle, latent_shape: tuple[int, ...], room: Room) -> SamplingPlan:
    """How a latent [B, C, T, H, W] would be sampled. Raises ``DoesNotFitError``."""
    return transformer.plan(model, latent_shape, room.sampling_bytes, is_all_memory=room.is_all_memory)


def sampling_values(plan: SamplingPlan) -> dict[str, int | bool]:
    """A plan as clients are told it."""
    return {
        "peak_bytes": plan.peak_bytes,
        "weights_bytes": plan.weights_bytes,
        "lora_bytes": plan.lora_bytes,
        "feature_bytes": plan.feature_bytes,
        "activation_bytes": plan.activation_bytes - plan.lora_bytes - plan.feature_bytes,
        "limit_bytes": plan.free_bytes,
        "is_all_memory": plan.is_all_memory,
        "blocks": plan.blocks,
        "resident_blocks": plan.resident_blocks,
        "streamed_bytes": plan.streamed_bytes,
        "streaming_shows": plan.streaming_shows,
        "head_groups": plan.head_groups,
    }


def decoding(decoder: Decoder, latent_shape: tuple[int, int, int], room: Room) -> DecodingPlan:
    """How a latent (T, H, W) would be decoded.

    Raises ``GeometryError`` where tiles are to be chosen and not even the smallest fit.
    """
    config, weights, dtype_bytes = _vae(decoder, room)
    free = room.decoding_bytes
    shape = decoder.latent_shape(latent_shape)
    if decoder.tiling == AUTO:
        return plan_decoding(shape, weights, dtype_bytes, free, config)
    assert not isinstance(decoder.tiling, str)
    return decoding_with(decoder.tiling, shape, weights, dtype_bytes, free, config)


def least_decoding_bytes(decoder: Decoder, latent_shape: tuple[int, int, int], room: Room) -> int:
    """What decoding takes in the smallest tiles that ``AUTO`` tries."""
    config, weights, dtype_bytes = _vae(decoder, room)
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


def _vae(decoder: Decoder, room: Room) -> tuple[VAEConfig, int, int]:
    """A VAE's configuration, the bytes of its weights, and of a number."""
    config, parameters = _published() if decoder.vae is None else _inspected(decoder.vae)
    dtype_bytes = decode.dtype_of(decoder.dtype, CARD if room.is_given else host.vae_device()).itemsize
    return config, parameters * dtype_bytes, dtype_bytes


@lru_cache(KEPT_HEADERS)
def _inspected(file: FileVersion) -> tuple[VAEConfig, int]:
    return inspect_vae(file.path), parameter_count(file.path)


@lru_cache(1)
def _published() -> tuple[VAEConfig, int]:
    with torch.device("meta"):
        vae = VAE(HUNYUAN_VIDEO_VAE)
    return HUNYUAN_VIDEO_VAE, sum(parameter.numel() for parameter in vae.parameters())
