"""HunyuanVideo's causal 3D variational autoencoder: video to latent and back.

Source: HunyuanVideo ``hyvideo/vae/autoencoder_kl_causal_3d.py`` and ``vae.py`` (884-16c-hy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from hyvideo_core.configs import VAEConfig
from hyvideo_core.errors import GeometryError
from hyvideo_core.vae.blocks import NORM_EPS, CausalConv3d, DownBlock, MidBlock, Stage, StagedBlock, UpBlock, staged
from hyvideo_core.vae.streaming import Clip, causal_conv, joined, norm_silu, pointwise_conv
from hyvideo_core.vae.tiling import TilePlan, Tiling, plan_decode, plan_encode, run_tiled, video_frames

LEVELS = 4
#: Temporal factor of the step after each level, both ways; None is no step. In space every step is 2.
TIME_FACTORS: tuple[int | None, ...] = (1, 2, 2, None)
LOGVAR_RANGE = (-30.0, 20.0)
#: Tiles of any size, both axes switched off.
UNTILED = Tiling(8, 4, 0.0, spatial=False, temporal=False)

#: Called with what is finished and how much there is.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Posterior:
    """The Gaussian an encoder predicts, unscaled: ``moments`` [B, 2C, T, H, W] is mean and log-variance."""

    moments: Tensor

    @property
    def mean(self) -> Tensor:
        """[B, C, T, H, W]."""
        return self.moments.chunk(2, dim=1)[0]

    @property
    def logvar(self) -> Tensor:
        """[B, C, T, H, W], limited to −30…20."""
        return self.moments.chunk(2, dim=1)[1].clamp(*LOGVAR_RANGE)

    def mode(self) -> Tensor:
        """The most probable latent [B, C, T, H, W]."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A random latent [B, C, T, H, W]; the noise is drawn on the generator's device."""
        mean = self.mean
        device = generator.device if generator is not None else mean.device
        noise = torch.randn(mean.shape, generator=generator, device=device, dtype=mean.dtype)
        return mean + (0.5 * self.logvar).exp() * noise.to(mean.device)


class Encoder(StagedBlock):
    """Video [B, 3, T, H, W] to moments before ``quant_conv`` [B, 2·latent, t, h, w]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_groups
        self.conv_in = CausalConv3d(config.in_channels, widths[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(before, width, config.layers_per_block, groups, factor)
            for before, width, factor in zip((widths[0], *widths), widths, TIME_FACTORS, strict=False)
        )
        self.mid_block = MidBlock(widths[-1], groups, config.mid_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels)

    def stages(self) -> Iterator[Stage]:
        """Every step from pixels to moments."""
        yield self.conv_in
        for block in self.down_blocks:
            yield from staged(block)
        yield from self.mid_block.stages()
        yield self.head

    def head(self, x: Clip) -> Clip:
        """Norm, SiLU and the last convolution; empties ``x``."""
        return causal_conv(self.conv_out.conv, x, norm_silu(x, self.conv_norm_out))


class Decoder(StagedBlock):
    """Latent after ``post_quant_conv`` [B, latent, t, h, w] to video [B, 3, T, H, W]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_groups
        self.conv_in = CausalConv3d(config.latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0], groups, config.mid_attention)
        self.up_blocks = nn.ModuleList(
            UpBlock(before, width, config.layers_per_block + 1, groups, factor)
            for before, width, factor in zip((widths[0], *widths), widths, TIME_FACTORS, strict=False)
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels)

    def stages(self) -> Iterator[Stage]:
        """Every step from latent to pixels."""
        yield self.conv_in
        yield from self.mid_block.stages()
        for block in self.up_blocks:
            yield from staged(block)
        yield self.head

    def head(self, x: Clip) -> Clip:
        """Norm, SiLU and the last convolution; empties ``x``."""
        return causal_conv(self.conv_out.conv, x, norm_silu(x, self.conv_norm_out))


