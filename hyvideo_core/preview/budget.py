"""How much time previews may take of a run: a share of what its steps have taken so far, as measured."""

from __future__ import annotations

import threading
import time

#: What previews may take of the steps' time.
SHARE = 0.01


class Budget:
    """Seconds that steps have taken and previews have spent. Threads may share one."""

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self._worked_s = self._spent_s = 0.0
        self._lock = threading.Lock()
        self._resumed = time.perf_counter()

    def start(self) -> None:
        """From now on the time is the steps'."""
        self._resumed = time.perf_counter()

    def stop(self) -> None:
        """Until the next ``start`` it is not."""
        with self._lock:
            self._worked_s += time.perf_counter() - self._resumed

    def spend(self, seconds: float) -> None:
        """Note what a preview took."""
        with self._lock:
            self._spent_s += seconds

    def affords(self, seconds: float) -> bool:
        """Whether that much more keeps to the share."""
        with self._lock:
            return self._spent_s + seconds <= self.share * self._worked_s

    @property
    def worked_s(self) -> float:
        """What the steps have taken so far."""
        return self._worked_s

    @property
    def spent_share(self) -> float:
        """What previews have taken of the steps' time so far."""
        with self._lock:
            return self._spent_s / self._worked_s if self._worked_s else 0.0
