"""Building blocks of the causal 3D VAE, from clip to clip: they compute without gradients and use up their input.

Submodules carry the names of the official checkpoint. ``stages`` lists the steps of a block one by one, so
that a caller who walks them can stop between any two.
Source: HunyuanVideo ``hyvideo/vae/unet_causal_3d_blocks.py``; HunyuanVideo report (2024), §4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from hyvideo_core.vae.convolution import convolved
from hyvideo_core.vae.streaming import Affine, Clip, Windows, causal_conv, cut, joined, norm_silu, upsampling_conv

#: One step of a network, from activation to activation; uses up what it gets.
Stage = Callable[[Clip], Clip]

NORM_EPS = 1e-6
#: Most attention scores at a time, should a backend write them out (float32: 256 MiB).
MAX_SCORES = 2**26


class CausalConv3d(nn.Module):
    """Convolution that pads by replication: in time only the past, in space both sides."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: tuple[int, int, int] = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride)
        #: Earlier frames that an output reads.
        self.causal = kernel - 1

    def forward(self, x: Clip) -> Clip:
        """[B, C, T, H, W] -> [B, C', ceil(T/s), ceil(H/s), ceil(W/s)]; empties ``x``."""
        return causal_conv(self.conv, x)


class ResnetBlock(nn.Module):
    """Twice norm, SiLU, convolution, added to the input; a 1×1×1 shortcut where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, NORM_EPS)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, NORM_EPS)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = CausalConv3d(in_channels, out_channels, kernel=1) if in_channels != out_channels else None

    def forward(self, x: Clip) -> Clip:
        """[B, C, T, H, W] -> [B, C', T, H, W]; empties ``x`` and may overwrite its pieces.

        Beside the windows never more is alive than the wider of input and both activations of the output's width.
        """
        hidden: Clip = []
        backwards: Clip = []
        windows = Windows(x, self.conv1.causal, norm_silu(x, self.norm1))
        while x:
            window, piece = windows.last(), x.pop()
            backwards.append(piece if self.conv_shortcut is None else convolved(self.conv_shortcut.conv, piece))
            del piece
            hidden.append(convolved(self.conv1.conv, window))
            del window
        hidden.reverse()
        windows = Windows(hidden, self.conv2.causal, norm_silu(hidden, self.norm2))
        for piece in backwards:
            piece += convolved(self.conv2.conv, windows.last())
            hidden.pop()
        return backwards[::-1]


class CausalAttention(nn.Module):
    """Single-head attention in which every position of a frame sees that frame and all earlier ones."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, clip: Clip) -> Clip:
        """[B, C, T, H, W] -> the same, with attention added; empties ``clip`` and may overwrite its pieces.

        Frame by frame against a growing prefix of the keys: causality needs no mask, and never more than
        ``MAX_SCORES`` scores exist at once.
        """
        affine = Affine(clip, self.group_norm)
        x = joined(clip)
        batch, channels, frames, height, width = x.shape
        positions = height * width
        normed = affine(x).permute(0, 2, 3, 4, 1).reshape(batch, frames, positions, channels)
        key = self.to_k(normed).view(batch, 1, frames * positions, channels)
        value = self.to_v(normed).view(batch, 1, frames * positions, channels)
        tokens = x.flatten(3)
        for frame in range(frames):
            seen = (frame + 1) * positions
            step = max(1, MAX_SCORES // (batch * seen))
            for start in range(0, positions, step):
                query = self.to_q(normed[:, None, frame, start : start + step])
                mixed = F.scaled_dot_product_attention(query, key[:, :, :seen], value[:, :, :seen])
                tokens[:, :, frame, start : start + step] += self.to_out[0](mixed[:, 0]).transpose(1, 2)
        return cut(x)


class Upsampler(nn.Module):
    """Nearest upsampling by (``time_factor``, 2, 2) and a causal convolution."""

    def __init__(self, channels: int, time_factor: int) -> None:
        super().__init__()
        self.time_factor = time_factor
        self.conv = CausalConv3d(channels, channels)

    def forward(self, x: Clip) -> Clip:
        """[B, C, T, H, W] -> [B, C, (T−1)·time_factor+1, 2H, 2W]; empties ``x``."""
        return upsampling_conv(self.conv.conv, x, self.time_factor)


class Downsampler(nn.Module):
    """Causal convolution with stride (``time_factor``, 2, 2)."""

    def __init__(self, channels: int, time_factor: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, stride=(time_factor, 2, 2))

    def forward(self, x: Clip) -> Clip:
        """[B, C, T, H, W] -> [B, C, ceil(T/time_factor), ceil(H/2), ceil(W/2)]; empties ``x``."""
        # What was a good piece before is small now; joining costs little where all has become little.
        return cut(joined(self.conv(x)))


class StagedBlock(nn.Module):
    """A block that is nothing but a sequence of stages."""

    def stages(self) -> Iterator[Stage]:
        """The steps in order."""
        raise NotImplementedError

    def forward(self, x: Clip) -> Clip:
        """All stages one after the other; empties ``x`` and may overwrite its pieces."""
        for stage in self.stages():
            x = stage(x)
        return x


def staged(block: nn.Module) -> Iterator[Stage]:
    """The stages of a block taken from a ``ModuleList``, which forgets the type of its elements."""
    assert isinstance(block, StagedBlock)
    return block.stages()


class MidBlock(StagedBlock):
    """Residual block, causal attention (if the model has it), residual block."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([CausalAttention(channels, groups)] if attention else [])

    def stages(self) -> Iterator[Stage]:
        """Residual, attention, residual."""
        yield self.resnets[0]
        yield from self.attentions
        yield self.resnets[1]


class DownBlock(StagedBlock):
    """Residual blocks of one resolution, then the step down; ``time_factor`` None means no step."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, time_factor: int | None) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList([ResnetBlock(a, b, groups) for a, b in pairwise(widths)])
        self.downsamplers = nn.ModuleList([Downsampler(out_channels, time_factor)] if time_factor else [])

    def stages(self) -> Iterator[Stage]:
        """Residuals, then the downsampler."""
        yield from self.resnets
        yield from self.downsamplers


class UpBlock(StagedBlock):
    """Residual blocks of one resolution, then the step up; ``time_factor`` None means no step."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, time_factor: int | None) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList([ResnetBlock(a, b, groups) for a, b in pairwise(widths)])
        self.upsamplers = nn.ModuleList([Upsampler(out_channels, time_factor)] if time_factor else [])

    def stages(self) -> Iterator[Stage]:
        """Residuals, then the upsampler."""
        yield from self.resnets
        yield from self.upsamplers
