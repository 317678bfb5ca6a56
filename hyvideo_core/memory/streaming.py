"""Blocks that live on the host, computed on the device one after the other.

Two buffers on the device take turns: while one block computes from the first, the next one in line is copied into the
second. Source: ZeRO-Infinity (arXiv 2104.07857) §5 for the overlap; here weights only ever travel one way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from hyvideo_core.memory.tensors import Place, buffer_bytes, places, views
from hyvideo_core.memory.transfers import Transfers

BUFFERS = 2


class BlockStream:
    """Carries ``blocks``, in the order in which they run again and again, to ``device`` in time for each to compute."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, transfers: Transfers) -> None:
        self.blocks = tuple(blocks)
        self._transfers = transfers
        self._places = [places(block) for block in blocks]
        self._host = [[place.get() for place in found] for found in self._places]
        self._number = {id(block): number for number, block in enumerate(blocks)}
        size = max((buffer_bytes(tensors) for tensors in self._host), default=0)
        count = min(BUFFERS, len(blocks))
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)]
        #: For each buffer, the computation that must be over before it is written; at first whatever used its memory.
        self._busy: list[Any] = [transfers.mark_computation() for _ in range(count)]
        #: Blocks on their way: number → (buffer, the mark of its arrival, its tensors there).
        self._coming: dict[int, tuple[int, Any, list[torch.Tensor]]] = {}
        self._next_buffer = 0

    @property
    def buffer_bytes(self) -> int:
        """Bytes on the device, whatever the number of blocks."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def carries(self, block: nn.Module) -> bool:
        """Whether a block is one of those that stream."""
        return id(block) in self._number

    @contextmanager
    def arrived(self, block: nn.Module) -> Iterator[None]:
        """Within it the block's weights are on the device, and the next block is on its way."""
        number = self._number[id(block)]
        if number not in self._coming:
            # The first one, or somebody skipped a block. What is on its way must land before its buffer is used again.
            for _, abandoned, _ in self._coming.values():
                self._transfers.await_copies(abandoned)
            self._coming.clear()
            self._send(number)
        following = (number + 1) % len(self._places)
        if following not in self._coming:
            self._send(following)
        buffer, mark, tensors = self._coming[number]
        self._transfers.await_copies(mark)
        _fill(self._places[number], tensors)
        try:
            yield
        finally:
            _fill(self._places[number], self._host[number])
            self._busy[buffer] = self._transfers.mark_computation()
            if len(self._places) > len(self._buffers):
                del self._coming[number]

    def close(self) -> None:
        """Wait for what is in flight and give the buffers back."""
        self._transfers.close()
        self._coming.clear()
        self._buffers.clear()

    def _send(self, number: int) -> None:
        buffer = self._next_buffer
        self._next_buffer = (buffer + 1) % len(self._buffers)
        tensors = views(self._buffers[buffer], self._host[number])
        mark = self._transfers.copy(list(zip(tensors, self._host[number], strict=True)), self._busy[buffer])
        self._coming[number] = (buffer, mark, tensors)


@contextmanager
def streamed(blocks: Sequence[nn.Module], device: torch.device, transfers: Transfers) -> Iterator[None]:
    """Within it, calling one of ``blocks`` carries its weights to ``device`` first: for modules without seams."""
    with ExitStack() as stack:
        stream = BlockStream(blocks, device, transfers)
        stack.callback(stream.close)
        for block in blocks:
            # In the instance's own dictionary it hides the class's method; taking it out restores that.
            block.__dict__["forward"] = partial(_arrive_first, stream, block, block.forward)
            stack.callback(block.__dict__.pop, "forward")
        yield


def _arrive_first(stream: BlockStream, block: nn.Module, forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    with stream.arrived(block):
        return forward(*args, **named)


def _fill(found: Sequence[Place], tensors: Sequence[torch.Tensor]) -> None:
    for place, tensor in zip(found, tensors, strict=True):
        place.put(tensor)
