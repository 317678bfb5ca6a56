"""The text encoders from files: one file as ComfyUI users have it, or a Hugging Face folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyvideo_core.errors import CheckpointError, TokenizerError
from hyvideo_core.ops import Linear
from hyvideo_core.text import CLIPEncoder, MLLMEncoder
from hyvideo_core.text.mllm import SKIPPED_LAYERS
from hyvideo_core.text.tokenizers import CLIP_EOS, CLIP_MAX_LENGTH, LLAMA_PAD, CLIPTokenizer, LlamaTokenizer
from hyvideo_core.text.vocabulary import OwnVocabulary
from hyvideo_core.weights.detect import count_blocks, describe
from hyvideo_core.weights.files import Checkpoint, open_checkpoint, open_folder
from hyvideo_core.weights.load import listed, materialise
from hyvideo_core.weights.scales import is_auxiliary, with_scales

Config = Mapping[str, Any]

LLAMA_PREFIXES = ("", "model.", "language_model.model.", "model.language_model.")
CLIP_PREFIXES = ("text_model.", "clip_l.transformer.text_model.", "")
#: What the shapes of a Llama-3 cannot tell. Source: meta-llama/Meta-Llama-3-8B config.json.
LLAMA_3: Config = {"head_dim": 128, "rope_theta": 500000.0, "rms_norm_eps": 1e-5}
#: What the shapes of CLIP-L cannot tell. Source: openai/clip-vit-large-patch14 config.json.
CLIP_L: Config = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
CLIP_L_WIDTH, CLIP_L_HEAD_DIM = 768, 64
#: What a configuration may state as a number.
COUNTS = ("num_attention_heads", "num_hidden_layers", "head_dim")
NUMBERS = (*COUNTS, "rope_theta", "rms_norm_eps", "layer_norm_eps")
#: Every tensor of a Llama's layer. A file with more holds another model (Qwen's biases) or a quantised one.
LLAMA_LAYER = {
    *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    *(f"{part}_layernorm.weight" for part in ("input", "post_attention")),
}
#: Where a file's metadata holds a ``tokenizer.json`` of its own, as small models do.
TOKENIZER = "tokenizer"
#: Saved by old versions of transformers; computed from the configuration since.
LLAMA_BUFFER = "self_attn.rotary_emb.inv_freq"
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


def load_mllm(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    config: Config | None = None,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
) -> MLLMEncoder:
    """The language model at ``path`` (a file, or a folder with config.json), without the layers nobody reads.

    ``tokenizer`` is not asked for where the file holds its own (``holds_tokenizer``). ``config`` entries (Hugging
    Face names) override what is detected. Raises ``CheckpointError`` for other models and incomplete downloads,
    ``TokenizerError`` for a tokenizer that is not this model's.
    """
    official = None if holds_tokenizer(path) else LlamaTokenizer(_named(tokenizer, path))
    checkpoint, prefix = _open_mllm(path)
    settings = _llama_settings(checkpoint, prefix, stated_config(path, checkpoint, config))
    ids = official or LlamaTokenizer(_own_vocabulary(checkpoint, settings))
    llama = materialise(
        lambda: _build_llama(settings),
        checkpoint,
        prefix.__add__,
        dtype=dtype,
        device=device,
        # Packed weights stay packed: the 8 GB of an fp8 file do not become 16.
        pack=lambda name, stored: stored if stored.is_packed else None,
    )
    _set_rotary_frequencies(llama, settings, device)
    return MLLMEncoder(llama, ids)


def load_clip(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    config: Config | None = None,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
) -> CLIPEncoder:
    """CLIP's text model at ``path`` (a file, or a folder with config.json). Arguments and errors as ``load_mllm``."""
    official = None if holds_tokenizer(path) else CLIPTokenizer(_named(tokenizer, path))
    checkpoint, prefix = _open_clip(path)
    settings = _clip_settings(checkpoint, prefix, stated_config(path, checkpoint, config))
    ids = official or CLIPTokenizer(_own_vocabulary(checkpoint, settings))
    clip = materialise(
        lambda: _build_clip(settings, ids.end),
        checkpoint,
        # Some versions of transformers put the model one level deeper than the official names.
        lambda name: prefix + name.removeprefix("text_model."),
        dtype=dtype,
        device=device,
    )
    for module in clip.modules():
        if "position_ids" in module._buffers:
            module._buffers["position_ids"] = torch.arange(CLIP_MAX_LENGTH, device=device)[None]
    return CLIPEncoder(clip, ids)


