"""Sliding-tile attention: after the first steps video tokens attend to what is near in space and time, and to text.

Where attention is most of the work, in long and large videos, steps become several times as fast. The first steps lay
out the picture and stay dense.

Source: arXiv 2502.04507; FastVideo ``fastvideo/v1/STA_configuration.py``: of 50 steps the first 15 are dense, and in
the others each head of each layer has the window found best for it, at 768×1280×117. Here all share one window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.attention.sliding_tile import Tiling, Triple, attend_by_window
from hyvideo_core.attention.tile_blocks import (
    TileOrder,
    attend_in_blocks,
    compiled_flex,
    tile_order,
    why_not_in_blocks,
)
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run
from hyvideo_core.types import Interval

#: Without the first 15 of 50 steps.
AFTER_THE_LAYOUT = Interval(0.3, 1.0)
#: Where ``flex_attention`` is used if it works; elsewhere there is no fast kernel of it.
FLEX_DEVICES = ("cuda",)


@dataclass
class Tiles:
    """State of a run: the tiling of the latent under evaluation, and orders of tokens by tiling and length of text."""

    patch: Triple
    tiling: Tiling | None = None
    orders: dict[tuple[Tiling, int], TileOrder] = field(default_factory=dict)


@dataclass(frozen=True)
class SlidingTileAttention(Extension):
    """Limits attention to a window of tiles; one that spans the video changes nothing.

    ``tile`` is in tokens, so in latent frames, and rows and columns of 16 px; ``window`` in tiles; both along
    (t, h, w). The authors' kernel has tiles of 6×8×8. On CUDA ``flex_attention`` takes the place of the chosen kernel,
    with at most ``COPIES`` times the memory of q beside what plain attention takes; where it does not work, and on
    other devices, the chosen kernel computes window by window, with about twice the memory of a window.
    """

    #: Inside of what changes the latent that is evaluated, or what goes into attention and comes out of it: it knows
    #: the grid by then, and stands for the kernel alone.
    rank: ClassVar[int] = 900
    #: Of q: its copies in the order of tiles, those of k and v, and the result's.
    COPIES: ClassVar[int] = 4
    when: Interval = AFTER_THE_LAYOUT
    tile: Triple = (6, 8, 8)
    window: Triple = (5, 5, 5)

    def __post_init__(self) -> None:
        for name, unit in (("tile", "tokens"), ("window", "tiles")):
            value = getattr(self, name)
            if len(value) != 3 or min(value) < 1:
                raise ValueError(
                    f"{name} is {value}, but must be three numbers of {unit}, along frames, height and width, each at "
                    "least 1. (6, 8, 8) is the usual tile, (3, 3, 3) a small window."
                )

    def start(self, run: Run) -> Tiles:
        """Nothing is tiled yet: an evaluation may be of a part of the latent."""
        return Tiles(run.dit.config.patch_size)

    def report(self, state: Tiles) -> str:
        """How much was left out."""
        if state.tiling is None:
            return ""
        if state.tiling.is_dense:
            return f"sliding tile attention: the window of {_times(self.window)} tiles spans the video; nothing changed"
        return (
            f"sliding tile attention: with a window of {_times(self.window)} tiles a video token attended to "
            f"{state.tiling.share:.0%} of the video"
        )

    def wrap_predict(self, inner: Predict, state: Tiles) -> Predict:
        """Note the grid of tokens."""

        def predict(evaluation: Evaluation) -> torch.Tensor:
            t, h, w = (size // patch for size, patch in zip(evaluation.x.shape[2:], state.patch, strict=True))
            state.tiling = Tiling((t, h, w), self.tile, self.window)
            return inner(evaluation)

        return predict

    def wrap_attend(self, inner: AttentionKernel, state: Tiles) -> AttentionKernel:
        """Attention within the window."""

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            tiling = state.tiling
            assert tiling is not None
            if tiling.is_dense:
                return inner(q, k, v)
            if q.device.type not in FLEX_DEVICES or why_not_in_blocks(q.device, q.dtype, q.shape[-1]):
                return attend_by_window(inner, (q, k, v), tiling)
            key = tiling, q.shape[1] - tiling.video_tokens
            if key not in state.orders:
                state.orders[key] = tile_order(*key, q.device)
            return attend_in_blocks(compiled_flex, (q, k, v), state.orders[key])

        return attend


def _times(triple: Triple) -> str:
    return " × ".join(map(str, triple))
