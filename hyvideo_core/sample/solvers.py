"""Solvers of the flow's differential equation, each a pure function of one step."""

from __future__ import annotations

import torch


def euler(x: torch.Tensor, velocity: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """One explicit Euler step, in float32: x + v·(σ′ − σ)."""
    return x.float() + velocity.float() * (sigma_next - sigma)
