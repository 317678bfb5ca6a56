"""Tiny transformers and inputs for the tests of the model, its sampling and its loading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file

from golden_data import GOLDEN
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model import DiT
from hyvideo_core.sample.seams import Evaluation, Extension, Predict
from hyvideo_core.types import Conditioning

TINY = DiTConfig(
    hidden_size=48,
    heads=2,
    double_blocks=2,
    single_blocks=2,
    rope_dims=(4, 10, 10),
    in_channels=4,
    out_channels=4,
    text_dim=16,
    pooled_dim=8,
)


def config_of(meta: dict[str, Any], **changes: Any) -> DiTConfig:
    """Our configuration for the ``config`` a golden file states in the original's terms."""
    stated = meta["config"]
    config = DiTConfig(
        hidden_size=stated["hidden_size"],
        heads=stated["heads_num"],
        double_blocks=stated["mm_double_blocks_depth"],
        single_blocks=stated["mm_single_blocks_depth"],
        rope_dims=tuple(stated["rope_dim_list"]),
        in_channels=stated["in_channels"],
        out_channels=stated["out_channels"],
        text_dim=stated["text_states_dim"],
        pooled_dim=stated["text_states_dim_2"],
        guidance_embed=stated["guidance_embed"],
        rope_theta=stated["rope_theta"],
    )
    return replace(config, **changes)


def random_dit(config: DiTConfig = TINY, seed: int = 0, **options: Any) -> DiT:
    """A transformer whose every weight matters: random, large enough to show in the fifth digit."""
    dit = DiT(config, **options)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in dit.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 25
        tensor.copy_(noise / fan_in**0.5 + (1 if "norm" in name and name.endswith("weight") else 0))
    return dit.eval().requires_grad_(False)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal noise, the same on every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(
    config: DiTConfig = TINY,
    *,
    batch: int = 1,
    thw: tuple[int, int, int] = (2, 4, 6),
    length: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of ``DiT.forward`` by name, all text valid."""
    return {
        "x": randn(batch, config.in_channels, *thw, seed=seed),
        "timestep": torch.linspace(900.0, 100.0, batch),
        "text": randn(batch, length, config.text_dim, seed=seed + 1),
        "text_mask": torch.ones(batch, length, dtype=torch.int64),
        "pooled": randn(batch, config.pooled_dim, seed=seed + 2),
        "guidance": torch.full((batch,), 6000.0) if config.guidance_embed else None,
    }


def prompt(config: DiTConfig = TINY, *, batch: int = 1, length: int = 5, seed: int = 10) -> Conditioning:
    """An encoded prompt with all text valid."""
    return Conditioning(
        randn(batch, length, config.text_dim, seed=seed), randn(batch, config.pooled_dim, seed=seed + 1)
    )


@dataclass(frozen=True)
class OneByOne(Extension):
    """Each clip of a batch evaluated alone: products of matrices round by their sizes, and so by the batch's."""

    rank: ClassVar[int] = -10_000

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        """What each clip's evaluation gives, as a batch."""

        def predict(evaluation: Evaluation) -> torch.Tensor:
            said = evaluation.conditioning
            return torch.cat(
                [
                    inner(replace(evaluation, x=x[None], conditioning=Conditioning(text[None], pooled[None])))
                    for x, text, pooled in zip(evaluation.x, said.text, said.pooled, strict=True)
                ]
            )

        return predict


@cache
def golden_weights() -> dict[str, torch.Tensor]:
    """The tiny transformer of the reference results, under original names."""
    return load_file(GOLDEN / "dit_weights.safetensors")


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file and return its path."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path
