"""Builds the toy checkpoint: every part of HunyuanVideo in its real file format, at toy widths.

The weights are random but seeded, scaled so that activations keep their size. Files are written whole or not
at all, and only when the recipe changed. Run ``python -m tools.toy_model.build`` to build them by hand.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.environment import stamp_of
from tools.paths import ROOT, TOY_MODELS
from tools.tensor_file import write

if TYPE_CHECKING:
    import torch

SEED = 20241203  # the day the model was published
STAMP_NAME = "recipe.txt"
#: Spread of biases around zero and of norm weights around one: small, yet none can be forgotten unnoticed.
VECTOR_STD = 0.02

TRANSFORMER = "diffusion_models/hyvideo_toy_t2v.safetensors"
VAE = "vae/hyvideo_toy_vae.safetensors"
LLAMA = "text_encoders/hyvideo_toy_llama.safetensors"
CLIP = "text_encoders/hyvideo_toy_clip.safetensors"
#: Not guidance-distilled, as the trained image-to-video transformer is.
IMAGE_TRANSFORMER = "diffusion_models/hyvideo_toy_i2v.safetensors"
#: LLaVA's eyes, for 16 places an image.
VISION = "clip_vision/hyvideo_toy_vision.safetensors"
#: As diffusers saves a LoRA for keyframes: the patch embedding of twice the channels.
KEYFRAME_LORA = "loras/hyvideo_toy_keyframes.safetensors"
FILES = (TRANSFORMER, IMAGE_TRANSFORMER, VAE, LLAMA, CLIP, VISION, KEYFRAME_LORA)

TRANSFORMER_CONFIG: dict[str, Any] = {
    "hidden_size": 256,
    "heads": 2,
    "double_blocks": 2,
    "single_blocks": 4,
    "rope_dims": (16, 56, 56),
    "text_dim": 256,
    "pooled_dim": 128,
}
VAE_CONFIG: dict[str, Any] = {"block_out_channels": (32, 64, 128, 128), "norm_groups": 32}
LLAMA_CONFIG: dict[str, Any] = {
    "vocab_size": 128320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "pad_token_id": 128258,
}
CLIP_CONFIG: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
    "projection_dim": 128,
}
VISION_CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "image_size": 56,
    "patch_size": 14,
}
LORA_RANK = 2


def is_current(models: Path = TOY_MODELS) -> bool:
    """Whether the files exist as this recipe makes them; cheap, imports no torch."""
    stamp = models / STAMP_NAME
    complete = all((models / name).is_file() for name in FILES)
    return complete and stamp.is_file() and stamp.read_text(encoding="ascii") == recipe()


def recipe() -> str:
    """Hash of this file and of the sources that give the tensors their names and shapes."""
    core = ROOT / "hyvideo_core"
    sources = [core / "configs.py", *sorted((core / "model").glob("*.py")), *sorted((core / "vae").glob("*.py"))]
    return stamp_of([], [Path(__file__), *sources])


def build(models: Path = TOY_MODELS) -> None:
    """Write all files below ``models``, each in the folder where ComfyUI looks for it."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

    from hyvideo_core.configs import DiTConfig, VAEConfig
    from hyvideo_core.model.dit import DiT
    from hyvideo_core.vae import VAE as Autoencoder

    (models / STAMP_NAME).unlink(missing_ok=True)
    vae_metadata = {"norm_num_groups": VAE_CONFIG["norm_groups"], **VAE_CONFIG}
    for name, is_distilled in ((TRANSFORMER, True), (IMAGE_TRANSFORMER, False)):
        transformer = DiT(DiTConfig(**TRANSFORMER_CONFIG, guidance_embed=is_distilled))
        write(models / name, tensors(transformer, torch.bfloat16), {"modelspec.title": "HyVideo Studio toy"})
    autoencoder = Autoencoder(VAEConfig(**VAE_CONFIG))
    write(models / VAE, tensors(autoencoder, torch.bfloat16), {"config": json.dumps(vae_metadata)})
    llama = LlamaModel(LlamaConfig(**LLAMA_CONFIG))
    llama_metadata = {"config": json.dumps({"model_type": "llama", **LLAMA_CONFIG})}
    write(models / LLAMA, tensors(llama, torch.bfloat16, prefix="model."), llama_metadata)
    clip = CLIPTextModel(CLIPTextConfig(**CLIP_CONFIG))
    clip_metadata = {"config": json.dumps({"model_type": "clip_text_model", **CLIP_CONFIG})}
    write(models / CLIP, tensors(clip, torch.bfloat16, prefix="text_model."), clip_metadata)
    write(models / VISION, _vision(), {"config": json.dumps({"vision_config": VISION_CONFIG})})
    write(models / KEYFRAME_LORA, _keyframe_lora(), {})
    (models / STAMP_NAME).write_text(recipe(), encoding="ascii")


def _vision() -> dict[str, torch.Tensor]:
    """LLaVA's vision tower and the projector into the language model."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from hyvideo_core.text.vision import Projector

    tower = CLIPVisionModel(CLIPVisionConfig(**VISION_CONFIG))
    projector = Projector(VISION_CONFIG["hidden_size"], LLAMA_CONFIG["hidden_size"])
    seen = tensors(tower, torch.bfloat16, prefix="vision_model.")
    named = {f"multi_modal_projector.{name}": value for name, value in tensors(projector, torch.bfloat16).items()}
    return {**seen, **named}


def _keyframe_lora() -> dict[str, torch.Tensor]:
    """A LoRA of the patch embedding, which reads the keyframes beside the latent."""
    import torch
    from torch import nn

    channels, width = 16, TRANSFORMER_CONFIG["hidden_size"]
    down = nn.Conv3d(2 * channels, LORA_RANK, (1, 2, 2), bias=False)
    up = nn.Conv3d(LORA_RANK, width, 1, bias=False)
    pair = nn.ModuleDict({"lora_A": down, "lora_B": up})
    return {f"transformer.x_embedder.proj.{name}": value for name, value in tensors(pair, torch.bfloat16).items()}


def ensure(models: Path = TOY_MODELS) -> Path:
    """The models folder, built if it is not current."""
    from tools.console import step

    if not is_current(models):
        with step("Building the toy model of the tests"):
            build(models)
    return models


def tensors(module: torch.nn.Module, dtype: torch.dtype, prefix: str = "") -> dict[str, torch.Tensor]:
    """The module's parameters, drawn anew: matrices keep the variance of what passes, norms stay near one.

    Every tensor has a generator of its own, seeded by its name, so the values do not depend on the order of
    construction. ``prefix`` is put before names that lack it, which differs between transformers versions.
    """
    import torch

    result = {}
    for name, parameter in module.named_parameters():
        full_name = name if name.startswith(prefix) else prefix + name
        generator = torch.Generator().manual_seed(seed_of(full_name))
        value = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            value *= math.prod(parameter.shape[1:]) ** -0.5
        else:
            value = value * VECTOR_STD + (0.0 if name.endswith("bias") else 1.0)
        result[full_name] = value.to(dtype)
    return result


def seed_of(name: str) -> int:
    """A seed for one tensor, the same on every machine."""
    return SEED + int(stamp_of([name], [])[:12], 16)


if __name__ == "__main__":
    ensure()
