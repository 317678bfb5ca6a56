"""Small parts of the transformer: embedders, norms, modulation.

Source: HunyuanVideo ``hyvideo/modules/{embed_layers,norm_layers,modulate_layers,mlp_layers}.py``.
Parameter names are the original's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.ops import Linear

NORM_EPS = 1e-6
SINUSOID_DIM = 256


def token_chunks(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices that cover ``length`` tokens, ``size`` at a time."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def sinusoid(t: torch.Tensor, dim: int = SINUSOID_DIM) -> torch.Tensor:
    """Sinusoidal embedding [B, dim] in float32 of t [B] (0–1000), cosines first."""
    angles = t.float()[:, None] * _frequencies(dim // 2).to(t.device)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _frequencies(half: int) -> torch.Tensor:
    """10000^(−i/half) [half] in float32, the same to the last bit on every machine.

    Guidance enters as 6000 and more, so one ulp of a frequency shows in the fifth digit of the velocity, and
    float32 ``exp`` differs by an ulp between processors. So: round once, from float64. Entry 12 of the 128
    lies 0.02 ulp beside a tie, and the reference results have it rounded up.
    """
    exponents = -math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half
    frequencies = exponents.double().exp().float()
    if half == SINUSOID_DIM // 2:
        frequencies[12] = frequencies[12].nextafter(frequencies[11])
    return frequencies


class ScalarEmbedder(nn.Module):
    """A scalar (timestep or guidance, 0–1000 and beyond) to a vector [B, hidden]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(SINUSOID_DIM, hidden), nn.SiLU(), Linear(hidden, hidden))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """t [B] → [B, hidden] in the dtype of the weights."""
        return self.mlp(sinusoid(t).to(next(self.parameters()).dtype))


class VectorEmbedder(nn.Module):
    """Pooled text [B, pooled_dim] to a vector [B, hidden]."""

    def __init__(self, pooled_dim: int, hidden: int) -> None:
        super().__init__()
        self.in_layer = Linear(pooled_dim, hidden)
        self.out_layer = Linear(hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, pooled_dim] → [B, hidden]."""
        return self.out_layer(F.silu(self.in_layer(x)))


class TextProjection(nn.Module):
    """Mean text [B, text_dim] to a vector [B, hidden]."""

    def __init__(self, text_dim: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = Linear(text_dim, hidden)
        self.linear_2 = Linear(hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, text_dim] → [B, hidden]."""
        return self.linear_2(F.silu(self.linear_1(x)))


class PatchEmbed(nn.Module):
    """Latent [B, C, T, H, W] to tokens [B, L, hidden], t-major, by a convolution of the patch's size."""

    def __init__(self, patch: tuple[int, int, int], in_channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, hidden, patch, stride=patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tokens of x, in the dtype of the weights."""
        # Frame by frame, since some convolution kernels work in three times the room of what they give.
        frames = x.to(self.proj.weight.dtype).split(self.proj.kernel_size[0], dim=2)
        return torch.cat([self.proj(frame).flatten(2).transpose(1, 2) for frame in frames], dim=1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [..., D] over its root mean square along D, computed in float32, times ``weight`` [D]; in the dtype of x."""
    return F.rms_norm(x.float(), (x.shape[-1],), eps=NORM_EPS).to(x.dtype) * weight


class RMSNorm(nn.Module):
    """Root mean square norm over the last axis, computed in float32. Source: arXiv 1910.07467."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x normalised and scaled, in the dtype of x."""
        return rms_norm(x, self.weight)


class FeedForward(nn.Module):
    """Two linear layers around an activation, which may work in place."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = activation
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] → [..., dim]."""
        return self.fc2(self.act(self.fc1(x)))

    def ready(self, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
        """``forward`` for many calls in a row: packed weights are unpacked while it is held."""
        fc1, fc2 = self.fc1.ready(dtype), self.fc2.ready(dtype)
        return lambda x: fc2(self.act(fc1(x)))


class Modulation(nn.Module):
    """The conditioning vector [B, hidden] to ``count`` shifts, scales and gates, each [B, 1, hidden]."""

    def __init__(self, hidden: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = Linear(hidden, count * hidden)

    def forward(self, vec: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """In the order shift, scale, gate (and again for the second half of a double block)."""
        return self.linear(F.silu(vec))[:, None].chunk(self.count, dim=-1)


def modulated_norm(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Layer norm of x [B, L, D] without weights, then ·(1 + scale) + shift [B, 1, D], in the dtype of x.

    Shift and scale go in as the norm's weights, so that one kernel does it all, in float32 inside.
    """
    shape = (x.shape[-1],)
    weights, biases = (1 + scale).to(x.dtype), shift.to(x.dtype)
    if x.shape[0] == 1:
        return F.layer_norm(x, shape, weights[0, 0], biases[0, 0], NORM_EPS)
    rows = zip(x, weights[:, 0], biases[:, 0], strict=True)
    return torch.stack([F.layer_norm(row, shape, weight, bias, NORM_EPS) for row, weight, bias in rows])


def gelu_(x: torch.Tensor) -> torch.Tensor:
    """The tanh form of GELU, in place: the widest activation of the network exists once."""
    return torch.ops.aten.gelu_(x, approximate="tanh")
