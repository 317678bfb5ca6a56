"""The files of the trained demo set: where they are in the repository, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools import tensor_file
from tools.paths import SHIPPED_MODELS

if TYPE_CHECKING:
    from torch import Tensor

VAE = SHIPPED_MODELS / "vae" / "hyvideo_demo_vae.safetensors"
LLAMA = SHIPPED_MODELS / "text_encoders" / "hyvideo_demo_llama.safetensors"
CLIP = SHIPPED_MODELS / "text_encoders" / "hyvideo_demo_clip.safetensors"
T2V = SHIPPED_MODELS / "diffusion_models" / "hyvideo_demo_t2v.safetensors"
I2V = SHIPPED_MODELS / "diffusion_models" / "hyvideo_demo_i2v.safetensors"
LORA = SHIPPED_MODELS / "loras" / "hyvideo_demo_lora_night.safetensors"
ALL = (VAE, LLAMA, CLIP, T2V, I2V, LORA)


def write(
    path: Path, tensors: Mapping[str, Tensor], title: str, config: Mapping[str, Any] | None = None, **more: str
) -> None:
    """Write tensors in bfloat16, with a title and what the loaders read beside them."""
    from torch import bfloat16

    metadata = {"modelspec.title": title, **more}
    if config is not None:
        metadata["config"] = json.dumps(config)
    ready = {name: tensor.detach().cpu().to(bfloat16).contiguous() for name, tensor in tensors.items()}
    tensor_file.write(path, ready, metadata)
    print(f"{path.relative_to(SHIPPED_MODELS)}: {path.stat().st_size / 1e6:.2f} MB")
