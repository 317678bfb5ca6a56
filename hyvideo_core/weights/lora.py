"""How strong a LoRA is in each block, and its terms added to the weights for good.

A LoRA applied while the model runs is ``extensions.lora``; what is here both ways share.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.model.dit import DiT
from hyvideo_core.ops import PLAIN, Linear, LowRank, Stored, fp8
from hyvideo_core.weights.block_names import BLOCK_GROUPS, BlockRange, entries, read_range
from hyvideo_core.weights.lora_file import outlined, read_lora

OTHER = "other"
GROUPS = (*BLOCK_GROUPS, OTHER)


@dataclass(frozen=True)
class BlockStrength:
    """A factor for some blocks of one of ``GROUPS``."""

    blocks: BlockRange
    strength: float


@dataclass(frozen=True, order=True)
class Lora:
    """A LoRA file with its strength, and factors for single blocks.

    ``blocks`` reads like ``double 0-9: 0.5, double 12: 0, single: 0.8, other: 0``: a group, perhaps a block or a
    range of blocks (both ends included), and a factor. ``other`` is everything outside the blocks. What is not named
    has factor 1; 0 leaves out. The whole is strength · factor · alpha / rank. Raises ``ValueError`` naming the entry
    that cannot be read.
    """

    file: Path
    strength: float = 1.0
    blocks: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise ValueError(f"The strength of {self.file.name} is {self.strength}, but must be a number.")
        parse_blocks(self.blocks)

    def weighted(self, terms: Mapping[str, LowRank], modules: Iterable[str]) -> dict[str, LowRank]:
        """The terms by module at their strengths, those of strength 0 left out.

        ``modules``: names of all modules of the model. Raises ``ValueError`` if it lacks a block that is named.
        """
        factors = parse_blocks(self.blocks)
        _check_range(factors, modules)
        strengths = {module: term.strength * self.strength * _factor(factors, module) for module, term in terms.items()}
        return {module: replace(terms[module], strength=value) for module, value in strengths.items() if value != 0}


def parse_blocks(text: str) -> tuple[BlockStrength, ...]:
    """The entries of a text as in ``Lora.blocks``. Raises ``ValueError`` naming the entry and what is wrong."""
    found: list[BlockStrength] = []
    for part in entries(text):
        entry = _entry(part)
        if any(entry.blocks.meets(other.blocks) for other in found):
            raise ValueError(f"Block strengths: '{part}' names blocks that an entry before it names already.")
        found.append(entry)
    return tuple(found)


def lora_shapes(dit: DiT) -> dict[str, tuple[int, ...]]:
    """Name → shape of the weight, of everything a LoRA may change."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in dit.named_modules():
        if isinstance(module, Linear):
            shapes[name] = (module.out_features, module.in_features)
        elif isinstance(module, nn.Conv3d):
            shapes[name] = tuple(module.weight.shape)
    return shapes


def lora_bytes(loras: Iterable[Lora], config: DiTConfig, dtype: torch.dtype) -> int:
    """Bytes that LoRAs take beside a transformer that runs in ``dtype``, from their files' headers alone.

    Raises ``CheckpointError`` for a file of which nothing can be applied.
    """
    active = [lora for lora in loras if lora.strength != 0]
    if not active:
        return 0
    with torch.device("meta"):
        shapes = lora_shapes(DiT(config))
    return sum(
        (term.down.numel() + term.up.numel())
        * (torch.float32 if name.startswith(DiT.FLOAT32_PARAMETERS) else dtype).itemsize
        for lora in active
        for name, term in lora.weighted(outlined(lora.file, shapes), shapes).items()
    )


