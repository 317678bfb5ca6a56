"""Rotary position embedding over three axes.

Source: RoFormer (arXiv 2104.09864); HunyuanVideo ``hyvideo/modules/posemb_layers.py``: axes in the order
t, h, w, each with its own slice of the head dimension, interleaved pairs, positions from 0.
"""

from __future__ import annotations

import torch


def rope_table(
    grid: tuple[int, int, int], dims: tuple[int, int, int], theta: float, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Unit complex numbers [L, D/2] for a grid of (t, h, w) tokens, t-major; ``dims`` are the channels of each axis."""
    angles = []
    for axis, (size, dim) in enumerate(zip(grid, dims, strict=True)):
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
        positions = torch.arange(size, dtype=torch.float32, device=device)
        shape = [1, 1, 1, dim // 2]
        shape[axis] = size
        angles.append(torch.outer(positions, 1.0 / theta**exponents).view(shape).expand(*grid, dim // 2))
    angle = torch.cat(angles, dim=-1).flatten(0, 2)
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """x [..., L, N, D] turned by its position, channel pairs as complex numbers, in float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table[:, None]).flatten(-2)


def rotate_real(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """``rotate`` with the table as real numbers [L, D/2, 2], for a compiler that knows no complex ones."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table[:, None].unbind(-1)
    return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1).flatten(-2)
