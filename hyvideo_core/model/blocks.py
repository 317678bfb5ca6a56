"""Double-stream and single-stream blocks, written so that a forward wastes no memory.

Video and text live in one token buffer [B, L, D], video first; blocks update it in place. Norms, projections
and MLPs run over chunks of tokens, so only q, k, v and the attention's output span the sequence.

Source: HunyuanVideo ``hyvideo/modules/models.py`` (MMDoubleStreamBlock, MMSingleStreamBlock).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.layers import FeedForward, Modulation, RMSNorm, gelu_, modulated_norm, token_chunks
from hyvideo_core.model.ragged import Lengths, attend_ragged
from hyvideo_core.model.rope import rotate
from hyvideo_core.ops import Linear


@dataclass
class Stream:
    """What flows through the blocks.

    ``tokens`` [B, L, D] holds ``video_tokens`` video tokens, then text; ``lengths`` are the valid tokens of
    each sample, video and text together; ``vec`` [B, D] is timestep, pooled text and guidance.
    """

    tokens: torch.Tensor
    video_tokens: int
    lengths: Lengths
    vec: torch.Tensor
    rope: torch.Tensor
    attend: AttentionKernel
    chunk_tokens: int

    @property
    def video(self) -> torch.Tensor:
        """View of the video tokens."""
        return self.tokens[:, : self.video_tokens]

    @property
    def text(self) -> torch.Tensor:
        """View of the text tokens."""
        return self.tokens[:, self.video_tokens :]

    def chunks(self, length: int) -> Iterator[slice]:
        """Slices over ``length`` tokens of the size chosen for this run."""
        return token_chunks(length, self.chunk_tokens)

    def qkv_buffer(self, heads: int) -> torch.Tensor:
        """Uninitialised room for q, k and v: [3, B, L, N, D]."""
        batch, length, hidden = self.tokens.shape
        return self.tokens.new_empty(3, batch, length, heads, hidden // heads)

    def attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attention over video and valid text: [3, B, L, N, D] → [B, L, N·D]."""
        return attend_ragged(self.attend, qkv.unbind(0), self.lengths).flatten(2)


def write_qkv(
    qkv: torch.Tensor, projected: torch.Tensor, at: slice, norms: tuple[RMSNorm, RMSNorm], rope: torch.Tensor | None
) -> None:
    """Normalise, rotate and store one chunk of projected q, k, v [B, l, 3·N·D] at its place in the buffer."""
    q, k, v = projected.unflatten(-1, (3, qkv.shape[3], qkv.shape[4])).unbind(2)
    for buffer, part, norm in ((qkv[0], q, norms[0]), (qkv[1], k, norms[1])):
        normed = norm(part)
        buffer[:, at] = normed if rope is None else rotate(normed, rope)
    qkv[2][:, at] = v


class DoubleBlock(nn.Module):
    """Video and text with weights of their own, meeting in one attention."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.heads = config.heads
        for stream in ("img", "txt"):
            self.add_module(f"{stream}_mod", Modulation(hidden, 6))
            self.add_module(f"{stream}_attn_qkv", Linear(hidden, 3 * hidden))
            self.add_module(f"{stream}_attn_q_norm", RMSNorm(head_dim))
            self.add_module(f"{stream}_attn_k_norm", RMSNorm(head_dim))
            self.add_module(f"{stream}_attn_proj", Linear(hidden, hidden))
            self.add_module(f"{stream}_mlp", FeedForward(hidden, config.mlp_dim, gelu_))

    def forward(self, stream: Stream) -> None:
        """Update the stream's tokens in place."""
        split = stream.video_tokens
        parts = (
            ("img", stream.video, slice(0, split), stream.rope),
            ("txt", stream.text, slice(split, None), None),
        )
        modulations = {name: getattr(self, f"{name}_mod")(stream.vec) for name, *_ in parts}
        qkv = stream.qkv_buffer(self.heads)
        for name, tokens, place, rope in parts:
            self._project(name, tokens, modulations[name], qkv[:, :, place], rope, stream)
        attended = stream.attention(qkv)
        del qkv
        for name, tokens, place, _ in parts:
            self._finish(name, tokens, modulations[name], attended[:, place], stream)

    def _project(
        self,
        name: str,
        tokens: torch.Tensor,
        modulation: tuple[torch.Tensor, ...],
        qkv: torch.Tensor,
        rope: torch.Tensor | None,
        stream: Stream,
    ) -> None:
        shift, scale = modulation[:2]
        linear: Linear = getattr(self, f"{name}_attn_qkv")
        norms = (getattr(self, f"{name}_attn_q_norm"), getattr(self, f"{name}_attn_k_norm"))
        for at in stream.chunks(tokens.shape[1]):
            projected = linear(modulated_norm(tokens[:, at], shift, scale))
            write_qkv(qkv, projected, at, norms, None if rope is None else rope[at])

    def _finish(
        self,
        name: str,
        tokens: torch.Tensor,
        modulation: tuple[torch.Tensor, ...],
        attended: torch.Tensor,
        stream: Stream,
    ) -> None:
        _, _, attn_gate, shift, scale, mlp_gate = modulation
        proj: Linear = getattr(self, f"{name}_attn_proj")
        mlp: FeedForward = getattr(self, f"{name}_mlp")
        for at in stream.chunks(tokens.shape[1]):
            tokens[:, at].addcmul_(proj(attended[:, at]), attn_gate)
            tokens[:, at].addcmul_(mlp(modulated_norm(tokens[:, at], shift, scale)), mlp_gate)


class SingleBlock(nn.Module):
    """Video and text through the same weights, attention and MLP side by side."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.hidden, self.heads, self.mlp_dim = hidden, config.heads, config.mlp_dim
        self.linear1 = Linear(hidden, 3 * hidden + config.mlp_dim)
        self.linear2 = Linear(hidden + config.mlp_dim, hidden)
        self.q_norm = RMSNorm(config.head_dim)
        self.k_norm = RMSNorm(config.head_dim)
        self.modulation = Modulation(hidden, 3)

    def forward(self, stream: Stream) -> None:
        """Update the stream's tokens in place."""
        shift, scale, gate = self.modulation(stream.vec)
        attended = stream.attention(self._project(stream, shift, scale))
        tokens, qkv_width = stream.tokens, 3 * self.hidden
        for at in stream.chunks(tokens.shape[1]):
            # The norm is computed a second time here: it is cheap, the MLP's width over the sequence is not.
            wide = self.linear1.rows(modulated_norm(tokens[:, at], shift, scale), qkv_width, qkv_width + self.mlp_dim)
            joined = torch.cat((attended[:, at], gelu_(wide)), dim=-1)
            del wide
            tokens[:, at].addcmul_(self.linear2(joined), gate)

    def _project(self, stream: Stream, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        qkv = stream.qkv_buffer(self.heads)
        norms = (self.q_norm, self.k_norm)
        parts = ((0, stream.video, stream.rope), (stream.video_tokens, stream.text, None))
        for offset, tokens, rope in parts:
            for at in stream.chunks(tokens.shape[1]):
                projected = self.linear1.rows(modulated_norm(tokens[:, at], shift, scale), 0, 3 * self.hidden)
                place = slice(offset + at.start, offset + at.stop)
                write_qkv(qkv, projected, place, norms, None if rope is None else rope[at])
        return qkv
