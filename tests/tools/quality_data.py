"""What the tests of the table of quality share: random networks for it, and what a row may have found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from dit_data import random_dit, save
from quality_bench import COLUMNS, Judged, Outcome
from quality_files import Files
from quality_report import QUICK_PROMPTS, Result, result
from quality_rows import ROWS

from hyvideo_core.configs import VAEConfig
from hyvideo_core.vae import VAE
from tools.demo_model import train_dit

TOY = replace(train_dit.CONFIG, double_blocks=1, single_blocks=2)
TOY_VAE = VAEConfig(block_out_channels=(8, 8, 8, 8), norm_groups=4)
#: Prompts of a set that a test can afford.
TINY_SET = 2


def random_files(folder: Path) -> Files:
    """Networks of the demo set's architecture, small and random, with its text encoders."""
    guided, unguided = (random_dit(replace(TOY, guidance_embed=guided), seed=1) for guided in (True, False))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(TOY_VAE)
    config = {"block_out_channels": TOY_VAE.block_out_channels, "norm_num_groups": TOY_VAE.norm_groups}
    terms = {
        f"diffusion_model.double_blocks.0.img_attn_proj.lora_{part}.weight": torch.randn(
            shape, generator=torch.Generator().manual_seed(2)
        )
        for part, shape in (("A", (4, 128)), ("B", (128, 4)))
    }
    return Files(
        vae=save(folder / "vae.safetensors", vae.state_dict(), {"config": json.dumps(config)}),
        t2v=save(folder / "t2v.safetensors", bf16(guided.state_dict())),
        i2v=save(folder / "i2v.safetensors", bf16(unguided.state_dict())),
        lora=save(folder / "lora.safetensors", bf16(terms)),
    )


def bf16(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def outcome(obeyed: dict[str, int], prompts: int = QUICK_PROMPTS, **more: Any) -> Outcome:
    """So many of the prompts obeyed in each column, all in those that are not named."""
    judged = [
        Judged(index, {name: index < obeyed.get(name, prompts) for name in COLUMNS}, {"psnr_db": 30.0, "ssim": 0.9})
        for index in range(prompts)
    ]
    return Outcome(tuple(judged), 1.0, **more)


def table(**obeyed: int) -> list[Result]:
    return [result(ROWS[0], outcome(obeyed))]
