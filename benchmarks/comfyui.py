"""ComfyUI's own HunyuanVideo code as another implementation, from the checkout that ``tools/dev.py`` made."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cases import Missing
from hyvideo_core.configs import DiTConfig, VAEConfig

CHECKOUT = Path(__file__).parent.parent / ".host/ComfyUI"


def comfyui_dit(config: DiTConfig, dtype: torch.dtype) -> nn.Module:
    """Its transformer. Source: ComfyUI ``comfy/model_detection.py`` for the arguments."""
    made: nn.Module = _module("comfy.ldm.hunyuan_video.model").HunyuanVideo(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        vec_in_dim=config.pooled_dim,
        context_in_dim=config.text_dim,
        hidden_size=config.hidden_size,
        mlp_ratio=config.mlp_ratio,
        num_heads=config.heads,
        depth=config.double_blocks,
        depth_single_blocks=config.single_blocks,
        axes_dim=list(config.rope_dims),
        theta=int(config.rope_theta),
        patch_size=list(config.patch_size),
        qkv_bias=True,
        guidance_embed=config.guidance_embed,
        byt5=False,
        meanflow=False,
        use_cond_type_embedding=False,
        vision_in_dim=None,
        meanflow_sum=False,
        dtype=dtype,
        operations=_module("comfy.ops").disable_weight_init,
    )
    return made


def comfyui_vae(config: VAEConfig) -> nn.Module:
    """Its VAE. Source: ComfyUI ``comfy/sd.py`` for the arguments."""
    width = config.block_out_channels[0]
    ddconfig = {
        "double_z": True,
        "z_channels": config.latent_channels,
        "resolution": config.tile_size_px,
        "in_channels": config.in_channels,
        "out_ch": config.out_channels,
        "ch": width,
        "ch_mult": [channels // width for channels in config.block_out_channels],
        "num_res_blocks": config.layers_per_block,
        "attn_resolutions": [],
        "dropout": 0.0,
        "conv3d": True,
        "time_compress": 4,
    }
    made: nn.Module = _module("comfy.ldm.models.autoencoder").AutoencoderKL(
        ddconfig=ddconfig, embed_dim=config.latent_channels
    )
    return made


def sub_quadratic(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Its attention on CPUs, for q, k, v [B, L, N, D]."""
    attend = _module("comfy.ldm.modules.attention").attention_sub_quad
    out: torch.Tensor = attend(*(part.flatten(2) for part in (q, k, v)), heads=q.shape[2])
    return out.view(q.shape)


@cache
def _module(name: str) -> Any:
    if not CHECKOUT.is_dir():
        raise Missing(f"{CHECKOUT} is not there; python tools/dev.py setup makes it")
    if str(CHECKOUT) not in sys.path:
        # Last, so that none of its top-level modules hides one of ours; its own arguments stay at their defaults.
        sys.path.append(str(CHECKOUT))
        import_module("comfy.cli_args").args.cpu = True
    return import_module(name)
