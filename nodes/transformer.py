"""The transformer behind a handle: read, planned, placed, and set up as the handle says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial

import torch

from hyvideo_core.attention import resolve
from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import FirstFrame, ImageConcat, ImageToVideo, Keyframes
from hyvideo_core.extensions.context_windows import evaluated_shape
from hyvideo_core.extensions.reserved import reserved_bytes
from hyvideo_core.model import DiT
from hyvideo_core.ops import fp8
from hyvideo_core.sampling_plan import SamplingPlan, plan_sampling, weights_of
from hyvideo_core.weights import (
    KINDS,
    Lora,
    TransformerFile,
    check_fast_products,
    inspect_dit,
    load_dit,
    lora_bytes,
    lora_shapes,
    merge,
    set_fast_products,
    widened_channels,
)
from hyvideo_core.weights.lora_file import outlined, read_lora

from . import host, memory
from .handles import FileVersion, ModelHandle

logger = logging.getLogger(__name__)

TEXT_TO_VIDEO, TOKEN_REPLACE, LATENT_CONCAT, SKYREELS = KINDS
#: How a transformer of a kind is given its image. Text-to-video takes none, unless a LoRA taught it to.
GIVEN = {TOKEN_REPLACE: ImageToVideo, LATENT_CONCAT: ImageConcat, SKYREELS: ImageConcat}
#: All ways to give a transformer images; no two of them go together.
WAYS = (FirstFrame, ImageConcat, Keyframes)


def check_kind(handle: ModelHandle) -> None:
    """Raise ``HyVideoError`` for a missing image, and for one that is given in a way the kind does not know."""
    name = handle.file.path.name
    given = [type(each) for each in handle.extensions if isinstance(each, WAYS)]
    if len(given) > 1:
        raise HyVideoError(
            f"{name} was given an image already, by another HyVideo Image to Video or HyVideo Keyframes. Use one, and "
            "connect several images to it if there are several clips."
        )
    needed = GIVEN.get(handle.kind)
    if needed is not None and not given:
        raise HyVideoError(
            f"{name} is a transformer for {handle.kind}, but it was given no image. Put HyVideo Image to Video between "
            "the model and HyVideo Sampler, or choose a text-to-video checkpoint."
        )
    if needed is None and given and given[0] in GIVEN.values():
        raise HyVideoError(
            f"{name} is loaded as a transformer for {handle.kind}, but HyVideo Image to Video gives it an image. If it "
            f"is one for image-to-video v2, choose kind '{TOKEN_REPLACE}' in HyVideo Load Model; if it is one for text "
            "with a Leapfusion LoRA, choose that method in HyVideo Image to Video; if not, choose another checkpoint, "
            "or take HyVideo Image to Video away."
        )
    if needed is not None and given != [needed]:
        raise HyVideoError(
            f"{name} is a transformer for {handle.kind}, but it is given its image in a way that a LoRA teaches to a "
            "text-to-video checkpoint. Choose method 'by the model' in HyVideo Image to Video, without HyVideo "
            "Keyframes, or choose a text-to-video checkpoint."
        )


def _check_keyframes(handle: ModelHandle, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``HyVideoError`` for a keyframe LoRA without keyframes or merged, and for keyframes without such a LoRA."""

    def wide(loras: Iterable[Lora]) -> list[str]:
        return [lora.file.name for lora in loras if widened_channels(outlined(lora.file, shapes), shapes)]

    def active(loras: Iterable[Lora]) -> list[Lora]:
        return [lora for lora in loras if lora.strength != 0]

    has_keyframes = any(isinstance(each, Keyframes) for each in handle.extensions)
    if merged := wide(active(handle.merged)):
        raise HyVideoError(
            f"{merged[0]} is a LoRA for keyframes, which takes a wider input than the model and cannot be merged. "
            "Choose apply 'while running' in HyVideo LoRA."
        )
    if not has_keyframes and (lonely := wide(active(handle.loras))):
        raise HyVideoError(
            f"{lonely[0]} is a LoRA for keyframes, but the model was given none. Put HyVideo Keyframes between HyVideo "
            "LoRA and HyVideo Sampler, or take the LoRA away."
        )
    if has_keyframes and not wide(handle.loras):
        raise HyVideoError(
            "model went through HyVideo Keyframes, which does nothing without a LoRA for keyframes, one that takes "
            "twice the input channels. Put HyVideo LoRA with it before HyVideo Sampler, or take HyVideo Keyframes away."
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
    if handle.loras or handle.merged or any(isinstance(each, Keyframes) for each in handle.extensions):
        with torch.device("meta"):
            shapes = lora_shapes(DiT(config))
        for lora in (*handle.loras, *handle.merged):
            if lora.strength != 0:
                lora.weighted(read_lora(lora.file, shapes).terms, shapes)
        _check_keyframes(handle, shapes)
    return config


#: Headers that are read once for as long as their files stay as they are: a plan may be asked for at every keystroke.
KEPT_HEADERS = 16


@lru_cache(KEPT_HEADERS)
def inspected(file: FileVersion) -> TransformerFile:
    """What the header of a transformer tells. Raises ``CheckpointError`` for other files."""
    return inspect_dit(file.path)


@lru_cache(KEPT_HEADERS)
def _lora_bytes(loras: tuple[tuple[Lora, FileVersion], ...], config: DiTConfig, dtype: torch.dtype) -> int:
    return lora_bytes((lora for lora, _ in loras), config, dtype)


def plan(
    handle: ModelHandle, latent_shape: tuple[int, ...], free_bytes: int, *, is_all_memory: bool = False
) -> SamplingPlan:
    """How a latent of this shape would be sampled with so much memory. Raises ``DoesNotFitError``."""
    dtype = _dtype(handle)
    found = inspected(handle.file)
    return plan_sampling(
        found.config,
        weights_of(found, handle.storage, dtype.itemsize),
        evaluated_shape(handle.extensions, latent_shape),
        dtype.itemsize,
        free_bytes,
        resident_blocks=handle.resident_blocks,
        attention=handle.attention,
        lora_bytes=_lora_bytes(_versions(handle.loras), found.config, dtype),
        feature_bytes=reserved_bytes(handle.extensions, found.config, latent_shape, dtype.itemsize),
        is_all_memory=is_all_memory,
    )


def loaded(handle: ModelHandle, latent_shape: tuple[int, ...]) -> memory.HostedBlocks:
    """The transformer, with as much on its device as a latent of this shape leaves room for."""
    unlimited = plan(handle, latent_shape, 2**62)
    merged = _versions(handle.merged)
    hosted = memory.loaded_blocks(
        "transformer",
        (handle.file, _dtype(handle), handle.storage, merged),
        partial(_read, handle),
        device=host.transformer_device(),
        size_bytes=unlimited.weights.total_bytes,
        activation_bytes=unlimited.activation_bytes,
        blocks_of=lambda dit: [*dit.double_blocks, *dit.single_blocks],
        decide=lambda bytes_, placement: plan(handle, latent_shape, bytes_, is_all_memory=placement is None),
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
def peak_reported(hosted: memory.HostedBlocks, plan: SamplingPlan, measured: Callable[[int], None]) -> Iterator[None]:
    """Log the measured peak beside the predicted one when a run is over, and tell its bytes, where they are counted."""
    device = hosted.load_device
    foreign = memory.watch_peak(device) - hosted.loaded_size()
    yield
    peak = memory.peak_bytes(device)
    if peak is not None:
        own = peak - foreign
        logger.info("measured peak %.2f GB, predicted %.2f GB", own / 1e9, plan.peak_bytes / 1e9)
        measured(own)


def _versions(loras: Iterable[Lora]) -> tuple[tuple[Lora, FileVersion], ...]:
    return tuple((lora, FileVersion.of(lora.file)) for lora in loras)


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
