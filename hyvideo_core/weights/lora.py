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
from torch import nn

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.model.dit import DiT
from hyvideo_core.ops import PLAIN, Linear, LowRank, Stored, fp8
from hyvideo_core.weights.lora_file import outlined, read_lora

GROUPS = ("double", "single", "other")
_ENTRY = re.compile(r"(?P<group>[a-z]+)(?:\s+(?P<first>\d+)(?:\s*-\s*(?P<last>\d+))?)?\s*:\s*(?P<strength>\S+)")


@dataclass(frozen=True)
class BlockStrength:
    """A factor for blocks ``first`` to ``last`` of one of ``GROUPS``."""

    group: str
    first: int
    last: float
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
        entries = parse_blocks(self.blocks)
        _check_range(entries, modules)
        strengths = {module: term.strength * self.strength * _factor(entries, module) for module, term in terms.items()}
        return {module: replace(terms[module], strength=value) for module, value in strengths.items() if value != 0}


def parse_blocks(text: str) -> tuple[BlockStrength, ...]:
    """The entries of a text as in ``Lora.blocks``. Raises ``ValueError`` naming the entry and what is wrong."""
    entries: list[BlockStrength] = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
        entry = _entry(part)
        for other in entries:
            if other.group == entry.group and entry.first <= other.last and other.first <= entry.last:
                raise ValueError(f"Block strengths: '{part}' names blocks that an entry before it names already.")
        entries.append(entry)
    return tuple(entries)


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
        weight = weight + term.to(weight.device, torch.float32).delta().view_as(weight)
    return weight


def _factor(entries: Iterable[BlockStrength], module: str) -> float:
    group, number = _block(module)
    return next((e.strength for e in entries if e.group == group and e.first <= number <= e.last), 1.0)


def _block(module: str) -> tuple[str, int]:
    """Group and number of the block a module is in; number 0 outside the blocks."""
    match = re.match(r"(double|single)_blocks\.(\d+)\.", module)
    return (match[1], int(match[2])) if match else ("other", 0)


def _check_range(entries: Iterable[BlockStrength], modules: Iterable[str]) -> None:
    last: dict[str, int] = {}
    for group, number in map(_block, modules):
        last[group] = max(number, last.get(group, 0))
    for entry in entries:
        if entry.last < math.inf and entry.last > last.get(entry.group, -1):
            raise ValueError(
                f"Block strengths: there is an entry for {entry.group} block {entry.last}, but the {entry.group} "
                f"blocks of this model end at {last.get(entry.group)}."
            )


def _entry(text: str) -> BlockStrength:
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ValueError(
            f"Block strengths: '{text}' cannot be read. Write entries like 'double 0-19: 0.5' or 'single 7: 0', "
            "separated by commas."
        )
    group, first, last = match["group"], match["first"], match["last"]
    if group not in GROUPS:
        raise ValueError(f"Block strengths: '{text}' begins with '{group}', but must with one of {', '.join(GROUPS)}.")
    if group == "other" and first is not None:
        raise ValueError(f"Block strengths: '{text}' numbers what has no numbers. Write 'other: {match['strength']}'.")
    if last is not None and int(last) < int(first):
        raise ValueError(f"Block strengths: '{text}' ends before it begins. Swap {first} and {last}.")
    try:
        strength = float(match["strength"])
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise ValueError(f"Block strengths: '{text}' has the strength '{match['strength']}', which is no number.")
    if first is None:
        return BlockStrength(group, 0, math.inf, strength)
    return BlockStrength(group, int(first), int(last or first), strength)
