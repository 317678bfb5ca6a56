"""Checkpoints: which file is what, under which names, and how it becomes a module."""

from hyvideo_core.weights.dit import (
    KINDS,
    STORAGES,
    TransformerFile,
    check_fast_products,
    describe_dit,
    detect_dit,
    inspect_dit,
    kind_of,
    load_dit,
    set_fast_products,
)
from hyvideo_core.weights.files import parameter_count, size_on_disk_bytes
from hyvideo_core.weights.lora import Lora, lora_bytes, lora_shapes, merge, widened_channels
from hyvideo_core.weights.text import describe_clip, describe_mllm, holds_tokenizer, load_clip, load_mllm
from hyvideo_core.weights.vae import describe_vae, inspect_vae, load_vae
from hyvideo_core.weights.vision import describe_vision, load_vision

__all__ = [
    "KINDS",
    "STORAGES",
    "Lora",
    "TransformerFile",
    "check_fast_products",
    "describe_clip",
    "describe_dit",
    "describe_mllm",
    "describe_vae",
    "describe_vision",
    "detect_dit",
    "holds_tokenizer",
    "inspect_dit",
    "inspect_vae",
    "kind_of",
    "load_clip",
    "load_dit",
    "load_mllm",
    "load_vae",
    "load_vision",
    "lora_bytes",
    "lora_shapes",
    "merge",
    "parameter_count",
    "set_fast_products",
    "size_on_disk_bytes",
    "widened_channels",
]
