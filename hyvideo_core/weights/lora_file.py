"""From a LoRA file, in any of the formats in use, to low-rank terms by module.

Source: LoRA (arXiv 2106.09685); kohya's ``lora_down/up/alpha``; PEFT's ``lora_A/B`` and its metadata in diffusers.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch

from hyvideo_core.errors import CheckpointError
from hyvideo_core.ops import LowRank
from hyvideo_core.weights.detect import LORA, describe
from hyvideo_core.weights.files import Checkpoint, open_checkpoint
from hyvideo_core.weights.load import listed
from hyvideo_core.weights.lora_names import Home, find_home, homes

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

#: ``layer.lora_A.weight``, ``layer.lora_A.default.weight``, ``layer.lora_down.weight``, ``layer.lora.down.weight``,
#: ``layer.alpha``.
_KEY = re.compile(r"(?P<layer>.+)\.(?:lora[._](?P<matrix>A|B|down|up)(?:\.\w+)??(?:\.weight)?|alpha)")
_ROLES = {"A": "down", "down": "down", "B": "up", "up": "up", None: "alpha"}

#: (how keys end that are not of plain LoRA, what has them). Left out, they would change what was trained.
_OTHER_KINDS = (
    (r"\.dora_scale|\.lora_magnitude_vector(\..*)?", "DoRA (a magnitude for each row)"),
    (r"\.hada_\w+(\..*)?", "LoHa (a Hadamard product)"),
    (r"\.lokr_\w+(\..*)?", "LoKr (a Kronecker product)"),
    (r"\.oft_\w+(\..*)?", "OFT (a rotation)"),
    (r"\.lora_mid(\..*)?", "LoCon with a Tucker core"),
    (r"\.(diff|diff_b|set_weight|reshape_weight)", "whole tensors"),
    (r"\.lora[._](B|up)(\.\w+)?\.bias", "biases"),
)

#: (part of a layer's name, whose LoRA has it), for files in which nothing fits.
_STRANGERS = (
    (r"(^|[._])blocks[._]\d+[._](self|cross)_attn", "Wan"),
    (r"joint_blocks", "Stable Diffusion 3"),
    (r"(input|down|output|up|middle|mid)_blocks?[._]", "Stable Diffusion"),
    (r"transformer_blocks[._]\d+[._]attn1", "LTX-Video, CogVideoX or Mochi"),
    (r"lora_te|text_model|text_encoder", "a text encoder"),
)

#: Flux has the layer names and sizes of HunyuanVideo, and differs in the number of its blocks.
_FLUX_BLOCKS = {"double_blocks": set(range(19)), "single_blocks": set(range(38))}
_BASE_MODEL_FIELDS = ("ss_base_model_version", "modelspec.architecture")


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds for one model: the terms by module, and the keys that found no home."""

    terms: dict[str, LowRank]
    unmatched: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    home: Home
    down: torch.Tensor
    up: torch.Tensor
    scale: float


def read_lora(path: Path, shapes: Shapes) -> LoraFile:
    """Open and parse a LoRA file for a model whose weights have ``shapes``; keys without a home are logged.

    Raises ``CheckpointError`` as ``parse`` does.
    """
    checkpoint = open_checkpoint(path)
    found = parse(checkpoint, shapes)
    if found.unmatched:
        logger.warning(
            "%s: %d of %d keys have no home in this model and do nothing: %s",
            checkpoint.path.name,
            len(found.unmatched),
            len(checkpoint),
            listed(found.unmatched),
        )
    return found


def parse(checkpoint: Checkpoint, shapes: Shapes) -> LoraFile:
    """The terms of an opened LoRA file, on the CPU in the file's dtypes.

    ``shapes``: original module name → shape [out, in, …] of its weight. Raises ``CheckpointError`` for a file that
    is no LoRA, not one of this model, of a kind other than plain low-rank, damaged, or of other shapes.
    """
    keys, unmatched = _keys(checkpoint, shapes)
    parts: dict[str, list[_Part]] = defaultdict(list)
    default_alpha = _metadata_alpha(checkpoint)
    for home, by_role in keys.items():
        parts[home.module].append(_part(checkpoint, home, by_role, shapes[home.module], default_alpha))
    terms = {module: _joined(parts[module], shapes[module][0]) for module in shapes if module in parts}
    return LoraFile(terms, tuple(unmatched))


