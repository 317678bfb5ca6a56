"""Model files and pictures under the names that old workflows have them, with toy models inside."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tools.toy_model import build

#: Real names, and what stands for them.
MODELS = {
    "diffusion_models/hunyuan_video_720_cfgdistill_fp8_e4m3fn.safetensors": build.TRANSFORMER,
    "diffusion_models/hunyuan_video_I2V_fp8_e4m3fn.safetensors": build.IMAGE_TRANSFORMER,
    "vae/hunyuan_video_vae_bf16.safetensors": build.VAE,
    "text_encoders/llava_llama3_fp16.safetensors": build.LLAMA,
    "text_encoders/clip_l.safetensors": build.CLIP,
    "clip_vision/llava_llama3_vision.safetensors": build.VISION,
}
LORA = "my_lora.safetensors"
LORA_LAYER = "double_blocks.1.img_attn_qkv"
PICTURES = ("first.png", "clip.png")


def put(base: Path) -> list[Path]:
    """Put all of them below a server's base folder; the model files."""
    toys = build.ensure()
    models = {base / "models" / name: toys / toy for name, toy in MODELS.items()}
    for path, toy in models.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(toy, path)
    lora = base / "models" / "loras" / LORA
    put_lora(lora, toys / build.TRANSFORMER)
    for number, name in enumerate(PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(base / "input" / name)
    return [*models, lora]


def put_lora(path: Path, transformer: Path) -> None:
    """A LoRA of noise for one layer."""
    rows, columns = load_file(transformer)[f"{LORA_LAYER}.weight"].shape
    noise = torch.Generator().manual_seed(5)
    ends = {"A": (4, columns), "B": (rows, 4)}
    tensors = {f"transformer.{LORA_LAYER}.lora_{x}.weight": torch.randn(ends[x], generator=noise) * 0.2 for x in ends}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
