"""What each layer of the transformer is called in every layout: one table, read in the direction that is needed.

Source: HunyuanVideo ``hyvideo/modules/models.py`` (original names); ComfyUI's ``hunyuan_video/model.py`` (host names,
which group attention and number the MLP layers); diffusers' ``transformer_hunyuan_video.py``, which splits q, k and v,
and ``scripts/convert_hunyuan_video_to_diffusers.py``.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

#: Prefixes under which a checkpoint has the transformer's names, longest first. All names of a file share one, and one
#: that merely begins like it is not taken; what may stand before a layer in a LoRA is another list (``lora_names``).
PREFIXES = (
    "model.diffusion_model.",
    "model.model.",
    "diffusion_model.",
    "transformer.",
    "module.",
    "model.",
    "",
)

#: (start of the name in the original and in ComfyUI, start in diffusers) → layers, each as its original name,
#: ComfyUI's, and diffusers'; several of these are the rows of one fused matrix, in order. "#" is the block's number.
_TABLE: dict[tuple[str, str], tuple[tuple[str, ...], ...]] = {
    ("", ""): (
        ("img_in.proj", "img_in.proj", "x_embedder.proj"),
        ("final_layer.linear", "final_layer.linear", "proj_out"),
        ("final_layer.adaLN_modulation.1", "final_layer.adaLN_modulation.1", "norm_out.linear"),
    ),
    ("", "time_text_embed."): (
        ("time_in.mlp.0", "time_in.in_layer", "timestep_embedder.linear_1"),
        ("time_in.mlp.2", "time_in.out_layer", "timestep_embedder.linear_2"),
        ("guidance_in.mlp.0", "guidance_in.in_layer", "guidance_embedder.linear_1"),
        ("guidance_in.mlp.2", "guidance_in.out_layer", "guidance_embedder.linear_2"),
        ("vector_in.in_layer", "vector_in.in_layer", "text_embedder.linear_1"),
        ("vector_in.out_layer", "vector_in.out_layer", "text_embedder.linear_2"),
    ),
    ("txt_in.", "context_embedder."): (
        ("input_embedder", "input_embedder", "proj_in"),
        ("t_embedder.mlp.0", "t_embedder.in_layer", "time_text_embed.timestep_embedder.linear_1"),
        ("t_embedder.mlp.2", "t_embedder.out_layer", "time_text_embed.timestep_embedder.linear_2"),
        ("c_embedder.linear_1", "c_embedder.in_layer", "time_text_embed.text_embedder.linear_1"),
        ("c_embedder.linear_2", "c_embedder.out_layer", "time_text_embed.text_embedder.linear_2"),
    ),
    ("txt_in.individual_token_refiner.blocks.#.", "context_embedder.token_refiner.refiner_blocks.#."): (
        ("norm1", "norm1", "norm1"),
        ("self_attn_qkv", "self_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
        ("self_attn_proj", "self_attn.proj", "attn.to_out.0"),
        ("norm2", "norm2", "norm2"),
        ("mlp.fc1", "mlp.0", "ff.net.0.proj"),
        ("mlp.fc2", "mlp.2", "ff.net.2"),
        ("adaLN_modulation.1", "adaLN_modulation.1", "norm_out.linear"),
    ),
    ("double_blocks.#.", "transformer_blocks.#."): (
        ("img_mod.linear", "img_mod.lin", "norm1.linear"),
        ("img_attn_qkv", "img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
        ("img_attn_q_norm", "img_attn.norm.query_norm", "attn.norm_q"),
        ("img_attn_k_norm", "img_attn.norm.key_norm", "attn.norm_k"),
        ("img_attn_proj", "img_attn.proj", "attn.to_out.0"),
        ("img_mlp.fc1", "img_mlp.0", "ff.net.0.proj"),
        ("img_mlp.fc2", "img_mlp.2", "ff.net.2"),
        ("txt_mod.linear", "txt_mod.lin", "norm1_context.linear"),
        ("txt_attn_qkv", "txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        ("txt_attn_q_norm", "txt_attn.norm.query_norm", "attn.norm_added_q"),
        ("txt_attn_k_norm", "txt_attn.norm.key_norm", "attn.norm_added_k"),
        ("txt_attn_proj", "txt_attn.proj", "attn.to_add_out"),
        ("txt_mlp.fc1", "txt_mlp.0", "ff_context.net.0.proj"),
        ("txt_mlp.fc2", "txt_mlp.2", "ff_context.net.2"),
    ),
    ("single_blocks.#.", "single_transformer_blocks.#."): (
        ("linear1", "linear1", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        ("linear2", "linear2", "proj_out"),
        ("q_norm", "norm.query_norm", "attn.norm_q"),
        ("k_norm", "norm.key_norm", "attn.norm_k"),
        ("modulation.linear", "modulation.lin", "norm.linear"),
    ),
}
#: Original name → ComfyUI's name and diffusers' names of its rows, in order.
LAYERS = {
    start + original: (start + host, tuple(diffusers_start + part for part in parts))
    for (start, diffusers_start), layers in _TABLE.items()
    for original, host, *parts in layers
}
#: diffusers keeps shift and scale, the two halves of its rows, in the other order in this layer.
SWAPPED = "final_layer.adaLN_modulation.1"
DIFFUSERS_SWAPPED = frozenset(f"{SWAPPED}.{leaf}" for leaf in ("weight", "bias"))

_FROM_HOST = {host: original for original, (host, _) in LAYERS.items()}
_FROM_DIFFUSERS = {part: (name, i) for name, (_, parts) in LAYERS.items() for i, part in enumerate(parts)}
_NUMBER = re.compile(r"(?<=blocks\.)\d+")


def numbered(name: str) -> tuple[str, str]:
    """``name`` with "#" for the number of its block, as the table has it, and that number ("#" where there is none)."""
    found = _NUMBER.search(name)
    return (f"{name[: found.start()]}#{name[found.end() :]}", found[0]) if found else (name, "#")


def host_to_original(name: str) -> str:
    """The original name of a transformer tensor, from its host name; original names stay as they are."""
    layer, leaf, number = _split(name, _FROM_HOST)
    if layer is None:
        return name
    if leaf == ".scale" and layer.endswith((".query_norm", ".key_norm")):
        leaf = ".weight"  # as Flux, from which ComfyUI has these names, calls the weight of such a norm
    return (_FROM_HOST[layer] + leaf).replace("#", number, 1)


def diffusers_to_original(name: str) -> tuple[str, int]:
    """The original name of a diffusers tensor, and its place (0, 1, …) among the rows of the fused matrix there.

    Names that are not diffusers' stay as they are, with place 0.
    """
    layer, leaf, number = _split(name, _FROM_DIFFUSERS)
    if layer is None:
        return name, 0
    original, place = _FROM_DIFFUSERS[layer]
    return (original + leaf).replace("#", number, 1), place


def _split(name: str, layers: Container[str]) -> tuple[str | None, str, str]:
    """The one of ``layers`` (None: none) that a tensor belongs to, the rest of its name, the number of its block."""
    general, number = numbered(name)
    layer = general.rpartition(".")[0]
    while layer and layer not in layers:  # what belongs to a layer may have dots of its own: weight.absmax
        layer = layer.rpartition(".")[0]
    return layer or None, general[len(layer) :], number


def find_prefix(names: Iterable[str], anchor: str) -> str | None:
    """The known prefix under which a tensor whose name starts with ``anchor`` is found, or None."""
    present = [p for p in PREFIXES if any(name.startswith(p + anchor) for name in names)]
    return present[0] if present else None
