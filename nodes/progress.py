"""A node's progress as the host shows it to every client: its bar, a line of text, a still picture."""

from __future__ import annotations

import logging
import time
from typing import Any

import comfy.utils
from server import PromptServer

from . import host

logger = logging.getLogger(__name__)


class Progress:
    """A node's progress bar with the time per unit and the time left beside it."""

    def __init__(
        self, total: int, unit: str, node_id: str | None, done: int = 0, *, started: float | None = None
    ) -> None:
        """``done`` units need not be made any more. ``started`` (``time.perf_counter``) is when the first was begun."""
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)
        self._total, self._unit, self._node_id = total, unit, node_id
        self._first, self._done = done, done
        self._started = self._last = time.perf_counter() if started is None else started
        self.first_s = 0.0
        self.line = f"{unit} {done}/{total}"

    @property
    def each_s(self) -> float:
        """Mean seconds of the units after the first, in which kernels are chosen and compiled; of it if it is alone."""
        later = self._done - self._first - 1
        return (self._last - self._started - self.first_s) / later if later > 0 else self.first_s

    def update(self, done: int, *, text: bool = True, still: tuple[str, Any, int] | None = None) -> None:
        """Show that ``done`` units are finished; also where a stop takes effect.

        ``still`` is a format, a picture and its size in px, as the host's preview takes it. Without ``text`` the line
        is for the caller to show.
        """
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if self._done == self._first:
            self.first_s = seconds
        self._done = done
        left = self.each_s * (self._total - done)
        self.line = f"{self._unit} {done}/{self._total} took {seconds:.2f} s · {left:.0f} s left"
        client_id = PromptServer.instance.client_id
        if text and self._node_id is not None and client_id is not None:
            PromptServer.instance.send_progress_text(self.line, self._node_id, client_id)
        self._bar.update_absolute(done, self._total, still)
        host.check_interrupt()

    def close(self, what: str) -> None:
        """Log how long the whole took."""
        seconds, units = self._last - self._started, self._done - self._first
        each = f": the first {self.first_s:.2f} s, then {self.each_s:.2f} s each" if units > 1 else ""
        self.line = f"{units} × {self._unit} in {seconds:.2f} s{each}"
        logger.info("%s: %s", what, self.line)
