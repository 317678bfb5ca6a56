"""The tensors of a module as places that can be filled: what placement and streaming move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

#: Beginnings of tensors inside one buffer: what the widest vector loads of any device ask for.
ALIGNMENT_BYTES = 256


@dataclass(frozen=True)
class Place:
    """One parameter or buffer of one module."""

    owner: nn.Module
    name: str
    is_parameter: bool

    def get(self) -> torch.Tensor:
        """The tensor that is there."""
        found = (self.owner._parameters if self.is_parameter else self.owner._buffers)[self.name]
        assert found is not None
        return found.data

    def put(self, tensor: torch.Tensor) -> None:
        """Have this tensor there."""
        if self.is_parameter:
            self.owner._parameters[self.name] = nn.Parameter(tensor, requires_grad=False)
        else:
            self.owner._buffers[self.name] = tensor


def places(module: nn.Module) -> list[Place]:
    """Every parameter and buffer of a module and what is in it."""
    found = []
    for owner in module.modules():
        found += [Place(owner, name, True) for name, tensor in owner._parameters.items() if tensor is not None]
        found += [Place(owner, name, False) for name, tensor in owner._buffers.items() if tensor is not None]
    return found


def owns_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor is all there is in its memory, rather than a part of a mapped file or of a buffer."""
    return tensor.untyped_storage().nbytes() == tensor.nbytes


def size_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes these tensors take."""
    return sum(tensor.nbytes for tensor in tensors)


def buffer_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of one buffer that holds them all, each aligned."""
    return sum(_aligned(tensor.nbytes) for tensor in tensors)


def views(buffer: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors like the given ones, one after the other inside a buffer of bytes; their contents are the buffer's."""
    made, start = [], 0
    for tensor in tensors:
        made.append(buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        start += _aligned(tensor.nbytes)
    return made


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
