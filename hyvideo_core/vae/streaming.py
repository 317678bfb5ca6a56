"""Convolutions that read and write a clip a few frames at a time, so that no padded copy of it ever exists.

A causal convolution needs two earlier frames and nothing later. Normalising, activating, padding and
upsampling are therefore done in a small window that moves over the frames; only whole-clip statistics are
taken first.
The results are those of the plain formula: chunks change neither padding nor statistics.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Writes what the network should see for some frames of the input into a window of the same shape.
Fill = Callable[[Tensor, Tensor], None]

#: Target size of one window. Small enough to vanish beside a clip, large enough to keep a GPU busy.
WINDOW_BYTES = 64 * 2**20
#: A window of one new frame would spend two thirds of its work on frames it has seen before.
MIN_WINDOW_FRAMES = 2


def windows(frames: int, frame_bytes: int) -> Iterator[tuple[int, int]]:
    """Consecutive [start, stop) ranges of frames, each about ``WINDOW_BYTES`` large."""
    step = max(MIN_WINDOW_FRAMES, WINDOW_BYTES // max(1, frame_bytes))
    for start in range(0, frames, step):
        yield start, min(start + step, frames)


def frame_bytes(x: Tensor) -> int:
    """Bytes of one frame of ``x`` [B, C, T, H, W]."""
    return x[:, :, 0].numel() * x.element_size()


def copy_frames(frames: Tensor, into: Tensor) -> None:
    """The plain ``Fill``: the network sees the input itself."""
    into.copy_(frames)


def norm_affine(x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift [B, C, 1, 1, 1] in float32 that apply ``norm`` to the whole of ``x`` [B, C, T, H, W].

    Mean and variance are those of all T·H·W positions: windows are merged by the parallel variance formula.
    Source: Wu & He 2018, "Group Normalization"; Chan et al. 1979 for the merge.
    """
    moments, counts = [], []
    for start, stop in windows(x.shape[2], frame_bytes(x)):
        grouped = x[:, :, start:stop].view(x.shape[0], norm.num_groups, -1, stop - start, *x.shape[3:])
        moments.append(torch.var_mean(grouped.float(), dim=(2, 3, 4, 5), correction=0))
        counts.append(stop - start)
    share = torch.tensor(counts, dtype=torch.float32, device=x.device).div_(x.shape[2]).view(-1, 1, 1)
    variances, means = (torch.stack(parts) for parts in zip(*moments, strict=True))
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean) ** 2)).sum(0)
    repeats = x.shape[1] // norm.num_groups
    scale = (variance + norm.eps).rsqrt().repeat_interleave(repeats, dim=1) * norm.weight.float()
    shift = norm.bias.float() - mean.repeat_interleave(repeats, dim=1) * scale
    return scale[:, :, None, None, None], shift[:, :, None, None, None]


def norm_silu(x: Tensor, norm: nn.GroupNorm) -> Fill:
    """A ``Fill`` that shows the network SiLU(norm(x)); statistics are taken from all of ``x`` now."""
    scale, shift = norm_affine(x, norm)

    def fill(frames: Tensor, into: Tensor) -> None:
        torch.addcmul(shift, frames, scale, out=into)
        F.silu(into, inplace=True)

    return fill


def padded(x: Tensor, start: int, stop: int, causal: int, fill: Fill) -> Tensor:
    """Frames [start, stop) of ``x`` after replicate padding: ``causal`` frames in front, one pixel around."""
    lead = max(0, causal - start)
    frames = x[:, :, max(0, start - causal) : stop - causal]
    batch, channels, _, height, width = x.shape
    window = x.new_empty(batch, channels, stop - start, height + 2, width + 2)
    body = window[:, :, lead:]
    fill(frames, body[..., 1:-1, 1:-1])
    body[..., 1:-1, 0] = body[..., 1:-1, 1]
    body[..., 1:-1, -1] = body[..., 1:-1, -2]
    body[..., 0, :] = body[..., 1, :]
    body[..., -1, :] = body[..., -2, :]
    window[:, :, :lead] = body[:, :, :1]
    return window


