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


def empty_frames(x: Tensor, *shape: int) -> Tensor:
    """Uninitialised memory for activations like ``x``, channels innermost: the layout fast convolutions use."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


class Affine:
    """Group normalisation with its statistics taken: one factor and one offset a channel, in float32.

    Mean and variance are those of all T·H·W positions of ``x`` [B, C, T, H, W]: windows and channels are merged
    by the parallel variance formula.
    Source: Wu & He 2018, "Group Normalization"; Chan et al. 1979 for the merge.
    """

    def __init__(self, x: Tensor, norm: nn.GroupNorm) -> None:
        batch, channels, frames = x.shape[:3]
        # Statistics are taken in float32 copies, so a quarter of a window each keeps them below a window.
        spans = list(windows(frames, 4 * frame_bytes(x)))
        parts = [channel_moments(x[:, :, start:stop]) for start, stop in spans]
        means, variances = (torch.stack(p, dim=-1).view(batch, norm.num_groups, -1) for p in zip(*parts, strict=True))
        shares = torch.tensor([(stop - start) / frames for start, stop in spans], device=x.device)
        shares = shares.repeat(channels // norm.num_groups) * (norm.num_groups / channels)
        mean = (means * shares).sum(-1, keepdim=True)
        variance = ((variances + (means - mean) ** 2) * shares).sum(-1, keepdim=True)
        inverse = (variance + norm.eps).rsqrt()
        by_group = norm.weight.float().view(norm.num_groups, -1)
        self.scale = (by_group * inverse).view(batch, channels)
        self.shift = norm.bias.float() - (by_group * inverse * mean).view(batch, channels)

    def __call__(self, frames: Tensor) -> Tensor:
        """Some frames of ``x``, normalised; a new tensor. Batch norm in evaluation is the fused kernel for it."""
        zero, one = torch.zeros_like(self.shift[0]), torch.ones_like(self.scale[0])
        pieces = [
            F.batch_norm(sample[None], zero, one, scale, shift, training=False, eps=0.0)
            for sample, scale, shift in zip(frames, self.scale, self.shift, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, C] in float32 of each channel of ``x`` [B, C, T, H, W], deviations from the mean first."""
    over = (2, 3, 4)
    exact = x.float()
    mean = exact.mean(over, keepdim=True)
    return mean[:, :, 0, 0, 0], (exact - mean).square_().mean(over)


def norm_silu(x: Tensor, norm: nn.GroupNorm) -> Fill:
    """A ``Fill`` that shows the network SiLU(norm(x)); statistics are taken from all of ``x`` now."""
    affine = Affine(x, norm)

    def fill(frames: Tensor, into: Tensor) -> None:
        into.copy_(F.silu(affine(frames), inplace=True))

    return fill


def padded(x: Tensor, start: int, stop: int, causal: int, fill: Fill) -> Tensor:
    """Frames [start, stop) of ``x`` after replicate padding: ``causal`` frames in front, one pixel around."""
    lead = max(0, causal - start)
    frames = x[:, :, max(0, start - causal) : stop - causal]
    batch, channels, _, height, width = x.shape
    window = empty_frames(x, batch, channels, stop - start, height + 2, width + 2)
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
            out = empty_frames(piece, *piece.shape[:2], out_frames, *piece.shape[3:])
        out[:, :, start:stop] = piece
    assert out is not None
    return out


def pointwise_conv(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """1×1×1 convolution of ``x``, into the memory of ``x`` itself where the result is no wider."""
    width_out = conv.out_channels
    fits = width_out <= x.shape[1]
    out = x[:, :width_out] if fits else empty_frames(x, x.shape[0], width_out, *x.shape[2:])
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
    out = empty_frames(x, batch, conv.out_channels, (frames - 1) * time_factor + 1, 2 * height, 2 * width)
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
    outer_first = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    inner_first = torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    by_time = (inner_first, outer_first) if time_factor == 2 else (torch.eye(3),)
    flat = conv.weight.flatten(2).flatten(0, 1)
    taps = len(by_time[0])
    folded = flat.new_empty(4 * time_factor, flat.shape[0], 4 * taps)
    phases = itertools.product(by_time, (outer_first, inner_first), (outer_first, inner_first))
    for into, (time, row, column) in zip(folded, phases, strict=True):
        summed = torch.kron(time, torch.kron(row, column)).T.to(flat)
        torch.mm(flat, summed, out=into)
    assert conv.bias is not None
    weight = folded.view(-1, conv.in_channels, taps, 2, 2)
    return weight, conv.bias.repeat(4 * time_factor)
