"""TAEHV: a tiny decoder that makes nearly the VAE's picture at a small part of its price.

It decodes causally, latent frame by latent frame, each block remembering what it saw of the frame before, so memory
does not grow with the clip's length. Its input is the latent as the transformer sees it, its output RGB in 0–1.
Every stage may double the size, and the last two double the number of frames; a preview leaves out the last doublings
that it does not need.

Source: madebyollin/taehv ``taehv.py`` (``TAEHV.decoder``; ``patch_tgrow_layers`` for the frames left out).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.preview.clip import FPS, MAX_CLIPS, MAX_PIXELS, Clip, as_bytes, beside
from hyvideo_core.types import TEMPORAL_COMPRESSION

#: Channels of the stages, and of what the last one leaves.
WIDTHS = (256, 128, 64, 64)
#: How many frames each stage makes of one.
GROWTH = (1, 2, 2)
LATENT_CHANNELS = 16
BLOCKS = 3
#: Longest side of a preview.
MAX_SIDE_PX = 512

#: What each block of a stage saw of the frame before.
Past = list[torch.Tensor | None]


@dataclass(frozen=True)
class Detail:
    """How fine a preview is: how many of the first stages double the size (0–3), and how many the frames (0–2)."""

    sizes: int = len(WIDTHS) - 1
    frames: int = 2

    @property
    def frames_per_latent(self) -> int:
        """Frames made of each latent frame; of the first, only the last of these is of the clip."""
        return int(2**self.frames)

    def grows(self, stage: int) -> bool:
        """Whether a stage makes two frames of one: number 1 and 2 may."""
        return 0 < stage <= self.frames

    def pixels(self, latent_shape: tuple[int, ...]) -> int:
        """Pixels of all frames of latents [B, 16, T, H, W]."""
        clips, _, frames, height, width = latent_shape
        return int(clips * frames * self.frames_per_latent * height * width * 4**self.sizes)


def detail_for(latent_shape: tuple[int, ...]) -> Detail:
    """The finest detail for latents [B, 16, T, H, W] that keeps to ``MAX_SIDE_PX`` and ``MAX_PIXELS``.

    Size goes before frames; what is too large even so is made as coarse as can be.
    """
    longest = max(latent_shape[3:])
    details = [Detail(sizes, frames) for sizes in (3, 2, 1, 0) for frames in (2, 1, 0)]
    fitting = (
        each for each in details if longest * 2**each.sizes <= MAX_SIDE_PX and each.pixels(latent_shape) <= MAX_PIXELS
    )
    return next(fitting, details[-1])


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and what was here of the frame before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_convolution(n * width, width) for n in (2, 1, 1))

    def forward(self, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """x and ``before`` [B, C, H, W] to the same shape."""
        first, second, third = self.convolutions
        inner = F.relu(first(torch.cat((x, before), dim=1)))
        return F.relu(third(F.relu(second(inner))) + x)


class Stage(nn.Module):
    """Blocks with memory, then twice the size and ``growth`` frames of one."""

    def __init__(self, width: int, next_width: int, growth: int) -> None:
        super().__init__()
        self.growth = growth
        self.blocks = nn.ModuleList(MemoryBlock(width) for _ in range(BLOCKS))
        self.grow = nn.Conv2d(width, width * growth, 1, bias=False)
        self.leave = _convolution(width, next_width, bias=False)

    def forward(self, x: torch.Tensor, past: Past, doubles: bool, grows: bool) -> Iterator[torch.Tensor]:
        """The frames [B, C', H', W'] that come of x [B, C, H, W], in order; ``past`` is read and renewed."""
        for index, block in enumerate(self.blocks):
            before = past[index]
            past[index] = x
            x = block(x, torch.zeros_like(x) if before is None else before)
        if doubles:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        # Channels hold the frames in order. Where only one is wanted, it is the last.
        weights = self.grow.weight.chunk(self.growth)
        for weight in weights if grows else weights[-1:]:
            yield self.leave(F.conv2d(x, weight))


class TaehvDecoder(nn.Module):
    """The decoder's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = _convolution(LATENT_CHANNELS, WIDTHS[0])
        self.stages = nn.ModuleList(Stage(*each) for each in zip(WIDTHS, WIDTHS[1:], GROWTH, strict=False))
        self.leave = _convolution(WIDTHS[-1], 3)

    def frames(self, latents: torch.Tensor, detail: Detail) -> Iterator[torch.Tensor]:
        """Frames [B, 3, H, W] in 0–1, one after the other, of latents [B, 16, T, H, W] in model space."""
        pasts: list[Past] = [[None] * BLOCKS for _ in self.stages]
        surplus = detail.frames_per_latent - 1
        for latent in latents.to(self.enter.weight.dtype).unbind(2):
            x = F.relu(self.enter(torch.tanh(latent / 3) * 3))
            for frame in self._after(0, x, pasts, detail):
                if surplus:
                    surplus -= 1
                else:
                    yield frame.clamp(0, 1)

    def _after(self, stage: int, x: torch.Tensor, pasts: list[Past], detail: Detail) -> Iterator[torch.Tensor]:
        if stage == len(self.stages):
            yield self.leave(F.relu(x))
            return
        for each in self.stages[stage](x, pasts[stage], stage < detail.sizes, detail.grows(stage)):
            yield from self._after(stage + 1, each, pasts, detail)


class Taehv:
    """Previews by the tiny decoder, as fine as ``detail_for`` allows."""

    name: ClassVar[str] = "TAEHV"

    def __init__(self, decoder: TaehvDecoder) -> None:
        self._decoder = decoder

    def __call__(self, latents: torch.Tensor) -> Clip:
        """The clip that latents [B, 16, T, H, W] in model space show."""
        latents = latents[:MAX_CLIPS].to(self._decoder.enter.weight.device)
        detail = detail_for(tuple(latents.shape))
        frames = [as_bytes(frame).movedim(1, -1) for frame in self._decoder.frames(latents, detail)]
        fps = FPS * detail.frames_per_latent / TEMPORAL_COMPRESSION
        return Clip(beside(torch.stack(frames, dim=1)), fps, self.name)


def _convolution(channels: int, out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)
