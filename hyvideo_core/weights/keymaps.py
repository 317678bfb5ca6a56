"""Names of the transformer's tensors in the layouts that share its original structure.

Source: HunyuanVideo ``hyvideo/modules/models.py`` (original names); ComfyUI's ``hunyuan_video/model.py``
(host names, which group attention and number the MLP layers).
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


def find_prefix(names: Iterable[str], anchor: str) -> str | None:
    """The known prefix under which a tensor whose name starts with ``anchor`` is found, or None."""
    present = [p for p in PREFIXES if any(name.startswith(p + anchor) for name in names)]
    return present[0] if present else None
