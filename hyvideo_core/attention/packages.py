"""The attention kernels of other packages, imported when first asked for.

Each function imports its package and returns a kernel, so that nothing is imported before its use and nothing is
looked up at each call. Whatever an absent or broken package raises passes through: the registry makes it a reason.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module

import torch

from hyvideo_core.attention.kernels import AttentionKernel


def flash2() -> AttentionKernel:
    """FlashAttention 2: exact, float16 and bfloat16, Ampere and later. Package ``flash_attn``."""
    attend: AttentionKernel = import_module("flash_attn").flash_attn_func
    return attend


def flash3() -> AttentionKernel:
    """FlashAttention 3: exact, float16 and bfloat16, Hopper. Module ``flash_attn_interface``.

    Source: flash-attention ``hopper/flash_attn_interface.py``; before commit ed20940 it returns (out, lse).
    """
    flash = import_module("flash_attn_interface").flash_attn_func

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        result = flash(q, k, v)
        return result[0] if isinstance(result, tuple) else result

    return attend


def sage1() -> AttentionKernel:
    """SageAttention 1: q and k in int8, v in float16, all in Triton. Package ``sageattention``, 1.x or 2.x.

    1.x subtracts the keys' mean in the caller's own tensor. Here the difference goes to a tensor of its own: as much
    memory as k. The package's float16 copy of v takes as much again, its int8 q and k together as much once more.
    Source: SageAttention (arXiv 2410.02367); sageattention 1.0.6 ``core.py``.
    """
    package = import_module("sageattention")
    if hasattr(package, "sageattn_qk_int8_pv_fp16_triton"):
        return partial(package.sageattn_qk_int8_pv_fp16_triton, tensor_layout="NHD")

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        # Scores change by a constant for each query, so the softmax does not; int8 then spends no range on the mean.
        smooth = k - k.mean(dim=1, keepdim=True)
        return package.sageattn(q, smooth, v, tensor_layout="NHD", smooth_k=False)

    return attend


def sage2() -> AttentionKernel:
    """SageAttention 2: q and k in int8, v in float8 or float16 as the package chooses for the card, in CUDA.

    Package ``sageattention`` 2.x; raises ``ImportError`` for 1.x.
    Source: SageAttention 2 (arXiv 2411.10958); thu-ml/SageAttention ``sageattention/core.py``.
    """
    package = import_module("sageattention")
    if not hasattr(package, "sageattn_qk_int8_pv_fp16_cuda"):
        raise ImportError("the installed sageattention is version 1, but sage2 needs 2; choose sage1")
    return partial(package.sageattn, tensor_layout="NHD")
