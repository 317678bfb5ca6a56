"""The transformer from a file."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.model.dit import DiT
from hyvideo_core.weights.detect import dit_config, dit_prefix, is_scaled_fp8
from hyvideo_core.weights.files import Checkpoint, open_checkpoint, parameter_count
from hyvideo_core.weights.keymaps import host_to_original
from hyvideo_core.weights.load import listed, materialise

logger = logging.getLogger(__name__)


def load_dit(
    path: str | Path,
    *,
    config: DiTConfig | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> DiT:
    """The transformer of a ``.safetensors`` or ``.pt`` file in original or ComfyUI names, with or without prefix.

    ``config`` None detects the configuration from shapes. ``dtype`` is bfloat16 or float32 (float16
    overflows in this model and is refused); plain fp8 storage is up-cast. Raises ``CheckpointError`` naming
    the file for anything that is not such a transformer.
    """
    if dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"dtype is {dtype}, but this transformer gives black frames in it. Use bfloat16 or float32.")
    checkpoint = open_checkpoint(path)
    names = dit_names(checkpoint)
    if config is None:
        config = detect_dit_config(checkpoint)
    dit = materialise(
        partial(DiT, config),
        checkpoint,
        lambda name: names.get(name, name),
        dtype=dtype,
        device=device,
        float32=DiT.FLOAT32_PARAMETERS,
    )
    unused = sorted(set(checkpoint) - {names[name] for name in dit.state_dict()})
    if unused:
        logger.warning("%s: %d tensors found no home: %s", checkpoint.path.name, len(unused), listed(unused))
    return dit


def detect_dit(path: str | Path) -> DiTConfig:
    """The configuration of a transformer file, from its header. Raises ``CheckpointError`` for other files."""
    return detect_dit_config(open_checkpoint(path))


def describe_dit(path: str | Path) -> str:
    """One line on a transformer file, from its header. Raises ``CheckpointError`` for other files."""
    config = detect_dit(path)
    kind = {16: "text-to-video", 32: "SkyReels image-to-video", 33: "image-to-video"}.get(config.in_channels, "")
    guidance = "guidance-distilled" if config.guidance_embed else "not distilled: use cfg"
    return (
        f"HunyuanVideo {kind} transformer, {config.double_blocks}+{config.single_blocks} blocks of "
        f"{config.hidden_size}, {parameter_count(path):,} parameters, {guidance}"
    )


def detect_dit_config(checkpoint: Checkpoint) -> DiTConfig:
    """The configuration of an opened transformer file, from shapes alone: no tensor is read."""
    shapes = {name: checkpoint.shapes[found] for name, found in dit_names(checkpoint).items()}
    try:
        return dit_config(shapes)
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path.name} is part of a HunyuanVideo transformer but lacks {error.args[0]}. "
            "It is one shard of several or an incomplete download; choose the whole file."
        ) from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{checkpoint.path.name} has the names of a HunyuanVideo transformer, but its configuration cannot be "
            f"read from its shapes ({error}). The file is damaged or of a changed architecture; give the "
            "configuration, or choose the official checkpoint."
        ) from error


def dit_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Original name → name in the file. Raises ``CheckpointError`` if this is no usable transformer."""
    prefix = dit_prefix(checkpoint)
    if is_scaled_fp8(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path.name} holds scaled fp8 weights, which mean nothing without their scales, and this "
            "loader reads plain weights only. Choose the bf16 file or a plain fp8_e4m3fn one."
        )
    return {host_to_original(name[len(prefix) :]): name for name in checkpoint if name.startswith(prefix)}
