"""Low-rank terms beside a weight, as LoRA files hold them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class LowRank:
    """strength · up · down, added to a weight [out, in]: ``down`` [rank, in], ``up`` [out, rank].

    Source: LoRA (arXiv 2106.09685); ``strength`` already holds alpha / rank.
    """

    down: torch.Tensor
    up: torch.Tensor
    strength: float = 1.0

    def add_to(self, out: torch.Tensor, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """``out`` [..., stop − start] plus the term's outputs ``start`` to ``stop`` for x [..., in]."""
        narrow = F.linear(x, self.down)
        return out.add_(F.linear(narrow, self.up[start:stop]), alpha=self.strength)

    def delta(self) -> torch.Tensor:
        """The term as a matrix [out, in] in float32."""
        return self.strength * (self.up.float() @ self.down.float())

    def to(self, device: torch.device, dtype: torch.dtype) -> LowRank:
        """The same on another device in another dtype."""
        return LowRank(self.down.to(device, dtype), self.up.to(device, dtype), self.strength)