def holds_tokenizer(path: str | Path) -> bool:
    """Whether the text encoder at ``path`` is a file with a tokenizer of its own in its metadata.

    Raises ``CheckpointError`` for a damaged file.
    """
    path = Path(path)
    # Other kinds of file have no metadata, and opening a pickle reads it.
    may_hold = path.is_file() and path.suffix.lower() in (".safetensors", ".sft")
    return may_hold and TOKENIZER in open_checkpoint(path).metadata


def describe_mllm(path: str | Path) -> str:
    """One line on a language model, from its header. Raises ``CheckpointError`` for other models."""
    checkpoint, prefix = _open_mllm(path)
    found = _llama_settings(checkpoint, prefix, stated_config(path, checkpoint, None))
    layers = found["num_hidden_layers"] + SKIPPED_LAYERS
    return f"language model, {layers} layers of {found['hidden_size']}, {found['vocab_size']:,} tokens"


def describe_clip(path: str | Path) -> str:
    """One line on a CLIP text model, from its header. Raises ``CheckpointError`` for other models."""
    checkpoint, prefix = _open_clip(path)
    found = _clip_settings(checkpoint, prefix, stated_config(path, checkpoint, None))
    return f"CLIP text model, {found['num_hidden_layers']} layers of {found['hidden_size']}"


def _named(tokenizer: str | Path | None, model: str | Path) -> str | Path:
    if tokenizer is None:
        raise TokenizerError(
            f"{Path(model).name} holds no tokenizer of its own, and none was named. Give the path of the official one."
        )
    return tokenizer


def _own_vocabulary(checkpoint: Checkpoint, settings: Config) -> OwnVocabulary:
    return OwnVocabulary(checkpoint.metadata[TOKENIZER], checkpoint.path.name, settings["vocab_size"])


def _open_mllm(path: str | Path) -> tuple[Checkpoint, str]:
    anchors = ("layers.0.self_attn.q_proj.weight", "layers.0.mlp.gate_proj.weight", "embed_tokens.weight")
    wanted = (
        "the language model was expected. Choose llava_llama3_fp16.safetensors or the folder "
        "llava-llama-3-8b-text-encoder-tokenizer."
    )
    checkpoint, prefix = open_text_model(path, LLAMA_PREFIXES, anchors, wanted)
    layer = prefix + "layers.0."
    names = {name.removeprefix(layer) for name in checkpoint if name.startswith(layer) and not is_auxiliary(name)}
    if others := sorted(names - LLAMA_LAYER - {LLAMA_BUFFER}):
        raise CheckpointError(
            f"{checkpoint.path.name} has tensors that a Llama-3 has not ({listed(others)}), so it is another or a "
            f"quantised language model, but {wanted}"
        )
    vocabulary = checkpoint.shapes[prefix + "embed_tokens.weight"][0]
    if vocabulary <= LLAMA_PAD and TOKENIZER not in checkpoint.metadata:
        raise CheckpointError(
            f"{checkpoint.path.name} knows {vocabulary:,} tokens, too few to be LLaVA-Llama-3 with its 128,320, but "
            f"{wanted}"
        )
    return checkpoint, prefix


def _open_clip(path: str | Path) -> tuple[Checkpoint, str]:
    anchors = (
        "encoder.layers.0.self_attn.q_proj.weight",
        "encoder.layers.0.mlp.fc1.weight",
        "embeddings.token_embedding.weight",
    )
    wanted = "CLIP-L's text model was expected. Choose clip_l.safetensors or the folder clip-vit-large-patch14."
    return open_text_model(path, CLIP_PREFIXES, anchors, wanted)


