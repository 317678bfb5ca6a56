"""CFG-Zero★: the negative prompt's velocity at its best scale, and no velocity at all in the first steps.

Source: arXiv 2503.18886, §4; WeichenFan/CFG-Zero-star, "Easy Implementation" in its README, with one step zeroed. For
HunyuanVideo, which has its guidance distilled, its authors zero steps and scale nothing. Their pipelines count
``zero_steps`` from 0, so that 1 is two steps; here it is their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hyvideo_core.sample.seams import Conditional, Evaluation, Extension, Predict, Run
from hyvideo_core.sample.solvers import NEARLY_ONE

#: Keeps the scale finite for a velocity of zero.
EPSILON = 1e-8


@dataclass
class Begun:
    """Of one run: how many steps have no velocity, the noise level it begins at, whether anything was scaled."""

    zeroed_steps: int
    sigma: float
    has_scaled: bool = False


@dataclass(frozen=True)
class CfgZeroStar(Extension):
    """Both parts of CFG-Zero★; at ``optimized_scale`` False and ``zero_steps`` 0 nothing is touched.

    ``optimized_scale`` steers away from s·v, the multiple of the negative velocity that comes nearest to the positive
    one; it needs true cfg. In the first ``zero_steps`` steps there is no velocity, so that Euler and Heun leave x where
    it is, and the transformer is not asked; only of runs that begin with noise, since it is there that the velocity
    says nothing yet. UniPC looks back at such a step and moves x a little, and solvers that add noise add it. The
    authors zero 4 % of the steps.
    """

    #: Outside of all that evaluates: caches and windows shall neither see nor keep a step that has no velocity. And
    #: before what else changes the velocity: that steers from a standstill then.
    rank: ClassVar[int] = -600
    optimized_scale: bool = True
    zero_steps: int = 1

    def __post_init__(self) -> None:
        if self.zero_steps < 0:
            raise ValueError(f"zero_steps is {self.zero_steps}, but must be 0 or more. Use 1 for 30 steps, 2 for 50.")

    def start(self, run: Run) -> Begun:
        """Raises ``ValueError`` where no step would be left."""
        sigma, steps = float(run.sigmas[0]), len(run.sigmas) - 1
        zeroed = self.zero_steps if sigma >= NEARLY_ONE else 0
        if zeroed >= steps:
            raise ValueError(
                f"zero_steps is {zeroed}, but the run has {steps} steps, so the noise would stay as it is. Zero about "
                "4 % of the steps."
            )
        return Begun(zeroed, sigma)

    def wrap_predict(self, inner: Predict, state: Begun) -> Predict:
        """Do not ask for what would be thrown away."""
        if not state.zeroed_steps:
            return inner

        def predict(evaluation: Evaluation) -> torch.Tensor:
            return torch.zeros_like(evaluation.x) if evaluation.step < state.zeroed_steps else inner(evaluation)

        return predict

    def other(self, velocity: torch.Tensor, name: str, conditional: Conditional, state: Begun) -> torch.Tensor:
        """The negative velocity times s = ⟨v_c, v⟩ / ‖v‖², for each sample."""
        if not self.optimized_scale or name != "negative":
            return velocity
        state.has_scaled = True
        axes = tuple(range(1, velocity.ndim))
        common = (conditional.velocity * velocity).sum(dim=axes, keepdim=True)
        return common / (velocity.square().sum(dim=axes, keepdim=True) + EPSILON) * velocity

    def velocity(self, velocity: torch.Tensor, conditional: Conditional, state: Begun) -> torch.Tensor:
        """Zero in the first steps, whatever guidance made of nothing: a rescale makes NaN of it."""
        return torch.zeros_like(velocity) if conditional.evaluation.step < state.zeroed_steps else velocity

    def report(self, state: Begun) -> str:
        """What it was meant to do and had no occasion for."""
        lines = []
        if self.zero_steps and not state.zeroed_steps:
            lines.append(f"no step was zeroed, since the run began at σ = {state.sigma:.3g} and not with noise")
        if self.optimized_scale and not state.has_scaled:
            lines.append("nothing was scaled, since in the steps just made cfg was 1 wherever it is active")
        return f"CFG-Zero★: {'; '.join(lines)}." if lines else ""
