"""Where the scales of fp8 files are: beside the weights, or in a second file.

Three conventions exist for W = fp8 · scale. Source: HunyuanVideo ``hyvideo/modules/fp8_optimization.py`` (a
``…_map.pt`` beside the weights, keyed by module path); ComfyUI ``comfy/utils.py`` ``convert_old_quants``
(``scale_weight`` and a marker ``scaled_fp8``) and ``comfy/ops.py`` (``weight_scale`` and a description of the format).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from hyvideo_core.errors import CheckpointError
from hyvideo_core.weights.files import Checkpoint, PickleCheckpoint, open_checkpoint
from hyvideo_core.weights.load import listed
from hyvideo_core.weights.views import Scaled

#: Last parts of names that hold a scale, and of those that only help other implementations.
SCALE_NAMES = ("scale_weight", "weight_scale")
AUXILIARY_NAMES = ("scaled_fp8", "scale_input", "input_scale", "comfy_quant")
#: Formats of ComfyUI's description that are one fp8 number times one scale.
KNOWN_FORMATS = ("float8_e4m3fn", "float8_e5m2")
METADATA = "_quantization_metadata"


def leaf(name: str) -> str:
    """The last part of a tensor's name."""
    return name.rsplit(".", 1)[-1]


def is_auxiliary(name: str) -> bool:
    """Whether a tensor only accompanies a weight: a scale, a marker, a description."""
    return leaf(name) in (*SCALE_NAMES, *AUXILIARY_NAMES)


def with_scales(checkpoint: Checkpoint, scale_file: Path | None = None) -> Checkpoint:
    """The checkpoint with its scales applied, if it has any; ``scale_file`` is where official files keep them.

    Raises ``CheckpointError`` for other quantised formats, and for scales that belong to nothing.
    """
    _check_formats(checkpoint)
    scales = {
        name.removesuffix(leaf(name)) + "weight": checkpoint[name] for name in checkpoint if leaf(name) in SCALE_NAMES
    }
    if scale_file is not None:
        scales |= _from_file(scale_file, checkpoint)
    if not scales:
        return checkpoint
    if homeless := sorted(scales.keys() - set(checkpoint)):
        raise CheckpointError(
            f"{(scale_file or checkpoint.path).name} has scales for {len(homeless)} weights that "
            f"{checkpoint.path.name} lacks: {listed(homeless)}. Weights and scales belong to different models; "
            "download both again."
        )
    return Scaled(checkpoint, scales)


def scale_file_of(path: Path) -> Path | None:
    """The scale map that belongs beside an official fp8 pickle: ``model_fp8.pt`` → ``model_fp8_map.pt``."""
    beside = (path.with_name(f"{path.stem}_map{suffix}") for suffix in (path.suffix, ".safetensors"))
    common = (path.with_name("fp8_map.safetensors"),)
    return next((file for file in (*beside, *common) if file.is_file()), None)


def needed_scale_file(path: Path, checkpoint: Checkpoint) -> Path | None:
    """The scale map of an official fp8 pickle; None for files that need none.

    Raises ``CheckpointError`` where it is missing: without scales the numbers mean nothing.
    """
    # Plain fp8 exists as safetensors only; every fp8 pickle is an official, scaled one.
    if not isinstance(checkpoint, PickleCheckpoint) or not _holds_fp8(checkpoint):
        return None
    found = scale_file_of(path)
    if found is None:
        raise CheckpointError(
            f"{path.name} holds scaled fp8 weights, and their scales are in a second file, {path.stem}_map.pt, which "
            "is not beside it. Download it into the same folder."
        )
    return found


def _holds_fp8(checkpoint: Checkpoint) -> bool:
    return any(checkpoint[name].is_floating_point() and checkpoint[name].itemsize == 1 for name in checkpoint)


def _from_file(file: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    scales = open_checkpoint(file)
    wrong = sorted(name for name in scales if scales[name].numel() != 1 or f"{name}.weight" not in checkpoint)
    if wrong or not len(scales):
        raise CheckpointError(
            f"{file.name} should hold one scale for each fp8 layer of {checkpoint.path.name}, but "
            f"{'is empty' if not wrong else 'these entries fit none: ' + listed(wrong)}. It belongs to another model; "
            "download the map that was published beside the weights."
        )
    without = sorted(
        name
        for name in checkpoint
        if checkpoint[name].is_floating_point()
        and checkpoint[name].itemsize == 1
        and name.removesuffix(".weight") not in scales
    )
    if without:
        raise CheckpointError(
            f"{file.name} has no scale for {len(without)} fp8 tensors of {checkpoint.path.name}: {listed(without)}. "
            "Download the map that was published beside the weights."
        )
    return {f"{name}.weight": scales[name] for name in scales}


def _check_formats(checkpoint: Checkpoint) -> None:
    try:
        stated = json.loads(checkpoint.metadata.get(METADATA, "{}"))
        layers = dict(stated.get("layers", {}))
        for name in checkpoint:
            if leaf(name) == "comfy_quant":
                layers[name] = json.loads(bytes(checkpoint[name].tolist()))
        formats = {str(layer["format"]) for layer in layers.values()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint.path.name} describes its quantisation in a way that cannot be read ({error!r}). "
            "Choose the bf16 file."
        ) from error
    if unknown := sorted(formats - set(KNOWN_FORMATS)):
        raise CheckpointError(
            f"{checkpoint.path.name} is quantised as {', '.join(unknown)}, but of ComfyUI's formats only "
            f"{' and '.join(KNOWN_FORMATS)} are read here. Choose the bf16, fp8 or GGUF file."
        )