def open_text_model(
    path: str | Path, prefixes: tuple[str, ...], anchors: tuple[str, ...], wanted: str
) -> tuple[Checkpoint, str]:
    """The checkpoint, and the first of ``prefixes`` under which it holds a matrix of each name in ``anchors``.

    ``wanted`` ends the message of the ``CheckpointError`` raised where there is none, or where shards are missing.
    """
    path = Path(path)
    if path.is_dir():
        _require_all_shards(path)
    checkpoint = open_folder(path) if path.is_dir() else open_checkpoint(path)
    for prefix in prefixes:
        if all(len(checkpoint.shapes.get(prefix + anchor, ())) == 2 for anchor in anchors):
            break
    else:
        raise CheckpointError(f"{checkpoint.path.name} is {describe(checkpoint)}, but {wanted}")
    return with_scales(checkpoint), prefix


def _require_all_shards(folder: Path) -> None:
    """The names of shards tell how many there are even where the index is missing."""
    found = {file.name for file in folder.glob("*.safetensors")}
    wanted = {
        f"{shard[1]}-{number:05}-of-{shard[3]}.safetensors"
        for shard in map(SHARD.fullmatch, found)
        if shard
        for number in range(1, int(shard[3]) + 1)
    }
    if missing := sorted(wanted - found):
        raise CheckpointError(
            f"{folder.name} lacks {listed(missing)}. The download is incomplete; download what is missing into that "
            "folder."
        )


def stated_config(
    path: str | Path, checkpoint: Checkpoint, config: Config | None, part: str = "text_config"
) -> dict[str, Any]:
    """What ``config``, the folder's config.json or the file's metadata says of a part of the model; None where silent.

    Raises ``CheckpointError`` for what cannot be read or is no sensible value.
    """
    file = Path(path) / "config.json"
    try:
        stated = json.loads(file.read_text("utf-8") if file.is_file() else checkpoint.metadata.get("config", "{}"))
        stated = {**(stated.get(part) or stated), **(config or {})}
        rope = {**(stated.get("rope_scaling") or {}), **(stated.get("rope_parameters") or {})}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"The configuration of {checkpoint.path.name} is not a JSON object ({error}). Download it again."
        ) from error
    stated["rope_theta"] = rope.get("rope_theta", stated.get("rope_theta"))
    for name in NUMBERS:
        value = stated.get(name)
        kinds = int if name in COUNTS else (int, float)
        if value is not None and not (isinstance(value, kinds) and 0 < value < math.inf):
            raise CheckpointError(
                f"The configuration of {checkpoint.path.name} says {name} is {value!r}, but it must be a positive "
                f"number{' without a fraction' if name in COUNTS else ''}. Download it again."
            )
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"The configuration of {checkpoint.path.name} asks for rotary embedding of type {kind!r}, but Llama-3 has "
            "the plain one. It is another language model; choose the one made for HunyuanVideo."
        )
    return stated


def _llama_settings(checkpoint: Checkpoint, prefix: str, stated: Config) -> dict[str, Any]:
    """Configuration for what is built: shapes first, then what is stated, then Llama-3's own constants."""
    shapes = checkpoint.shapes
    vocabulary, hidden = shapes[prefix + "embed_tokens.weight"]
    query, _ = shapes[prefix + "layers.0.self_attn.q_proj.weight"]
    key, _ = shapes.get(prefix + "layers.0.self_attn.k_proj.weight", (0, 0))
    heads = stated.get("num_attention_heads")
    head_dim = query // heads if heads else stated.get("head_dim") or LLAMA_3["head_dim"]
    if not head_dim or query % head_dim or key % head_dim or not key:
        raise CheckpointError(
            f"{checkpoint.path.name} has {query} query and {key} key channels, which heads of {head_dim} do not "
            "divide. It is another size of model; choose llava_llama3_fp16.safetensors, or state num_attention_heads."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": shapes[prefix + "layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": _layers(checkpoint, prefix + "layers.", stated, SKIPPED_LAYERS) - SKIPPED_LAYERS,
        "num_attention_heads": query // head_dim,
        "num_key_value_heads": key // head_dim,
        "head_dim": head_dim,
        "rope_theta": stated.get("rope_theta") or LLAMA_3["rope_theta"],
        "rms_norm_eps": stated.get("rms_norm_eps") or LLAMA_3["rms_norm_eps"],
    }


