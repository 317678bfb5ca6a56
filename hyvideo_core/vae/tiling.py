"""Tiled encoding and decoding, as plain arithmetic on one axis at a time and a loop over the resulting tiles.

The network is only ever a callable here, so everything in this file can be checked without one.
An axis is cut into overlapping segments; in the overlap a tile is cross-faded with its already faded
neighbour. On the time axis a segment reads one frame more than its size and, except for the first, discards its
first output, because the causal network codes the first frame of any clip alone.
Source: HunyuanVideo ``hyvideo/vae/autoencoder_kl_causal_3d.py`` (spatial and temporal tiling).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hyvideo_core.configs import VAEConfig
from hyvideo_core.errors import GeometryError
from hyvideo_core.types import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION

Network = Callable[[Tensor], Tensor]
Length = Callable[[int], int]

TIME, HEIGHT, WIDTH = 2, 3, 4


@dataclass(frozen=True)
class Tiling:
    """How large tiles are and how much they overlap, counted in pixels and frames of the video.

    ``tile_size_px`` is a multiple of 8, ``tile_frames`` of 4, ``overlap`` the share of a tile in [0, 1) that
    it has in common with its neighbour (rounded down to whole latents); ``spatial`` and ``temporal`` switch
    the axes. Time is cut when it is longer than a tile, the picture when one of its sides is. Raises
    ``GeometryError`` for other values.
    """

    tile_size_px: int
    tile_frames: int
    overlap: float
    spatial: bool = True
    temporal: bool = True

    def __post_init__(self) -> None:
        for name, step in (("tile_size_px", SPATIAL_COMPRESSION), ("tile_frames", TEMPORAL_COMPRESSION)):
            value = getattr(self, name)
            if value < step or value % step:
                raise GeometryError(
                    f"{name} is {value}, but must be a positive multiple of {step}, the compression of the "
                    f"VAE. Use {max(1, value // step) * step}."
                )
        if not 0.0 <= self.overlap < 1.0:
            raise GeometryError(
                f"overlap is {self.overlap}, but must be a share of the tile in [0, 1). Use 0.25, the original's value."
            )

    @classmethod
    def original(cls, config: VAEConfig) -> Tiling:
        """The original's own tiling: 256 px, 64 frames, a quarter of overlap, both switched on."""
        return cls(config.tile_size_px, config.tile_frames, config.tile_overlap)


@dataclass(frozen=True)
class Segment:
    """One tile along one axis.

    ``source`` is what the network reads. Of its result the first ``discard`` are thrown away, the next
    ``blend`` are cross-faded with the end of the previous tile, and the beginning fills ``target``.
    """

    source: slice
    discard: int
    blend: int
    target: slice


@dataclass(frozen=True)
class TilePlan:
    """The segments of each axis and the (T, H, W) of the assembled result."""

    frames: tuple[Segment, ...]
    rows: tuple[Segment, ...]
    columns: tuple[Segment, ...]
    shape: tuple[int, int, int]

    @property
    def tiles(self) -> int:
        """How often the network runs."""
        return len(self.frames) * len(self.rows) * len(self.columns)


def latent_frames(frames: int) -> int:
    """Latent frames of a clip; frames beyond 4n+1 still count into the last one."""
    return (frames - 1) // TEMPORAL_COMPRESSION + 1


