"""How a weight matrix may be stored, and how it becomes numbers again.

A packing keeps one row of the matrix per row of its data, so any range of rows can be unpacked alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class Packing(Protocol):
    """A way to store a matrix [out, in]. Frozen and free of tensors: it describes, the layer holds."""

    @property
    def name(self) -> str:
        """What to call it, as in ``float8_e4m3fn`` or ``Q4_K``."""

    def shape(self, data: torch.Tensor) -> tuple[int, ...]:
        """Shape of the weight that ``data`` stores."""

    def dense(self, data: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """The weight in ``dtype``; the very same tensor where nothing is packed and the dtype fits."""


@dataclass(frozen=True)
class Plain:
    """Ordinary numbers, in any floating dtype, fp8 without scales included."""

    @property
    def name(self) -> str:
        """The numbers speak for themselves."""
        return "plain"

    def shape(self, data: torch.Tensor) -> tuple[int, ...]:
        """That of the data."""
        return tuple(data.shape)

    def dense(self, data: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """Data · scale, rounded once where there is a scale: [] for the whole, or [out, 1] for each row."""
        if scale is None:
            return data.to(dtype)
        # In place, so that nothing of the weight's size exists in float32. A bare number would be rounded to ``dtype``
        # before the product; a scale with axes is not.
        return data.to(dtype, copy=True).mul_(scale.reshape(-1, 1))


PLAIN = Plain()


@dataclass(frozen=True)
class Stored:
    """One weight as a file holds it: ``data`` by ``packing``, times ``scale`` where the format has one."""

    data: torch.Tensor
    packing: Packing = PLAIN
    scale: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.packing.shape(self.data)

    @property
    def is_packed(self) -> bool:
        """Whether it must be unpacked before it can be used as it is: one byte or less for a number, or a scale."""
        return self.packing is not PLAIN or self.scale is not None or self.data.itemsize == 1

    @property
    def kind(self) -> str:
        """What to call it: the packing, or the dtype of plain numbers."""
        name = self.packing.name if self.packing is not PLAIN else str(self.data.dtype).removeprefix("torch.")
        return name if self.scale is None else f"scaled {name}"

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight in ``dtype``."""
        return self.packing.dense(self.data, self.scale, dtype)

    def to(self, device: torch.device | str) -> Stored:
        """The same on another device."""
        return Stored(self.data.to(device), self.packing, None if self.scale is None else self.scale.to(device))
