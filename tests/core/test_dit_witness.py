"""A second witness: diffusers' transformer with the same random weights."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from dit_data import TINY, config_of, inputs, random_dit

from golden_data import GOLDEN, golden, rel_l2
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model import DiT

NAMES = json.loads((GOLDEN / "manifests/names_dit.json").read_text())
HEAD128 = config_of(golden("dit_head128")[1])
REL = 1e-4


def to_diffusers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict under diffusers' names, by the manifest of block 0."""
    converted = {}
    for name, tensor in state.items():
        found = re.match(r"(double|single)_blocks\.(\d+)\.", name)
        number = found[2] if found else "0"
        template = NAMES[re.sub(r"^((?:double|single)_blocks)\.\d+\.", r"\1.0.", name)]["diffusers"]
        if isinstance(template[0][1], str):
            assert "halves swapped" in template[0][1]
            converted[template[0][0]] = torch.cat(tensor.chunk(2)[::-1])
            continue
        # Rows are stated for the full size; ours are the same fractions of a smaller tensor.
        total = template[-1][2]
        for target, start, stop in template:
            rows = slice(len(tensor) * start // total, len(tensor) * stop // total)
            converted[target.replace("transformer_blocks.0.", f"transformer_blocks.{number}.")] = tensor[rows]
    return converted


def diffusers_dit(config: DiTConfig) -> torch.nn.Module:
    return HunyuanVideoTransformer3DModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        num_layers=config.double_blocks,
        num_single_layers=config.single_blocks,
        num_refiner_layers=config.refiner_blocks,
        guidance_embeds=config.guidance_embed,
        text_embed_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim,
        rope_axes_dim=config.rope_dims,
    ).eval()


def witness(ours: DiT) -> torch.nn.Module:
    theirs = diffusers_dit(ours.config)
    theirs.load_state_dict(to_diffusers(ours.state_dict()))
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY, HEAD128], ids=["heads of 24", "one head of 128"])
@pytest.mark.parametrize("valid", [(7, 7), (7, 3), (1, 5)], ids=["full mask", "padded", "both padded"])
def test_the_velocity_agrees_with_diffusers(config: DiTConfig, valid: tuple[int, int]) -> None:
    ours = random_dit(config)
    given: dict[str, Any] = inputs(config, batch=2, thw=(3, 4, 6), length=7)
    for i, n in enumerate(valid):
        given["text_mask"][i, n:] = 0
    expected = witness(ours)(
        given["x"],
        given["timestep"],
        encoder_hidden_states=given["text"],
        encoder_attention_mask=given["text_mask"],
        pooled_projections=given["pooled"],
        guidance=given["guidance"],
        return_dict=False,
    )[0]
    assert rel_l2(ours(**given), expected) <= REL
