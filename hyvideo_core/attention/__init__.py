"""Attention kernels: one function each, a registry, and a self-test that stands between a kernel and its use.

A kernel takes q, k, v as [B, L, N, D] and returns [B, L, N, D]. No kernel takes a mask: padded text is
cropped before attention (``model.ragged``), which is exact and keeps every fast path open.
"""

from hyvideo_core.attention.kernels import AttentionKernel
from hyvideo_core.attention.registry import Report, available, choose, resolve

__all__ = ["AttentionKernel", "Report", "available", "choose", "resolve"]
