"""Activations as lists of pieces, convolved from the last piece to the first, so that no clip exists twice.

A causal convolution needs two earlier frames and nothing later. Walking backwards, a piece is therefore done with
once its own output is made, and leaves as that arrives: what was wide turns into what is narrow without both
being alive. Normalising, activating, padding and upsampling happen in the window of one piece; only whole-clip
statistics are taken first.
The results are those of the plain formula: pieces change neither padding nor statistics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyvideo_core.vae.convolution import conv3d, convolved

#: Consecutive pieces [B, C, t, H, W] of one activation, in order.
Clip = list[Tensor]
#: Writes what the network should see for some frames of the input into a window of the same shape.
Fill = Callable[[Tensor, Tensor], None]

#: Target size of one piece. Small enough to vanish beside a clip, large enough to keep a GPU busy.
WINDOW_BYTES = 64 * 2**20


def cut(x: Tensor, growth: float = 1) -> Clip:
    """Views of ``x`` [B, C, T, H, W], about equally long and each, once ``growth`` times as large, near the target."""
    pieces = math.ceil(x.numel() * x.element_size() * growth / WINDOW_BYTES)
    return list(x.split(math.ceil(x.shape[2] / max(1, pieces)), dim=2))


def recut(clip: Clip, growth: float) -> None:
    """Cut the pieces of ``clip`` for an output ``growth`` times as large, in place."""
    clip[:] = [part for piece in clip for part in cut(piece, growth)]


def frame_count(clip: Clip) -> int:
    """Frames of all pieces."""
    return sum(piece.shape[2] for piece in clip)


def joined(clip: Clip) -> Tensor:
    """The whole activation; empties ``clip``."""
    whole = clip[0] if len(clip) == 1 else torch.cat(clip, dim=2)
    clip.clear()
    return whole


def copy_frames(frames: Tensor, into: Tensor) -> None:
    """The plain ``Fill``: the network sees the input itself."""
    into.copy_(frames)


def empty_frames(x: Tensor, *shape: int) -> Tensor:
    """Uninitialised memory for activations like ``x``, channels innermost: the layout fast convolutions use."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


