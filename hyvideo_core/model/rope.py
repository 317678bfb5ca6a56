"""Rotary position embedding over three axes.

Source: RoFormer (arXiv 2104.09864); HunyuanVideo ``hyvideo/modules/posemb_layers.py``: axes in the order
t, h, w, each with its own slice of the head dimension, interleaved pairs, positions from 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Rope(NamedTuple):
    """Cosine and sine [L, D/2] in float32, one angle for each pair of channels."""

    cos: torch.Tensor
    sin: torch.Tensor

    def at(self, tokens: slice) -> Rope:
        """The part for some tokens."""
        return Rope(self.cos[tokens], self.sin[tokens])


def rope_table(
    grid: tuple[int, int, int], dims: tuple[int, int, int], theta: float, device: torch.device | str = "cpu"
) -> Rope:
    """The table for a grid of (t, h, w) tokens, t-major; ``dims`` are the channels of each axis."""
    angles = []
    for axis, (size, dim) in enumerate(zip(grid, dims, strict=True)):
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
        positions = torch.arange(size, dtype=torch.float32, device=device)
        shape = [1, 1, 1, dim // 2]
        shape[axis] = size
        angles.append(torch.outer(positions, 1.0 / theta**exponents).view(shape).expand(*grid, dim // 2))
    angle = torch.cat(angles, dim=-1).flatten(0, 2)
    return Rope(angle.cos(), angle.sin())


def rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """x [B, L, N, D] turned by its position; computed and returned in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope.cos[:, None], rope.sin[:, None]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