def latent_size(pixels: int) -> int:
    """Latent height or width of a picture; a part of eight pixels makes a whole latent."""
    return -(-pixels // SPATIAL_COMPRESSION)


def video_frames(latents: int) -> int:
    """Frames that a latent decodes to."""
    return (latents - 1) * TEMPORAL_COMPRESSION + 1


def video_size(latents: int) -> int:
    """Pixels that a latent height or width decodes to."""
    return latents * SPATIAL_COMPRESSION


def split_axis(size: int, tile: int, overlap: int, length: Length, lead: int = 0) -> tuple[Segment, ...]:
    """Cut an axis of ``size`` into segments of ``tile`` that share ``overlap`` (all in source units).

    ``length`` maps a source length to the network's output length; ``lead`` is 1 on the causal time axis,
    where the first element is coded alone. Segments that would contribute nothing are left out. The targets of
    the segments cover the whole output, each element once, in order.
    """
    stride = tile - overlap
    out_stride = length(stride + lead) - lead
    out_overlap = length(overlap + lead) - lead if overlap else 0
    segments: list[Segment] = []
    previous = position = 0
    for start in range(0, size, stride):
        discard = lead if start else 0
        stop = min(start + tile + lead, size)
        available = length(stop - start) - discard
        if available == 0:
            break
        kept = min(available, out_stride if start else out_stride + lead)
        blend = min(out_overlap, available, previous)
        segments.append(Segment(slice(start, stop), discard, blend, slice(position, position + kept)))
        previous, position = available, position + kept
    return tuple(segments)


def plan_encode(shape: tuple[int, int, int], tiling: Tiling) -> TilePlan:
    """The plan for a video of ``shape`` (T, H, W) in frames and pixels."""
    tiles = (tiling.tile_frames, tiling.tile_size_px)
    steps = (TEMPORAL_COMPRESSION, SPATIAL_COMPRESSION)
    return _plan(shape, tiling, tiles, steps, latent_frames, latent_size)


def plan_decode(shape: tuple[int, int, int], tiling: Tiling) -> TilePlan:
    """The plan for a latent of ``shape`` (T, H, W)."""
    tiles = (tiling.tile_frames // TEMPORAL_COMPRESSION, tiling.tile_size_px // SPATIAL_COMPRESSION)
    return _plan(shape, tiling, tiles, (1, 1), video_frames, video_size)


def _plan(
    shape: tuple[int, int, int],
    tiling: Tiling,
    tiles: tuple[int, int],
    steps: tuple[int, int],
    time_length: Length,
    space_length: Length,
) -> TilePlan:
    """``tiles`` and ``steps`` (source units per latent) are (time, space)."""
    (frames, height, width), (tile_t, tile_s) = shape, tiles
    overlap_t, overlap_s = (
        # The tiny term keeps a product such as 0.29 × 100 from losing a whole latent to rounding.
        int(tile // step * tiling.overlap + 1e-9) * step
        for tile, step in zip(tiles, steps, strict=True)
    )
    if not (tiling.temporal and frames > tile_t):
        tile_t, overlap_t = frames, 0
    # One picture axis longer than a tile cuts both, as in the original.
    if not (tiling.spatial and max(height, width) > tile_s):
        tile_s, overlap_s = max(height, width), 0
    return TilePlan(
        frames=split_axis(frames, tile_t, overlap_t, time_length, lead=1),
        rows=split_axis(height, tile_s, overlap_s, space_length),
        columns=split_axis(width, tile_s, overlap_s, space_length),
        shape=(time_length(frames), space_length(height), space_length(width)),
    )


def blend_(previous_end: Tensor, tile: Tensor, dim: int) -> None:
    """Cross-fade the beginning of ``tile`` along ``dim`` with ``previous_end``, in place.

    Element i of n becomes previous·(1 − i/n) + tile·(i/n). Written as an interpolation, so that equal inputs
    stay equal bit by bit.
    """
    extent = previous_end.shape[dim]
    if extent == 0:
        return
    weight = torch.arange(extent, device=tile.device, dtype=torch.float32).div_(extent).to(tile.dtype)
    shape = [1] * tile.ndim
    shape[dim] = extent
    beginning = tile.narrow(dim, 0, extent)
    beginning.copy_(torch.lerp(previous_end, beginning, weight.view(shape)))


def _end(tile: Tensor, dim: int, following: Segment | None) -> Tensor:
    """A copy of the last elements, which the following segment fades with."""
    extent = following.blend if following else 0
    return tile.narrow(dim, tile.shape[dim] - extent, extent).clone()


def _next(segments: tuple[Segment, ...], index: int) -> Segment | None:
    return segments[index + 1] if index + 1 < len(segments) else None


def _beginning(tile: Tensor, dim: int, segment: Segment) -> Tensor:
    return tile.narrow(dim, 0, segment.target.stop - segment.target.start)


def run_tiled(network: Network, x: Tensor, plan: TilePlan) -> Iterator[Tensor]:
    """Run ``network`` over the tiles of ``x`` [B, C, T, H, W]; yield what each temporal tile makes final, in order.

    While a temporal tile is computed, of the earlier ones only the fading edge is held.
    """
    end = None
    for index, segment in enumerate(plan.frames):
        clip = _run_pictures(network, x[:, :, segment.source], plan)[:, :, segment.discard :]
        if end is not None:
            blend_(end, clip, TIME)
        end = _end(clip, TIME, _next(plan.frames, index))
        yield _beginning(clip, TIME, segment)
        del clip


def _run_pictures(network: Network, x: Tensor, plan: TilePlan) -> Tensor:
    """The rows and columns of one temporal tile, each faded with the tile above, then with the left one."""
    if len(plan.rows) == len(plan.columns) == 1:
        return network(x)
    out: Tensor | None = None
    above: list[Tensor] = []
    for i, row in enumerate(plan.rows):
        below: list[Tensor] = []
        left: Tensor | None = None
        for j, column in enumerate(plan.columns):
            tile = network(x[:, :, :, row.source, column.source])
            if above:
                blend_(above[j], tile, HEIGHT)
            if left is not None:
                blend_(left, tile, WIDTH)
            if out is None:
                out = tile.new_empty(*tile.shape[:3], *plan.shape[1:])
            kept = _beginning(_beginning(tile, HEIGHT, row), WIDTH, column)
            out[:, :, :, row.target, column.target] = kept
            # The edges are taken after fading: the next tile fades with what this one has become.
            below.append(_end(tile, HEIGHT, _next(plan.rows, i)))
            left = _end(tile, WIDTH, _next(plan.columns, j))
            del tile, kept
        above = below
    assert out is not None
    return out
