"""Enhance-A-Video: attention counts for more where frames attend to each other, for steadier and richer videos.

In every block, each place of the picture is looked at over time: the softmax over frames of its q·kᵀ/√D tells how much
a frame attends to the others. The mean of that over places and heads, times (frames + weight) and at least 1, scales
what attention gives to the video's tokens.

Source: arXiv 2502.07508 (cross-frame intensity, enhance temperature), and the authors' NUS-HPC-AI-Lab/Enhance-A-Video
``enhance_a_video/models/hunyuanvideo.py`` and ``feta/feta.py``: all double and single blocks, not the text refiner, in
every step; q and k after norm and rope; text is not scaled; weight 4. Two things differ here. The mean is of each
sample alone, theirs is of the batch; and in double blocks they scale after the projection, so its bias too, where this
scales before it. The popular wrapper (ComfyUI-HunyuanVideoWrapper) takes neighbours in a row of the picture for frames,
scales text in single blocks too and uses weight 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import ClassVar

import torch

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.model.blocks import Attention, Projection, Stream
from hyvideo_core.model.layers import token_chunks
from hyvideo_core.sample.seams import Extension, Run

#: Nothing is scaled at this weight or below: a frame attends to others by at most 1, so the mean over pairs of
#: different frames is at most 1/(frames − 1).
NEUTRAL_WEIGHT = -1.0
#: Copies of q and k and their scores, for as many places at once as this allows.
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class EnhanceAVideo(Extension):
    """Scales attention by how strongly frames attend to each other; ``weight`` −1 is off, 4 is the authors'."""

    #: Inside of caches, which then keep what is scaled. What it measures is q and k as the block made them, whatever
    #: other extensions do to the kernel.
    rank: ClassVar[int] = 500
    weight: float = 4.0

    def __post_init__(self) -> None:
        if not (isfinite(self.weight) and self.weight >= NEUTRAL_WEIGHT):
            raise ValueError(f"weight is {self.weight}, but must be -1 (off) or more; 4 is the authors'.")

    def start(self, run: Run) -> int:
        """The places of a picture: tokens of one frame."""
        _, patch_h, patch_w = run.dit.config.patch_size
        return (run.shape[3] // patch_h) * (run.shape[4] // patch_w)

    def wrap_attention(self, inner: Attention, state: int) -> Attention:
        """The attention with its video tokens scaled in place, by what was measured while it ran."""
        if self.weight <= NEUTRAL_WEIGHT:
            return inner

        def attention(stream: Stream, heads: int, projections: Sequence[Projection]) -> torch.Tensor:
            frames = stream.video_tokens // state
            if frames < 2:
                return inner(stream, heads, projections)
            meter = Meter(frames, stream.tokens.new_zeros(len(stream.tokens), dtype=torch.float32))
            measured = replace(stream, attend=meter.around(stream.attend, stream.video_tokens))
            attended = inner(measured, heads, projections)
            intensity = meter.total / (heads * stream.video_tokens * (frames - 1))
            scale = (intensity * (frames + self.weight)).clamp(min=1)[:, None, None]
            for at in token_chunks(stream.video_tokens, stream.chunk_tokens):
                attended[:, at].copy_(attended[:, at] * scale)
            return attended

        return attention


@dataclass
class Meter:
    """Adds up, for each sample, what frames attend to others in all calls of the kernel: ``total`` [B].

    A call is for a group of heads, of all samples or, where their texts differ in length, of one after the other.
    """

    frames: int
    total: torch.Tensor
    calls: int = 0

    def around(self, inner: AttentionKernel, video_tokens: int) -> AttentionKernel:
        """The kernel, measured."""

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            first = self.calls % len(self.total) if len(q) == 1 else 0
            self.total[first : first + len(q)] += across_frames(q[:, :video_tokens], k[:, :video_tokens], self.frames)
            self.calls += 1
            return inner(q, k, v)

        return attend


def across_frames(q: torch.Tensor, k: torch.Tensor, frames: int) -> torch.Tensor:
    """The sum over heads and tokens of what a token attends to its place in other frames: [B] in float32.

    q, k [B, T·h·w, N, D] of video tokens, frame by frame. Only [T, T] maps are made, of some places at a time.
    """
    q, k = (x.unflatten(1, (frames, -1)) for x in (q, k))
    batch, _, places, heads, dim = q.shape
    place_bytes = batch * heads * (4 * frames * dim + 3 * frames**2) * 4
    step = max(1, CHUNK_BYTES // place_bytes)
    total = torch.zeros(batch, device=q.device)
    for start in range(0, places, step):
        queries, keys = (x[:, :, start : start + step].permute(0, 2, 3, 1, 4).float() for x in (q, k))
        scores = torch.matmul(queries, keys.transpose(-2, -1)).mul_(dim**-0.5)
        # Of a row of the softmax only the diagonal is needed: the rest of it is what goes to other frames.
        own = scores.diagonal(dim1=-2, dim2=-1) - scores.logsumexp(dim=-1)
        total -= own.expm1().sum(dim=(1, 2, 3))
    return total
