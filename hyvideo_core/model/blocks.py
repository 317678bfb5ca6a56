"""Double-stream and single-stream blocks, written so that a forward wastes no memory.

Video and text live in one token buffer [B, L, D], video first; blocks update it in place. Norms, projections
and MLPs run over chunks of tokens, so only q, k, v of a group of heads and the attention's output span the sequence.

Source: HunyuanVideo ``hyvideo/modules/models.py`` (MMDoubleStreamBlock, MMSingleStreamBlock).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.compiling import compiled
from hyvideo_core.model.layers import FeedForward, Modulation, RMSNorm, gelu_, modulated_norm, rms_norm, token_chunks
from hyvideo_core.model.ragged import Lengths, attend_ragged
from hyvideo_core.model.rope import rotate, rotate_real
from hyvideo_core.ops import Linear

#: A block's attention: the stream, the number of heads, how q, k, v are made → [B, L, N·D].
Attention = Callable[["Stream", int, "Sequence[Projection]"], torch.Tensor]


@dataclass
class Stream:
    """What flows through the blocks.

    ``tokens`` [B, L, D] holds ``video_tokens`` video tokens, then text; ``lengths`` are the valid tokens of
    each sample, video and text together; ``vec`` [B, D] is timestep, pooled text and guidance. Where ``clean_vec``
    is given, the first ``clean_tokens`` video tokens are modulated by it instead (token_replace). q, k and v exist
    for one of ``head_groups`` groups of heads at a time. ``compile`` compiles what is done to whole chunks.
    ``attend`` is one call of a kernel, for a group of heads; ``around_attention`` may wrap a block's whole attention.
    """

    tokens: torch.Tensor
    video_tokens: int
    lengths: Lengths
    vec: torch.Tensor
    rope: torch.Tensor
    attend: AttentionKernel
    chunk_tokens: int
    clean_vec: torch.Tensor | None = None
    clean_tokens: int = 0
    head_groups: int = 1
    compile: bool = False
    around_attention: Callable[[Attention], Attention] = lambda inner: inner

    @property
    def video(self) -> torch.Tensor:
        """View of the video tokens."""
        return self.tokens[:, : self.video_tokens]

    @property
    def text(self) -> torch.Tensor:
        """View of the text tokens."""
        return self.tokens[:, self.video_tokens :]

    @property
    def parts(self) -> tuple[range, range]:
        """Where video and text are in the tokens."""
        return range(self.video_tokens), range(self.video_tokens, self.tokens.shape[1])

    def spans(self, modulation: Modulation) -> list[Span]:
        """The tokens that share one conditioning vector, with what ``modulation`` makes of it."""
        clean = 0 if self.clean_vec is None else self.clean_tokens
        spans = [Span(range(clean, self.tokens.shape[1]), modulation(self.vec))]
        if self.clean_vec is not None:
            spans.insert(0, Span(range(clean), modulation(self.clean_vec)))
        return spans

    def chunks(self, span: Span, part: range | None = None) -> Iterator[slice]:
        """Slices over the tokens of ``span``, those in ``part`` if given, of the size chosen for this run."""
        start, stop = span.place.start, span.place.stop
        if part is not None:
            start, stop = max(start, part.start), min(stop, part.stop)
        for at in token_chunks(stop - start, self.chunk_tokens):
            yield slice(start + at.start, start + at.stop)

    def is_whole(self, at: slice) -> bool:
        """Whether a slice is a chunk of full size: only these are compiled, so that one shape is all there is."""
        return at.stop - at.start == self.chunk_tokens


@dataclass(frozen=True)
class Span:
    """Tokens that are modulated alike: their place, and the shifts, scales and gates."""

    place: range
    modulation: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Projection:
    """How some parts of the tokens become q, k and v: outputs [0, 3·D) of ``layer``, and the norms of q and k."""

    parts: tuple[range, ...]
    spans: list[Span]
    layer: Linear
    norms: tuple[RMSNorm, RMSNorm]


def attention(stream: Stream, heads: int, projections: Sequence[Projection]) -> torch.Tensor:
    """Attention over video and valid text: [B, L, N·D], by groups of heads."""
    batch, length, hidden = stream.tokens.shape
    size, head_dim = heads // stream.head_groups, hidden // heads
    attended = None
    if stream.head_groups > 1:
        attended = stream.tokens.new_empty(batch, length, heads, head_dim)
    qkv = stream.tokens.new_empty(3, batch, length, size, head_dim)
    for first in range(0, heads, size):
        for projection in projections:
            _project(stream, projection, qkv, first * head_dim)
        out = None if attended is None else attended[:, :, first : first + size]
        found = attend_ragged(stream.attend, qkv.unbind(0), stream.lengths, out)
    return (found if attended is None else attended).flatten(2)


def _project(stream: Stream, projection: Projection, qkv: torch.Tensor, start: int) -> None:
    """Fill q, k, v [3, B, L, n, D] for the heads whose outputs begin at ``start``."""
    hidden, width, shape = stream.tokens.shape[-1], qkv.shape[3] * qkv.shape[4], (-1, *qkv.shape[3:])
    ranges = [(part + start, part + start + width) for part in (0, hidden, 2 * hidden)]
    if width == hidden:
        ranges = [(0, 3 * hidden)]
    layer = projection.layer.ready(stream.tokens.dtype)
    for span in projection.spans:
        shift, scale = span.modulation[:2]
        for part in projection.parts:
            for at in stream.chunks(span, part):
                normed = modulated_norm(stream.tokens[:, at], shift, scale)
                fused = [layer.rows(normed, *rows).unflatten(-1, shape) for rows in ranges]
                write_qkv(stream, qkv[:, :, at], [x for three in fused for x in three.unbind(2)], projection.norms, at)


def write_qkv(
    stream: Stream, qkv: torch.Tensor, parts: list[torch.Tensor], norms: tuple[RMSNorm, RMSNorm], at: slice
) -> None:
    """Normalise, rotate and store the projected q, k, v [B, l, n, D] of the chunk ``at``; text is not rotated."""
    rope = stream.rope[at] if at.stop <= stream.video_tokens else None
    weights = (norms[0].weight, norms[1].weight)
    if not stream.compile or rope is None or not stream.is_whole(at):
        _write_qkv(tuple(qkv), parts, weights, rope, rotate)
        return
    table = torch.view_as_real(rope)
    # One sample at a time: the strides of a batch depend on the length of the text, and each would be compiled.
    for i in range(qkv.shape[1]):
        compiled(_write_qkv)(tuple(qkv[:, i]), [part[i] for part in parts], weights, table, rotate_real)


def _write_qkv(
    qkv: Sequence[torch.Tensor],
    parts: list[torch.Tensor],
    weights: tuple[torch.Tensor, torch.Tensor],
    rope: torch.Tensor | None,
    turn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    for buffer, part, weight in zip(qkv[:2], parts[:2], weights, strict=True):
        normed = rms_norm(part, weight)
        buffer.copy_(normed if rope is None else turn(normed, rope))
    qkv[2].copy_(parts[2])


def join(stream: Stream, attended: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """Attention's output and the activated MLP side by side: [B, l, D], [B, l, M] → [B, l, D + M]. Uses up ``wide``."""
    if not stream.compile or wide.shape[1] != stream.chunk_tokens:
        return torch.cat((attended, gelu_(wide)), dim=-1)
    joined = [compiled(_join)(*rows) for rows in zip(attended, wide, strict=True)]
    return torch.stack(joined) if len(joined) > 1 else joined[0][None]


