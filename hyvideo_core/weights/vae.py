"""Load the causal 3D VAE from either of the two layouts that share one file name.

Official names (``decoder.conv_norm_out``) are the module's own. ComfyUI's (``decoder.mid.block_1``) number
the decoder's levels backwards and store attention as 1×1×1 convolutions.
Source: HunyuanVideo ``hyvideo/vae``; ComfyUI ``comfy/ldm/modules/diffusionmodules/model.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE, VAEConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.vae import VAE
from hyvideo_core.vae.autoencoder import LEVELS
from hyvideo_core.weights.detect import count_blocks, describe
from hyvideo_core.weights.files import Checkpoint, open_checkpoint
from hyvideo_core.weights.load import materialise

PREFIXES = ("", "vae.", "first_stage_model.")
OFFICIAL_MARKER = "decoder.conv_norm_out.weight"
HOST_MARKER = "decoder.mid.block_1.norm1.weight"
MAX_NORM_GROUPS = 32

_OFFICIAL_TO_HOST = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
)


def host_name(name: str, levels: int = 4) -> str:
    """ComfyUI's name of the VAE tensor with this official name; ``levels`` is the number of resolutions."""
    for pattern, replacement in _OFFICIAL_TO_HOST:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"(?<=\.up\.)\d+", lambda level: str(levels - 1 - int(level[0])), name)


def load_vae(
    path: str | Path,
    *,
    config: VAEConfig | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> VAE:
    """Load the VAE at ``path`` in ``dtype`` onto ``device``; ``config`` None reads it off the file.

    Raises ``CheckpointError`` if the file is damaged, incomplete, or not this kind of VAE.
    """
    checkpoint = open_checkpoint(path)
    prefix, is_host = _find_layout(checkpoint)
    if config is None:
        config = detect_config(checkpoint, prefix, is_host)
    with torch.device("meta"):
        expected = VAE(config).state_dict()
    levels = len(config.block_out_channels)
    names = {name: prefix + (host_name(name, levels) if is_host else name) for name in expected}

    def adapt(name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A 1×1×1 convolution is the linear layer of the same numbers."""
        stored_as_conv = tensor.ndim == 5 and expected[name].ndim == 2 and tensor.shape[2:] == (1, 1, 1)
        return tensor[:, :, 0, 0, 0] if stored_as_conv else tensor

    return materialise(lambda: VAE(config), checkpoint, names.__getitem__, dtype=dtype, device=device, adapt=adapt)


def inspect_vae(path: str | Path) -> VAEConfig:
    """The configuration of a VAE file, from its header. Raises ``CheckpointError`` for other files."""
    checkpoint = open_checkpoint(path)
    return detect_config(checkpoint, *_find_layout(checkpoint))


def describe_vae(path: str | Path) -> str:
    """One line on a VAE file, from its header. Raises ``CheckpointError`` for other files."""
    checkpoint = open_checkpoint(path)
    prefix, is_host = _find_layout(checkpoint)
    widths = detect_config(checkpoint, prefix, is_host).block_out_channels
    return f"HunyuanVideo VAE in {'ComfyUI' if is_host else 'original'} names, widths {', '.join(map(str, widths))}"


def _find_layout(checkpoint: Checkpoint) -> tuple[str, bool]:
    """The prefix of the names, and whether they are ComfyUI's."""
    for prefix in PREFIXES:
        for marker, is_host in ((OFFICIAL_MARKER, False), (HOST_MARKER, True)):
            if prefix + marker not in checkpoint:
                continue
            conv_in = checkpoint.shapes.get(prefix + "decoder.conv_in.conv.weight", ())
            if len(conv_in) == 5:
                return prefix, is_host
            raise _refusal(checkpoint, "a VAE for images or of another video model (its first layer differs)")
    raise _refusal(checkpoint, describe(checkpoint))


def _refusal(checkpoint: Checkpoint, found: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path.name} is {found}, but the HunyuanVideo VAE was expected (a causal 3D VAE with "
        f"{OFFICIAL_MARKER} or {HOST_MARKER}). Choose hunyuan_video_vae_bf16.safetensors or "
        "hunyuan_video_vae_fp32.safetensors from models/vae."
    )


def detect_config(checkpoint: Checkpoint, prefix: str, is_host: bool) -> VAEConfig:
    """Widths and depths from the shapes; the metadata entry ``config`` says what shapes cannot."""
    shapes = {k.removeprefix(prefix): v for k, v in checkpoint.shapes.items() if k.startswith(prefix)}
    blocks, layers = ("encoder.down.", "block.") if is_host else ("encoder.down_blocks.", "resnets.")
    try:
        widths = tuple(
            shapes[f"{blocks}{level}.{layers}0.conv1.conv.weight"][0] for level in range(count_blocks(shapes, blocks))
        )
        if len(widths) != LEVELS:
            raise ValueError(f"{len(widths)} levels of resolution, but 4×8×8 compression needs {LEVELS}")
        stated = _stated_config(checkpoint)
        return VAEConfig(
            block_out_channels=widths,
            layers_per_block=count_blocks(shapes, f"{blocks}0.{layers}"),
            latent_channels=shapes["decoder.conv_in.conv.weight"][1],
            in_channels=shapes["encoder.conv_in.conv.weight"][1],
            out_channels=shapes["decoder.conv_out.conv.weight"][0],
            norm_groups=int(stated.get("norm_num_groups", min(MAX_NORM_GROUPS, min(widths) // 4))),
            scaling_factor=float(stated.get("scaling_factor", HUNYUAN_VIDEO_VAE.scaling_factor)),
            mid_attention=any(
                name.startswith(("encoder.mid_block.attentions.", "encoder.mid.attn_")) for name in shapes
            ),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.path.name} has the names of a HunyuanVideo VAE, but its configuration cannot be "
            f"read from it ({type(error).__name__}: {error}). The file is incomplete or holds the decoder alone; "
            "download the whole VAE."
        ) from error


def _stated_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The JSON object under the metadata key ``config``, or nothing."""
    stated = json.loads(checkpoint.metadata.get("config", "{}"))
    if not isinstance(stated, dict):
        raise ValueError("the metadata entry 'config' is not a JSON object")
    return stated