class VAE(nn.Module):
    """Encoder and decoder, whole or tiled. Latents are unscaled here; ``scaling_factor`` is for the caller.

    Holds no state but its weights: an interrupted call leaves nothing behind. Inputs stay where they
    are; what one tile reads of them is moved to the device and dtype of the weights as that tile is computed.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        if len(config.block_out_channels) != LEVELS:
            raise ValueError(
                f"block_out_channels has {len(config.block_out_channels)} levels, but compression by 4×8×8 "
                f"needs {LEVELS}. Give one width per level."
            )
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv3d(config.latent_channels, config.latent_channels, 1)

    @property
    def scaling_factor(self) -> float:
        """What a latent is multiplied with before the transformer sees it."""
        return self.config.scaling_factor

    @torch.no_grad()
    def encode(self, video: Tensor, tiling: Tiling | None = None, on_progress: Progress | None = None) -> Posterior:
        """Encode ``video`` [B, 3, T, H, W] in −1…1, of any length and size, to (T−1)//4+1 latent frames.

        ``tiling`` None encodes the whole at once. ``on_progress(done, total)`` is called after each stage
        of each tile and may raise. Raises ``GeometryError`` for another shape.
        """
        _check(video, "video", self.config.in_channels)
        plan = plan_encode(_extent(video), tiling or UNTILED)
        stages: tuple[Stage, ...] = (*self.encoder.stages(), partial(pointwise_conv, self.quant_conv))
        return Posterior(_assembled(self._run(stages, video, plan, on_progress), plan.shape[0]))

    @torch.no_grad()
    def decode(self, latent: Tensor, tiling: Tiling | None = None, on_progress: Progress | None = None) -> Tensor:
        """Decode an unscaled ``latent`` [B, 16, t, h, w] to video [B, 3, 4(t−1)+1, 8h, 8w], not clamped.

        Arguments and errors as in ``encode``.
        """
        return _assembled(self.decode_frames(latent, tiling, on_progress), video_frames(latent.shape[2]))

    def decode_frames(
        self, latent: Tensor, tiling: Tiling | None = None, on_progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """The video of ``decode`` in consecutive parts [B, 3, T, 8h, 8w], each handed on once no later tile changes it.

        Arguments as in ``encode``; ``GeometryError`` is raised at once. While one part is computed nothing of the
        earlier ones is held but the frames it fades with: let go of a part before asking for the next.
        """
        _check(latent, "latent", self.config.latent_channels)
        plan = plan_decode(_extent(latent), tiling or UNTILED)
        stages: tuple[Stage, ...] = (partial(pointwise_conv, self.post_quant_conv), *self.decoder.stages())
        return self._run(stages, latent, plan, on_progress)

    def _run(
        self, stages: tuple[Stage, ...], x: Tensor, plan: TilePlan, on_progress: Progress | None
    ) -> Iterator[Tensor]:
        """All stages over every tile; progress is counted in stages, so a stop takes effect soon."""
        finished = count(1)

        # Not around the generator: torch would hold each part until the next one is there.
        @torch.no_grad()
        def network(tile: Tensor) -> Tensor:
            # Never the whole input: a long video alone would fill the device.
            clip = [tile.to(self.quant_conv.weight)]
            for stage in stages:
                clip = stage(clip)
                if on_progress:
                    on_progress(next(finished), plan.tiles * len(stages))
            return joined(clip)

        yield from run_tiled(network, x, plan)


def _check(x: Tensor, name: str, channels: int) -> None:
    if x.ndim != 5 or x.shape[1] != channels or 0 in x.shape:
        raise GeometryError(
            f"{name} has the shape {tuple(x.shape)}, but must be [batch, {channels}, frames, height, "
            "width] with nothing empty. Put the axes into that order."
        )


def _assembled(parts: Iterator[Tensor], frames: int) -> Tensor:
    """The ``frames`` of all parts, in one tensor."""
    part = next(parts)
    if part.shape[2] == frames:
        return part
    out = part.new_empty(*part.shape[:2], frames, *part.shape[3:])
    done = part.shape[2]
    out[:, :, :done] = part
    del part
    for part in parts:
        out[:, :, done : done + part.shape[2]] = part
        done += part.shape[2]
        del part
    return out


def _extent(x: Tensor) -> tuple[int, int, int]:
    return x.shape[2], x.shape[3], x.shape[4]
