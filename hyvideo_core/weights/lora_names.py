"""Which rows of which weight a name in a LoRA file means.

A LoRA names the layers as the trainer's model did: original, ComfyUI or diffusers names, with dots or, in kohya's
style, with underscores for dots. All are looked up with underscores, in one table made from the model's real names.

Source: HunyuanVideo ``hyvideo/modules/models.py`` (original), ComfyUI ``hunyuan_video/model.py``, diffusers
``transformer_hunyuan_video.py``; prefixes as kohya's musubi-tuner, OneTrainer, PEFT and Tencent's trainer write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: What may stand before a layer's name, dots as underscores; several may follow each other.
PREFIXES = (
    "lora_unet_",
    "lora_transformer_",
    "Hunyuan_video_I2V_lora_",
    "base_model_model_",
    "model_",
    "diffusion_model_",
    "transformer_",
    "module_",
)

#: Original name → the other names of the whole weight. "#" is the number of the block.
WHOLE = {
    "img_in.proj": ("x_embedder.proj",),
    "time_in.mlp.0": ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    "time_in.mlp.2": ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    "guidance_in.mlp.0": ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    "guidance_in.mlp.2": ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "txt_in.input_embedder": ("context_embedder.proj_in",),
    "txt_in.t_embedder.mlp.0": (
        "txt_in.t_embedder.in_layer",
        "context_embedder.time_text_embed.timestep_embedder.linear_1",
    ),
    "txt_in.t_embedder.mlp.2": (
        "txt_in.t_embedder.out_layer",
        "context_embedder.time_text_embed.timestep_embedder.linear_2",
    ),
    "txt_in.c_embedder.linear_1": (
        "txt_in.c_embedder.in_layer",
        "context_embedder.time_text_embed.text_embedder.linear_1",
    ),
    "txt_in.c_embedder.linear_2": (
        "txt_in.c_embedder.out_layer",
        "context_embedder.time_text_embed.text_embedder.linear_2",
    ),
    "txt_in.individual_token_refiner.blocks.#.self_attn_proj": (
        "context_embedder.token_refiner.refiner_blocks.#.attn.to_out.0",
    ),
    "txt_in.individual_token_refiner.blocks.#.mlp.fc1": (
        "txt_in.individual_token_refiner.blocks.#.mlp.0",
        "context_embedder.token_refiner.refiner_blocks.#.ff.net.0.proj",
    ),
    "txt_in.individual_token_refiner.blocks.#.mlp.fc2": (
        "txt_in.individual_token_refiner.blocks.#.mlp.2",
        "context_embedder.token_refiner.refiner_blocks.#.ff.net.2",
    ),
    "txt_in.individual_token_refiner.blocks.#.adaLN_modulation.1": (
        "context_embedder.token_refiner.refiner_blocks.#.norm_out.linear",
    ),
    "double_blocks.#.img_mod.linear": ("double_blocks.#.img_mod.lin", "transformer_blocks.#.norm1.linear"),
    "double_blocks.#.img_attn_proj": ("transformer_blocks.#.attn.to_out.0",),
    "double_blocks.#.img_mlp.fc1": ("double_blocks.#.img_mlp.0", "transformer_blocks.#.ff.net.0.proj"),
    "double_blocks.#.img_mlp.fc2": ("double_blocks.#.img_mlp.2", "transformer_blocks.#.ff.net.2"),
    "double_blocks.#.txt_mod.linear": ("double_blocks.#.txt_mod.lin", "transformer_blocks.#.norm1_context.linear"),
    "double_blocks.#.txt_attn_proj": ("transformer_blocks.#.attn.to_add_out",),
    "double_blocks.#.txt_mlp.fc1": ("double_blocks.#.txt_mlp.0", "transformer_blocks.#.ff_context.net.0.proj"),
    "double_blocks.#.txt_mlp.fc2": ("double_blocks.#.txt_mlp.2", "transformer_blocks.#.ff_context.net.2"),
    "single_blocks.#.linear2": ("single_transformer_blocks.#.proj_out",),
    "single_blocks.#.modulation.linear": (
        "single_blocks.#.modulation.lin",
        "single_transformer_blocks.#.norm.linear",
    ),
    "final_layer.linear": ("proj_out",),
}

#: Original name → diffusers' names of its rows, each as many rows as the weight has columns, the last the rest.
PARTS = {
    "txt_in.individual_token_refiner.blocks.#.self_attn_qkv": tuple(
        f"context_embedder.token_refiner.refiner_blocks.#.attn.to_{part}" for part in "qkv"
    ),
    "double_blocks.#.img_attn_qkv": tuple(f"transformer_blocks.#.attn.to_{part}" for part in "qkv"),
    "double_blocks.#.txt_attn_qkv": tuple(f"transformer_blocks.#.attn.add_{part}_proj" for part in "qkv"),
    "single_blocks.#.linear1": (
        *(f"single_transformer_blocks.#.attn.to_{part}" for part in "qkv"),
        "single_transformer_blocks.#.proj_mlp",
    ),
}

#: Original name → diffusers' name of the same weight with its two halves of rows exchanged.
SWAPPED = {"final_layer.adaLN_modulation.1": "norm_out.linear"}


@dataclass(frozen=True)
class Home:
    """``rows`` rows of ``module``'s weight from row ``start`` on; beyond the last they go on at the first."""

    module: str
    start: int
    rows: int


def homes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Home]:
    """Every name a weight of the model may have in a LoRA file, dots as underscores.

    ``shapes``: original module name → shape [out, in, …] of its weight.
    """
    return {name.replace(".", "_"): home for module, shape in shapes.items() for name, home in _names(module, shape)}


def find_home(name: str, table: Mapping[str, Home]) -> Home | None:
    """Where the term of a layer called ``name`` in a LoRA file belongs; None if the model has no such layer."""
    name = name.replace(".", "_")
    if name in table:
        return table[name]
    rests = (name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix))
    return next((home for rest in rests if (home := find_home(rest, table)) is not None), None)


def _names(module: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Home]]:
    rows, columns = shape[:2]
    number = re.search(r"(?<=blocks\.)\d+", module)
    block = number[0] if number else ""
    general = re.sub(r"(?<=blocks\.)\d+", "#", module)
    for alias in (module, *WHOLE.get(general, ())):
        yield alias.replace("#", block), Home(module, 0, rows)
    parts = PARTS.get(general, ())
    for i, alias in enumerate(parts):
        end = rows if i == len(parts) - 1 else (i + 1) * columns
        yield alias.replace("#", block), Home(module, i * columns, end - i * columns)
    if general in SWAPPED:
        yield SWAPPED[general], Home(module, rows // 2, rows)
