"""The attention kernels. Each is exact softmax attention; they differ in speed, memory and hardware."""

from __future__ import annotations

import torch
import torch.nn.functional as F

#: Scores of one query chunk may take this much; small enough for caches, large enough for full-speed GEMMs.
SCORES_BYTES = 64 * 2**20


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's scaled dot product attention with whichever of its kernels fits (flash, cuDNN, efficient)."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def chunked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Two matrix products over chunks of queries with the softmax in float32 between them.

    Slower than SDPA, but made of nothing that a driver or a card can get wrong: the kernel to compare with when a
    video comes out black or as noise.
    Source: Rabe & Staats 2021 (arXiv 2112.05682), without splitting the keys.
    """
    batch, length, heads, dim = q.shape
    keys = k.permute(0, 2, 3, 1)
    values = v.transpose(1, 2)
    out = torch.empty_like(q)
    per_query_bytes = batch * heads * k.shape[1] * 4
    step = max(1, min(length, SCORES_BYTES // per_query_bytes))
    for start in range(0, length, step):
        queries = q[:, start : start + step].transpose(1, 2) * dim**-0.5
        weights = torch.matmul(queries, keys).softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        out[:, start : start + step] = torch.matmul(weights, values).transpose(1, 2)
    return out