def _clip_settings(checkpoint: Checkpoint, prefix: str, stated: Config) -> dict[str, Any]:
    vocabulary, hidden = checkpoint.shapes[prefix + "embeddings.token_embedding.weight"]
    heads = stated.get("num_attention_heads")
    if (not heads and hidden != CLIP_L_WIDTH) or (heads and hidden % heads):
        raise CheckpointError(
            f"{checkpoint.path.name} is a CLIP text model of width {hidden}, but CLIP-L's {CLIP_L_WIDTH} was expected. "
            "Choose clip_l.safetensors, or state num_attention_heads for a model of another width."
        )
    activation = stated.get("hidden_act") or CLIP_L["hidden_act"]
    too_few = vocabulary <= CLIP_EOS and TOKENIZER not in checkpoint.metadata
    if too_few or activation != CLIP_L["hidden_act"]:
        raise CheckpointError(
            f"{checkpoint.path.name} is a CLIP text model with {vocabulary:,} tokens and activation {activation!r}, "
            f"but CLIP-L's 49,408 and {CLIP_L['hidden_act']!r} were expected. Choose clip_l.safetensors."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": checkpoint.shapes[prefix + "encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _layers(checkpoint, prefix + "encoder.layers.", stated),
        "num_attention_heads": heads or hidden // CLIP_L_HEAD_DIM,
        "hidden_act": activation,
        "layer_norm_eps": stated.get("layer_norm_eps") or CLIP_L["layer_norm_eps"],
    }


def _layers(checkpoint: Checkpoint, start: str, stated: Config, least: int = 0) -> int:
    """How many layers there are, more than ``least``, once nothing speaks for a missing one."""
    found = count_blocks(checkpoint, start)
    wanted = stated.get("num_hidden_layers") or found
    unbroken = all(any(name.startswith(f"{start}{n}.") for name in checkpoint) for n in range(found))
    if found != wanted or not unbroken or found <= least:
        raise CheckpointError(
            f"{checkpoint.path.name} has {found} layers, but {max(wanted, least + 1)} in unbroken order were "
            "expected. The file or download is incomplete; download it again."
        )
    return found


def _build_llama(settings: Config) -> nn.Module:
    # Imported here: transformers takes seconds, and a host lists nodes without ever encoding.
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(**{**settings, "pad_token_id": None})
    config._attn_implementation = "sdpa"
    llama: nn.Module = LlamaModel(config)
    llama.norm = nn.Identity()
    for name, module in list(llama.named_modules()):
        if type(module) is nn.Linear:
            llama.set_submodule(name, Linear(module.in_features, module.out_features, bias=module.bias is not None))
    return llama


def _build_clip(settings: Config, end: int) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        **settings, max_position_embeddings=CLIP_MAX_LENGTH, bos_token_id=None, eos_token_id=end, pad_token_id=None
    )
    config._attn_implementation = "sdpa"
    clip: nn.Module = CLIPTextModel(config)
    return clip


def _set_rotary_frequencies(llama: nn.Module, settings: Config, device: torch.device | str) -> None:
    """Fill the buffers that no file holds, by the formula rather than by a version's configuration handling."""
    dim = int(settings["head_dim"])
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    frequencies = (1.0 / settings["rope_theta"] ** exponents).to(device)
    rotary = llama.get_submodule("rotary_emb")
    for name in ("inv_freq", "original_inv_freq"):
        if hasattr(rotary, name):
            setattr(rotary, name, frequencies)