def causal_conv(conv: nn.Conv3d, x: Tensor, fill: Fill = copy_frames, add_to: Tensor | None = None) -> Tensor:
    """3×3×3 convolution of ``x`` [B, C, T, H, W], causal, replicate-padded, with the stride of ``conv``.

    Returns a new tensor, or ``add_to`` with the result added in place.
    """
    taps, step = conv.kernel_size[0], conv.stride[0]
    out_frames = (x.shape[2] - 1) // step + 1
    out = add_to
    for start, stop in windows(out_frames, frame_bytes(x) * step):
        piece: Tensor = conv(padded(x, start * step, (stop - 1) * step + taps, taps - 1, fill))
        if add_to is not None:
            add_to[:, :, start:stop] += piece
            continue
        if stop - start == out_frames:
            return piece
        if out is None:
            out = piece.new_empty(*piece.shape[:2], out_frames, *piece.shape[3:])
        out[:, :, start:stop] = piece
    assert out is not None
    return out


def pointwise_conv(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """1×1×1 convolution of ``x``, into the memory of ``x`` itself where the result is no wider."""
    width_out = conv.out_channels
    out = x[:, :width_out] if width_out <= x.shape[1] else x.new_empty(x.shape[0], width_out, *x.shape[2:])
    for start, stop in windows(x.shape[2], frame_bytes(x)):
        out[:, :, start:stop] = conv(x[:, :, start:stop])
    return out


def upsampling_conv(conv: nn.Conv3d, x: Tensor, time_factor: int) -> Tensor:
    """Nearest upsampling by (``time_factor``, 2, 2), then a causal 3×3×3 convolution, in one step.

    Each output reads only two neighbours of the original grid along a doubled axis, so the convolution runs
    there with summed taps: 8 or 12 instead of 27 multiplications an output, and no upsampled tensor.
    The first frame stays single: T frames become (T − 1)·time_factor + 1.
    """
    batch, _, frames, height, width = x.shape
    weight, bias = folded_taps(conv, time_factor)
    causal = weight.shape[2] - 1
    out = x.new_empty(batch, conv.out_channels, (frames - 1) * time_factor + 1, 2 * height, 2 * width)
    for start, stop in windows(frames, frame_bytes(out) * time_factor):
        window = padded(x, start, stop + causal, causal, copy_frames)
        phases = F.conv3d(window, weight, bias)
        phases = phases.view(batch, time_factor, 2, 2, -1, *phases.shape[2:])
        for t, i, j in itertools.product(range(time_factor), range(2), range(2)):
            piece = phases[:, t, i, j, :, :, i : i + height, j : j + width]
            first = (start - 1) * time_factor + 1 + t
            if first < 0:  # the first frame has no earlier twin
                first, piece = first + time_factor, piece[:, :, 1:]
            last = (stop - 2) * time_factor + 1 + t
            out[:, :, first : last + 1 : time_factor, i::2, j::2] = piece
    return out


def folded_taps(conv: nn.Conv3d, time_factor: int) -> tuple[Tensor, Tensor]:
    """Weights [time_factor·2·2·out, in, taps, 2, 2] and bias of the same convolution before upsampling.

    Along a doubled axis each output weighs its two neighbours with (w0, w1 + w2) or (w0 + w1, w2). In time
    the causal padding and the single first frame swap which of the two comes first.
    """
    weight = conv.weight.float()
    by_time = torch.stack([_pair(weight, 2, first=first) for first in (2, 1)]) if time_factor == 2 else weight[None]
    by_row = torch.stack([_pair(by_time, 4, first=first) for first in (1, 2)], dim=1)
    by_column = torch.stack([_pair(by_row, 6, first=first) for first in (1, 2)], dim=2)
    assert conv.bias is not None
    return by_column.flatten(0, 3).to(conv.weight.dtype), conv.bias.repeat(4 * time_factor)


def _pair(weight: Tensor, dim: int, first: int) -> Tensor:
    """Three taps along ``dim`` as two: the ``first`` ones summed, and the rest summed."""
    head, tail = weight.narrow(dim, 0, first), weight.narrow(dim, first, 3 - first)
    return torch.cat((head.sum(dim, keepdim=True), tail.sum(dim, keepdim=True)), dim)
