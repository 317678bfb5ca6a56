"""What a checkpoint is, and the transformer's configuration read off its shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.weights.files import Checkpoint, PickleCheckpoint
from hyvideo_core.weights.keymaps import find_prefix

LORA = "a LoRA"

#: (part of a tensor name that only this kind has, what to call it). First match wins.
_MARKERS = (
    ("lora_down", LORA),
    ("lora_up", LORA),
    (".lora_A.", LORA),
    (".lora_B.", LORA),
    ("individual_token_refiner", "a HunyuanVideo transformer"),
    ("token_refiner.refiner_blocks", "a HunyuanVideo transformer in diffusers layout"),
    ("decoder.conv_norm_out", "a VAE"),
    ("decoder.mid.block_1", "a VAE"),
    ("text_model.encoder.layers", "a CLIP text encoder"),
    ("self_attn.q_proj", "a language model"),
    ("double_blocks.", "a Flux-style transformer"),
    ("transformer_blocks.", "another diffusion transformer"),
    ("blocks.0.", "another diffusion transformer"),
)


def describe(names: Iterable[str]) -> str:
    """What kind of model these tensor names belong to, in words for a message."""
    names = list(names)
    for marker, kind in _MARKERS:
        if any(marker in name for name in names):
            return kind
    return "an unknown kind of model"


def is_scaled_fp8(checkpoint: Checkpoint) -> bool:
    """Whether the weights are fp8 that mean nothing without the scales stored beside them."""
    marks = ("scaled_fp8", "scale_weight", "weight_scale")
    if any(name.rsplit(".", 1)[-1] in marks for name in checkpoint) or "_quantization_metadata" in checkpoint.metadata:
        return True
    # The official fp8 pickle keeps its scales in a second file, without which it looks like plain fp8.
    if not isinstance(checkpoint, PickleCheckpoint):
        return False
    tensors = (checkpoint[name] for name in checkpoint)
    return any(tensor.is_floating_point() and tensor.itemsize == 1 for tensor in tensors)


def dit_prefix(checkpoint: Checkpoint) -> str:
    """The prefix of the transformer's names. Raises ``CheckpointError`` if this is no such transformer."""
    prefix = find_prefix(checkpoint, "txt_in.individual_token_refiner.")
    kind = describe(checkpoint)
    if prefix is None or kind == LORA:
        raise CheckpointError(
            f"{checkpoint.path.name} is {kind}, but a HunyuanVideo transformer in original or "
            "ComfyUI layout was expected. Choose a file such as hunyuan_video_t2v_720p_bf16.safetensors "
            "from models/diffusion_models."
        )
    if not any(name.startswith(prefix + "double_blocks.0.") for name in checkpoint):
        raise CheckpointError(
            f"{checkpoint.path.name} is part of a HunyuanVideo transformer but lacks double_blocks.0. "
            "It is one shard of several or an incomplete download; choose the whole file."
        )
    return prefix


def dit_config(shapes: Mapping[str, tuple[int, ...]]) -> DiTConfig:
    """Configuration of a transformer from the shapes of its tensors under original names, without prefix.

    The split of the rotary axes is not in the shapes: the model's own 1/8, 7/16, 7/16 of the head size is
    taken, with the axes of space rounded down to even. Raises ``KeyError``, ``IndexError`` or ``ValueError``
    where the shapes are not those of such a transformer.
    """
    hidden, in_channels, *patch = shapes["img_in.proj.weight"]
    head_dim = shapes["double_blocks.0.img_attn_q_norm.weight"][0]
    patch_volume = patch[0] * patch[1] * patch[2]
    space_dim = 2 * (head_dim * 7 // 32)
    time_dim = head_dim - 2 * space_dim
    return DiTConfig(
        hidden_size=hidden,
        heads=hidden // head_dim,
        double_blocks=count_blocks(shapes, "double_blocks."),
        single_blocks=count_blocks(shapes, "single_blocks."),
        rope_dims=(time_dim, space_dim, space_dim),
        in_channels=in_channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch_volume,
        text_dim=shapes["txt_in.input_embedder.weight"][1],
        pooled_dim=shapes["vector_in.in_layer.weight"][1],
        guidance_embed=any(name.startswith("guidance_in.") for name in shapes),
        mlp_ratio=shapes["double_blocks.0.img_mlp.fc1.weight"][0] / hidden,
        patch_size=(patch[0], patch[1], patch[2]),
        refiner_blocks=count_blocks(shapes, "txt_in.individual_token_refiner.blocks."),
    )


def count_blocks(names: Iterable[str], start: str) -> int:
    """How many numbered blocks there are under ``start``."""
    return len({name[len(start) :].split(".", 1)[0] for name in names if name.startswith(start)})
