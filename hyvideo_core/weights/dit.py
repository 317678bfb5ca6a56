"""The transformer from a file or folder, in any layout people have."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.model.dit import DiT
from hyvideo_core.ops import Linear, Stored, fp8
from hyvideo_core.weights.load import listed, materialise
from hyvideo_core.weights.scales import is_auxiliary
from hyvideo_core.weights.transformer_file import open_transformer, transformer_config

logger = logging.getLogger(__name__)

#: What checkpoints are for, and their input channels.
KINDS = {
    "text-to-video": 16,
    "image-to-video (token_replace)": 16,
    "image-to-video (latent_concat)": 33,
    "SkyReels image-to-video": 32,
}
#: How block weights may be held: as the file stores them, as plain numbers, or quantised while loading.
STORAGES = ("auto", "plain", "fp8", "fp8_tensor")
#: What is kept packed. Embedders, refiner, norms and the head are small and sensitive, and stay plain.
PACKED = ("double_blocks.", "single_blocks.")
#: What the fp8 units of cards multiply, as ``TransformerFile.stored`` calls it.
E4M3 = str(fp8.FP8).removeprefix("torch.")


def load_dit(
    path: str | Path,
    *,
    config: DiTConfig | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    storage: str = "auto",
    quantise_on: torch.device | str | None = None,
) -> DiT:
    """The transformer of a ``.safetensors``, ``.gguf`` or ``.pt`` file or a diffusers folder, whatever its layout.

    ``config`` None detects the configuration. ``dtype`` is what blocks compute in, bfloat16 or float32 (float16
    overflows in this model and is refused). ``storage`` says how the weights of blocks are held: ``auto`` as the file
    stores them, ``plain`` in ``dtype``, ``fp8`` or ``fp8_tensor`` as e4m3 with a scale for each output channel or for
    each weight; ``quantise_on`` is the device that computes these (None: the one they come to). Raises
    ``CheckpointError`` naming the file for anything that is not such a transformer.
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
        pack=partial(_packed, storage, quantise_on),
        float32=DiT.FLOAT32_PARAMETERS,
    )
    unused = sorted(name for name in set(checkpoint) - set(dit.state_dict()) if not is_auxiliary(name))
    if unused:
        logger.warning("%s: %d tensors found no home: %s", checkpoint.path.name, len(unused), listed(unused))
    return dit


def _packed(storage: str, quantise_on: torch.device | str | None, name: str, stored: Stored) -> Stored | None:
    """What a layer holds of a weight; None for plain numbers."""
    if not name.startswith(PACKED) or storage == "plain":
        return None
    if storage == "auto":
        return stored if stored.is_packed else None
    device = stored.data.device
    exact = stored.to(quantise_on or device).dense(torch.float32)
    return fp8.quantized(exact, per_channel=storage == "fp8").to(device)


def check_fast_products(found: TransformerFile, storage: str) -> None:
    """Raise ``ValueError`` where a file loaded with this ``storage`` would hold no weights that are multiplied fast."""
    if storage == "plain" or (storage == "auto" and E4M3 not in found.stored):
        raise ValueError(_no_e4m3(found.stored if storage == "auto" else "unpacked when they are loaded"))


def _no_e4m3(held: str) -> str:
    return (
        f"Fast fp8 products need block weights in {E4M3}, but those of this model are {held}. Choose storage fp8, "
        "which makes them so, or another file."
    )


def set_fast_products(dit: DiT, fast: bool) -> None:
    """Have blocks multiply their fp8 weights by the device's fp8 units, or unpack them first (exact).

    Fast products quantise activations too, so they change the result. Raises ``ValueError`` where no block holds e4m3
    weights; whether the device has such units is ``ops.fp8.why_not_fast``.
    """
    layers = [
        layer
        for block in (*dit.double_blocks, *dit.single_blocks)
        for name, layer in block.named_modules()
        # Modulations are one row each: nothing to win, and everything that follows depends on them.
        if isinstance(layer, Linear) and "mod" not in name
    ]
    found = [layer for layer in layers if layer.weight.dtype == fp8.FP8]
    if fast and not found:
        raise ValueError(_no_e4m3(layers[0].stored.kind))
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
    def is_packed(self) -> bool:
        """Whether blocks are stored in one byte a number or less."""
        return sum(self.block_bytes) < 1.5 * sum(self.block_elements)

    @property
    def parameters(self) -> int:
        """Numbers in all."""
        return sum(self.block_elements) + self.other_elements

    def describe(self, kind: str | None = None) -> str:
        """One line for a log; ``kind`` says what it is for where that was chosen."""
        channels = self.config.in_channels
        kind = kind or next((kind for kind, needed in KINDS.items() if needed == channels), f"{channels}-channel")
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


def kind_of(config: DiTConfig, choice: str = "auto") -> str:
    """What a checkpoint is for: one of ``KINDS``; ``choice`` decides where channels cannot, as 16 are ambiguous.

    Raises ``CheckpointError`` where the chosen kind has other input channels, and for channels of no known kind.
    """
    channels = config.in_channels
    if choice == "auto":
        found = next((kind for kind, needed in KINDS.items() if needed == channels), None)
        if found is None:
            raise CheckpointError(
                f"The transformer takes {channels} input channels, but known kinds take 16, 32 or 33. It is a variant "
                "that is not supported here; choose another checkpoint."
            )
        return found
    if KINDS[choice] != channels:
        raise CheckpointError(
            f"The transformer takes {channels} input channels, but '{choice}' takes {KINDS[choice]}. Choose kind auto, "
            "or the checkpoint that belongs to it."
        )
    return choice
