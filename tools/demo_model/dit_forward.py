"""The transformer's forward with gradients, over the modules of ``hyvideo_core.model``.

The pack's own forward works in place and sample by sample, to hold little memory; this one keeps what a gradient needs
and takes padded batches. A test says that both compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from hyvideo_core.model.blocks import DoubleBlock, SingleBlock
from hyvideo_core.model.dit import DiT
from hyvideo_core.model.layers import NORM_EPS, FeedForward, Modulation, RMSNorm
from hyvideo_core.model.refiner import RefinerBlock, TokenRefiner
from hyvideo_core.model.rope import rope_table

#: Shift, scale and gate of every token.
Modulated = tuple[Tensor, ...]


class Tokens:
    """What all blocks of a forward share: where video ends, who may be seen, positions, and who is modulated how."""

    def __init__(self, dit: DiT, x: Tensor, mask: Tensor, vec: Tensor, clean_vec: Tensor | None) -> None:
        patch = dit.config.patch_size
        self.grid = (x.shape[2] // patch[0], x.shape[3] // patch[1], x.shape[4] // patch[2])
        self.video = self.grid[0] * self.grid[1] * self.grid[2]
        self.clean = self.grid[1] * self.grid[2] if clean_vec is not None else 0
        self.vec, self.clean_vec = vec, clean_vec
        seen = torch.cat((mask.new_ones(len(mask), self.video), mask), dim=1)
        self.unseen = unseen(seen)
        table = torch.view_as_real(rope_table(self.grid, dit.config.rope_dims, dit.config.rope_theta, x.device))
        self.cos, self.sin = table.unbind(-1)

    def modulation(self, of: Modulation, length: int, start: int = 0) -> Modulated:
        """What ``of`` makes of the conditioning for tokens from ``start`` on: [B, 1 or length, hidden] each."""
        rows = of(self.vec)
        if self.clean_vec is None or start >= self.clean:
            return rows
        clean = of(self.clean_vec)
        return tuple(
            torch.cat((a.expand(-1, self.clean, -1), b.expand(-1, length - self.clean, -1)), dim=1)
            for a, b in zip(clean, rows, strict=True)
        )

    def rotated(self, x: Tensor) -> Tensor:
        """x [B, N, L, D], its video tokens turned by their positions."""
        video = x[:, :, : self.video]
        even, odd = video.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
        return torch.cat((turned, x[:, :, self.video :]), dim=2)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q, k, v [B, N, L, D] over video and valid text: [B, L, N·D]."""
        return attention(self.rotated(q), self.rotated(k), v, self.unseen).transpose(1, 2).flatten(2)


def unseen(mask: Tensor) -> Tensor:
    """What is added to scores of keys that are not to be seen [B, 1, 1, L], for a mask [B, L] of those that are."""
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask == 0, float("-inf"))[:, None, None]


def attention(q: Tensor, k: Tensor, v: Tensor, unseen: Tensor) -> Tensor:
    """Attention of q, k, v [B, N, L, D], written out: for so few tokens that is faster than the fused kernel."""
    scores = q @ (k * k.shape[-1] ** -0.5).transpose(-1, -2)
    return torch.softmax(scores + unseen.to(scores.dtype), dim=-1) @ v


@dataclass(frozen=True)
class Blocks:
    """How the blocks are run: as they are written, or compiled."""

    refiner: Callable[..., Tensor]
    double: Callable[..., Tensor]
    single: Callable[..., Tensor]


