"""Names of the transformer's tensors in every layout, brought to the original's.

Source: HunyuanVideo ``hyvideo/modules/models.py`` (original names); ComfyUI's ``hunyuan_video/model.py``
(host names, which group attention and number the MLP layers); diffusers' ``transformer_hunyuan_video.py``, which
splits q, k and v.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Prefixes under which the transformer's names are found, longest first.
PREFIXES = (
    "model.diffusion_model.",
    "model.model.",
    "diffusion_model.",
    "transformer.",
    "module.",
    "model.",
    "",
)

_HOST_TO_ORIGINAL = [
    (r"^(time_in|guidance_in|txt_in\.t_embedder)\.in_layer\.", r"\1.mlp.0."),
    (r"^(time_in|guidance_in|txt_in\.t_embedder)\.out_layer\.", r"\1.mlp.2."),
    (r"^txt_in\.c_embedder\.in_layer\.", "txt_in.c_embedder.linear_1."),
    (r"^txt_in\.c_embedder\.out_layer\.", "txt_in.c_embedder.linear_2."),
    (r"(_mod|modulation)\.lin\.", r"\1.linear."),
    (r"_attn\.(qkv|proj)\.", r"_attn_\1."),
    (r"_attn\.norm\.query_norm\.(weight|scale)", r"_attn_q_norm.weight"),
    (r"_attn\.norm\.key_norm\.(weight|scale)", r"_attn_k_norm.weight"),
    (r"^(single_blocks\.\d+)\.norm\.query_norm\.(weight|scale)", r"\1.q_norm.weight"),
    (r"^(single_blocks\.\d+)\.norm\.key_norm\.(weight|scale)", r"\1.k_norm.weight"),
    (r"(blocks\.\d+\.(?:\w+_)?mlp)\.0\.", r"\1.fc1."),
    (r"(blocks\.\d+\.(?:\w+_)?mlp)\.2\.", r"\1.fc2."),
]


def host_to_original(name: str) -> str:
    """The original name of a transformer tensor, from its host name; original names stay as they are."""
    for pattern, replacement in _HOST_TO_ORIGINAL:
        name = re.sub(pattern, replacement, name)
    return name


#: diffusers' names → ours. Parts of one fused matrix carry their place in it.
_DIFFUSERS_TO_ORIGINAL = [
    (r"^x_embedder\.", "img_in."),
    (r"^context_embedder\.proj_in\.", "txt_in.input_embedder."),
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_1\.", "txt_in.t_embedder.mlp.0."),
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_2\.", "txt_in.t_embedder.mlp.2."),
    (r"^context_embedder\.time_text_embed\.text_embedder\.", "txt_in.c_embedder."),
    (r"^context_embedder\.token_refiner\.refiner_blocks\.", "txt_in.individual_token_refiner.blocks."),
    (r"(individual_token_refiner\.blocks\.\d+)\.attn\.to_out\.0\.", r"\1.self_attn_proj."),
    (r"(individual_token_refiner\.blocks\.\d+)\.attn\.to_([qkv])\.", r"\1.self_attn_qkv@\2."),
    (r"(individual_token_refiner\.blocks\.\d+)\.ff\.net\.0\.proj\.", r"\1.mlp.fc1."),
    (r"(individual_token_refiner\.blocks\.\d+)\.ff\.net\.2\.", r"\1.mlp.fc2."),
    (r"(individual_token_refiner\.blocks\.\d+)\.norm_out\.linear\.", r"\1.adaLN_modulation.1."),
    (r"^time_text_embed\.timestep_embedder\.linear_1\.", "time_in.mlp.0."),
    (r"^time_text_embed\.timestep_embedder\.linear_2\.", "time_in.mlp.2."),
    (r"^time_text_embed\.guidance_embedder\.linear_1\.", "guidance_in.mlp.0."),
    (r"^time_text_embed\.guidance_embedder\.linear_2\.", "guidance_in.mlp.2."),
    (r"^time_text_embed\.text_embedder\.linear_1\.", "vector_in.in_layer."),
    (r"^time_text_embed\.text_embedder\.linear_2\.", "vector_in.out_layer."),
    (r"^transformer_blocks\.", "double_blocks."),
    (r"^single_transformer_blocks\.", "single_blocks."),
    (r"^(double_blocks\.\d+)\.norm1\.linear\.", r"\1.img_mod.linear."),
    (r"^(double_blocks\.\d+)\.norm1_context\.linear\.", r"\1.txt_mod.linear."),
    (r"^(double_blocks\.\d+)\.attn\.to_([qkv])\.", r"\1.img_attn_qkv@\2."),
    (r"^(double_blocks\.\d+)\.attn\.add_([qkv])_proj\.", r"\1.txt_attn_qkv@\2."),
    (r"^(double_blocks\.\d+)\.attn\.norm_([qk])\.", r"\1.img_attn_\2_norm."),
    (r"^(double_blocks\.\d+)\.attn\.norm_added_([qk])\.", r"\1.txt_attn_\2_norm."),
    (r"^(double_blocks\.\d+)\.attn\.to_out\.0\.", r"\1.img_attn_proj."),
    (r"^(double_blocks\.\d+)\.attn\.to_add_out\.", r"\1.txt_attn_proj."),
    (r"^(double_blocks\.\d+)\.ff\.net\.0\.proj\.", r"\1.img_mlp.fc1."),
    (r"^(double_blocks\.\d+)\.ff\.net\.2\.", r"\1.img_mlp.fc2."),
    (r"^(double_blocks\.\d+)\.ff_context\.net\.0\.proj\.", r"\1.txt_mlp.fc1."),
    (r"^(double_blocks\.\d+)\.ff_context\.net\.2\.", r"\1.txt_mlp.fc2."),
    (r"^(single_blocks\.\d+)\.attn\.to_([qkv])\.", r"\1.linear1@\2."),
    (r"^(single_blocks\.\d+)\.proj_mlp\.", r"\1.linear1@z."),
    (r"^(single_blocks\.\d+)\.attn\.norm_([qk])\.", r"\1.\2_norm."),
    (r"^(single_blocks\.\d+)\.proj_out\.", r"\1.linear2."),
    (r"^(single_blocks\.\d+)\.norm\.linear\.", r"\1.modulation.linear."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
]
#: Places of the parts of a fused matrix, in order of its rows: q, k, v and a single block's MLP.
_PARTS = "qkvz"
#: diffusers keeps shift and scale of this layer in the other order.
DIFFUSERS_SWAPPED = frozenset(f"final_layer.adaLN_modulation.1.{leaf}" for leaf in ("weight", "bias"))


def diffusers_to_original(name: str) -> tuple[str, int]:
    """The original name of a diffusers tensor, and its place (0, 1, …) among the rows of the fused matrix there.

    Names that are not diffusers' stay as they are, with place 0.
    Source: diffusers ``scripts/convert_hunyuan_video_to_diffusers.py`` (the mapping, read backwards).
    """
    for pattern, replacement in _DIFFUSERS_TO_ORIGINAL:
        name = re.sub(pattern, replacement, name)
    fused = re.fullmatch(r"(.+)@(.)(\..+)", name)
    return (fused[1] + fused[3], _PARTS.index(fused[2])) if fused else (name, 0)


def find_prefix(names: Iterable[str], anchor: str) -> str | None:
    """The known prefix under which a tensor whose name starts with ``anchor`` is found, or None."""
    present = [p for p in PREFIXES if any(name.startswith(p + anchor) for name in names)]
    return present[0] if present else None
