"""Which blocks of a model are on the device, and which wait on the host.

The model is loaded on the host, memory-mapped where possible. Putting a block on the device copies it; taking it off
forgets the copy. The host's tensors are never written and never copied back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import nn

from hyvideo_core.errors import DoesNotFitError
from hyvideo_core.memory.streaming import BUFFERS
from hyvideo_core.memory.tensors import Place, buffer_bytes, owns_memory, places, size_bytes, views
from hyvideo_core.memory.transfers import pin, unpin


class Placement:
    """A module on ``device`` with some of its ``blocks`` on the host; everything outside the blocks is on the device.

    ``resident`` blocks are on the device, spread over the order of execution, so that transfers of the others spread
    over the computation. The module must be on the host when this is made.
    """

    def __init__(self, module: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.module, self.blocks, self.device = module, blocks, device
        inside = {id(owner) for block in blocks for owner in block.modules()}
        self._outside = [place for place in places(module) if id(place.owner) not in inside]
        self._of_block = [places(block) for block in blocks]
        self._host = {place: place.get() for place in (*self._outside, *(p for b in self._of_block for p in b))}
        self._on_device = [False] * len(blocks)
        self._is_loaded = False
        #: Page-locked copies: the block's number → the buffer, and the block's tensors in it.
        self._locked: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def waiting(self) -> list[nn.Module]:
        """The blocks that are not on the device, in the order in which they run."""
        return [block for block, here in zip(self.blocks, self._on_device, strict=True) if not here]

    @property
    def block_bytes(self) -> list[int]:
        """Bytes of each block."""
        return [self._bytes(found) for found in self._of_block]

    @property
    def total_bytes(self) -> int:
        """Bytes of everything."""
        return size_bytes(self._host.values())

    @property
    def resident_bytes(self) -> int:
        """Bytes that are on the device now."""
        if not self._is_loaded:
            return 0
        blocks = (self._bytes(found) for found, here in zip(self._of_block, self._on_device, strict=True) if here)
        return self._bytes(self._outside) + sum(blocks)

    @property
    def resident(self) -> int:
        """Blocks that are on the device now."""
        return sum(self._on_device)

    def fitting(self, room_bytes: int) -> int:
        """The most resident blocks that ``room_bytes`` hold beside everything else and the buffers for the others.

        Raises ``DoesNotFitError`` if not even none do.
        """
        sizes = self.block_bytes
        for resident in range(len(sizes), -1, -1):
            here = spread(resident, len(sizes))
            waiting = [size for size, stays in zip(sizes, here, strict=True) if not stays]
            buffers = min(BUFFERS, len(waiting)) * max(waiting, default=0)
            needed = self.total_bytes - sum(waiting) + buffers
            if needed <= room_bytes:
                return resident
        raise DoesNotFitError(
            f"{type(self.module).__name__} takes at least {needed / 1e9:.2f} GB of {self.device}, but "
            f"{max(0, room_bytes) / 1e9:.2f} GB are free for it. Free memory that other programs hold, or choose a "
            "smaller file."
        )

    def put(self, resident: int) -> None:
        """Have everything outside the blocks and ``resident`` of the blocks on the device.

        If the device runs out of memory, nothing is left on it.
        """
        wanted = spread(resident, len(self.blocks))
        try:
            # Leaving comes first: the room is needed.
            for number, here in enumerate(wanted):
                if not here:
                    self._take_off(number)
            if not self._is_loaded:
                self._copy(self._outside)
                self._is_loaded = True
            for number, here in enumerate(wanted):
                if here and not self._on_device[number]:
                    self._copy(self._of_block[number])
                    self._on_device[number] = True
                    self._unlock(number)
        except BaseException:
            self.release()
            raise

    def free(self, wanted_bytes: int) -> int:
        """Take blocks off until ``wanted_bytes`` are freed, everything if that is not enough; the bytes freed."""
        before = self.resident_bytes
        for number in reversed(residence_order(len(self.blocks))):
            if before - self.resident_bytes >= wanted_bytes:
                break
            self._take_off(number)
        if before - self.resident_bytes < wanted_bytes:
            self.release()
        return before - self.resident_bytes

    def release(self) -> None:
        """Take everything off the device, and unlock the host's pages."""
        # Also what a failed copy left half done.
        for number in range(len(self.blocks)):
            self._wait(number)
            self._on_device[number] = False
        for place in self._outside:
            place.put(self._host[place])
        self._is_loaded = False
        self.unlock()

    def lock(self, limit_bytes: int) -> int:
        """Page-lock host copies of the blocks that are not on the device, up to ``limit_bytes``; the bytes locked.

        Where that works, transfers run at the bus's full speed; the rest streams from the file.
        """
        locked = size_bytes(buffer for buffer, _ in self._locked.values())
        for number, found in enumerate(self._of_block):
            if self._on_device[number] or number in self._locked:
                continue
            tensors = [self._host[place] for place in found]
            needed = buffer_bytes(tensors)
            if locked + needed > limit_bytes:
                break
            buffer = torch.empty(needed, dtype=torch.uint8)
            if not pin(buffer):
                break
            copies = views(buffer, tensors)
            for place, target, source in zip(found, copies, tensors, strict=True):
                target.copy_(source)
                if owns_memory(source):
                    # What is no part of a mapped file would be held twice.
                    self._host[place] = target
            self._locked[number] = (buffer, copies)
            self._wait(number)
            locked += needed
        return locked

    def unlock(self) -> None:
        """Give back the page-locked copies."""
        for number in list(self._locked):
            self._unlock(number)

    def _unlock(self, number: int) -> None:
        if number not in self._locked:
            return
        buffer, _ = self._locked.pop(number)
        if not self._on_device[number]:
            self._wait(number)
        unpin(buffer)

    def _bytes(self, found: list[Place]) -> int:
        return size_bytes(self._host[place] for place in found)

    def _copy(self, found: list[Place]) -> None:
        for place in found:
            place.put(self._host[place].to(self.device, copy=True))

    def _take_off(self, number: int) -> None:
        if self._on_device[number]:
            self._wait(number)
            self._on_device[number] = False

    def _wait(self, number: int) -> None:
        """Have the host's tensors in a block, the page-locked ones where there are any."""
        found = self._of_block[number]
        tensors = self._locked[number][1] if number in self._locked else [self._host[place] for place in found]
        for place, tensor in zip(found, tensors, strict=True):
            place.put(tensor)


@lru_cache(8)  # A plan asks for it hundreds of times.
def residence_order(total: int) -> tuple[int, ...]:
    """Blocks in the order in which they become resident: each in the middle of the longest run that streams.

    Fewer residents are the beginning of more, so that a change moves no block but those it is about.
    """
    order: list[int] = []
    runs = [(0, total)]
    while runs:
        start, stop = max(runs, key=lambda run: run[1] - run[0])
        runs.remove((start, stop))
        middle = (start + stop) // 2
        order.append(middle)
        runs += [run for run in ((start, middle), (middle + 1, stop)) if run[0] < run[1]]
    return tuple(order)


def spread(count: int, total: int) -> list[bool]:
    """Which of ``total`` blocks are resident if ``count`` are."""
    if not 0 <= count <= total:
        raise ValueError(f"resident blocks are {count}, but this model has {total} blocks. Choose 0 to {total}.")
    chosen = set(residence_order(total)[:count])
    return [number in chosen for number in range(total)]
