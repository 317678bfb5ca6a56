"""Images to what the VAE encodes, and latents to images as they are finished, checked and in the range of pictures."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.vae.autoencoder import VAE, Progress
from hyvideo_core.vae.tiling import Tiling

#: How far ``evenly_bright`` darkens or lightens an image at most.
DARKEST, LIGHTEST = 0.5, 1.4


def covering(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Images [F, H, W, 1, 3 or 4] in 0–1 as clips of one frame [F, 3, 1, height, width] in −1…1: ``fitted``."""
    return fitted(images, height, width).movedim(-1, 1).unsqueeze(2) * 2 - 1


def fitted(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Images [F, H, W, 1, 3 or 4] in 0–1 as such of another size, [F, height, width, 3].

    Of each the largest part of that shape is taken, from the middle, and scaled to that size in pixels. A fourth
    channel, alpha, is left out.
    """
    scale = min(images.shape[1] / height, images.shape[2] / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (images.shape[1] - rows) // 2, (images.shape[2] - columns) // 2
    part = images[:, top : top + rows, left : left + columns, :3].to(torch.float32)
    part = part.expand(*part.shape[:3], 3).movedim(-1, 1)
    if (rows, columns) != (height, width):
        part = F.interpolate(part, (height, width), mode="bilinear", antialias=True)
    return part.movedim(1, -1)


def keyframe_clip(start: torch.Tensor, end: torch.Tensor, frames: int) -> torch.Tensor:
    """A clip [B, 3, frames, H, W] in −1…1 that is black but for its first and its last frame.

    ``start`` and ``end`` [B, 3, 1, H, W] are as ``covering`` gives them. Raises ``GeometryError`` for other shapes and
    for fewer than 5 frames. Source: dashtoon/hunyuan-video-keyframe-control-lora (prepare_conditioning).
    """
    if start.shape != end.shape or start.ndim != 5 or start.shape[2] != 1:
        raise GeometryError(
            f"The first frame is {list(start.shape)} and the last {list(end.shape)}, but both must be one frame of one "
            "size and number. Scale both images to the size of the video."
        )
    if frames < 5:
        raise GeometryError(f"frames is {frames}, but must be 5 or more: there is something between two images.")
    black = -torch.ones_like(start)
    return torch.cat((start, black.expand(-1, -1, frames - 2, -1, -1), end), dim=2)


def with_noise(video: torch.Tensor, strength: float, seed: int = 0, *, spares_black: bool = True) -> torch.Tensor:
    """A video [B, 3, F, H, W] in −1…1 with normal noise times ``strength``; with ``spares_black`` what is −1 stays so.

    An image with a little noise moves more where a model makes it the beginning of a video.
    Source: ComfyUI-HunyuanVideoWrapper ``nodes.py`` (add_noise_to_reference_video).
    """
    if not strength:
        return video
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(seed)).to(video.device)
    noisy = video + strength * noise
    return torch.where(video == -1, video, noisy) if spares_black else noisy


def evenly_bright(images: torch.Tensor) -> torch.Tensor:
    """Images [F, H, W, 3] in 0–1 with the mean of each brought to the median of all means.

    The factors lie between ``DARKEST`` and ``LIGHTEST``. Source: ComfyUI-HunyuanVideoWrapper ``nodes.py``
    (HyVideoDecode, balance_brightness).
    """
    means = images.mean(dim=(1, 2, 3))
    factors = (means.median() / means.clamp(min=1e-6)).clamp(DARKEST, LIGHTEST)
    return (images * factors[:, None, None, None]).clamp(0, 1)


def decoded_images(
    vae: VAE, latents: torch.Tensor, tiling: Tiling | None = None, on_progress: Progress | None = None
) -> Iterator[torch.Tensor]:
    """Images [H, W, 3] in 0–1, float32 on the VAE's device, of unscaled latents [B, C, T, H, W], clip after clip.

    Other arguments as in ``VAE.decode_frames``. Raises ``NumericsError`` for NaN or infinity.
    """
    # One clip at a time, since the VAE's memory grows with the batch.
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
