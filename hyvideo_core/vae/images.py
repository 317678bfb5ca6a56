"""Latents to images as they are finished, checked and in the range of pictures."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hyvideo_core.errors import NumericsError
from hyvideo_core.vae.autoencoder import VAE, Progress
from hyvideo_core.vae.tiling import Tiling


def decoded_images(
    vae: VAE, latents: torch.Tensor, tiling: Tiling | None = None, on_progress: Progress | None = None
) -> Iterator[torch.Tensor]:
    """Images [H, W, 3] in 0–1, float32 on the VAE's device, of unscaled latents [B, C, T, H, W], clip after clip.

    Other arguments as in ``VAE.decode_frames``. Raises ``NumericsError`` for NaN or infinity.
    """
    # One clip at a time: the VAE's memory grows with the batch, its speed does not.
    for latent in latents:
        for part in vae.decode_frames(latent[None], tiling, on_progress):
            if not bool(torch.isfinite(part).all()):
                raise NumericsError(
                    f"The VAE returned NaN or infinity ({part.dtype}). Load the VAE with dtype bfloat16 or float32; if "
                    "it stays, the latent is already damaged."
                )
            for image in part[0].unbind(dim=1):
                yield image.permute(1, 2, 0).to(torch.float32).add(1).div_(2).clamp_(0, 1)
                del image
            # The next part is computed without this one.
            del part
