"""What a checkpoint is, and the transformer's configuration read off its shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hyvideo_core.configs import DiTConfig

LORA = "a LoRA"

#: (part of a tensor name that only this kind has, what to call it). First match wins.
_MARKERS = (
    ("lora_down", LORA),
    ("lora_up", LORA),
    (".lora_A.", LORA),
    (".lora_B.", LORA),
    ("individual_token_refiner", "a HunyuanVideo transformer"),
    ("token_refiner.refiner_blocks", "a HunyuanVideo transformer"),
    ("decoder.conv_norm_out", "a VAE"),
    ("decoder.mid.block_1", "a VAE"),
    ("text_model.encoder.layers", "a CLIP text encoder"),
    ("vision_model.encoder.layers", "a CLIP vision tower"),
    ("self_attn.q_proj", "a language model"),
    ("double_blocks.", "a Flux-style transformer"),
    ("transformer_blocks.", "another diffusion transformer"),
    ("blocks.0.", "another diffusion transformer"),
)


def describe(names: Iterable[str]) -> str:
    """What kind of model these tensor names belong to, in words for a message."""
    names = list(names)
    for marker, kind in _MARKERS:
        if any(marker in name for name in names):
            return kind
    return "an unknown kind of model"


def dit_config(shapes: Mapping[str, tuple[int, ...]], **stated: Any) -> DiTConfig:
    """Configuration of a transformer from the shapes of its tensors under original names; ``stated`` fields win.

    The split of the rotary axes is not in the shapes: the model's own 1/8, 7/16, 7/16 of the head size is
    taken, with the axes of space rounded down to even. Raises ``KeyError``, ``IndexError`` or ``ValueError``
    where the shapes are not those of such a transformer.
    """
    hidden, in_channels, *patch = shapes["img_in.proj.weight"]
    head_dim = shapes["double_blocks.0.img_attn_q_norm.weight"][0]
    patch_volume = patch[0] * patch[1] * patch[2]
    space_dim = 2 * (head_dim * 7 // 32)
    time_dim = head_dim - 2 * space_dim
    found = DiTConfig(
        hidden_size=hidden,
        heads=hidden // head_dim,
        double_blocks=count_blocks(shapes, "double_blocks."),
        single_blocks=count_blocks(shapes, "single_blocks."),
        rope_dims=(time_dim, space_dim, space_dim),
        in_channels=in_channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch_volume,
        text_dim=shapes["txt_in.input_embedder.weight"][1],
        pooled_dim=shapes["vector_in.in_layer.weight"][1],
        guidance_embed=any(name.startswith("guidance_in.") for name in shapes),
        mlp_ratio=shapes["double_blocks.0.img_mlp.fc1.weight"][0] / hidden,
        patch_size=(patch[0], patch[1], patch[2]),
        refiner_blocks=count_blocks(shapes, "txt_in.individual_token_refiner.blocks."),
    )
    return replace(found, **stated)


def count_blocks(names: Iterable[str], start: str) -> int:
    """How many numbered blocks there are under ``start``."""
    return len({name[len(start) :].split(".", 1)[0] for name in names if name.startswith(start)})
