"""Checkpoint files as lazy mappings from tensor name to tensor. Nothing is executed, nothing is read twice.

Safetensors stay memory-mapped: asking for a tensor costs its pages and no more. Pickles (``.pt``, ``.bin``)
open with ``weights_only=True`` and ``mmap=True`` only, so a file with code in it is refused, not run.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyvideo_core.errors import CheckpointError
from hyvideo_core.ops import Stored

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
GGUF_SUFFIX = ".gguf"
#: Nestings under which official pickles hide their state dict.
NESTED_UNDER = ("module", "state_dict", "model", "ema")
MAX_NESTING = 4
#: How zip archives and pickles begin.
PICKLE_BEGINNINGS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
#: Longest safetensors header that is believed; the format's own limit.
MAX_HEADER_BYTES = 100_000_000
#: Names of dtypes in safetensors' headers, as far as this torch has them.
SAFETENSORS_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, dtype)
    for name, dtype in {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
        "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
        "U16": "uint16", "U32": "uint32", "U64": "uint64",
    }.items()
    if hasattr(torch, dtype)
}  # fmt: skip


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

    def __contains__(self, name: object) -> bool:
        # A mapping's own way of asking is to read the tensor.
        return name in self.shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        raise KeyError(name)

    def stored(self, name: str) -> Stored:
        """A tensor as the file holds it, packed perhaps; ``[name]`` gives its numbers."""
        return Stored(self[name])

    def held(self, name: str) -> tuple[str, int]:
        """How a tensor is stored (``bfloat16``, ``Q4_K``) and its bytes, without reading its numbers."""
        stored = self.stored(name)
        return stored.kind, stored.nbytes


class SafetensorsCheckpoint(Checkpoint):
    """A ``.safetensors`` file, memory-mapped for reading only.

    safetensors' own torch reader maps it writable, which Linux refuses for a file larger than the machine's memory.
    """

    def __init__(self, path: Path) -> None:
        self._entries = read_safetensors_header(path)
        metadata = self._entries.pop("__metadata__", {})
        super().__init__(path, {name: tuple(entry["shape"]) for name, entry in self._entries.items()}, metadata)

    def __getitem__(self, name: str) -> torch.Tensor:
        entry = self._entries[name]
        dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError(
                f"{self.path.name}: {name} is stored as {entry['dtype']}, a format this version of torch does not "
                "know. Update torch, choose the bf16 file, or download it again."
            )
        start, stop = entry["data_offsets"]
        data = self._data[start:stop]
        # Headers of old files have any length; numbers can be viewed in place only where they are aligned.
        aligned = data.data_ptr() % dtype.itemsize == 0
        return (data if aligned else data.clone()).view(dtype).view(self.shapes[name])

    def held(self, name: str) -> tuple[str, int]:
        """From the header alone."""
        entry = self._entries[name]
        dtype = SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"])
        start, stop = entry["data_offsets"]
        return str(dtype).removeprefix("torch."), stop - start

    @cached_property
    def _data(self) -> torch.Tensor:
        """All bytes after the header."""
        with self.path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return as_tensor(np.frombuffer(mapped, np.uint8))[8 + length :]


class PickleCheckpoint(Checkpoint):
    """A ``.pt`` file opened without running anything in it."""

    def __init__(self, path: Path) -> None:
        self._tensors = _unnest(_load_pickle(path), path)
        super().__init__(path, {name: tuple(t.shape) for name, t in self._tensors.items()}, {})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]


class ShardedCheckpoint(Checkpoint):
    """Several safetensors files of one model, as one mapping."""

    def __init__(self, folder: Path, shards: list[SafetensorsCheckpoint]) -> None:
        self._shard_of = {name: shard for shard in shards for name in shard}
        shapes = {name: shard.shapes[name] for name, shard in self._shard_of.items()}
        super().__init__(folder, shapes, {})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._shard_of[name][name]

    def held(self, name: str) -> tuple[str, int]:
        """As in its shard."""
        return self._shard_of[name].held(name)


def as_tensor(mapped: NDArray[Any]) -> torch.Tensor:
    """A tensor that shares memory mapped for reading only. Writing to it would end the process."""
    with warnings.catch_warnings():
        # torch warns that the memory is read-only, which is the point.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(mapped)


def open_folder(path: str | Path) -> Checkpoint:
    """Open the safetensors of a Hugging Face folder. Raises ``CheckpointError`` naming any shard that is missing."""
    folder = Path(path)
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    names = {file.name for file in folder.glob("*.safetensors")}
    if index is not None:
        try:
            names = {folder.joinpath(name).name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is not a shard index ({error!r}). Download it again.") from error
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        raise CheckpointError(
            f"{folder.name} lacks {', '.join(missing) or 'its .safetensors files'}. The download is incomplete; "
            "download what is missing into that folder."
        )
    return ShardedCheckpoint(folder, [SafetensorsCheckpoint(folder / name) for name in sorted(names)])


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open ``path`` by its suffix. Raises ``CheckpointError`` if it is missing, damaged, unsafe or unknown."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise CheckpointError(f"{path} should be a checkpoint file, but there is {found}. Check the path.")
    suffix = path.suffix.lower()
    if suffix in SAFETENSORS_SUFFIXES:
        return SafetensorsCheckpoint(path)
    if suffix in PICKLE_SUFFIXES:
        return PickleCheckpoint(path)
    if suffix == GGUF_SUFFIX:
        # Imported here, since that file builds on this one.
        from hyvideo_core.weights.gguf import open_gguf

        return open_gguf(path)
    raise CheckpointError(
        f"{path.name} has the suffix '{suffix}', but this loader reads .safetensors, {GGUF_SUFFIX} and "
        f"{', '.join(PICKLE_SUFFIXES)}. Choose a file of one of these kinds."
    )


def parameter_count(path: str | Path) -> int:
    """Elements of all tensors in a checkpoint file or a model folder, from the headers."""
    checkpoint = open_folder(path) if Path(path).is_dir() else open_checkpoint(path)
    return sum(math.prod(shape) for shape in checkpoint.shapes.values())


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
        if length > min(size_bytes - 8, MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path.name} is {size_bytes:,} bytes and has no complete safetensors header. "
                "The download broke off or this is another kind of file; download it again."
            )
        raw = file.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        if not all(isinstance(value, str) for value in header.get("__metadata__", {}).values()):
            raise ValueError("metadata that is not text")
        needed = 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
        if not all(map(_is_consistent, entries)):
            raise ValueError("a tensor whose place does not fit its shape and dtype")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} does not begin with a safetensors header ({error}). It is damaged, or another kind of file "
            "under that name (often a web page saved in its place); download it again."
        ) from error
    if needed > size_bytes:
        raise CheckpointError(
            f"{path.name} is {size_bytes:,} bytes, but its header promises {needed:,}. "
            "The download broke off; download it again."
        )
    return header


def _is_consistent(entry: dict[str, Any]) -> bool:
    """Whether an entry's place in the file is as large as its shape and dtype say. Raises where it is no entry."""
    start, stop = entry["data_offsets"]
    dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
    shape = entry["shape"]
    if not all(isinstance(number, int) and number >= 0 for number in (start, stop, *shape)):
        return False
    return start <= stop and (dtype is None or stop - start == math.prod(shape) * dtype.itemsize)


def _load_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        looks_like_pickle = file.read(2) in PICKLE_BEGINNINGS
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise anything
        if looks_like_pickle and isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{path.name} holds more than tensors and was refused unread, since loading it could run code. "
                "Use the .safetensors version of this model."
            ) from error
        raise CheckpointError(
            f"{path.name} cannot be read as a PyTorch checkpoint ({error}). "
            "The file is damaged or of another kind; download it again."
        ) from error


def _unnest(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside ``content``, through any of the official nestings."""
    for _ in range(MAX_NESTING):
        if not isinstance(content, dict):
            break
        tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        nested = next((content[k] for k in NESTED_UNDER if isinstance(content.get(k), dict)), None)
        if nested is None and tensors:
            return tensors
        content = nested
    raise CheckpointError(
        f"{path.name} holds no state dict (looked at the top and under {', '.join(NESTED_UNDER)}). "
        "It is not a model checkpoint; choose another file."
    )
