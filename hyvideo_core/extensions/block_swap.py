"""Blocks whose weights are not on the device are carried there while the ones before them compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from hyvideo_core.memory import BlockStream, Transfers, transfers_for
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlock
from hyvideo_core.sample.seams import Extension, Run


@dataclass(frozen=True)
class BlockSwap(Extension):
    """Streams the blocks that wait on the host while a run lasts; without any it does nothing.

    ``waiting`` names them, in the order in which they run (``memory.Placement.waiting``); ``transfers`` makes the lane
    of copies for a device. Results are the same to the last bit.
    """

    #: Innermost: whatever skips a block or repeats it must not cost a transfer.
    rank: ClassVar[int] = 1000
    waiting: Callable[[], Sequence[nn.Module]] = tuple
    transfers: Callable[[torch.device], Transfers] = transfers_for

    def start(self, run: Run) -> BlockStream:
        """Buffers on the device for the length of the run."""
        device = run.dit.device
        stream = BlockStream(self.waiting(), device, self.transfers(device))
        run.stack.callback(stream.close)
        return stream

    def wrap_block(self, inner: RunBlock, state: BlockStream) -> RunBlock:
        """Run the block once it has arrived."""
        if not state.blocks:
            return inner

        def run(block: nn.Module, stream: Stream) -> None:
            if not state.carries(block):
                inner(block, stream)
                return
            with state.arrived(block):
                inner(block, stream)

        return run