def outlined(path: Path, shapes: Shapes) -> dict[str, LowRank]:
    """The terms that ``read_lora`` gives, without their numbers: sizes from the file's header, on ``meta``.

    Raises ``CheckpointError`` for a file of which nothing can be applied.
    """
    checkpoint = open_checkpoint(path)
    ranks: dict[str, int] = defaultdict(int)
    columns: dict[str, int] = {}
    for home, by_role in _keys(checkpoint, shapes)[0].items():
        rank, *taken = checkpoint.shapes[by_role["down"]]
        ranks[home.module] += rank
        columns[home.module] = math.prod(taken)
    return {
        module: LowRank(
            torch.empty(rank, columns[module], device="meta"),
            torch.empty(shapes[module][0], rank, device="meta"),
        )
        for module, rank in ranks.items()
    }


def _keys(checkpoint: Checkpoint, shapes: Shapes) -> tuple[dict[Home, dict[str, str]], list[str]]:
    """The keys of each term by role, and those without a home, from names alone."""
    _refuse_other_kinds(checkpoint)
    table = homes(shapes)
    keys: dict[Home, dict[str, str]] = defaultdict(dict)
    unmatched = []
    for key in sorted(checkpoint):
        match = _KEY.fullmatch(key)
        home = find_home(match["layer"], table) if match else None
        if match is None or home is None:
            unmatched.append(key)
            continue
        other = keys[home].setdefault(_ROLES[match["matrix"]], key)
        if other != key:
            raise CheckpointError(
                f"{checkpoint.path.name}: {other} and {key} both mean the same matrix of {home.module}. "
                "Two LoRAs were saved into one file; save them apart and load both."
            )
    lonely = [home for home, by_role in keys.items() if by_role.keys() == {"alpha"}]
    unmatched += [keys.pop(home)["alpha"] for home in lonely]
    if not keys:
        raise CheckpointError(_no_home(checkpoint))
    _refuse_flux(checkpoint, keys)
    for by_role in keys.values():
        if lacking := sorted({"down", "up"} - by_role.keys()):
            raise CheckpointError(
                f"{checkpoint.path.name} has {', '.join(by_role.values())} but not the {lacking[0]} matrix that "
                "belongs to it. The file is incomplete; download it again."
            )
    return keys, unmatched


def _part(
    checkpoint: Checkpoint, home: Home, keys: Mapping[str, str], shape: tuple[int, ...], default_alpha: float | None
) -> _Part:
    down, up = _matrix(checkpoint, keys["down"]), _matrix(checkpoint, keys["up"])
    rank = down.shape[0]
    if rank < 1 or not _takes(checkpoint.shapes[keys["down"]], shape) or up.shape != (home.rows, rank):
        raise CheckpointError(_misfit(checkpoint, home, keys, shape))
    alpha = _alpha(checkpoint, keys["alpha"]) if "alpha" in keys else default_alpha
    return _Part(home, down, up, 1.0 if alpha is None else alpha / rank)


def _takes(down: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a down matrix takes what a weight of ``shape`` takes; over patches of either's first channels too.

    LoRAs for keyframes widen the patch embedding, those of text-to-video are narrower than an image-to-video model.
    """
    is_patch = len(shape) > 2 and len(down) == len(shape) and down[2:] == shape[2:] and down[1] > 0
    return is_patch or math.prod(down[1:]) == math.prod(shape[1:])


def _joined(parts: Sequence[_Part], rows: int) -> LowRank:
    """One term for all parts of a weight: their downs below each other, their ups each at its rows."""
    parts = sorted(parts, key=lambda part: (part.home.start, part.home.rows))
    first = parts[0]
    if len(parts) == 1 and first.home == Home(first.home.module, 0, rows):
        return LowRank(first.down, first.up, first.scale)
    ups = [part.up if part.scale == first.scale else part.up.float() * (part.scale / first.scale) for part in parts]
    dtype = reduce(torch.promote_types, (up.dtype for up in ups))
    wide, column = torch.zeros(rows, sum(up.shape[1] for up in ups), dtype=dtype), 0
    for part, up in zip(parts, ups, strict=True):
        places = torch.arange(part.home.start, part.home.start + part.home.rows) % rows
        wide[places, column : column + up.shape[1]] = up.to(dtype)
        column += up.shape[1]
    return LowRank(torch.cat([part.down for part in parts]), wide, first.scale)


def _matrix(checkpoint: Checkpoint, key: str) -> torch.Tensor:
    """One factor as a matrix; of a convolution's, the patch is flattened."""
    tensor = _numbers(checkpoint, key)
    if tensor.ndim < 2:
        raise CheckpointError(
            f"{checkpoint.path.name}: {key} has shape {list(tensor.shape)}, but a matrix of a LoRA has two axes or "
            "more. The file is damaged; download it again."
        )
    return tensor.flatten(1)


def _alpha(checkpoint: Checkpoint, key: str) -> float:
    tensor = checkpoint[key]
    value = float(tensor) if tensor.numel() == 1 else math.nan
    if not (math.isfinite(value) and value > 0):
        raise CheckpointError(
            f"{checkpoint.path.name}: {key} holds {tensor.tolist() if tensor.numel() <= 1 else list(tensor.shape)}, "
            "but alpha is one positive number. The file is damaged; download it again."
        )
    return value


def _numbers(checkpoint: Checkpoint, key: str) -> torch.Tensor:
    tensor = checkpoint[key]
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{checkpoint.path.name}: {key} holds {tensor.dtype}, but floating point is expected. "
            "Choose the bf16, fp16 or float32 file of this LoRA."
        )
    if tensor.itemsize == 1:  # plain fp8, which torch can hardly compute with
        tensor = tensor.to(torch.bfloat16)
    if tensor.numel() and not all(map(math.isfinite, map(float, tensor.aminmax()))):
        raise CheckpointError(
            f"{checkpoint.path.name}: {key} holds NaN or infinity, which would turn the whole video black. "
            "The LoRA's training went wrong or the file is damaged; choose another version."
        )
    return tensor


