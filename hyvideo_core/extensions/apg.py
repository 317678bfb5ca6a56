"""Adaptive projected guidance: high cfg without the saturation.

What guidance adds to the clean estimate is steered away from what it added in earlier steps, kept short, and rid of
the part that only makes the estimate itself stronger.

Source: arXiv 2410.02416, algorithm 1: momentum, then the limit, then the projection; on clean estimates, as its author
asks for in huggingface/diffusers pull request 9626. Lengths and directions are those of a whole clip, as in diffusers'
AdaptiveProjectedGuidance, which however takes the velocities of flow models as they are. ComfyUI's node for it takes
each channel of a video by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from hyvideo_core.sample.seams import Conditional, Extension, Run

#: The paper's limits are lengths of a whole latent of SDXL, and lengths grow with the root of the size. Here a limit
#: means the same for every size of video.
#: Source: table 10 of the paper; leejet/stable-diffusion.cpp pull request 1620.
PAPER_ELEMENTS = 4 * 128 * 128
#: Before the name of a side, in what is kept of a run.
KEPT = "sum "


@dataclass
class Past:
    """Running sums of what was added: with the last step that was evaluated, and up to the step before it."""

    latest: torch.Tensor | None = None
    before: torch.Tensor | None = None


@dataclass
class Pasts:
    """Of one run: the past of each ``Evaluation.side``, where the model is, and whether there was anything to do."""

    device: torch.device
    sides: dict[str, Past] = field(default_factory=dict)
    has_acted: bool = False


@dataclass(frozen=True)
class AdaptiveProjectedGuidance(Extension):
    """Changes what true cfg adds; at ``eta`` 1, ``momentum`` 0 and ``norm_threshold`` 0 nothing is touched.

    It acts on the difference of the clean estimates, D_c − D_negative = −σ·(v_c − v_negative). ``eta`` is how much
    stays of its part along D_c, ``momentum`` the weight of earlier steps (negative: away from them), and
    ``norm_threshold`` its greatest length in the paper's unit (``PAPER_ELEMENTS``), 0 for none.
    """

    #: After FreSca, so that nothing lengthens the difference or turns it back once it was limited and projected.
    rank: ClassVar[int] = 200
    eta: float = 0.0
    momentum: float = -0.5
    norm_threshold: float = 15.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.eta):
            raise ValueError(f"eta is {self.eta}, but must be a number: 0 removes the part along the estimate, 1 not.")
        if not -1 < self.momentum < 1:
            raise ValueError(
                f"momentum is {self.momentum}, but must lie between -1 and 1, or earlier steps would outweigh later "
                "ones. The paper uses -0.5 for SDXL; 0 is off."
            )
        if not (math.isfinite(self.norm_threshold) and self.norm_threshold >= 0):
            raise ValueError(
                f"norm_threshold is {self.norm_threshold}, but must be 0 or more (15 for SDXL in the paper; 0 is off)."
            )

    def start(self, run: Run) -> Pasts:
        """No past."""
        return Pasts(run.dit.device)

    def difference(self, difference: torch.Tensor, name: str, conditional: Conditional, state: Pasts) -> torch.Tensor:
        """The velocity's difference that adds the changed one to the clean estimate."""
        evaluation = conditional.evaluation
        # At σ = 0, where only an inversion comes by, x is clean already.
        if name != "negative" or evaluation.sigma == 0:
            return difference
        state.has_acted = True
        if self.eta == 1 and self.momentum == 0 and self.norm_threshold == 0:
            return difference
        added = -evaluation.sigma * difference
        if self.momentum != 0:
            added = self._with_past(added, evaluation.stage, state.sides.setdefault(evaluation.side, Past()))
        if self.norm_threshold > 0:
            added = limited(added, self.norm_threshold * math.sqrt(added[0].numel() / PAPER_ELEMENTS))
        if self.eta != 1:
            clean = evaluation.x - evaluation.sigma * conditional.velocity
            added = added + (self.eta - 1) * along(added, clean)
        return added / -evaluation.sigma

    def _with_past(self, added: torch.Tensor, stage: int, past: Past) -> torch.Tensor:
        """``added`` and the momentum of the steps before.

        Further evaluations of a step, a solver's second or other draws of noise, lean on the same past as its first and
        leave it as it is: momentum counts steps, whatever is done in them.
        """
        if stage == 0:
            past.before = past.latest
        if past.before is not None:
            added = added + self.momentum * past.before
        if stage == 0:
            past.latest = added
        return added

    def keep(self, state: Pasts) -> Mapping[str, torch.Tensor]:
        """The sums with the last step, by their sides."""
        return {f"{KEPT}{side}": past.latest for side, past in state.sides.items() if past.latest is not None}

    def restore(self, state: Pasts, kept: Mapping[str, torch.Tensor]) -> None:
        """Go on from these sums."""
        state.sides = {name.removeprefix(KEPT): Past(latest.to(state.device)) for name, latest in kept.items()}

    def report(self, state: Pasts) -> str:
        """Says so if it had nothing to do."""
        if state.has_acted:
            return ""
        return "APG had nothing to act on: in the steps just made cfg was 1 wherever it is active."


def limited(x: torch.Tensor, length: float) -> torch.Tensor:
    """x [B, …] with each sample shortened to ``length`` if it is longer."""
    return x * (length / _lengths(x)).clamp(max=1)


def along(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """The part of each sample of x [B, …] that points along ``direction`` or against it."""
    unit = F.normalize(direction.flatten(1), dim=1).view_as(direction)
    return (x * unit).sum(dim=tuple(range(1, x.ndim)), keepdim=True) * unit


def _lengths(x: torch.Tensor) -> torch.Tensor:
    """The Euclidean length of each sample, with x's number of axes."""
    return x.square().sum(dim=tuple(range(1, x.ndim)), keepdim=True).sqrt()
