"""The transformer behind a handle: read, planned, placed, and set up as the handle says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from hyvideo_core.attention import resolve
from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import ImageToVideo
from hyvideo_core.model import DiT
from hyvideo_core.ops import fp8
from hyvideo_core.sampling_plan import SamplingPlan, plan_sampling, weights_of
from hyvideo_core.weights import (
    KINDS,
    check_fast_products,
    inspect_dit,
    load_dit,
    lora_bytes,
    merge,
    set_fast_products,
)
from hyvideo_core.weights.lora import lora_shapes
from hyvideo_core.weights.lora_file import read_lora

from . import host, memory
from .handles import FileVersion, ModelHandle

logger = logging.getLogger(__name__)

#: The kinds that can be sampled so far: the first takes no image, the second needs one.
TEXT_TO_VIDEO, TOKEN_REPLACE, *_ = KINDS


def check_kind(handle: ModelHandle) -> None:
    """Raise ``HyVideoError`` for kinds that cannot be sampled yet, a missing image, and one that has no use."""
    name, has_image = handle.file.path.name, any(isinstance(each, ImageToVideo) for each in handle.extensions)
    if handle.kind not in (TEXT_TO_VIDEO, TOKEN_REPLACE):
        raise HyVideoError(
            f"{name} is a transformer for {handle.kind}, which HyVideo Sampler does not take so far. Choose one for "
            f"{TEXT_TO_VIDEO} or for {TOKEN_REPLACE}."
        )
    if handle.kind == TOKEN_REPLACE and not has_image:
        raise HyVideoError(
            f"{name} is a transformer for {handle.kind}, but it was given no image. Put HyVideo Image to Video between "
            "the model and HyVideo Sampler, or choose a text-to-video checkpoint."
        )
    if handle.kind == TEXT_TO_VIDEO and has_image:
        raise HyVideoError(
            f"{name} is loaded as a transformer for {handle.kind}, but HyVideo Image to Video gives it an image. If it "
            f"is one for image-to-video v2, choose kind '{TOKEN_REPLACE}' in HyVideo Load Model; if not, choose "
            "another checkpoint, or take HyVideo Image to Video away."
        )


def checked_config(handle: ModelHandle) -> DiTConfig:
    """The configuration of the handle's transformer, once all it asks for is known to work: nothing is loaded for this.

    Raises ``HyVideoError`` or ``ValueError`` as ``check_kind`` does, for kernels and fast fp8 products that fail here,
    and for LoRAs that do not fit.
    """
    check_kind(handle)
    found = inspect_dit(handle.file.path)
    config, device = found.config, host.transformer_device()
    resolve(handle.attention, device, _dtype(handle), config.head_dim)
    if handle.fp8_products == "fast":
        check_fast_products(found, handle.storage)
        if reason := fp8.why_not_fast(device, _dtype(handle)):
            raise HyVideoError(f"fp8_products is fast, but {reason}. Choose auto or exact in HyVideo Load Model.")
    loras = [lora for lora in (*handle.loras, *handle.merged) if lora.strength != 0]
    if loras:
        with torch.device("meta"):
            shapes = lora_shapes(DiT(config))
        for lora in loras:
            lora.weighted(read_lora(lora.file, shapes).terms, shapes)
    return config


def plan(handle: ModelHandle, latent_shape: tuple[int, ...], free_bytes: int) -> SamplingPlan:
    """How a latent of this shape would be sampled with so much memory. Raises ``DoesNotFitError``."""
    dtype = _dtype(handle)
    found = inspect_dit(handle.file.path)
    return plan_sampling(
        found.config,
        weights_of(found, handle.storage, dtype.itemsize),
        latent_shape,
        dtype.itemsize,
        free_bytes,
        resident_blocks=handle.resident_blocks,
        attention=handle.attention,
        lora_bytes=lora_bytes(handle.loras, found.config, dtype),
    )


def loaded(handle: ModelHandle, latent_shape: tuple[int, ...]) -> memory.HostedBlocks:
    """The transformer, with as much on its device as a latent of this shape leaves room for."""
    unlimited = plan(handle, latent_shape, 2**62)
    merged = tuple((lora, FileVersion.of(lora.file)) for lora in handle.merged)
    hosted = memory.loaded_blocks(
        "transformer",
        (handle.file, _dtype(handle), handle.storage, merged),
        partial(_read, handle),
        device=host.transformer_device(),
        size_bytes=unlimited.weights.total_bytes,
        activation_bytes=unlimited.activation_bytes,
        blocks_of=lambda dit: [*dit.double_blocks, *dit.single_blocks],
        decide=lambda free_bytes, _: plan(handle, latent_shape, free_bytes),
        lock=True,
    )
    for line in plan_of(hosted).describe().splitlines():
        logger.info("plan: %s", line)
    return hosted


def plan_of(hosted: memory.HostedBlocks) -> SamplingPlan:
    """What the last loading of a transformer decided."""
    assert isinstance(hosted.plan, SamplingPlan)
    return hosted.plan


def following(hosted: memory.HostedBlocks, plan: SamplingPlan, handle: ModelHandle) -> DiT:
    """The transformer, placed by the plan and set up as the handle says."""
    if plan is not hosted.plan:
        hosted.follow(plan)
    dit = hosted.module
    assert isinstance(dit, DiT)
    dit.attention, dit.compile_blocks, dit.head_groups = handle.attention, handle.compile_blocks, plan.head_groups
    set_fast_products(dit, handle.fp8_products == "fast")
    return dit


@contextmanager
def peak_reported(hosted: memory.HostedBlocks, plan: SamplingPlan) -> Iterator[None]:
    """Log the measured peak beside the predicted one when a run is over, where the device counts it."""
    device = hosted.load_device
    foreign = memory.watch_peak(device) - hosted.loaded_size()
    yield
    peak = memory.peak_bytes(device)
    if peak is not None:
        logger.info("measured peak %.2f GB, predicted %.2f GB", (peak - foreign) / 1e9, plan.peak_bytes / 1e9)


def _dtype(handle: ModelHandle) -> torch.dtype:
    return host.dtype_of(handle.dtype, host.transformer_device(), on_gpu="bfloat16", on_cpu="bfloat16")


def _read(handle: ModelHandle, device: torch.device) -> DiT:
    dit = load_dit(
        handle.file.path,
        dtype=_dtype(handle),
        device=device,
        storage=handle.storage,
        quantise_on=host.transformer_device(),
    )
    merge(dit, handle.merged)
    return dit
