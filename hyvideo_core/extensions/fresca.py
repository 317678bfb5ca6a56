"""FreSca: coarse structure and fine detail of what guidance adds, each scaled by itself.

Source: arXiv 2504.02154; WikiChao/FreSca ``core/fresca.py`` (``Fourier_filter``): a Fourier transform over height
and width of every frame and channel, a square of low frequencies, the real part of the way back. Their cutoff is 20 and
their high factor 1.5, of 1 to 1.5 that they recommend; a cutoff by energy, which they have too, is left out. ComfyUI's
node for it counts frames as a direction, though it transforms none: of an odd number the last is high throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hyvideo_core.sample.seams import Conditional, Extension, Run


@dataclass
class Spectrum:
    """The factor [H, W] of each frequency in a run, and whether there was anything to multiply by it."""

    factors: torch.Tensor
    has_acted: bool = False


@dataclass(frozen=True)
class FreSca(Extension):
    """Scales the low and the high frequencies of v_c − v_negative; at ``low`` = ``high`` = 1 nothing is touched.

    ``cutoff`` counts waves across the picture, whatever its size: those with fewer, in both directions, are low. It
    ends at the finest that the shorter side can show. Needs true cfg.
    """

    #: Before APG, whose limit then holds for what is really added.
    rank: ClassVar[int] = 100
    low: float = 1.0
    high: float = 1.25
    cutoff: int = 20

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}, but must be 0 or more (1 leaves those frequencies as they are).")
        if self.cutoff < 1:
            raise ValueError(f"cutoff is {self.cutoff}, but must be 1 or more (the authors use 20).")

    def start(self, run: Run) -> Spectrum:
        """The factors for this run's size, on the model's device."""
        return Spectrum(self.factors(*run.shape[-2:]).to(run.dit.device))

    def factors(self, height: int, width: int) -> torch.Tensor:
        """What each frequency is multiplied by [H, W], zero frequency first.

        The square goes from −cutoff to cutoff − 1, as the authors cut it: of the waves at its edge half is low.
        """
        cutoff = min(self.cutoff, height // 2, width // 2)
        rows, columns = (_is_low(size, cutoff) for size in (height, width))
        return torch.where(rows[:, None] & columns, self.low, self.high)

    def difference(
        self, difference: torch.Tensor, name: str, conditional: Conditional, state: Spectrum
    ) -> torch.Tensor:
        """The difference with its frequencies scaled."""
        if name != "negative":
            return difference
        state.has_acted = True
        if self.low == self.high == 1:
            return difference
        return torch.fft.ifft2(torch.fft.fft2(difference.float()) * state.factors).real

    def report(self, state: Spectrum) -> str:
        """Says so if it had nothing to do."""
        if state.has_acted:
            return ""
        return "FreSca had nothing to act on: in the steps just made cfg was 1 wherever it is active."


def _is_low(size: int, cutoff: int) -> torch.Tensor:
    """Which frequencies of an axis are low [size], zero frequency first."""
    waves = torch.fft.fftfreq(size, d=1 / size).round()
    return (waves >= -cutoff) & (waves < cutoff)
