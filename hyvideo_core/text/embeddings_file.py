"""Encoded prompts as safetensors files: made once, used on machines that have no text encoders.

A file holds the tensors ``text``, ``pooled`` and, where prompts are padded, ``text_mask``; its metadata says what was
encoded, and by what. A file may come from anybody: nothing in it is run, and it is refused unless it holds just that.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load, save

from hyvideo_core.errors import CheckpointError, NumericsError
from hyvideo_core.types import Conditioning

SUFFIX = ".safetensors"
FORMAT, VERSION = "hyvideo-studio encoded prompt", 1
#: A prompt of the longest template takes 6 MB; files beyond this are another kind and are not even read.
MAX_BYTES = 512 * 2**20
TENSORS = {"text": 3, "pooled": 2, "text_mask": 2}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MASKS = (torch.int64, torch.int32, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Provenance:
    """Where a conditioning comes from: the prompt, the template's name or text, the encoders' files."""

    prompt: str = ""
    template: str = ""
    encoder: str = ""


def save_conditioning(path: str | Path, conditioning: Conditioning, provenance: Provenance) -> None:
    """Write a file that is either whole or not there, whatever happens meanwhile.

    Raises ``ValueError`` for tensors that do not fit each other, ``NumericsError`` for NaN and infinity, ``OSError``.
    """
    tensors = {"text": conditioning.text, "pooled": conditioning.pooled}
    if conditioning.text_mask is not None:
        tensors["text_mask"] = conditioning.text_mask
    if fault := _misfit(tensors):
        raise ValueError(f"The conditioning cannot be saved: {fault}. Encode the prompt again.")
    if not _is_finite(tensors):
        raise NumericsError(
            "The conditioning holds NaN or infinity, so a video made with it would be black. Encode the prompt again, "
            "with the text encoders in bfloat16 or float32."
        )
    metadata = {"format": FORMAT, "format_version": str(VERSION), **asdict(provenance)}
    content = save({name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}, metadata)
    write_whole(Path(path), content)


def load_conditioning(path: str | Path) -> tuple[Conditioning, Provenance]:
    """What ``save_conditioning`` wrote, on the CPU. Raises ``CheckpointError`` for any other file, and damaged ones."""
    path = Path(path)
    tensors, metadata = _read(path)
    version = metadata.get("format_version", "")
    if metadata.get("format") != FORMAT:
        raise _refused(path, f"its metadata does not call it '{FORMAT}', but {metadata.get('format', 'nothing')!r:.60}")
    if version != str(VERSION):
        raise CheckpointError(
            f"{path.name} has format version {version!r:.20}, but this version of HyVideo Studio reads {VERSION}. "
            "Update HyVideo Studio, or encode the prompt again."
        )
    if fault := _misfit(tensors):
        raise _refused(path, fault)
    if not _is_finite(tensors):
        raise _refused(path, "it holds NaN or infinity")
    provenance = Provenance(**{field.name: metadata.get(field.name, "") for field in fields(Provenance)})
    return Conditioning(tensors["text"], tensors["pooled"], tensors.get("text_mask")), provenance


def write_whole(path: Path, content: bytes) -> None:
    """Write beside ``path`` first, so that nobody ever finds a part of it there."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            # Else a loss of power could leave the new name with none of the content.
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All of a file at once: while it is mapped, others could neither replace nor cut it."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise CheckpointError(f"{path} should be a file with an encoded prompt, but there is {found}. Check the path.")
    size_bytes = path.stat().st_size
    if size_bytes > MAX_BYTES:
        raise _refused(path, f"it has {size_bytes:,} bytes, but at most {MAX_BYTES:,} are read")
    content = path.read_bytes()
    try:
        tensors = load(content)
        length = struct.unpack("<Q", content[:8])[0]
        return tensors, json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # the library raises types of its own
        raise _refused(path, f"it cannot be read as safetensors ({error!s:.200})") from error


def _misfit(tensors: Mapping[str, torch.Tensor]) -> str:
    """What keeps the tensors from being a conditioning; empty for nothing."""
    names = sorted(tensors)
    if not {"text", "pooled"} <= set(names) <= set(TENSORS):
        return f"it holds {len(names)} tensors ({', '.join(names)[:80]}), but text, pooled and perhaps text_mask belong"
    for name, tensor in tensors.items():
        dtypes = MASKS if name == "text_mask" else FLOATS
        if tensor.ndim != TENSORS[name] or not tensor.numel() or tensor.dtype not in dtypes:
            return (
                f"{name} is {list(tensor.shape)} {tensor.dtype}, but {TENSORS[name]} axes with something in each, "
                f"in one of {', '.join(map(str, dtypes))}, belong there"
            )
    text, mask = tensors["text"], tensors.get("text_mask")
    if len(tensors["pooled"]) != len(text):
        return f"text has {len(text)} prompts, but pooled {len(tensors['pooled'])}"
    if mask is None:
        return ""
    if mask.shape != text.shape[:2]:
        return f"text_mask is {list(mask.shape)}, but text needs {list(text.shape[:2])}"
    if bool(((mask != 0) & (mask != 1)).any()) or not bool(mask.bool().any(dim=1).all()):
        return "text_mask must hold 1 for valid rows and 0 for others, and a 1 for each prompt"
    return ""


def _is_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensors[name]).all()) for name in ("text", "pooled"))


def _refused(path: Path, fault: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is no encoded prompt of HyVideo Studio, or a damaged one: {fault}. Choose a file saved by this "
        "pack, or encode the prompt again."
    )
