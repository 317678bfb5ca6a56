"""Checkpoints seen under other names: renamed, with scales applied, with split matrices joined.

Each view is a ``Checkpoint`` over another one and reads nothing before a tensor is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hyvideo_core.errors import CheckpointError
from hyvideo_core.ops import PLAIN, Stored
from hyvideo_core.weights.files import Checkpoint


class Renamed(Checkpoint):
    """A checkpoint under our names: ``names`` maps ours to the file's."""

    def __init__(self, inner: Checkpoint, names: Mapping[str, str]) -> None:
        super().__init__(inner.path, {name: inner.shapes[found] for name, found in names.items()}, inner.metadata)
        self._inner, self._names = inner, names

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._inner[self._names[name]]

    def stored(self, name: str) -> Stored:
        """As the inner checkpoint stores it."""
        return self._inner.stored(self._names[name])

    def held(self, name: str) -> tuple[str, int]:
        """As in the inner checkpoint."""
        return self._inner.held(self._names[name])


class Joined(Checkpoint):
    """A checkpoint that holds some of our tensors in parts: ``parts`` maps our name to the file's, in order of rows.

    Names in ``swapped`` have their two halves in the other order.
    """

    def __init__(self, inner: Checkpoint, parts: Mapping[str, Sequence[str]], swapped: frozenset[str]) -> None:
        shapes = {}
        for name, found in parts.items():
            first = inner.shapes[found[0]]
            shapes[name] = (sum(inner.shapes[part][0] for part in found), *first[1:]) if first else first
        super().__init__(inner.path, shapes, inner.metadata)
        self._inner, self._parts, self._swapped = inner, parts, swapped

    def __getitem__(self, name: str) -> torch.Tensor:
        found = self._parts[name]
        tensors = [self._inner[part] for part in found]
        if name in self._swapped:
            tensors = list(reversed(tensors[0].chunk(2)))
        try:
            return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path.name}: {', '.join(found)} are rows of one matrix, but do not fit together ({error}). "
                "The file is damaged; download it again."
            ) from error

    def held(self, name: str) -> tuple[str, int]:
        """The kind of the first part, and the bytes of all: nothing is joined to tell."""
        found = [self._inner.held(part) for part in self._parts[name]]
        return found[0][0], sum(size for _, size in found)


class Scaled(Checkpoint):
    """A checkpoint whose weights mean something only when multiplied by ``scales``, given by the weight's name."""

    def __init__(self, inner: Checkpoint, scales: Mapping[str, torch.Tensor]) -> None:
        super().__init__(inner.path, inner.shapes, inner.metadata)
        self._inner, self._scales = inner, scales

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.stored(name).dense(torch.float32) if name in self._scales else self._inner[name]

    def held(self, name: str) -> tuple[str, int]:
        """As in the inner checkpoint, and the scale."""
        kind, size = self._inner.held(name)
        if name not in self._scales:
            return kind, size
        return f"scaled {kind}", size + self._scales[name].numel() * 4

    def stored(self, name: str) -> Stored:
        """The inner tensor with its scale: [] for the whole, or [out, 1] for each row."""
        stored = self._inner.stored(name)
        if name not in self._scales:
            return stored
        scale = self._scales[name].float()
        rows = stored.shape[0]
        if scale.numel() not in (1, rows):
            raise CheckpointError(
                f"{self.path.name}: the scale of {name} has shape {list(scale.shape)}, but one number, or one for each "
                f"of {rows} rows, was expected. This scaling is not known here; choose the bf16 file."
            )
        return Stored(stored.data, PLAIN, scale.reshape(()) if scale.numel() == 1 else scale.reshape(rows, 1))
