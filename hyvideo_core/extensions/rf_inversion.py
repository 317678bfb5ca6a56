"""RF inversion, the way back: a run that begins with an inverted clip is steered to that clip.

The velocity is a blend of the model's and of the straight one to the clip: v + η·((x − clip)/σ − v). So the result
keeps the clip's structure, while the prompt says what it shows. ``sample.inversion`` makes what the run begins with.

Source: arXiv 2410.10792, algorithm 2 (controlled reverse ODE; its t on the way down is 1 − σ). Trends are those of
ComfyUI-HunyuanVideoWrapper ``nodes_rf_inversion.py`` and DarkMnDragon/rf-inversion-diffuser: linear in σ, from the
first active step to the last. logtd's ComfyUI-Fluxtapoz has them linear in the number of the step, and takes that for
1 − σ in the formula, which holds only for shift 1; the authors' pipeline has constant η.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.sample.schedule import falls
from hyvideo_core.sample.seams import Conditional, Extension, Run
from hyvideo_core.types import Interval

CONSTANT, RISING, FALLING = "constant", "rising", "falling"
TRENDS = (CONSTANT, RISING, FALLING)


@dataclass(frozen=True)
class Steering:
    """Of one run: the clip where the model is, and how strongly each step is steered to it."""

    clean: torch.Tensor
    strengths: Sequence[float]


@dataclass(frozen=True, eq=False, kw_only=True)
class RFInversion(Extension):
    """Steers to ``clean`` [1 or B, C, T, H, W], the clip's latent in model space, in the steps of ``when``.

    ``eta`` 0 is off, 1 goes straight to the clip. By its ``trend`` it stays, rises from 0 in the first active step to
    ``eta`` in the last, or falls from ``eta`` to 0, both in proportion to σ.
    """

    #: Last of what changes the velocity: where it leads is known only then.
    rank: ClassVar[int] = 300
    clean: torch.Tensor = field(repr=False)
    eta: float = 0.5
    trend: str = CONSTANT

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}, but must lie between 0 (off) and 1 (straight to the clip).")
        if self.trend not in TRENDS:
            raise ValueError(f"trend is '{self.trend}', but must be one of {', '.join(TRENDS)}.")

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``GeometryError`` for a clip of another size or number, ``NumericsError`` for a damaged one."""
        if self.clean.shape[1:] != x.shape[1:] or len(self.clean) not in (1, len(x)):
            raise GeometryError(
                f"The clip to steer to is {list(self.clean.shape)}, but the latent to sample is {list(x.shape)}. "
                "Sample what the inversion of that clip gave."
            )
        if not bool(torch.isfinite(self.clean).all()):
            raise NumericsError(
                "The clip to steer to holds NaN or infinity. It was damaged where it was made: encode the video again, "
                "with dtype bfloat16 or float32 in HyVideo Load VAE."
            )

    def start(self, run: Run) -> Steering:
        """The clip and all strengths. Raises ``ValueError`` for a run from clean to noise."""
        if not falls(run.sigmas):
            raise ValueError(
                "sigmas rise, but a run is steered to a clip only on the way from noise to clean. For the inversion "
                "itself, take the model without HyVideo RF Inversion."
            )
        strengths = trended(self.eta, self.trend, run.sigmas[:-1].tolist(), self.when)
        return Steering(self.clean.to(run.dit.device, torch.float32), strengths)

    def velocity(self, velocity: torch.Tensor, conditional: Conditional, state: Steering) -> torch.Tensor:
        """The blend of it and of the straight one to the clip."""
        here = conditional.evaluation
        return torch.lerp(velocity, (here.x - state.clean) / here.sigma, state.strengths[here.step])


def trended(strength: float, trend: str, levels: Sequence[float], when: Interval) -> list[float]:
    """The strength of each step of a run or an inversion, which start at these noise levels.

    In the steps of ``when`` it goes by its ``trend``; in the others it is 0.
    """
    active = [step for step in range(len(levels)) if when.contains(step, len(levels))]
    shares = dict(zip(active, trend_shares([levels[step] for step in active], trend), strict=True))
    return [strength * shares.get(step, 0.0) for step in range(len(levels))]


def trend_shares(levels: Sequence[float], trend: str) -> list[float]:
    """What part of the strength each of the active steps has, which start at these noise levels, falling or rising.

    A single step has all of it.
    """
    if trend == CONSTANT or len(levels) < 2:
        return [1.0] * len(levels)
    first, last = levels[0], levels[-1]
    risen = [(first - level) / (first - last) for level in levels]
    return risen if trend == RISING else [1 - share for share in risen]
