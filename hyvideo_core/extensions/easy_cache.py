"""EasyCache: whole evaluations are skipped, by a relation between input and output that the run itself shows.

Each time the model is evaluated, the change of its output since the time before is divided by that of its input. Times
the change of the input from step to step, and relative to the output, that estimates what a skip would miss; it is
added up, and below the threshold the difference of output and input is taken for what it was.

Source: arXiv 2507.02860, and H-EmbodVis/EasyCache ``EasyCache4HunyuanVideo/easycache_sample_video.py``: threshold
0.025, 5 steps of warm-up, the last step computed; its README states 2.3× at 544p×129 and 50 steps. Other than there, a
given image, which is frame 0, does not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.extensions.step_cache import CacheState, Current, Slot, StepCache
from hyvideo_core.sample.seams import Evaluation, Predict, Run

#: Latents and velocities are float32.
LATENT_DTYPE_BYTES = 4


@dataclass
class EasySlot(Slot):
    """``kept`` is the latent and its velocity [B, C, T, H, W] when the model was last evaluated, ``size`` the mean
    size of that velocity, ``rate`` the change of the output for that of the input, ``predicted`` what adds up.
    """

    RESULTS: ClassVar[tuple[str, ...]] = ("kept",)
    kept: tuple[torch.Tensor, torch.Tensor] | None = None
    size: float = 0.0
    rate: float = math.nan
    predicted: float = 0.0


@dataclass(frozen=True)
class EasyCache(StepCache):
    """``threshold`` 0.025 by the authors, who compute 5 steps at the beginning of 50.

    The default is this pack's choice: of the demo model in 50 steps, 0.025 skips about a quarter, and twice that nearly
    half without obeying less (``benchmarks/results/quality.md``).
    Needs no coefficients, and keeps no tokens but latents only: two for each evaluation of a step.
    """

    name: ClassVar[str] = "EasyCache"
    threshold: float = 0.05
    warm_up: int = 5

    def cache_bytes(
        self, config: DiTConfig, latent_shape: tuple[int, ...], dtype_bytes: int, branches: int = 1, turns: int = 1
    ) -> int:
        """As in ``StepCache``: two latents for each evaluation."""
        batch, _, *size = latent_shape
        return 2 * branches * turns * batch * config.out_channels * math.prod(size) * LATENT_DTYPE_BYTES

    def start(self, run: Run) -> CacheState[EasySlot]:
        """Empty slots."""
        return CacheState(run, EasySlot)

    def wrap_predict(self, inner: Predict, state: CacheState[EasySlot]) -> Predict:
        """What was found before, moved on with the latent, or the evaluation."""
        if not self.threshold:
            return inner
        composition = state.composed()

        def predict(evaluation: Evaluation) -> torch.Tensor:
            current = state.enter(evaluation, composition)
            slot, x = current.slot, self._latent(evaluation, state)
            if state.skips(partial(self._is_near, current, x, state)):
                assert slot.kept is not None
                state.count(1.0)
                x_then, velocity_then = slot.kept
                return x + (velocity_then - x_then).to(x.device)
            velocity = inner(evaluation)
            _learn(slot, x, velocity, evaluation)
            slot.kept = x.to(self.kept_on(x)), velocity.to(self.kept_on(x))
            slot.is_filled, slot.predicted = True, 0.0
            state.count(0.0)
            return velocity

        return predict

    def _latent(self, evaluation: Evaluation, state: CacheState[EasySlot]) -> torch.Tensor:
        """The channels of x that a velocity is predicted for; an image may be beside them."""
        return evaluation.x[:, : state.dit.config.out_channels]

    def _is_near(self, current: Current[EasySlot], x: torch.Tensor, state: CacheState[EasySlot]) -> bool:
        """Whether the estimates since the model was last evaluated add up to less than the threshold."""
        evaluation, slot = current.evaluation, current.slot
        if not slot.is_filled or not self.may_skip(evaluation.step, evaluation.steps):
            return False
        change = _size(x - self._latent(current.before, state), evaluation)
        slot.predicted += slot.rate * _per(change, slot.size)
        # Never so while the rate is not known.
        return slot.predicted < self.threshold


def _learn(slot: EasySlot, x: torch.Tensor, velocity: torch.Tensor, evaluation: Evaluation) -> None:
    """The rate between this evaluation and the one that is kept, and the size of the output."""
    if slot.kept is not None:
        moved, change = (
            _size(now - then.to(x.device), evaluation) for now, then in zip((x, velocity), slot.kept, strict=True)
        )
        slot.rate = _per(change, moved)
    slot.size = _size(velocity, evaluation)


def _size(x: torch.Tensor, evaluation: Evaluation) -> float:
    """Mean absolute value of a latent without the frame of a given image."""
    return x[:, :, int(evaluation.token_replace) :].abs().mean().item()


def _per(change: float, size: float) -> float:
    return change / size if size else math.inf
