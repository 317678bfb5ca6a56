"""The 3D convolution that everything in the VAE goes through, past the versions of cuDNN that waste memory in it.

Source: ComfyUI ``comfy/ops.py`` for the versions: torch 2.9 and 2.10 choose, with cuDNN 9.10.2 up to 9.14, a kernel for
float16 and bfloat16 whose working memory is many times the activations. Named directly, cuDNN takes another one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)
#: (major, minor) of torch, first and last.
WASTEFUL_TORCH = ((2, 9), (2, 10))
#: cuDNN's own numbers, the first one and the first good one after it: 9.10.2 and 9.15.0.
WASTEFUL_CUDNN = (91002, 91500)


def wastes_memory(torch_version: str, cudnn_version: int | None, dtype: torch.dtype) -> bool:
    """Whether a plain 3D convolution of ``dtype`` takes far too much memory on CUDA; no cuDNN is None."""
    if cudnn_version is None or dtype not in HALVES:
        return False
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    first, last = WASTEFUL_TORCH
    return first <= (major, minor) <= last and WASTEFUL_CUDNN[0] <= cudnn_version < WASTEFUL_CUDNN[1]


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
    """Unpadded 3D convolution of ``x`` [B, C, T, H, W] with ``weight`` [C', C, t, h, w]."""
    # On ROCm, which calls itself CUDA too, the number is MIOpen's.
    cudnn = torch.backends.cudnn.version() if x.is_cuda and torch.version.cuda else None
    if not wastes_memory(torch.__version__, cudnn, x.dtype):
        return F.conv3d(x, weight, bias, stride)
    out: Tensor = torch.cudnn_convolution(
        x,
        weight,
        padding=(0, 0, 0),
        stride=stride,
        dilation=(1, 1, 1),
        groups=1,
        benchmark=False,
        deterministic=torch.backends.cudnn.deterministic,
        allow_tf32=False,  # without meaning for halves
    )
    return out if bias is None else out.add_(bias.view(-1, 1, 1, 1))


def convolved(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """``conv(x)`` for a layer without padding, dilation and groups."""
    return conv3d(x, conv.weight, conv.bias, conv.stride)
