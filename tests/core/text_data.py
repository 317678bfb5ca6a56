"""The tiny text encoders of the reference results, as checkpoints in the layouts that users have."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from golden_data import golden, of_case

TENSORS, META = golden("text_t2v")
LLAMA_CONFIG, CLIP_CONFIG = META["llama_config"], META["clip_config"]
FOX = "the quick brown fox jumps over the lazy dog and then " * 60
PROMPTS = {case: info["prompt"] for case, info in META["cases"].items()} | {"llm/video3": FOX.strip()}
Weights = dict[str, torch.Tensor]


def llama_weights() -> Weights:
    """All tensors, under names without prefix."""
    weights = of_case(TENSORS, "llm_w")
    return _with_embedding(weights, "embed_tokens.weight", LLAMA_CONFIG["vocab_size"])


def clip_weights() -> Weights:
    """All tensors, under the official names."""
    weights = of_case(TENSORS, "clip_w")
    return _with_embedding(weights, "text_model.embeddings.token_embedding.weight", CLIP_CONFIG["vocab_size"])


def saved(file: Path, weights: Weights, prefix: str = "", config: dict | None = None) -> Path:
    """``weights`` as one file, with ``config`` in its metadata."""
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = None if config is None else {"config": json.dumps(config)}
    save_file({prefix + name: tensor.contiguous() for name, tensor in weights.items()}, file, metadata)
    return file


def saved_folder(folder: Path, weights: Weights, config: dict, prefix: str = "") -> Path:
    """``weights`` as a Hugging Face folder with one file."""
    saved(folder / "model.safetensors", weights, prefix)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def saved_shards(folder: Path, weights: Weights, config: dict, prefix: str = "", shards: int = 3) -> Path:
    """``weights`` as a Hugging Face folder with several files and their index."""
    names = sorted(weights)
    shard_of = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number::shards]
        saved(folder / file, {name: weights[name] for name in part}, prefix)
        shard_of.update({prefix + name: file for name in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _with_embedding(weights: Weights, name: str, vocabulary: int) -> Weights:
    """The reference stores only those rows of the embedding that its prompts use."""
    ids, rows = weights.pop("embed_rows.ids"), weights.pop("embed_rows.weight")
    table = torch.zeros(vocabulary, rows.shape[1], dtype=rows.dtype)
    table[ids.long()] = rows
    return {**weights, name: table}
