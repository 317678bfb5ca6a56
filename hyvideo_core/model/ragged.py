"""Text of different lengths in one batch, without masks.

Padded text has no influence on the video, so each sample's attention simply ends at its last valid token.
Text carries no positions in this model, so valid tokens may also be moved together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyvideo_core.attention import AttentionKernel

Lengths = tuple[int, ...]


def crop_text(text: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, Lengths]:
    """Text [B, L, C] cut to the longest valid prompt, and the valid length of each sample.

    ``mask`` [B, L] is 1 where a token is valid, or None if all are. Raises ``ValueError`` for a sample
    without any valid token.
    """
    batch, length = text.shape[:2]
    valid = None if mask is None else mask.bool()
    lengths = (length,) * batch if valid is None else tuple(valid.sum(dim=1).tolist())
    if min(lengths) == 0:
        raise ValueError("A prompt has no valid text token, but the transformer needs at least one.")
    longest = max(lengths)
    if valid is not None and not all(valid[i, :n].all() for i, n in enumerate(lengths)):
        text = torch.stack([torch.cat((text[i][valid[i]], text[i][~valid[i]])) for i in range(batch)])
    return text[:, :longest], lengths


def attend_ragged(
    attend: AttentionKernel, qkv: Sequence[torch.Tensor], lengths: Lengths, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of q, k, v [B, L, N, D] where sample i has ``lengths[i]`` tokens; rows beyond are zero.

    The result is written into ``out`` [B, L, N, D] where one is given.
    """
    q, k, v = qkv
    if all(length == q.shape[1] for length in lengths):
        attended = attend(q, k, v)
        return attended if out is None else out.copy_(attended)
    out = torch.empty_like(q) if out is None else out
    for i, n in enumerate(lengths):
        out[i, :n] = attend(q[i : i + 1, :n], k[i : i + 1, :n], v[i : i + 1, :n])[0]
        out[i, n:] = 0
    return out
