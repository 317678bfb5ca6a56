"""A transformer's file or folder under the original names, whichever of the published layouts it has.

Original names with any prefix, ComfyUI's, diffusers' folders; plain, fp8 with scales inside or beside it, GGUF.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.weights.detect import LORA, describe, dit_config
from hyvideo_core.weights.files import Checkpoint, open_checkpoint, open_folder
from hyvideo_core.weights.keymaps import DIFFUSERS_SWAPPED, diffusers_to_original, find_prefix, host_to_original
from hyvideo_core.weights.scales import needed_scale_file, with_scales
from hyvideo_core.weights.views import Joined, Renamed

#: Where a diffusers pipeline keeps its transformer.
DIFFUSERS_SUBFOLDER = "transformer"
DIFFUSERS_ANCHOR = "context_embedder.token_refiner.refiner_blocks."
ANCHOR = "txt_in.individual_token_refiner."


def open_transformer(path: str | Path) -> Checkpoint:
    """The transformer at ``path`` under original names, scales applied; nothing but headers is read.

    Raises ``CheckpointError`` naming the file for anything that is not a HunyuanVideo transformer.
    """
    path = Path(path)
    if path.is_dir():
        inner = path / DIFFUSERS_SUBFOLDER
        path = inner if inner.is_dir() else path
        checkpoint = open_folder(path)
    else:
        checkpoint = open_checkpoint(path)
    kind = describe(checkpoint)
    if kind != LORA and any(name.startswith(DIFFUSERS_ANCHOR) for name in checkpoint):
        return _diffusers(checkpoint)
    prefix = find_prefix(checkpoint, ANCHOR)
    if kind == LORA or prefix is None:
        raise CheckpointError(
            f"{path.name} is {kind}, but a HunyuanVideo transformer was expected. Choose a file such as "
            "hunyuan_video_t2v_720p_bf16.safetensors from models/diffusion_models."
        )
    names = {host_to_original(name[len(prefix) :]): name for name in checkpoint if name.startswith(prefix)}
    return with_scales(Renamed(checkpoint, names), needed_scale_file(path, checkpoint))


def _diffusers(checkpoint: Checkpoint) -> Checkpoint:
    parts: dict[str, dict[int, str]] = {}
    for name in checkpoint:
        original, place = diffusers_to_original(name)
        parts.setdefault(original, {})[place] = name
    broken = [original for original, found in parts.items() if sorted(found) != list(range(len(found)))]
    if broken:
        raise CheckpointError(
            f"{checkpoint.path.name} lacks some of the parts of {broken[0]} (q, k, v or the MLP). The download is "
            "incomplete; download the missing shard."
        )
    return Joined(checkpoint, {k: [v[i] for i in range(len(v))] for k, v in parts.items()}, DIFFUSERS_SWAPPED)


def transformer_config(checkpoint: Checkpoint) -> DiTConfig:
    """The configuration of an opened transformer, from shapes alone: no tensor is read.

    Raises ``CheckpointError`` where they are not those of a whole transformer.
    """
    try:
        return dit_config(checkpoint.shapes, **_stated_config(checkpoint))
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path.name} is part of a HunyuanVideo transformer but lacks {error.args[0]}. "
            "It is one shard of several or an incomplete download; choose the whole file."
        ) from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{checkpoint.path.name} has the names of a HunyuanVideo transformer, but its configuration cannot be "
            f"read from its shapes ({error}). The file is damaged or of a changed architecture; give the "
            "configuration, or choose the official checkpoint."
        ) from error


def _stated_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a diffusers folder's config.json says that shapes cannot tell."""
    file = checkpoint.path / "config.json"
    if not file.is_file():
        return {}
    try:
        stated = json.loads(file.read_text("utf-8"))
        found = {"rope_dims": tuple(stated["rope_axes_dim"]), "rope_theta": float(stated["rope_theta"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is not the configuration of a diffusers HunyuanVideo transformer ({error!r}). Download it again."
        ) from error
    return found
