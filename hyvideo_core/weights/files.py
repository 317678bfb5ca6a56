"""Checkpoint files as lazy mappings from tensor name to tensor. Nothing is executed, nothing is read twice.

Safetensors stay memory-mapped: asking for a tensor costs its pages and no more. Pickles (``.pt``, ``.bin``)
open with ``weights_only=True`` and ``mmap=True`` only, so a file with code in it is refused, not run.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hyvideo_core.errors import CheckpointError

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
#: Nestings under which official pickles hide their state dict.
NESTED_UNDER = ("module", "state_dict", "model", "ema")


class Checkpoint(Mapping[str, torch.Tensor]):
    """One opened checkpoint: names, shapes and dtypes at once, tensors on demand.

    ``path`` is for messages; ``metadata`` holds the safetensors string metadata (empty for pickles).
    """

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> None:
        self.path = path
        self.shapes = shapes
        self.metadata = metadata

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, name: str) -> torch.Tensor:
        raise KeyError(name)


class SafetensorsCheckpoint(Checkpoint):
    """A ``.safetensors`` file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        header = read_safetensors_header(path)
        metadata = header.pop("__metadata__", {})
        super().__init__(path, {name: tuple(entry["shape"]) for name, entry in header.items()}, metadata)
        self.dtypes = {name: str(entry["dtype"]) for name, entry in header.items()}
        try:
            self._file = safe_open(str(path), framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path.name} cannot be opened as safetensors ({error}). The file is damaged; download it again."
            ) from error

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor


class PickleCheckpoint(Checkpoint):
    """A ``.pt`` file opened without running anything in it."""

    def __init__(self, path: Path) -> None:
        self._tensors = _unnest(_load_pickle(path), path)
        super().__init__(path, {name: tuple(t.shape) for name, t in self._tensors.items()}, {})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open ``path`` by its suffix. Raises ``CheckpointError`` if it is missing, damaged, unsafe or unknown."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise CheckpointError(f"{path} should be a checkpoint file, but there is {found}. Check the path.")
    suffix = path.suffix.lower()
    if suffix in (".safetensors", ".sft"):
        return SafetensorsCheckpoint(path)
    if suffix in PICKLE_SUFFIXES:
        return PickleCheckpoint(path)
    raise CheckpointError(
        f"{path.name} has the suffix '{suffix}', but this loader reads .safetensors and "
        f"{', '.join(PICKLE_SUFFIXES)}. Choose a file of one of these kinds."
    )


def parameter_count(path: str | Path) -> int:
    """Elements of all tensors in a checkpoint, from its header."""
    return sum(math.prod(shape) for shape in open_checkpoint(path).shapes.values())


def size_on_disk_bytes(path: str | Path) -> int:
    """Bytes of a checkpoint file, or of all weights in a model folder."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    weights = (".safetensors", *PICKLE_SUFFIXES)
    return sum(found.stat().st_size for found in path.iterdir() if found.suffix in weights)


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, checked against the file's real size.

    Source: safetensors format: u64 little-endian header length, JSON, then the data.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size_bytes
        if 8 + length > size_bytes:
            raise CheckpointError(
                f"{path.name} is {size_bytes:,} bytes and has no complete safetensors header. "
                "The download broke off or this is another kind of file; download it again."
            )
        raw = file.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        needed = 8 + length + max((e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path.name} does not begin with a safetensors header. It is another kind of file under that "
            "name (often a web page saved in its place); download it again."
        ) from error
    if needed > size_bytes:
        raise CheckpointError(
            f"{path.name} is {size_bytes:,} bytes, but its header promises {needed:,}. "
            "The download broke off; download it again."
        )
    return header


def _load_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} holds more than tensors and was refused unread, since loading it could run code. "
            "Use the .safetensors version of this model."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as a PyTorch checkpoint ({error}). "
            "The file is damaged or of another kind; download it again."
        ) from error


def _unnest(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside ``content``, through any of the official nestings."""
    while isinstance(content, dict):
        tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        nested = next((content[k] for k in NESTED_UNDER if isinstance(content.get(k), dict)), None)
        if nested is None and tensors:
            return tensors
        content = nested
    raise CheckpointError(
        f"{path.name} holds no state dict (looked at the top and under {', '.join(NESTED_UNDER)}). "
        "It is not a model checkpoint; choose another file."
    )
