"""Models of the real architecture that a test needs beside the toy ones: cheap, deep or big."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from hyvideo_core.configs import DiTConfig, VAEConfig
from hyvideo_core.model.dit import DiT
from hyvideo_core.vae import VAE
from tools.toy_model import build

Tensors = dict[str, torch.Tensor]


def transformer(dtype: torch.dtype = torch.bfloat16, **changes: int | bool) -> Tensors:
    """The toy transformer with another ``hidden_size`` or ``heads``, other numbers of blocks, or not distilled."""
    return build.tensors(DiT(DiTConfig(**{**build.TRANSFORMER_CONFIG, **changes})), dtype)


def cheap_transformer() -> Tensors:
    """The fewest and narrowest blocks there can be: large latents take next to no time."""
    return transformer(hidden_size=128, heads=1, double_blocks=1, single_blocks=1)


def write_cheap_vae(path: Path) -> None:
    """A VAE that decodes large clips in next to no time."""
    groups = 2
    vae = VAE(VAEConfig(block_out_channels=(4, 4, 4, 4), norm_groups=groups))
    write_vae(path, build.tensors(vae, torch.bfloat16), groups)


def write_vae(path: Path, tensors: Tensors, norm_groups: int) -> None:
    """The file with the one number that is not in the shapes of a toy VAE."""
    build.write(path, tensors, {"config": json.dumps({"norm_num_groups": norm_groups})})
