"""LLaVA's vision tower and projector from files: ComfyUI's single file, or the folder that holds the whole LLaVA.

Source: xtuner/llava-llama-3-8b-v1_1-transformers (``vision_tower.vision_model.…``, ``multi_modal_projector.…``);
ComfyUI ``comfy/clip_vision.py`` for llava_llama3_vision.safetensors (``vision_model.…``, ``multi_modal_projector.…``).
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyvideo_core.errors import CheckpointError
from hyvideo_core.text.vision import SKIPPED_VISION_LAYERS, Projector, VisionEncoder
from hyvideo_core.weights.detect import count_blocks
from hyvideo_core.weights.files import Checkpoint
from hyvideo_core.weights.load import materialise
from hyvideo_core.weights.text import CLIP_L, CLIP_L_HEAD_DIM, Config, open_text_model, stated_config

#: Where the tower's names begin, and the projector's; newer versions of transformers put both one level deeper.
PREFIXES = {
    "vision_tower.vision_model.": "multi_modal_projector.",
    "model.vision_tower.vision_model.": "model.multi_modal_projector.",
    "vision_model.": "multi_modal_projector.",
}
#: Width and layers of CLIP ViT-L/14-336. Source: openai/clip-vit-large-patch14-336 config.json.
LAYERS = {1024: 24}
TOWER_ANCHORS = (
    "encoder.layers.0.self_attn.q_proj.weight",
    "encoder.layers.0.mlp.fc1.weight",
    "embeddings.position_embedding.weight",
)
WANTED = (
    "LLaVA's vision tower with its projector was expected. Choose llava_llama3_vision.safetensors or the folder "
    "llava-llama-3-8b-v1_1-transformers."
)


def load_vision(
    path: str | Path,
    *,
    config: Config | None = None,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
) -> VisionEncoder:
    """The vision tower at ``path`` (a file, or a folder with config.json), without the layer nobody reads.

    ``config`` entries (Hugging Face names) override what is detected. Raises ``CheckpointError`` for other models and
    incomplete downloads.
    """
    checkpoint, tower, projector = _open(path)
    settings = _settings(checkpoint, tower, stated_config(path, checkpoint, config, "vision_config"))
    text_dim = checkpoint.shapes[projector + "linear_2.weight"][0]
    starts = {"tower.": tower, "projector.": projector}

    def name_in_file(name: str) -> str:
        start = next(start for start in starts if name.startswith(start))
        # Some versions of transformers have the tower one level deeper in the module.
        return starts[start] + name.removeprefix(start).removeprefix("vision_model.")

    vision = materialise(lambda: _build(settings, text_dim), checkpoint, name_in_file, dtype=dtype, device=device)
    for module in vision.modules():
        if "position_ids" in module._buffers:
            module._buffers["position_ids"] = torch.arange(_places(checkpoint, tower), device=device)[None]
    return vision


def describe_vision(path: str | Path) -> str:
    """One line on a vision tower, from its header. Raises ``CheckpointError`` for other models."""
    checkpoint, tower, _ = _open(path)
    found = _settings(checkpoint, tower, stated_config(path, checkpoint, None, "vision_config"))
    layers = found["num_hidden_layers"] + SKIPPED_VISION_LAYERS
    return f"vision tower, {layers} layers of {found['hidden_size']}, {_places(checkpoint, tower) - 1} places an image"


def _open(path: str | Path) -> tuple[Checkpoint, str, str]:
    """The checkpoint, and where the names of its tower and of its projector begin."""
    checkpoint, tower = open_text_model(path, tuple(PREFIXES), TOWER_ANCHORS, WANTED)
    projector = PREFIXES[tower]
    shapes = [checkpoint.shapes.get(f"{projector}linear_{number}.weight", ()) for number in (1, 2)]
    if any(len(shape) != 2 for shape in shapes):
        raise CheckpointError(
            f"{checkpoint.path.name} is a CLIP vision tower without the projector into the language model, but {WANTED}"
        )
    return checkpoint, tower, projector


def _settings(checkpoint: Checkpoint, tower: str, stated: Config) -> dict[str, Any]:
    """Configuration for what is built: shapes first, then what is stated, then CLIP's own constants."""
    hidden, _, patch, _ = checkpoint.shapes[tower + "embeddings.patch_embedding.weight"]
    heads = stated.get("num_attention_heads") or hidden // CLIP_L_HEAD_DIM
    side = isqrt(_places(checkpoint, tower) - 1)
    if not heads or hidden % heads or side * side != _places(checkpoint, tower) - 1:
        raise CheckpointError(
            f"{checkpoint.path.name} has a vision tower of width {hidden} with {_places(checkpoint, tower)} places, "
            f"which is not CLIP's, but {WANTED}"
        )
    # The last layer may be missing, as nobody reads it; any other is missed when it is loaded.
    found = LAYERS.get(hidden) or count_blocks(checkpoint, tower + "encoder.layers.")
    layers = stated.get("num_hidden_layers") or found
    return {
        "hidden_size": hidden,
        "intermediate_size": checkpoint.shapes[tower + "encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": layers - SKIPPED_VISION_LAYERS,
        "num_attention_heads": heads,
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_act": stated.get("hidden_act") or CLIP_L["hidden_act"],
        "layer_norm_eps": stated.get("layer_norm_eps") or CLIP_L["layer_norm_eps"],
    }


def _places(checkpoint: Checkpoint, tower: str) -> int:
    """Patches of an image and the class token."""
    return checkpoint.shapes[tower + "embeddings.position_embedding.weight"][0]


def _build(settings: Config, text_dim: int) -> VisionEncoder:
    # Imported here: transformers takes seconds, and a host lists nodes without ever encoding.
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(**settings)
    config._attn_implementation = "sdpa"
    tower: nn.Module = CLIPVisionModel(config)
    # The second last layer is read as it is; the norm after the last one makes a summary that nobody asks for.
    owner = tower if hasattr(tower, "post_layernorm") else tower.get_submodule("vision_model")
    owner.post_layernorm = nn.Identity()
    return VisionEncoder(tower, Projector(settings["hidden_size"], text_dim), settings["image_size"])
