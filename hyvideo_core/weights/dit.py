"""The transformer from a file or folder, in any layout people have."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.dit import DiT
from hyvideo_core.ops import Linear, Stored, fp8
from hyvideo_core.weights.load import listed, materialise
from hyvideo_core.weights.scales import is_auxiliary
from hyvideo_core.weights.transformer_file import open_transformer, transformer_config

logger = logging.getLogger(__name__)

#: What the number of input channels means; 16 are also an image-to-video model's (token_replace).
KINDS = {16: "text-to-video", 32: "SkyReels image-to-video", 33: "image-to-video (latent_concat)"}
#: How block weights may be held: as the file stores them, as plain numbers, or quantised while loading.
STORAGES = ("auto", "plain", "fp8", "fp8_tensor")
#: What is kept packed. Embedders, refiner, norms and the head are small and sensitive, and stay plain.
PACKED = ("double_blocks.", "single_blocks.")


def load_dit(
    path: str | Path,
    *,
    config: DiTConfig | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    storage: str = "auto",
) -> DiT:
    """The transformer of a ``.safetensors``, ``.gguf`` or ``.pt`` file or a diffusers folder, whatever its layout.

    ``config`` None detects the configuration. ``dtype`` is what blocks compute in, bfloat16 or float32 (float16
    overflows in this model and is refused). ``storage`` says how the weights of blocks are held: ``auto`` as the file
    stores them, ``plain`` in ``dtype``, ``fp8`` or ``fp8_tensor`` as e4m3 with a scale for each output channel or for
    each weight. Raises ``CheckpointError`` naming the file for anything that is not such a transformer.
    """
    if dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"dtype is {dtype}, but this transformer gives black frames in it. Use bfloat16 or float32.")
    if storage not in STORAGES:
        raise ValueError(f"storage is '{storage}', but must be one of {', '.join(STORAGES)}.")
    checkpoint = open_transformer(path)
    if config is None:
        config = transformer_config(checkpoint)
    dit = materialise(
        partial(DiT, config),
        checkpoint,
        str,
        dtype=dtype,
        device=device,
        pack=partial(_packed, storage),
        float32=DiT.FLOAT32_PARAMETERS,
    )
    unused = sorted(name for name in set(checkpoint) - set(dit.state_dict()) if not is_auxiliary(name))
    if unused:
        logger.warning("%s: %d tensors found no home: %s", checkpoint.path.name, len(unused), listed(unused))
    return dit


def _packed(storage: str, name: str, stored: Stored) -> Stored | None:
    """What a layer holds of a weight; None for plain numbers."""
    if not name.startswith(PACKED) or storage == "plain":
        return None
    if storage == "auto":
        return stored if stored.is_packed else None
    return fp8.quantized(stored.dense(torch.float32), per_channel=storage == "fp8")


def set_fast_products(dit: DiT, fast: bool) -> None:
    """Have blocks multiply their fp8 weights by the device's fp8 units, or unpack them first (exact).

    Fast products quantise activations too, so they change the result. Raises ``ValueError`` where no block holds e4m3
    weights; whether the device has such units is ``ops.fp8.why_not_fast``.
    """
    found = [
        layer
        for block in (*dit.double_blocks, *dit.single_blocks)
        for name, layer in block.named_modules()
        # Modulations are one row each: nothing to win, and everything that follows depends on them.
        if isinstance(layer, Linear) and layer.weight.dtype == fp8.FP8 and "mod" not in name
    ]
    if fast and not found:
        raise ValueError(
            "Fast fp8 products need weights held in fp8, but this model holds none. Choose storage fp8, or an fp8 file."
        )
    for layer in found:
        layer.fast = fast


@dataclass(frozen=True)
class TransformerFile:
    """What a transformer's header tells: its configuration, and what its weights take.

    ``stored`` names how most of the weights are stored; ``block_bytes`` has an entry for each block as stored, double
    blocks first, and ``block_elements`` its numbers; ``other_elements`` is everything outside the blocks.
    """

    config: DiTConfig
    stored: str
    block_bytes: tuple[int, ...]
    block_elements: tuple[int, ...]
    other_elements: int

    @property
    def parameters(self) -> int:
        """Numbers in all."""
        return sum(self.block_elements) + self.other_elements

    def describe(self) -> str:
        """One line for a log."""
        kind = KINDS.get(self.config.in_channels, f"{self.config.in_channels}-channel")
        guidance = "guidance-distilled" if self.config.guidance_embed else "not distilled: use cfg"
        return (
            f"HunyuanVideo {kind} transformer, {self.config.double_blocks}+{self.config.single_blocks} blocks of "
            f"{self.config.hidden_size}, {self.parameters:,} parameters in {self.stored}, {guidance}"
        )


def inspect_dit(path: str | Path) -> TransformerFile:
    """What the header of a transformer's file or folder tells. Raises ``CheckpointError`` for other files."""
    checkpoint = open_transformer(path)
    config = transformer_config(checkpoint)
    names = [name for name in checkpoint if not is_auxiliary(name)]
    elements = {name: math.prod(checkpoint.shapes[name]) for name in names}
    blocks = [f"double_blocks.{i}." for i in range(config.double_blocks)]
    blocks += [f"single_blocks.{i}." for i in range(config.single_blocks)]
    in_blocks = {block: [name for name in names if name.startswith(block)] for block in blocks}
    counts = tuple(sum(elements[name] for name in found) for found in in_blocks.values())
    return TransformerFile(
        config=config,
        stored=checkpoint.held(max(elements, key=elements.__getitem__))[0],
        block_bytes=tuple(sum(checkpoint.held(name)[1] for name in found) for found in in_blocks.values()),
        block_elements=counts,
        other_elements=sum(elements.values()) - sum(counts),
    )


def detect_dit(path: str | Path) -> DiTConfig:
    """The configuration of a transformer's file or folder. Raises ``CheckpointError`` for other files."""
    return transformer_config(open_transformer(path))


def describe_dit(path: str | Path) -> str:
    """One line on a transformer's file or folder, from its header. Raises ``CheckpointError`` for other files."""
    return inspect_dit(path).describe()
