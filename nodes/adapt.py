"""Between the host's value types and the core's: CONDITIONING, LATENT, IMAGE."""

from __future__ import annotations

import logging
from typing import Any

import torch

from hyvideo_core.errors import GeometryError, PromptError
from hyvideo_core.types import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, Conditioning

from .host import offer

logger = logging.getLogger(__name__)

#: The host's type for CONDITIONING: pairs of a tensor and what belongs to it.
HostConditioning = list[list[Any]]


def to_host_conditioning(prompt: Conditioning) -> HostConditioning:
    """CONDITIONING that native nodes understand too."""
    prompt = offered(prompt)
    extras: dict[str, Any] = {"pooled_output": prompt.pooled}
    if prompt.text_mask is not None:
        extras["attention_mask"] = prompt.text_mask
    return [[prompt.text, extras]]


def offered(prompt: Conditioning) -> Conditioning:
    """The prompt where the host keeps results; its mask only where it is padded."""
    mask = None if prompt.text_mask is None or bool(prompt.text_mask.all()) else prompt.text_mask.cpu()
    return Conditioning(offer(prompt.text), offer(prompt.pooled), mask)


def from_host_conditioning(conditioning: HostConditioning, field: str) -> tuple[Conditioning, float | None]:
    """The prompt in a CONDITIONING, and the guidance that FluxGuidance may have put there.

    Raises ``PromptError`` naming ``field`` where it is not one prompt of a HunyuanVideo text encoder.
    """
    if len(conditioning) != 1:
        raise PromptError(
            f"{field} holds {len(conditioning)} combined conditionings, but HyVideo Sampler takes exactly one. "
            "Connect one prompt directly, without Conditioning Combine."
        )
    text, extras = conditioning[0]
    pooled = extras.get("pooled_output")
    if pooled is None:
        raise PromptError(
            f"{field} has no pooled output, but the transformer needs CLIP-L's. Encode the prompt with HyVideo "
            "Encode Prompt, or load CLIP-L and the Llama model with Dual CLIP Loader of type hunyuan_video."
        )
    return Conditioning(text, pooled, extras.get("attention_mask")), extras.get("guidance")


def latent_samples(latent: dict[str, Any], field: str) -> torch.Tensor:
    """Samples [B, C, T, H, W] of a LATENT in VAE space. Raises ``GeometryError`` for other kinds of latent."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim not in (4, 5):
        raise GeometryError(
            f"{field} is a latent of another kind of model (shape {tuple(samples.shape)}), but a video latent "
            "[batch, 16, frames, height, width] is needed. Use HyVideo Empty Latent or HyVideo Encode."
        )
    return samples if samples.ndim == 5 else samples.unsqueeze(2)


def host_latent(samples: torch.Tensor) -> dict[str, Any]:
    """A LATENT, with the ratios that let the host resize empty ones."""
    return {
        "samples": offer(samples),
        "downscale_ratio_spacial": SPATIAL_COMPRESSION,
        "downscale_ratio_temporal": TEMPORAL_COMPRESSION,
    }


def images_to_video(images: torch.Tensor) -> torch.Tensor:
    """IMAGE [F, H, W, C] in 0–1 to one clip [1, 3, F, H, W] in −1…1, cropped at the centre to multiples of 16.

    Raises ``GeometryError`` for pictures below 16 px.
    """
    height, width = (size // 16 * 16 for size in images.shape[1:3])
    if not height or not width:
        raise GeometryError(
            f"images are {images.shape[2]}×{images.shape[1]} px, but at least 16×16 px are needed. Upscale them first."
        )
    if (height, width) != tuple(images.shape[1:3]):
        logger.info("images cropped from %d×%d to %d×%d px", images.shape[2], images.shape[1], width, height)
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    cropped = images[:, top : top + height, left : left + width, :3]
    return cropped.permute(3, 0, 1, 2).unsqueeze(0) * 2 - 1