def forward(
    dit: DiT,
    x: Tensor,
    timestep: Tensor,
    text: Tensor,
    mask: Tensor,
    pooled: Tensor,
    guidance: Tensor | None = None,
    token_replace: bool = False,
    blocks: Blocks | None = None,
) -> Tensor:
    """``DiT.forward``: velocity [B, C, T, H, W]. Valid text comes first in each row of ``text`` [B, L, C]."""
    blocks = blocks or Blocks(_refiner_block, _double, _single)
    base = dit.time_in(timestep) + dit.vector_in(pooled)
    vec = base if guidance is None or dit.guidance_in is None else base + dit.guidance_in(guidance)
    clean = dit.time_in(torch.zeros_like(timestep)) + dit.vector_in(pooled) if token_replace else None
    shared = Tokens(dit, x, mask, vec, clean)
    video = dit.img_in.proj(x).flatten(2).transpose(1, 2)
    tokens = torch.cat((video, _refined(dit.txt_in, text, timestep, mask, blocks.refiner)), dim=1)
    for block in dit.double_blocks:
        tokens = blocks.double(block, tokens, shared)
    for block in dit.single_blocks:
        tokens = blocks.single(block, tokens, shared)
    shift, scale = dit.final_layer.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
    patches = dit.final_layer.linear(_normed(tokens[:, : shared.video], shift, scale))
    t, h, w = shared.grid
    pt, ph, pw = dit.config.patch_size
    return rearrange(patches, "B (t h w) (C pt ph pw) -> B C (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)


@cache
def compiled() -> Blocks:
    """The blocks compiled, a graph for each shape that comes: half of a step's time, after a minute a shape."""
    torch._dynamo.config.recompile_limit = 64
    return Blocks(*(torch.compile(run, dynamic=False) for run in (_refiner_block, _double, _single)))


def _refined(
    refiner: TokenRefiner, text: Tensor, timestep: Tensor, mask: Tensor, run_block: Callable[..., Tensor]
) -> Tensor:
    valid = mask[..., None].to(text.dtype)
    mean = (text * valid).sum(1) / valid.sum(1)
    condition = refiner.t_embedder(timestep) + refiner.c_embedder(mean)
    x = refiner.input_embedder(text)
    for block in refiner.individual_token_refiner.blocks:
        x = run_block(block, x, condition, unseen(mask))
    return x


def _refiner_block(block: RefinerBlock, x: Tensor, condition: Tensor, unseen: Tensor) -> Tensor:
    attention_gate, mlp_gate = block.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
    q, k, v = _heads(block.self_attn_qkv(block.norm1(x)), block.heads)
    attended = attention(q, k, v, unseen).transpose(1, 2).flatten(2)
    x = x + block.self_attn_proj(attended) * attention_gate
    return x + block.mlp(block.norm2(x)) * mlp_gate


def _double(block: DoubleBlock, tokens: Tensor, shared: Tokens) -> Tensor:
    parts = dict(zip(("img", "txt"), (tokens[:, : shared.video], tokens[:, shared.video :]), strict=True))
    modulations, heads = {}, []
    for start, (name, x) in zip((0, shared.video), parts.items(), strict=True):
        modulations[name] = shared.modulation(getattr(block, f"{name}_mod"), x.shape[1], start)
        qkv = getattr(block, f"{name}_attn_qkv")(_normed(x, *modulations[name][:2]))
        norms = getattr(block, f"{name}_attn_q_norm"), getattr(block, f"{name}_attn_k_norm")
        heads.append(_qk_normed(_heads(qkv, block.heads), norms))
    attended = shared.attended(*(torch.cat(pair, dim=2) for pair in zip(*heads, strict=True)))
    out = []
    for (name, x), mixed in zip(parts.items(), attended.split([x.shape[1] for x in parts.values()], 1), strict=True):
        _, _, gate, shift, scale, mlp_gate = modulations[name]
        x = x + getattr(block, f"{name}_attn_proj")(mixed) * gate
        out.append(x + _mlp(getattr(block, f"{name}_mlp"), _normed(x, shift, scale)) * mlp_gate)
    return torch.cat(out, dim=1)


def _single(block: SingleBlock, tokens: Tensor, shared: Tokens) -> Tensor:
    shift, scale, gate = shared.modulation(block.modulation, tokens.shape[1])
    qkv, wide = block.linear1(_normed(tokens, shift, scale)).split((3 * block.hidden, block.mlp_dim), dim=-1)
    attended = shared.attended(*_qk_normed(_heads(qkv, block.heads), (block.q_norm, block.k_norm)))
    joined = torch.cat((attended, F.gelu(wide, approximate="tanh")), dim=-1)
    return tokens + block.linear2(joined) * gate


def _heads(qkv: Tensor, heads: int) -> Sequence[Tensor]:
    """[B, L, 3·N·D] → q, k, v [B, N, L, D]."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _qk_normed(qkv: Sequence[Tensor], norms: tuple[RMSNorm, RMSNorm]) -> Sequence[Tensor]:
    q, k = (
        F.rms_norm(x, (x.shape[-1],), norm.weight.to(x.dtype), NORM_EPS) for x, norm in zip(qkv[:2], norms, strict=True)
    )
    return q, k, qkv[2]


def _mlp(mlp: FeedForward, x: Tensor) -> Tensor:
    return mlp.fc2(F.gelu(mlp.fc1(x), approximate="tanh"))


def _normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), eps=NORM_EPS) * (1 + scale) + shift
