"""The noise that a run begins with, and clips of another length than the run."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def first_noise(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Noise of this shape in float32, drawn on the CPU, so that it is the same on every device.

    ``dtype`` is what it is drawn in, which decides how finely its values are rounded.
    """
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=dtype).float()


def of_length(clip: torch.Tensor, frames: int, seed: int) -> torch.Tensor:
    """A clip's latent [B, C, T, H, W] with ``frames`` latent frames.

    A longer one loses its last frames. A shorter one gets frames of nothing but noise in front, drawn by ``seed``.

    Source: ComfyUI-HunyuanVideoWrapper ``hyvideo/diffusion/pipelines/pipeline_hunyuan_video.py`` (prepare_latents).
    """
    batch, channels, given, *size = clip.shape
    if given >= frames:
        return clip[:, :, :frames]
    return torch.cat((first_noise((batch, channels, frames - given, *size), seed).to(clip), clip), dim=2)
