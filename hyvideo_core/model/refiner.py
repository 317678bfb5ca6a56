"""The token refiner: two small transformer blocks that prepare the language model's text for the video.

Source: HunyuanVideo ``hyvideo/modules/token_refiner.py``: the condition is the masked mean of the raw text
plus the timestep; no norm on q and k; SiLU in the MLP; modulation by gates only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.layers import NORM_EPS, FeedForward, ScalarEmbedder, TextProjection
from hyvideo_core.model.ragged import Lengths, attend_ragged
from hyvideo_core.ops import Linear


class RefinerBlock(nn.Module):
    """Self-attention and MLP over the text, each added through a gate."""

    def __init__(self, hidden: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.self_attn_qkv = Linear(hidden, 3 * hidden)
        self.self_attn_proj = Linear(hidden, hidden)
        self.norm2 = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.mlp = FeedForward(hidden, mlp_dim, F.silu)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(hidden, 2 * hidden))

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, lengths: Lengths, attend: AttentionKernel
    ) -> torch.Tensor:
        """x [B, L, hidden] with ``lengths`` valid tokens per sample → the same shape."""
        attn_gate, mlp_gate = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        qkv = self.self_attn_qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        attended = attend_ragged(attend, qkv.unbind(2), lengths).flatten(2)
        x = x + self.self_attn_proj(attended) * attn_gate
        return x + self.mlp(self.norm2(x)) * mlp_gate


class RefinerBlocks(nn.Module):
    """The blocks in order; a level of its own only because the checkpoint's names have one."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            RefinerBlock(config.hidden_size, config.heads, config.mlp_dim) for _ in range(config.refiner_blocks)
        )


class TokenRefiner(nn.Module):
    """Text [B, L, text_dim] to text tokens [B, L, hidden]."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.input_embedder = Linear(config.text_dim, config.hidden_size)
        self.t_embedder = ScalarEmbedder(config.hidden_size)
        self.c_embedder = TextProjection(config.text_dim, config.hidden_size)
        self.individual_token_refiner = RefinerBlocks(config)

    def forward(
        self, text: torch.Tensor, timestep: torch.Tensor, lengths: Lengths, attend: AttentionKernel
    ) -> torch.Tensor:
        """Refined tokens; rows beyond a sample's length hold nothing of use."""
        mean = torch.stack([text[i, :n].float().mean(dim=0) for i, n in enumerate(lengths)])
        condition = self.t_embedder(timestep) + self.c_embedder(mean.to(text.dtype))
        x = self.input_embedder(text)
        for block in self.individual_token_refiner.blocks:
            x = block(x, condition, lengths, attend)
        return x
