"""First-Block Cache: the first block always runs, and tells from what it adds whether the others need to.

What it adds to the video tokens is compared with what it added when all blocks last ran. If the relative change is
small, what the other blocks added then is added again.

Source: chengzeyi/ParaAttention ``src/para_attn/first_block_cache/utils.py``, whose threshold for HunyuanVideo, earlier
0.035, is 0.06, 1.62× as fast at 720p×129 and 30 steps by its ``doc/fastest_hunyuan_video.md``; diffusers
``hooks/first_block_cache.py`` (FirstBlockCacheConfig, 0.05) is the same but that it reuses at the threshold itself.
Neither has a warm-up or a last step by default. Other than there, a given image's tokens do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from hyvideo_core.configs import DiTConfig
from hyvideo_core.extensions.step_cache import (
    CacheState,
    Slot,
    StepCache,
    add_kept,
    embedded,
    relative_change,
    residual_bytes,
    unclean,
)
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlock, RunBlocks
from hyvideo_core.model.layers import token_chunks
from hyvideo_core.sample.seams import Run


@dataclass
class FirstBlockSlot(Slot):
    """What the first block and what the others added [B, L, D] when all last ran; the first only where it decides."""

    RESULTS: ClassVar[tuple[str, ...]] = ("first", "rest")
    first: torch.Tensor | None = None
    rest: torch.Tensor | None = None


class FirstBlockState(CacheState[FirstBlockSlot]):
    """The slots, and which blocks may run now: the first (True), the others (False), or all (None)."""

    def __init__(self, run: Run) -> None:
        super().__init__(run, FirstBlockSlot)
        self.first_block = run.dit.double_blocks[0]
        self.blocks = len(run.dit.double_blocks) + len(run.dit.single_blocks)
        self.is_first_due: bool | None = None

    def is_due(self, block: nn.Module) -> bool:
        """Whether a block may run now."""
        return self.is_first_due is None or (block is self.first_block) == self.is_first_due


@dataclass(frozen=True)
class FirstBlockCache(StepCache):
    """``threshold`` 0.06 by the authors.

    Keeps what the other blocks add for each evaluation of a step, and for those that decide also what the first adds:
    each 2 bytes · hidden size for each video token.
    """

    name: ClassVar[str] = "First-Block Cache"
    threshold: float = 0.06

    def cache_bytes(
        self, config: DiTConfig, latent_shape: tuple[int, ...], dtype_bytes: int, branches: int = 1, turns: int = 1
    ) -> int:
        """As in ``StepCache``: a residual of each evaluation, and another where it decides."""
        return (branches + 1) * turns * residual_bytes(config, latent_shape, dtype_bytes)

    def start(self, run: Run) -> FirstBlockState:
        """Empty slots."""
        return FirstBlockState(run)

    def wrap_blocks(self, inner: RunBlocks, state: FirstBlockState) -> RunBlocks:
        """The first block, then the others or what they added before."""
        if not self.threshold:
            return inner

        def only(first: bool, stream: Stream) -> None:
            state.is_first_due = first
            try:
                inner(stream)
            finally:
                state.is_first_due = None

        def run(stream: Stream) -> None:
            slot, rest = state.current.slot, partial(only, False)
            # In two rounds over all blocks, so that whoever else acts on blocks or leaves some out keeps doing so.
            only(True, stream)
            skips = state.skips(partial(self._is_near, stream, state))
            slot.is_filled = self.keeps(state.current.evaluation)
            if skips:
                assert slot.rest is not None
                add_kept(stream, slot.rest)
            elif slot.is_filled:
                slot.rest = self._kept_rest(rest, stream, slot.rest)
            else:
                rest(stream)
            if not slot.is_filled:
                slot.first = slot.rest = None
            state.count(1 - 1 / state.blocks if skips else 0.0)

        return run

    def wrap_block(self, inner: RunBlock, state: FirstBlockState) -> RunBlock:
        """Run the block if it is due."""
        if not self.threshold:
            return inner

        def run(block: nn.Module, stream: Stream) -> None:
            if state.is_due(block):
                inner(block, stream)

        return run

    def _is_near(self, stream: Stream, state: FirstBlockState) -> bool:
        """Whether the first block adds nearly what it did; if not, what it adds now is kept."""
        evaluation, slot = state.current.evaluation, state.current.slot
        if slot.first is not None and slot.is_filled and self.may_skip(evaluation.step, evaluation.steps):
            kept = slot.first
            added = _added(state, stream)
            pairs = ((now, kept[:, at].to(now.device)) for at, now in added if at.start >= unclean(stream))
            if relative_change(pairs) < self.threshold:
                return True
        if self.keeps(evaluation):
            if slot.first is None:
                slot.first = torch.empty_like(stream.video, device=self.kept_on(stream.tokens))
            for at, now in _added(state, stream):
                slot.first[:, at] = now
        return False

    def _kept_rest(self, rest: RunBlocks, stream: Stream, kept: torch.Tensor | None) -> torch.Tensor:
        """What the other blocks add, which are run for it; in ``kept`` if that is given."""
        if kept is None:
            kept = torch.empty_like(stream.video, device=self.kept_on(stream.tokens))
        # At first their input, since blocks work in place.
        kept.copy_(stream.video)
        rest(stream)
        for at in token_chunks(stream.video_tokens, stream.chunk_tokens):
            kept[:, at] = stream.video[:, at] - kept[:, at].to(stream.tokens.device)
        return kept


def _added(state: FirstBlockState, stream: Stream) -> Iterator[tuple[slice, torch.Tensor]]:
    """What the first block added to the video tokens, in pieces."""
    for at, tokens in embedded(state.dit, state.current.evaluation.x):
        yield at, stream.video[:, at] - tokens
