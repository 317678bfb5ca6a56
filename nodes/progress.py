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

    def __init__(self, total: int, unit: str, node_id: str | None, done: int = 0) -> None:
        """``done`` units need not be made any more."""
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)
        self._total, self._unit, self._node_id = total, unit, node_id
        self._first = done
        self._started = self._last = time.perf_counter()
        self.line = f"{unit} {done}/{total}"

    def update(self, done: int, *, text: bool = True, still: tuple[str, Any, int] | None = None) -> None:
        """Show that ``done`` units are finished; also where a stop takes effect.

        ``still`` is a format, a picture and its size in px, as the host's preview takes it. Without ``text`` the line
        is for the caller to show.
        """
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        mean = (now - self._started) / (done - self._first)
        self.line = f"{self._unit} {done}/{self._total} took {seconds:.2f} s · {mean * (self._total - done):.0f} s left"
        client_id = PromptServer.instance.client_id
        if text and self._node_id is not None and client_id is not None:
            PromptServer.instance.send_progress_text(self.line, self._node_id, client_id)
        self._bar.update_absolute(done, self._total, still)
        host.check_interrupt()

    def close(self, what: str) -> None:
        """Log how long the whole took."""
        seconds, units = time.perf_counter() - self._started, self._total - self._first
        self.line = f"{units} × {self._unit} in {seconds:.2f} s ({seconds / units:.2f} s each)"
        logger.info("%s: %s", what, self.line)
