"""The transformer and the VAE beside diffusers' and ComfyUI's, on random weights of real proportions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from comfyui import comfyui_dit, comfyui_vae
from torch import nn

from cases import Case, Work
from hyvideo_core.configs import HUNYUAN_VIDEO_VAE, DiTConfig
from hyvideo_core.model import DiT
from hyvideo_core.vae import VAE

#: A transformer whose parts relate as in the full one, small enough for two cores.
SMALL = DiTConfig(hidden_size=768, heads=6, double_blocks=4, single_blocks=8)
TEXT_TOKENS = 150
#: Latent (T, H, W) of 3,360 video tokens.
LATENT = (7, 40, 48)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def seeded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Small random weights; the values do not matter, only that nothing overflows."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).mul_(0.02).to(dtype)
    return module.eval().requires_grad_(False)


def our_dit(dtype: torch.dtype) -> Work:
    """Our transformer; its last projection stays in float32 as it does when loaded from a file."""
    dit = seeded(DiT(SMALL), dtype)
    assert isinstance(dit, DiT)
    dit.final_layer.linear.float()
    x, timestep, text, pooled, guidance = dit_inputs()
    return lambda: dit(x, timestep, text, None, pooled, guidance)


def diffusers_dit(dtype: torch.dtype) -> Work:
    """diffusers' transformer with the same shapes."""
    from diffusers import HunyuanVideoTransformer3DModel

    dit = seeded(
        HunyuanVideoTransformer3DModel(
            num_attention_heads=SMALL.heads,
            attention_head_dim=SMALL.head_dim,
            num_layers=SMALL.double_blocks,
            num_single_layers=SMALL.single_blocks,
        ),
        dtype,
    )
    x, timestep, text, pooled, guidance = (t.to(dtype) for t in dit_inputs())
    mask = torch.ones(1, TEXT_TOKENS, dtype=torch.bool)
    return lambda: dit(x, timestep, text, mask, pooled, guidance, return_dict=False)[0]


def host_dit(dtype: torch.dtype) -> Work:
    """ComfyUI's own transformer with the same shapes."""
    dit = seeded(comfyui_dit(SMALL, dtype), dtype)
    x, timestep, text, pooled, guidance = (t.to(dtype) for t in dit_inputs())
    return lambda: dit(x, timestep, text, y=pooled, guidance=guidance)


def our_vae(what: str, dtype: torch.dtype) -> Work:
    """Our VAE at full width, whole."""
    vae = seeded(VAE(HUNYUAN_VIDEO_VAE), dtype)
    assert isinstance(vae, VAE)
    latent, video = (t.to(dtype) for t in _vae_inputs())
    return (lambda: vae.decode(latent)) if what == "decode" else (lambda: vae.encode(video).moments)


def diffusers_vae(what: str, dtype: torch.dtype) -> Work:
    """diffusers' VAE at full width, with its tiling switched off."""
    from diffusers import AutoencoderKLHunyuanVideo

    vae = seeded(AutoencoderKLHunyuanVideo(), dtype)
    vae.use_framewise_decoding = vae.use_framewise_encoding = False
    latent, video = (t.to(dtype) for t in _vae_inputs())
    if what == "decode":
        return lambda: vae.decode(latent, return_dict=False)[0]
    return lambda: vae.encode(video, return_dict=False)[0].parameters


def host_vae(what: str, dtype: torch.dtype) -> Work:
    """ComfyUI's VAE at full width, whole."""
    vae = seeded(comfyui_vae(HUNYUAN_VIDEO_VAE), dtype)
    latent, video = (t.to(dtype) for t in _vae_inputs())
    return (lambda: vae.decode(latent)) if what == "decode" else (lambda: vae.encode(video))


def dit_inputs() -> tuple[torch.Tensor, ...]:
    """x, timestep, text, pooled text, guidance."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, SMALL.in_channels, *LATENT, generator=generator)
    text = torch.randn(1, TEXT_TOKENS, SMALL.text_dim, generator=generator)
    pooled = torch.randn(1, SMALL.pooled_dim, generator=generator)
    return x, torch.tensor([900.0]), text, pooled, torch.tensor([6000.0])


def _vae_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 16, 3, 16, 16, generator=generator), torch.randn(1, 3, 9, 128, 128, generator=generator)


def _case(name: str, prepared: dict[str, Callable[[torch.dtype], Work]], dtype: str) -> Case:
    return Case(f"{name} {dtype}", {who: partial(make, DTYPES[dtype]) for who, make in prepared.items()})


CASES = [
    *(
        _case("dit forward", {"ours": our_dit, "diffusers": diffusers_dit, "comfyui": host_dit}, name)
        for name in DTYPES
    ),
    *(
        _case(
            f"vae {what}",
            {
                "ours": partial(our_vae, what),
                "diffusers": partial(diffusers_vae, what),
                "comfyui": partial(host_vae, what),
            },
            name,
        )
        for what in ("decode", "encode")
        for name in DTYPES
    ),
]
