"""The linear layer all networks here are built from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.ops import fp8
from hyvideo_core.ops.low_rank import LowRank
from hyvideo_core.ops.packing import PLAIN, Packing, Stored


class Linear(nn.Linear):
    """A linear layer whose weight may be stored packed, with low-rank terms beside it.

    ``rows`` computes a part of the outputs: a block asks one fused projection for its q, k, v first and for its MLP
    part later, so the widest activation never exists for the whole sequence. ``ready`` unpacks once for many calls.
    ``fast`` multiplies fp8 weights by the card's fp8 units instead of unpacking them (``ops.fp8``).
    """

    weight_scale: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.packing: Packing = PLAIN
        self.adapters: tuple[LowRank, ...] = ()
        self.fast = False
        self.register_buffer("weight_scale", None)

    @property
    def stored(self) -> Stored:
        """The weight as it is held."""
        return Stored(self.weight, self.packing, self.weight_scale)

    def store(self, weight: Stored) -> None:
        """Hold this weight from now on. Raises ``ValueError`` for one of another shape."""
        if weight.shape != (self.out_features, self.in_features):
            raise ValueError(
                f"The weight is {list(weight.shape)}, but this layer needs {[self.out_features, self.in_features]}."
            )
        self.register_parameter("weight", nn.Parameter(weight.data, requires_grad=False))
        self.packing, self.weight_scale = weight.packing, weight.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] → [..., out_features]."""
        return self.rows(x, 0, self.out_features)

    def rows(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Outputs ``start`` to ``stop`` of the layer for x [..., in_features]."""
        out = self._product(x, start, stop)
        for adapter in self.adapters:
            out = adapter.add_to(out, x, start, stop)
        return out

    def ready(self, dtype: torch.dtype) -> Linear:
        """This layer for many calls in a row: itself, or one that holds the unpacked weight meanwhile."""
        if not self.stored.is_packed or self.fast:
            return self
        with torch.device("meta"):
            unpacked = Linear(self.in_features, self.out_features, bias=False)
        unpacked.store(Stored(self.stored.dense(dtype)))
        unpacked.bias, unpacked.adapters = self.bias, self.adapters
        return unpacked

    def _product(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        bias = None if self.bias is None else self.bias[start:stop]
        scale = self.weight_scale
        if scale is not None and scale.ndim:
            scale = scale[start:stop]
        weight = self.weight[start:stop]
        if self.fast:
            return fp8.scaled_linear(x, weight, scale, bias)
        return F.linear(x, self.packing.dense(weight, scale, x.dtype), bias)
