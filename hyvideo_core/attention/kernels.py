"""The attention kernels made of torch alone. Each is exact softmax attention; they differ in speed and hardware."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

#: q, k, v [B, L, N, D] → [B, L, N, D].
AttentionKernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

#: Scores of one query chunk may take this much; small enough for caches, large enough for full-speed GEMMs.
SCORES_BYTES = 64 * 2**20
#: What ``chunked`` takes beside its output: a chunk's scores, their softmax, and the weights of the chunk before.
CHUNKED_BYTES = 3 * SCORES_BYTES


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's scaled dot product attention with whichever of its kernels fits (flash, cuDNN, efficient)."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def sdpa_flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's own FlashAttention 2 and nothing else; ``RuntimeError`` where this torch or device has none."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return sdpa(q, k, v)


def sdpa_efficient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's memory-efficient attention and nothing else; ``RuntimeError`` where this torch or device has none."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return sdpa(q, k, v)


def sdpa_cudnn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """cuDNN's attention through torch and nothing else; ``RuntimeError`` where this torch or device has none.

    Builds a plan for each new length, some tenths of a second, on its first call.
    """
    if k.shape[1] == 1:
        # torch refuses cuDNN a single key (sdp_utils.cpp, check_cudnn_tensor_shapes); its value is the result.
        return v.expand_as(q).clone()
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(q, k, v)


def chunked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Two matrix products over chunks of queries with the softmax in float32 between them.

    Slower than SDPA, but made of nothing that a driver or a card can get wrong: the kernel to compare with when a
    video comes out black or as noise.
    Source: Rabe & Staats 2021 (arXiv 2112.05682), without splitting the keys.
    """
    batch, length, heads, dim = q.shape
    out = torch.empty_like(q)
    per_query_bytes = heads * k.shape[1] * 4
    step = max(1, min(length, SCORES_BYTES // per_query_bytes))
    # Sample by sample: of several, torch would copy all keys and values for each product.
    for i, start in product(range(batch), range(0, length, step)):
        queries = q[i, start : start + step].transpose(0, 1) * dim**-0.5
        weights = torch.matmul(queries, k[i].permute(1, 2, 0)).softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        out[i, start : start + step] = torch.matmul(weights, v[i].transpose(0, 1)).transpose(0, 1)
    return out
