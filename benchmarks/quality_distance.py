"""How far clips are from one another, as people count it for pictures. Clips are [3, T, H, W] in −1…1."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: A peak signal-to-noise ratio beyond this is rounding; that of equal clips is given as this too.
MOST_DB = 100.0
#: Source: Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity, §III-B, III-C.
WINDOW_PX, WINDOW_SIGMA_PX = 11, 1.5
LUMINANCE, CONTRAST = 0.01**2, 0.03**2


def psnr_db(clip: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, at most ``MOST_DB``; the peak is the whole range of a picture."""
    error = (picture(clip) - picture(other)).square().mean().item()
    return min(MOST_DB, -10 * math.log10(error)) if error else MOST_DB


def ssim(clip: Tensor, other: Tensor) -> float:
    """Structural similarity, 1 for equal clips: the mean over frames, channels and the windows wholly inside."""
    # In float64: variances are small differences of large numbers.
    x, y = (picture(part).double().flatten(0, 1)[:, None] for part in (clip, other))
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x * mean_x, _windowed(y * y) - mean_y * mean_y
    covariance = _windowed(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + LUMINANCE) * (2 * covariance + CONTRAST)
    all_of_it = (mean_x * mean_x + mean_y * mean_y + LUMINANCE) * (variance_x + variance_y + CONTRAST)
    return (alike / all_of_it).mean().item()


def picture(clip: Tensor) -> Tensor:
    """The clip as it is shown, in 0–1."""
    return clip.float().add(1).div(2).clamp(0, 1)


def _windowed(x: Tensor) -> Tensor:
    """Means of x [N, 1, H, W] under the Gaussian window, for each place it fits."""
    at = torch.arange(WINDOW_PX, dtype=x.dtype) - WINDOW_PX // 2
    window = (-at.square() / (2 * WINDOW_SIGMA_PX**2)).exp()
    window /= window.sum()
    return F.conv2d(F.conv2d(x, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