class Affine:
    """Group normalisation with its statistics taken: one factor and one offset a channel, in float32.

    Mean and variance are those of all T·H·W positions of a clip: pieces and channels are merged by the parallel
    variance formula.
    Source: Wu & He 2018, "Group Normalization"; Chan et al. 1979 for the merge.
    """

    def __init__(self, clip: Clip, norm: nn.GroupNorm) -> None:
        # Statistics are taken in float32 copies, so smaller pieces keep those below a window.
        parts = [part for piece in clip for part in cut(piece, growth=4)]
        batch, channels = parts[0].shape[:2]
        moments = [channel_moments(part) for part in parts]
        means, variances = (torch.stack(m, dim=-1).view(batch, norm.num_groups, -1) for m in zip(*moments, strict=True))
        lengths = torch.tensor([float(part.shape[2]) for part in parts], device=parts[0].device)
        shares = (lengths / lengths.sum()).repeat(channels // norm.num_groups) * (norm.num_groups / channels)
        mean = (means * shares).sum(-1, keepdim=True)
        variance = ((variances + (means - mean) ** 2) * shares).sum(-1, keepdim=True)
        inverse = (variance + norm.eps).rsqrt()
        by_group = norm.weight.float().view(norm.num_groups, -1)
        self.scale = (by_group * inverse).view(batch, channels)
        self.shift = norm.bias.float() - (by_group * inverse * mean).view(batch, channels)

    def __call__(self, frames: Tensor) -> Tensor:
        """Some frames of the clip, normalised; a new tensor. Batch norm in evaluation is the fused kernel for it."""
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
    deviation = exact - mean if exact is x else exact.sub_(mean)
    return mean[:, :, 0, 0, 0], deviation.square_().mean(over)


def norm_silu(clip: Clip, norm: nn.GroupNorm) -> Fill:
    """A ``Fill`` that shows the network SiLU(norm(x)); statistics are taken from all of ``clip`` now."""
    affine = Affine(clip, norm)

    def fill(frames: Tensor, into: Tensor) -> None:
        done = 0
        for part in cut(frames, growth=4):
            into[:, :, done : done + part.shape[2]] = F.silu(affine(part), inplace=True)
            done += part.shape[2]

    return fill


class Windows:
    """The last piece of a clip as a convolution wants it, again and again as its owner pops one piece after the other.

    A window has ``causal`` earlier frames in front (before the first frame: copies of it) and one replicated pixel
    around. The frames that it shares with the next, earlier window are filled in once and handed over.
    """

    def __init__(self, clip: Clip, causal: int, fill: Fill) -> None:
        self._clip, self._causal, self._fill = clip, causal, fill
        self._shared: Tensor | None = None

    def last(self) -> Tensor:
        """The window [B, C, causal + t, H + 2, W + 2] of the piece that is now the last, to be asked for once."""
        batch, channels, frames, height, width = self._clip[-1].shape
        window = empty_frames(self._clip[-1], batch, channels, self._causal + frames, height + 2, width + 2)
        missing = window.shape[2]
        if self._shared is not None:
            missing -= self._causal
            window[:, :, missing:], self._shared = self._shared, None
        lead = self._fill_in(window[:, :, :missing, 1:-1, 1:-1])
        body = window[:, :, lead:missing]
        body[..., 1:-1, 0] = body[..., 1:-1, 1]
        body[..., 1:-1, -1] = body[..., 1:-1, -2]
        body[..., 0, :] = body[..., 1, :]
        body[..., -1, :] = body[..., -2, :]
        window[:, :, :lead] = window[:, :, lead : lead + 1]
        self._shared = window[:, :, : self._causal].clone() if len(self._clip) > 1 else None
        return window

    def _fill_in(self, inner: Tensor) -> int:
        """Fill the frames of a window that are not shared; returns how many in front lie before the clip."""
        position = self._causal + self._clip[-1].shape[2]
        for piece in reversed(self._clip):
            position, stop = position - piece.shape[2], min(position, inner.shape[2])
            start = max(position, 0)
            if start < stop:
                self._fill(piece[:, :, start - position : stop - position], inner[:, :, start:stop])
            if position <= 0:
                return 0
        return position


def causal_conv(conv: nn.Conv3d, clip: Clip, fill: Fill = copy_frames) -> Clip:
    """3×3×3 convolution, causal, replicate-padded, with the stride of ``conv``; empties ``clip``."""
    taps, step = conv.kernel_size[0], conv.stride[0]
    recut(clip, conv.out_channels / conv.in_channels)
    windows = Windows(clip, taps - 1, fill)
    out = []
    while clip:
        skipped = -frame_count(clip[:-1]) % step
        has_output = clip[-1].shape[2] > skipped
        window = windows.last()[:, :, skipped:]
        clip.pop()
        if has_output:
            out.append(convolved(conv, window))
        del window
    return out[::-1]


def pointwise_conv(conv: nn.Conv3d, clip: Clip) -> Clip:
    """1×1×1 convolution; empties ``clip``."""
    return [convolved(conv, clip.pop()) for _ in range(len(clip))][::-1]


def upsampling_conv(conv: nn.Conv3d, clip: Clip, time_factor: int) -> Clip:
    """Nearest upsampling by (``time_factor``, 2, 2), then a causal 3×3×3 convolution, in one step; empties ``clip``.

    Each output reads only two neighbours of the original grid along a doubled axis, so the convolution runs
    there with summed taps: 8 or 12 instead of 27 multiplications an output, and no upsampled tensor.
    The first frame stays single: T frames become (T − 1)·time_factor + 1.
    """
    weight, bias = folded_taps(conv, time_factor)
    recut(clip, 4 * time_factor * conv.out_channels / conv.in_channels)
    windows = Windows(clip, weight.shape[2] - 1, copy_frames)
    out = []
    while clip:
        phases = conv3d(windows.last(), weight, bias)
        clip.pop()
        # The first frame has no earlier twin.
        out.append(interleaved(phases, time_factor, left_out=0 if clip else time_factor - 1))
        del phases
    return out[::-1]


def interleaved(phases: Tensor, time_factor: int, left_out: int) -> Tensor:
    """``phases`` [B, time_factor·2·2·C, T, H + 1, W + 1] in their places [B, C, T·time_factor − left_out, 2H, 2W]."""
    batch, _, frames, height, width = (*phases.shape[:3], phases.shape[3] - 1, phases.shape[4] - 1)
    by_phase = phases.view(batch, time_factor, 2, 2, -1, *phases.shape[2:])
    channels = by_phase.shape[4]
    out = empty_frames(phases, batch, channels, frames * time_factor - left_out, 2 * height, 2 * width)
    for t, i, j in itertools.product(range(time_factor), range(2), range(2)):
        skipped = 1 if t < left_out else 0
        piece = by_phase[:, t, i, j, :, skipped:, i : i + height, j : j + width]
        out[:, :, t - left_out + skipped * time_factor :: time_factor, i::2, j::2] = piece
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
