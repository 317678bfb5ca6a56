"""Sliding-tile attention: a video token attends to the tiles around its own and to all text, text to everything.

The grid of video tokens is cut into tiles. A tile sees the box of tiles that is centred on it, moved inwards at the
borders, so that every tile sees equally many; where the grid ends inside a tile, that tile is smaller. So attention
is dense over boxes of tokens, and ``attend_by_window`` computes it in this way with any kernel.

Triples run along (t, h, w), as tokens do: t-major, video before text.

Source: arXiv 2502.04507 §3; FastVideo ``csrc/sliding_tile_attention/test/flex_sta_ref.py``, for grids that whole tiles
cover, with a window for each head, layer and step. Even windows reach one tile further back than ahead, as in
attention-gym ``attn_gym/masks/sta.py``; in FastVideo's reference they see one tile more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import ceil, prod

import torch
import torch.nn.functional as F

from hyvideo_core.attention.kernels import AttentionKernel

Triple = tuple[int, int, int]
#: Where a part of the grid is, along each axis.
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Tiling:
    """Which part of a grid sees which: ``grid`` and ``tile`` in tokens, ``window`` in tiles."""

    grid: Triple
    tile: Triple
    window: Triple

    @property
    def video_tokens(self) -> int:
        """Tokens of the grid."""
        return prod(self.grid)

    @property
    def is_dense(self) -> bool:
        """Whether every tile sees all of them."""
        return all(axis.seen == axis.tiles for axis in self._axes)

    @property
    def share(self) -> float:
        """The part of the video that a video token sees, on average."""
        seen = sum(_volume(queries) * _volume(keys) for queries, keys in self.views())
        return seen / self.video_tokens**2

    def boxes(self) -> Iterator[Box]:
        """The tiles, t-major."""
        return product(*([axis.span(i, i + 1) for i in range(axis.tiles)] for axis in self._axes))

    def views(self) -> Iterator[tuple[Box, Box]]:
        """Boxes of queries, each with the box of keys it sees. The queries' boxes cover the grid, each token once."""
        for along in product(*(axis.views() for axis in self._axes)):
            queries, keys = zip(*along, strict=True)
            yield queries, keys

    def sees(self) -> torch.Tensor:
        """Which tile sees which, all text being the last tile: bool [tiles + 1, tiles + 1]."""
        t, h, w = (torch.tensor([axis.sees(i) for i in range(axis.tiles)], dtype=torch.uint8) for axis in self._axes)
        return F.pad(torch.kron(torch.kron(t, h), w), (0, 1, 0, 1), value=1).bool()

    @property
    def _axes(self) -> tuple[_Axis, ...]:
        return tuple(map(_Axis, self.grid, self.tile, self.window))


@dataclass(frozen=True)
class _Axis:
    """One axis of a tiling: ``size`` and ``tile`` in tokens, ``window`` in tiles."""

    size: int
    tile: int
    window: int

    @property
    def tiles(self) -> int:
        return ceil(self.size / self.tile)

    @property
    def seen(self) -> int:
        """How many tiles each of them sees."""
        return min(self.window, self.tiles)

    def first(self, tile: int) -> int:
        """The first tile that a tile sees."""
        return max(0, min(tile - self.seen // 2, self.tiles - self.seen))

    def sees(self, tile: int) -> list[bool]:
        """Of every tile, whether this one sees it."""
        return [0 <= other - self.first(tile) < self.seen for other in range(self.tiles)]

    def span(self, start: int, stop: int) -> slice:
        """Where the tokens of tiles ``start`` to ``stop`` are."""
        return slice(start * self.tile, min(stop * self.tile, self.size))

    def views(self) -> list[tuple[slice, slice]]:
        """Queries and the keys they see; neighbours that see the same are together, as at the borders."""
        alike = [(first, list(tiles)) for first, tiles in groupby(range(self.tiles), self.first)]
        return [(self.span(tiles[0], tiles[-1] + 1), self.span(first, first + self.seen)) for first, tiles in alike]


def _volume(box: Box) -> int:
    return prod(span.stop - span.start for span in box)


def attend_by_window(attend: AttentionKernel, qkv: Sequence[torch.Tensor], tiling: Tiling) -> torch.Tensor:
    """Sliding-tile attention of q, k, v [B, L, N, D], one call of ``attend`` for all tiles that see the same.

    The keys and values of one window are copied at a time.
    """
    q, k, v = qkv
    video = tiling.video_tokens
    out = torch.empty_like(q)
    for queries, keys in tiling.views():
        asking = _taken(q, tiling.grid, queries)
        found = attend(asking.flatten(1, 3), *(_taken_with_text(part, tiling.grid, keys) for part in (k, v)))
        _taken(out, tiling.grid, queries).copy_(found.unflatten(1, asking.shape[1:4]))
    out[:, video:] = attend(q[:, video:], k, v)
    return out


def _taken(tokens: torch.Tensor, grid: Triple, box: Box) -> torch.Tensor:
    """View of a box of the video in [B, L, N, D] as [B, t, h, w, N, D]."""
    place = (slice(None), *box)
    return tokens[:, : prod(grid)].unflatten(1, grid)[place]


def _taken_with_text(tokens: torch.Tensor, grid: Triple, box: Box) -> torch.Tensor:
    """Copy of a box of the video and of all text: [B, l, N, D]."""
    taken, text = _taken(tokens, grid, box), tokens[:, prod(grid) :]
    count = taken.shape[1:4].numel()
    out = tokens.new_empty(len(tokens), count + text.shape[1], *tokens.shape[2:])
    out[:, :count].unflatten(1, taken.shape[1:4]).copy_(taken)
    out[:, count:] = text
    return out
