"""Checkpoints written as GGUF, as converters write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize

Weights = dict[str, torch.Tensor]


def written(
    path: Path, weights: Weights, kind: str = "F32", arch: str = "hyvid", shapes: bool = False, **numbers: Any
) -> Path:
    """``weights`` as a GGUF: matrices of whole blocks in ``kind``, all else in float32, or float16 for ``F16``.

    ``shapes`` flattens what has more than two axes, as ComfyUI-GGUF's converter may, noting its shape.
    """
    writer = gguf.GGUFWriter(path, arch)
    writer.add_array("tokenizer.ggml.tokens", [f"word {number}" for number in range(100)])
    writer.add_array("tokenizer.ggml.token_type", [1] * 100)
    for key, value in numbers.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key.replace("__", "."), value)
    for name, tensor in weights.items():
        array = tensor.float().numpy()
        if shapes and array.ndim > 2:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            array = array.reshape(-1, 32)
        packable = array.ndim == 2 and array.shape[1] % 32 == 0
        chosen = Kind[kind if packable or kind == "F16" else "F32"]
        writer.add_tensor(name, quantize(array, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama_cpp(weights: Weights, heads: int = 4, kv_heads: int = 2, layers: int = 2) -> Weights:
    """The weights as llama.cpp's converter writes them: its names, and its order of the rows of q and k."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    found = {}
    for name, tensor in weights.items():
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:
                half = tensor.shape[0] // count // 2
                order = [h * 2 * half + j * half + i for h in range(count) for i in range(half) for j in range(2)]
                tensor = tensor[order]
        found[names.get_name(f"model.{name}", try_suffixes=(".weight",))] = tensor
    return found
