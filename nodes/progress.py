"""A node's progress as the host shows it to every client: its bar, a line of text, a still picture."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
from server import PromptServer

from . import host

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """How far a node is: units done of all, of which it has ``made`` so many itself.

    Once there is a unit, seconds of the last one, of the first, in which kernels are chosen and compiled, the mean of
    those after it (of it, if it is alone), and what is left at that mean; in the end, seconds of all that it has made.
    """

    done: int
    total: int
    made: int = 0
    last_s: float | None = None
    first_s: float | None = None
    each_s: float | None = None
    left_s: float | None = None
    total_s: float | None = None

    def line(self, unit: str) -> str:
        """The same in words."""
        if self.total_s is not None:
            each = f": the first {self.first_s:.2f} s, then {self.each_s:.2f} s each" if self.made > 1 else ""
            return f"{self.made} {unit}{'' if self.made == 1 else 's'} in {self.total_s:.2f} s{each}"
        if self.last_s is not None:
            return f"{unit} {self.done}/{self.total} took {self.last_s:.2f} s · {self.left_s:.0f} s left"
        return f"{unit} {self.done}/{self.total}"


class Progress:
    """A node's progress bar with the time per unit and the time left beside it."""

    def __init__(
        self,
        total: int,
        unit: str,
        node_id: str | None,
        done: int = 0,
        *,
        started: float | None = None,
        has_text: bool = True,
    ) -> None:
        """``done`` units need not be made any more. ``started`` (``time.perf_counter``) is when the first was begun.

        Without ``has_text`` what stands beside the bar is for others.
        """
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)
        self._unit, self._node_id, self._has_text = unit, node_id, has_text
        self._begun_with = done
        self._started = self._last = time.perf_counter() if started is None else started
        self.standing = Standing(done, total)

    def update(self, done: int, still: tuple[str, Any, int] | None = None) -> None:
        """Show that ``done`` units are finished; also where a stop takes effect.

        ``still`` is a format, a picture and its size in px, as the host's preview takes it.
        """
        before, total = self.standing, self.standing.total
        now, made = time.perf_counter(), done - self._begun_with
        last_s, self._last = now - self._last, now
        first_s = last_s if before.first_s is None else before.first_s
        each_s = (now - self._started - first_s) / (made - 1) if made > 1 else first_s
        self.standing = Standing(done, total, made, last_s, first_s, each_s, each_s * (total - done))
        self._send_text()
        self._bar.update_absolute(done, total, still)
        host.check_interrupt()

    def close(self, what: str) -> None:
        """Show and log how long the whole took."""
        self.standing = replace(self.standing, total_s=self._last - self._started)
        self._send_text()
        logger.info("%s: %s", what, self.standing.line(self._unit))

    def _send_text(self) -> None:
        client_id = PromptServer.instance.client_id
        if self._has_text and self._node_id is not None and client_id is not None:
            PromptServer.instance.send_progress_text(self.standing.line(self._unit), self._node_id, client_id)