def widened_channels(terms: Mapping[str, LowRank], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many input channels a LoRA's terms take where they are more than the model's; 0 where none are.

    Such a LoRA is for keyframes and needs them beside the latent (``extensions.Keyframes``).
    """
    found = 0
    for name, term in terms.items():
        _, channels, *patch = shapes[name]
        taken = term.down.shape[1] // math.prod(patch)
        found = max(found, taken if taken > channels else 0)
    return found


def merge(dit: DiT, loras: Iterable[Lora]) -> None:
    """Add LoRAs to the transformer's weights, summed in float32, each weight stored as it was before.

    fp8 weights are quantised again, with one scale for each output channel. Weights are replaced, never written
    into, so files mapped into memory stay as they are. Raises ``CheckpointError``, before any change, for files that
    do not fit and for weights of formats that can only be read.
    """
    shapes = lora_shapes(dit)
    active = sorted(lora for lora in loras if lora.strength != 0)
    terms: dict[str, list[LowRank]] = defaultdict(list)
    for lora in active:
        for name, term in lora.weighted(read_lora(lora.file, shapes).terms, shapes).items():
            terms[name].append(term)
    modules = {name: dit.get_submodule(name) for name in terms}
    for name, module in modules.items():
        if isinstance(module, Linear) and module.packing is not PLAIN:
            raise CheckpointError(
                f"LoRAs cannot be merged into {name}: it is stored as {module.packing.name}, which can be unpacked "
                "but not packed again. Apply the LoRAs while the model runs instead, or load a bf16 or fp8 model."
            )
        if widest := max(widened_channels({name: term}, shapes) for term in terms[name]):
            raise CheckpointError(
                f"A LoRA for keyframes cannot be merged into {name}: it takes {widest} input channels, but the model "
                f"takes {shapes[name][1]}. Apply it while the model runs instead."
            )
    for name, module in modules.items():
        _add(module, terms[name])


def _add(module: nn.Module, terms: list[LowRank]) -> None:
    if isinstance(module, Linear):
        exact = _sum(module.stored.dense(torch.float32), terms)
        stays_fp8 = module.stored.is_packed
        module.store(fp8.quantized(exact) if stays_fp8 else Stored(exact.to(module.weight.dtype)))
    elif isinstance(module, nn.Conv3d):
        exact = _sum(module.weight.float(), terms).to(module.weight.dtype)
        module.register_parameter("weight", nn.Parameter(exact, requires_grad=False))


def _sum(weight: torch.Tensor, terms: list[LowRank]) -> torch.Tensor:
    """Never in place: a float32 weight is the very tensor of its file."""
    for term in terms:
        delta = term.to(weight.device, torch.float32).delta()
        # Of a patch embedding, a LoRA may know the first channels alone.
        missing = weight[0].numel() - delta.shape[1]
        weight = weight + F.pad(delta, (0, missing)).view_as(weight)
    return weight


def _factor(factors: Iterable[BlockStrength], module: str) -> float:
    group, number = _block(module)
    return next((e.strength for e in factors if e.blocks.group == group and e.blocks.contains(number)), 1.0)


def _block(module: str) -> tuple[str, int]:
    """Group and number of the block a module is in; number 0 outside the blocks."""
    match = re.match(r"(double|single)_blocks\.(\d+)\.", module)
    return (match[1], int(match[2])) if match else ("other", 0)


def _check_range(factors: Iterable[BlockStrength], modules: Iterable[str]) -> None:
    ends: dict[str, int] = {}
    for group, number in map(_block, modules):
        ends[group] = max(number, ends.get(group, 0))
    for blocks in (entry.blocks for entry in factors):
        if blocks.last is not None and blocks.last > ends.get(blocks.group, -1):
            raise ValueError(
                f"Block strengths: there is an entry for {blocks.group} block {blocks.last}, but the {blocks.group} "
                f"blocks of this model end at {ends.get(blocks.group)}."
            )


def _entry(text: str) -> BlockStrength:
    named, _, value = (part.strip() for part in text.partition(":"))
    try:
        blocks = read_range(named)
    except ValueError as error:
        raise ValueError(f"Block strengths: '{text}' {error}") from error
    if blocks is None or not value:
        raise ValueError(
            f"Block strengths: '{text}' cannot be read. Write entries like 'double 0-19: 0.5' or 'single 7: 0', "
            "separated by commas."
        )
    if blocks.group not in GROUPS:
        raise ValueError(
            f"Block strengths: '{text}' begins with '{blocks.group}', but must with one of {', '.join(GROUPS)}."
        )
    if blocks.group == OTHER and blocks.last is not None:
        raise ValueError(f"Block strengths: '{text}' numbers what has no numbers. Write 'other: {value}'.")
    try:
        strength = float(value)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise ValueError(f"Block strengths: '{text}' has the strength '{value}', which is no number.")
    return BlockStrength(blocks, strength)
