"""TeaCache: blocks are skipped while the input of the first one has changed little since they last ran.

What is measured is what the first block makes of the video tokens before its attention: normed, shifted and scaled by
the noise level. Its relative change from step to step goes through a polynomial, which estimates that of the blocks'
result, and is added up; below the threshold, what the blocks added to the tokens when they last ran is added again.

Source: arXiv 2411.19108, and ali-vilab/TeaCache ``TeaCache4HunyuanVideo/teacache_sample_video.py``: coefficients,
thresholds, the first and the last step computed; its README times 720p×129 on an A800 as 50, 30 and 23 minutes without,
with 0.1 and with 0.15. Other than there, an estimate below 0 counts as 0, a given image's tokens do not count, and the
input of the step before is made again from its latent instead of being kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from hyvideo_core.configs import DiTConfig
from hyvideo_core.extensions.step_cache import (
    CacheState,
    Current,
    Slot,
    StepCache,
    add_kept,
    embedded,
    relative_change,
    residual_bytes,
    unclean,
)
from hyvideo_core.memory.tensors import places
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import DiT, RunBlocks
from hyvideo_core.model.layers import modulated_norm
from hyvideo_core.sample.seams import Run

logger = logging.getLogger(__name__)

#: Change of the first block's input → change of the blocks' result, the highest power first. For HunyuanVideo.
HUNYUAN_VIDEO_COEFFICIENTS = (7.33226126e02, -4.01131952e02, 6.75869174e01, -3.14987800e00, 9.61237896e-02)

#: Shift and scale [B, 1, D].
Shifted = tuple[torch.Tensor, torch.Tensor]


@dataclass
class TeaSlot(Slot):
    """``residual`` [B, L, D] is what the blocks added; ``modulation`` that of ``last``; ``predicted`` what adds up."""

    RESULTS: ClassVar[tuple[str, ...]] = ("residual",)

    residual: torch.Tensor | None = None
    modulation: Shifted | None = None
    predicted: float = 0.0


@dataclass(frozen=True)
class TeaCache(StepCache):
    """``threshold`` 0.1 or 0.15 by the authors. For checkpoints they did not measure, ``TeaCacheCalibration`` finds
    ``coefficients``.

    Keeps one residual for each evaluation of a step, 2 bytes · hidden size for each video token; it makes room while
    its own blocks run, so with one evaluation a step it does not raise the peak.
    """

    name: ClassVar[str] = "TeaCache"
    threshold: float = 0.15
    coefficients: tuple[float, ...] = HUNYUAN_VIDEO_COEFFICIENTS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.coefficients or not all(math.isfinite(each) for each in self.coefficients):
            raise ValueError(
                f"coefficients is {self.coefficients}, but must be numbers, the highest power first. Calibrate to find "
                "those of a checkpoint."
            )

    def cache_bytes(
        self, config: DiTConfig, latent_shape: tuple[int, ...], dtype_bytes: int, branches: int = 1, turns: int = 1
    ) -> int:
        """As in ``StepCache``: the residuals of all evaluations of a step but the one that runs."""
        return (branches * turns - 1) * residual_bytes(config, latent_shape, dtype_bytes)

    def start(self, run: Run) -> CacheState[TeaSlot]:
        """Empty slots; coefficients of a calibration are logged."""
        if self.coefficients != HUNYUAN_VIDEO_COEFFICIENTS:
            logger.info("TeaCache: the coefficients are %s", ", ".join(f"{each:.6g}" for each in self.coefficients))
        return CacheState(run, TeaSlot)

    def wrap_blocks(self, inner: RunBlocks, state: CacheState[TeaSlot]) -> RunBlocks:
        """Add what the blocks added before, or let them run and keep what they add."""
        if not self.threshold:
            return inner

        def run(stream: Stream) -> None:
            current = state.current
            evaluation, slot = current.evaluation, current.slot
            skips = state.skips(partial(self._is_near, state.dit, stream, current))
            if skips:
                assert slot.residual is not None
                add_kept(stream, slot.residual)
            else:
                # Before the blocks run, which need the room.
                slot.residual, slot.predicted = None, 0.0
                inner(stream)
            slot.is_filled = self.keeps(evaluation)
            if not slot.is_filled:
                slot.residual = None
            elif not skips:
                slot.residual = residual(state.dit, stream, evaluation.x, self.kept_on(stream.tokens))
            state.count(float(skips))

        return run

    def _is_near(self, dit: DiT, stream: Stream, current: Current[TeaSlot]) -> bool:
        """Whether the estimates since the blocks last ran add up to less than the threshold."""
        evaluation, slot = current.evaluation, current.slot
        may_skip = self.may_skip(evaluation.step, evaluation.steps)
        if not may_skip and not self.keeps(evaluation):
            slot.modulation = None
            return False
        before, slot.modulation = slot.modulation, first_modulation(dit, stream)
        if before is None or not may_skip or not slot.is_filled:
            return False
        change = input_change(dit, stream, slot.modulation, current.before.x, before)
        # In this order what is no number, also where nothing could be measured, stays that and is never less.
        slot.predicted += max(polynomial(self.coefficients, change), 0.0)
        return slot.predicted < self.threshold


def polynomial(coefficients: Sequence[float], x: float) -> float:
    """Its value at x; the highest power comes first."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def first_modulation(dit: DiT, stream: Stream) -> Shifted:
    """How the first block shifts and scales its video tokens before attention."""
    modulation = dit.double_blocks[0].get_submodule("img_mod")
    with lent(modulation, stream.vec.device):
        shift, scale = modulation(stream.vec)[:2]
    return shift, scale


def input_change(
    dit: DiT, stream: Stream, modulation: Shifted, x_before: torch.Tensor, modulation_before: Shifted
) -> float:
    """Relative L1 change of what the first block makes of its video tokens before attention."""
    return relative_change(
        (modulated_norm(stream.video[:, at], *modulation), modulated_norm(tokens, *modulation_before))
        for at, tokens in embedded(dit, x_before)
        if at.start >= unclean(stream)
    )


def residual(dit: DiT, stream: Stream, x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What the blocks added to the video tokens [B, L, D] of x, in their dtype."""
    kept = torch.empty(stream.video.shape, dtype=stream.tokens.dtype, device=device)
    for at, tokens in embedded(dit, x):
        kept[:, at] = stream.video[:, at] - tokens
    return kept


@contextmanager
def lent(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it the module's weights are on ``device``, where they wait on the host for their block's turn."""
    waiting = [(place, tensor) for place in places(module) if (tensor := place.get()).device != device]
    try:
        for place, tensor in waiting:
            place.put(tensor.to(device))
        yield
    finally:
        for place, tensor in waiting:
            place.put(tensor)
