"""The text encoders from files: one file as ComfyUI users have it, or a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyvideo_core.errors import CheckpointError
from hyvideo_core.text import CLIPEncoder, MLLMEncoder
from hyvideo_core.text.mllm import SKIPPED_LAYERS
from hyvideo_core.text.tokenizers import CLIP_EOS, CLIP_MAX_LENGTH, CLIPTokenizer, LlamaTokenizer
from hyvideo_core.weights.detect import count_blocks, describe, is_scaled_fp8
from hyvideo_core.weights.files import Checkpoint, open_checkpoint, open_folder
from hyvideo_core.weights.load import materialise

LLAMA_ANCHOR = "layers.0.self_attn.q_proj.weight"
CLIP_ANCHOR = "encoder.layers.0.self_attn.q_proj.weight"
#: What the shapes of a Llama-3 cannot tell. Source: meta-llama/Meta-Llama-3-8B config.json.
LLAMA_3: dict[str, Any] = {"head_dim": 128, "rope_theta": 500000.0, "rms_norm_eps": 1e-5}
#: What the shapes of CLIP-L cannot tell. Source: openai/clip-vit-large-patch14 config.json.
CLIP_L: dict[str, Any] = {"head_dim": 64, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}


def load_mllm(
    path: str | Path,
    *,
    tokenizer: str | Path,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
) -> MLLMEncoder:
    """The language model at ``path`` (a file, or a folder with config.json), without the layers nobody reads.

    ``config`` entries (Hugging Face names) override what is detected. Raises ``CheckpointError`` for other models and
    incomplete downloads, ``TokenizerError`` for a tokenizer that is not this model's.
    """
    checkpoint, prefix = _open_mllm(path)
    settings = {**_llama_config(checkpoint, prefix), **_stated_config(path, checkpoint), **(config or {})}
    layers = count_blocks(checkpoint, prefix + "layers.") - SKIPPED_LAYERS
    llama = materialise(lambda: _build_llama(settings, layers), checkpoint, prefix.__add__, dtype=dtype, device=device)
    _set_rotary_frequencies(llama, settings, device)
    return MLLMEncoder(llama, LlamaTokenizer(tokenizer))


def load_clip(
    path: str | Path,
    *,
    tokenizer: str | Path,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
) -> CLIPEncoder:
    """CLIP's text model at ``path`` (a file, or a folder with config.json). Arguments and errors as ``load_mllm``."""
    checkpoint, prefix = _open_clip(path)
    settings = {**_clip_config(checkpoint, prefix), **_stated_config(path, checkpoint), **(config or {})}
    clip = materialise(
        lambda: _build_clip(settings),
        checkpoint,
        # Some versions of transformers put the model one level deeper than the official names.
        lambda name: prefix + name.removeprefix("text_model."),
        dtype=dtype,
        device=device,
    )
    for module in clip.modules():
        if "position_ids" in module._buffers:
            module._buffers["position_ids"] = torch.arange(CLIP_MAX_LENGTH, device=device)[None]
    return CLIPEncoder(clip, CLIPTokenizer(tokenizer))


def describe_mllm(path: str | Path) -> str:
    """One line on a language model, from its header. Raises ``CheckpointError`` for other models."""
    checkpoint, prefix = _open_mllm(path)
    vocabulary, width = checkpoint.shapes[prefix + "embed_tokens.weight"]
    return f"language model, {count_blocks(checkpoint, prefix + 'layers.')} layers of {width}, {vocabulary:,} tokens"


def describe_clip(path: str | Path) -> str:
    """One line on a CLIP text model, from its header. Raises ``CheckpointError`` for other models."""
    checkpoint, prefix = _open_clip(path)
    width = checkpoint.shapes[prefix + "embeddings.token_embedding.weight"][1]
    return f"CLIP text model, {count_blocks(checkpoint, prefix + 'encoder.layers.')} layers of {width}"


def _open(path: str | Path) -> Checkpoint:
    return open_folder(path) if Path(path).is_dir() else open_checkpoint(path)


def _open_mllm(path: str | Path) -> tuple[Checkpoint, str]:
    checkpoint = _open(path)
    prefixes = ("", "model.", "language_model.model.", "model.language_model.")
    prefix = next((p for p in prefixes if p + LLAMA_ANCHOR in checkpoint), None)
    if prefix is None or prefix + "embed_tokens.weight" not in checkpoint:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(checkpoint)}, but the language model was expected. Choose "
            "llava_llama3_fp16.safetensors or the folder llava-llama-3-8b-text-encoder-tokenizer."
        )
    _refuse_scaled(checkpoint, "llava_llama3_fp16.safetensors")
    if count_blocks(checkpoint, prefix + "layers.") <= SKIPPED_LAYERS:
        raise CheckpointError(
            f"{checkpoint.path.name} has {count_blocks(checkpoint, prefix + 'layers.')} layers, but more than "
            f"{SKIPPED_LAYERS} are needed. It is part of a model; choose the whole."
        )
    return checkpoint, prefix


