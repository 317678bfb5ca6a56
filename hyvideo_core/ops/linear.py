"""The linear layer all networks here are built from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Linear(nn.Linear):
    """A plain linear layer that can also compute a part of its outputs.

    ``rows`` lets a block ask one fused projection for its q, k, v first and for its MLP part later, so the
    widest activation never exists for the whole sequence.
    """

    def rows(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Outputs ``start`` to ``stop`` of the layer for x [..., in_features]."""
        bias = None if self.bias is None else self.bias[start:stop]
        return F.linear(x, self.weight[start:stop], bias)
