"""LLaVA's eyes: an image to embeddings that the language model reads like words.

Source: openai/clip-vit-large-patch14-336 ``preprocessor_config.json``; LLaVA (arXiv 2304.08485, 2310.03744): the second
last layer of CLIP's vision tower without the class token, through linear, GELU, linear.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.errors import NumericsError
from hyvideo_core.ops import Linear

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: Layers at the end of the tower whose output nobody reads; they are not even loaded.
SKIPPED_VISION_LAYERS = 1


class Projector(nn.Module):
    """From the tower's width to the language model's."""

    def __init__(self, vision_dim: int, text_dim: int) -> None:
        super().__init__()
        self.linear_1 = Linear(vision_dim, text_dim)
        self.linear_2 = Linear(text_dim, text_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., vision_dim] → [..., text_dim]."""
        return self.linear_2(F.gelu(self.linear_1(x)))


class VisionEncoder(nn.Module):
    """CLIP's vision tower without its last layer, and the projector; images are seen at ``size_px`` a side."""

    def __init__(self, tower: nn.Module, projector: Projector, size_px: int) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.size_px = size_px

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings [F, L, D] of images [F, H, W, 1, 3 or 4] in 0–1, of any size: L is 576 for LLaVA-Llama-3.

        Raises ``NumericsError`` for NaN or infinity.
        """
        pixels = clip_pixels(images, self.size_px).to(self.projector.linear_1.bias)
        found: torch.Tensor = self.projector(self.tower(pixel_values=pixels).last_hidden_state[:, 1:])
        if not bool(torch.isfinite(found).all()):
            raise NumericsError(
                f"The vision tower returned NaN or infinity ({found.dtype}). Load it with dtype bfloat16 or float32; "
                "if it stays, the image itself holds such values."
            )
        return found


def clip_pixels(images: torch.Tensor, size_px: int) -> torch.Tensor:
    """Images [F, H, W, 1, 3 or 4] in 0–1 as CLIP sees them: [F, 3, size_px, size_px], the middle square, normalised.

    A fourth channel, alpha, is left out. Numbers are the original's, which resizes 8-bit pictures with Pillow.
    """
    colours = images[..., :3].to("cpu", torch.float64)
    colours = _eight_bit(255 * colours.expand(*colours.shape[:3], 3).movedim(-1, 1))
    height, width = colours.shape[2:]
    rows, columns = (size_px * side // min(height, width) for side in (height, width))
    colours = _eight_bit(colours @ bicubic(width, columns).T)
    colours = _eight_bit(bicubic(height, rows) @ colours)
    top, left = (rows - size_px) // 2, (columns - size_px) // 2
    square = colours[:, :, top : top + size_px, left : left + size_px].float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (square - mean) / std


def bicubic(length: int, size: int) -> torch.Tensor:
    """How much each of ``length`` pixels counts in each of ``size`` [size, length] in float64.

    Source: Keys, Cubic convolution interpolation (1981), a = −0.5; where the picture shrinks, the kernel widens with
    it. As in Pillow (``src/libImaging/Resample.c``), weights are multiples of 2⁻²².
    """
    scale = length / size
    middles = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * scale
    pixels = torch.arange(length, dtype=torch.float64) + 0.5
    x = (pixels - middles).abs() / max(scale, 1)
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    return (weights / weights.sum(dim=1, keepdim=True) * 2**22).round() / 2**22


def _eight_bit(colours: torch.Tensor) -> torch.Tensor:
    """Whole numbers 0–255, halves upward."""
    return (colours + 0.5).floor().clamp(0, 255)