def _join(attended: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    return torch.cat((attended, F.gelu(wide, approximate="tanh")), dim=-1)


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
        parts = dict(zip(("img", "txt"), stream.parts, strict=True))
        spans = {name: stream.spans(getattr(self, f"{name}_mod")) for name in parts}
        projections = [
            Projection(
                (part,),
                spans[name],
                getattr(self, f"{name}_attn_qkv"),
                (getattr(self, f"{name}_attn_q_norm"), getattr(self, f"{name}_attn_k_norm")),
            )
            for name, part in parts.items()
        ]
        attended = stream.around_attention(attention)(stream, self.heads, projections)
        for name, part in parts.items():
            self._add_attention(name, stream, part, spans[name], attended)
        del attended
        for name, part in parts.items():
            self._add_mlp(name, stream, part, spans[name])

    def _add_attention(self, name: str, stream: Stream, part: range, spans: list[Span], attended: torch.Tensor) -> None:
        proj = getattr(self, f"{name}_attn_proj").ready(stream.tokens.dtype)
        for span in spans:
            gate = span.modulation[2]
            for at in stream.chunks(span, part):
                stream.tokens[:, at].addcmul_(proj(attended[:, at]), gate)

    def _add_mlp(self, name: str, stream: Stream, part: range, spans: list[Span]) -> None:
        mlp = getattr(self, f"{name}_mlp").ready(stream.tokens.dtype)
        for span in spans:
            shift, scale, gate = span.modulation[3:]
            for at in stream.chunks(span, part):
                tokens = stream.tokens[:, at]
                tokens.addcmul_(mlp(modulated_norm(tokens, shift, scale)), gate)


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
        spans = stream.spans(self.modulation)
        projection = Projection(stream.parts, spans, self.linear1, (self.q_norm, self.k_norm))
        attended = stream.around_attention(attention)(stream, self.heads, [projection])
        qkv_width, dtype = 3 * self.hidden, stream.tokens.dtype
        linear1, linear2 = self.linear1.ready(dtype), self.linear2.ready(dtype)
        for span in spans:
            shift, scale, gate = span.modulation
            for at in stream.chunks(span):
                tokens = stream.tokens[:, at]
                # The norm is computed a second time here: it is cheap, the MLP's width over the sequence is not.
                wide = linear1.rows(modulated_norm(tokens, shift, scale), qkv_width, qkv_width + self.mlp_dim)
                joined = join(stream, attended[:, at], wide)
                del wide
                tokens.addcmul_(linear2(joined), gate)
