"""Which preview a run shows after which step. It never changes the run, never ends it, and keeps to its share of time.

The first step is shown at once, by the quick method. A finer one takes over as soon as its price, measured before the
first step, is within the share of the time that the steps have taken; then it is shown as often as that allows.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

import torch

from hyvideo_core.preview.budget import SHARE, Budget
from hyvideo_core.preview.clip import MAX_CLIPS, Clip
from hyvideo_core.preview.sheet import sheet

logger = logging.getLogger(__name__)

#: A preview may take so many times what the last one took, as the machine may have more to do: it is made where even
#: that is affordable.
MARGIN = 2.0


class Method(Protocol):
    """A way to make a clip of latents [B, 16, T, H, W] in model space."""

    name: str

    def __call__(self, latents: torch.Tensor) -> Clip:
        """The clip they show; the latents stay as they are."""
        ...


class Previewer:
    """Previews of one run by ``quick``, and by ``fine`` where there is time for it."""

    def __init__(self, quick: Method, fine: Method | None = None, share: float = SHARE) -> None:
        self.budget = Budget(share)
        self._quick = quick
        self._methods = [quick] if fine is None else [fine, quick]
        #: What each method takes for a latent frame of a clip. What has not been measured is tried.
        self._seconds: dict[str, float] = {}
        self._shown: Method | None = None
        self._encoding_s = 0.0

    @property
    def awaited(self) -> str:
        """The finer method's name, until it has been affordable for the first time; else empty."""
        best = self._methods[0] if self._methods else self._quick
        return "" if best in (self._quick, self._shown) else best.name

    def rehearse(self, height: int, width: int, device: torch.device) -> None:
        """Prepare all methods on one latent frame of this size, and measure the fine one, before the run begins."""
        frame = torch.zeros(1, 16, 1, height, width, device=device)
        for method in list(self._methods):
            try:
                with torch.inference_mode():
                    # The first time loads and allocates.
                    sheet(method(frame))
                    started = time.perf_counter()
                    method(frame)
            except Exception as error:
                self._give_up(method, error)
                continue
            if method is not self._quick:
                self._seconds[method.name] = time.perf_counter() - started

    def start(self) -> None:
        """The first step begins now."""
        self.budget.start()

    def after_step(self, denoised: torch.Tensor) -> Clip | None:
        """A clip of a step's estimate [B, 16, T, H, W], unless it is too early for one; the next step begins now."""
        self.budget.stop()
        try:
            method = self._affordable(denoised)
            return None if method is None else self._made(method, denoised)
        finally:
            self.budget.start()

    def encoded(self, seconds: float) -> None:
        """Note what it took to encode and send a clip: part of its price, on whichever thread."""
        self.budget.spend(seconds)
        self._encoding_s = seconds

    def _affordable(self, latents: torch.Tensor) -> Method | None:
        frames = min(len(latents), MAX_CLIPS) * latents.shape[2]
        for method in self._methods:
            per_frame = self._seconds.get(method.name)
            if per_frame is None or self.budget.affords(MARGIN * (per_frame * frames + self._encoding_s)):
                return method
            if method is self._shown:
                # A finer picture is not replaced by a coarser one.
                return None
        return None

    def _made(self, method: Method, latents: torch.Tensor) -> Clip | None:
        started = time.perf_counter()
        try:
            with torch.inference_mode():
                clip = method(latents)
        except Exception as error:
            self._give_up(method, error)
            return None
        seconds = time.perf_counter() - started
        self.budget.spend(seconds)
        self._seconds[method.name] = seconds / (min(len(latents), MAX_CLIPS) * latents.shape[2])
        self._shown = method
        return clip

    def _give_up(self, method: Method, error: Exception) -> None:
        """Do without a method from now on."""
        self._methods.remove(method)
        rest = f"from now on by {self._methods[0].name}" if self._methods else "there are no more in this run"
        logger.warning("A preview by %s failed, %s. The video is not affected. Reason: %s", method.name, rest, error)