def _metadata_alpha(checkpoint: Checkpoint) -> float | None:
    """The alpha that diffusers keeps for all layers in the file's metadata; None where there is none.

    Source: diffusers ``loaders/lora_base.py`` (``lora_adapter_metadata``), PEFT ``LoraConfig``.
    """
    try:
        stated = json.loads(checkpoint.metadata.get("lora_adapter_metadata", "{}"))
        config = {name.removeprefix("transformer."): value for name, value in stated.items()}
        alpha = config.get("lora_alpha")
        value = None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint.path.name}: the metadata field lora_adapter_metadata cannot be read ({error!r}). It holds "
            "the LoRA's alpha; save the file again with a current diffusers."
        ) from error
    unusual = [name for name in ("use_rslora", "use_dora", "alpha_pattern") if config.get(name)]
    if unusual or (value is not None and not (math.isfinite(value) and value > 0)):
        raise CheckpointError(
            f"{checkpoint.path.name}: its metadata states lora_alpha {alpha} and {listed(unusual) or 'nothing else'}, "
            "but only one positive alpha for all layers is understood. Convert the LoRA to kohya's format, which "
            "holds an alpha for each layer."
        )
    return value


def _refuse_other_kinds(checkpoint: Checkpoint) -> None:
    for pattern, kind in _OTHER_KINDS:
        keys = sorted(key for key in checkpoint if re.fullmatch(f".+(?:{pattern})", key))
        if keys:
            raise CheckpointError(
                f"{checkpoint.path.name} holds {len(keys)} keys of {kind}: {listed(keys)}. Only plain low-rank terms "
                "can be applied, and without these the LoRA would not do what it was trained to. Convert it to a "
                "plain LoRA, or choose another one."
            )


def _refuse_flux(checkpoint: Checkpoint, found: Iterable[Home]) -> None:
    numbers: dict[str, set[int]] = defaultdict(set)
    for home in found:
        kind, _, rest = home.module.partition(".")
        if kind in _FLUX_BLOCKS:
            numbers[kind].add(int(rest.split(".")[0]))
    stated = [checkpoint.metadata.get(field, "") for field in _BASE_MODEL_FIELDS]
    if numbers == _FLUX_BLOCKS or any("flux" in text.lower() for text in stated):
        raise CheckpointError(
            f"{checkpoint.path.name} is a LoRA of Flux ({listed(filter(None, stated)) or '19 and 38 blocks'}), whose "
            "layers have the names and sizes of HunyuanVideo's but not their meaning. Choose a HunyuanVideo LoRA."
        )


def _no_home(checkpoint: Checkpoint) -> str:
    names = sorted(checkpoint)
    kind = describe(names)
    if kind == LORA or any(_KEY.fullmatch(name) for name in names):
        owner = next((who for mark, who in _STRANGERS if any(re.search(mark, name) for name in names)), "another model")
        kind = f"a LoRA of {owner}"
    return (
        f"{checkpoint.path.name} is {kind}: none of its {len(names)} keys belongs to this transformer "
        f"({listed(names)}). Choose a LoRA of HunyuanVideo."
    )


def _misfit(checkpoint: Checkpoint, home: Home, keys: Mapping[str, str], shape: tuple[int, ...]) -> str:
    down, up = checkpoint.shapes[keys["down"]], checkpoint.shapes[keys["up"]]
    return (
        f"{checkpoint.path.name}: the term of {home.module} is {keys['down']} {list(down)} and {keys['up']} "
        f"{list(up)}, but [rank, {math.prod(shape[1:])}] and [{home.rows}, rank] are needed. The LoRA belongs to a "
        "model of another size; choose one of HunyuanVideo."
    )