def _open_clip(path: str | Path) -> tuple[Checkpoint, str]:
    checkpoint = _open(path)
    prefixes = ("text_model.", "clip_l.transformer.text_model.", "")
    prefix = next((p for p in prefixes if p + CLIP_ANCHOR in checkpoint), None)
    if prefix is None or prefix + "embeddings.token_embedding.weight" not in checkpoint:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(checkpoint)}, but CLIP's text model was expected. Choose "
            "clip_l.safetensors or the folder clip-vit-large-patch14."
        )
    _refuse_scaled(checkpoint, "clip_l.safetensors")
    return checkpoint, prefix


def _refuse_scaled(checkpoint: Checkpoint, instead: str) -> None:
    if is_scaled_fp8(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path.name} holds scaled fp8 weights, but this loader reads plain ones. Choose {instead}."
        )


def _llama_config(checkpoint: Checkpoint, prefix: str) -> dict[str, Any]:
    shapes = checkpoint.shapes
    vocabulary, hidden = shapes[prefix + "embed_tokens.weight"]
    layer = prefix + "layers.0."
    head_dim = LLAMA_3["head_dim"]
    return {
        **LLAMA_3,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": shapes[layer + "mlp.gate_proj.weight"][0],
        "num_attention_heads": shapes[layer + "self_attn.q_proj.weight"][0] // head_dim,
        "num_key_value_heads": shapes[layer + "self_attn.k_proj.weight"][0] // head_dim,
    }


def _clip_config(checkpoint: Checkpoint, prefix: str) -> dict[str, Any]:
    shapes = checkpoint.shapes
    vocabulary, hidden = shapes[prefix + "embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": shapes[prefix + "encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count_blocks(checkpoint, prefix + "encoder.layers."),
        "num_attention_heads": hidden // CLIP_L["head_dim"],
        "hidden_act": CLIP_L["hidden_act"],
        "layer_norm_eps": CLIP_L["layer_norm_eps"],
    }


def _stated_config(path: str | Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """What the folder's config.json or the file's metadata says of a text model."""
    file = Path(path) / "config.json"
    try:
        stated = json.loads(file.read_text("utf-8") if file.is_file() else checkpoint.metadata.get("config", "{}"))
        stated = stated.get("text_config") or stated
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"The configuration of {Path(path).name} is not JSON ({error}). Download it again."
        ) from error
    rope = stated.get("rope_parameters") or {}
    known = (
        "head_dim", "rope_theta", "rms_norm_eps", "num_attention_heads", "num_key_value_heads", "hidden_act",
        "layer_norm_eps",
    )  # fmt: skip
    found = {name: stated[name] for name in known if stated.get(name) is not None}
    if "rope_theta" in rope:
        found["rope_theta"] = rope["rope_theta"]
    if "num_attention_heads" in found and "head_dim" not in found and "hidden_size" in stated:
        found["head_dim"] = stated["hidden_size"] // found["num_attention_heads"]
    return found


def _build_llama(settings: Mapping[str, Any], layers: int) -> nn.Module:
    # Imported here: transformers takes seconds, and a host lists nodes without ever encoding.
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(**{**settings, "num_hidden_layers": layers, "pad_token_id": None})
    config._attn_implementation = "sdpa"
    llama: nn.Module = LlamaModel(config)
    llama.norm = nn.Identity()
    return llama


def _build_clip(settings: Mapping[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    settings = {k: v for k, v in settings.items() if k not in ("head_dim", "num_key_value_heads", "rope_theta")}
    config = CLIPTextConfig(**settings, max_position_embeddings=CLIP_MAX_LENGTH, eos_token_id=CLIP_EOS)
    config._attn_implementation = "sdpa"
    clip: nn.Module = CLIPTextModel(config)
    return clip


def _set_rotary_frequencies(llama: nn.Module, settings: Mapping[str, Any], device: torch.device | str) -> None:
    """Fill the buffers that no file holds, by the formula rather than by a version's configuration handling."""
    dim = int(settings["head_dim"])
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    frequencies = (1.0 / settings["rope_theta"] ** exponents).to(device)
    rotary = llama.get_submodule("rotary_emb")
    for name in ("inv_freq", "original_inv_freq"):
        if hasattr(rotary, name):
            setattr(rotary, name, frequencies)
