"""Guidance as one formula: v = v_c + Σ wᵢ·filter(v_c − vᵢ), then an optional rescale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from hyvideo_core.types import Interval


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt steers.

    ``embedded`` is the scale a distilled checkpoint takes as input (6 by default; ignored by others).
    ``cfg`` above 1 evaluates the negative prompt too, within ``interval`` of the steps. ``rescale`` (0–1)
    brings the guided velocity back towards the spread of the unguided one. ``batched`` evaluates both prompts at
    once, as the original does, with the memory of twice as many clips; the result is the same but for rounding.
    """

    embedded: float = 6.0
    cfg: float = 1.0
    interval: Interval = field(default_factory=Interval)
    rescale: float = 0.0
    batched: bool = False

    def __post_init__(self) -> None:
        for name in ("embedded", "cfg"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a finite number.")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale is {self.rescale}, but must lie between 0 and 1.")

    @property
    def prompts_at_once(self) -> int:
        """How many times the latent's batch one evaluation may hold."""
        return 2 if self.batched and self.cfg > 1 else 1

    def uses_negative(self, step: int, steps: int) -> bool:
        """Whether the negative prompt is evaluated in this step."""
        return self.cfg > 1 and self.interval.contains(step, steps)


def embedded_guidance(scale: float, batch: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The scale in the transformer's unit [batch].

    The product is taken in the model's dtype, as in the original: 6.0 becomes 6016 in bfloat16.
    """
    return torch.full((batch,), scale, dtype=dtype, device=device) * TIMESTEP_SCALE


def rescaled(guided: torch.Tensor, conditional: torch.Tensor, amount: float) -> torch.Tensor:
    """``guided`` with its standard deviation moved by ``amount`` (0–1) to that of ``conditional``.

    Source: arXiv 2305.08891 §3.4.
    """
    if amount == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return amount * (guided * ratio) + (1 - amount) * guided
