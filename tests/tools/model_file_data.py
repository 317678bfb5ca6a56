"""Model files for tests: headers of full size without data, and small GGUFs."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import gguf
import torch

from golden_data import GOLDEN

REFINER = "txt_in.individual_token_refiner.blocks.0.norm1.weight"
FULL = {
    name: tuple(shape)
    for name, shape in json.loads((GOLDEN / "manifests/dit_HYVideo-T-2-cfgdistill.json").read_text()).items()
}
WIDE_TRANSFORMER = {REFINER: (3072,), "img_in.proj.weight": (3072, 16, 1, 2, 2)}


def llama_shapes(tokens: int, prefix: str) -> dict[str, tuple[int, ...]]:
    shapes = {"embed_tokens.weight": (tokens, 4096), "layers.0.self_attn.q_proj.weight": (4096, 4096)}
    return {prefix + name: shape for name, shape in shapes.items()}


def header_file(path: Path, shapes: dict[str, tuple[int, ...]], missing_bytes: int = 0) -> Path:
    """A safetensors file of full size whose data are a hole that takes no disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * 2
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end - missing_bytes)
    return path


def full_size(path: Path, channels: int = 16) -> Path:
    """The official model's header, with these input channels."""
    return header_file(path, {**FULL, "img_in.proj.weight": (3072, channels, 1, 2, 2)})


def gguf_file(path: Path, architecture: str, tensors: dict[str, torch.Tensor]) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
