"""The device a benchmark runs on: its memory limit, its clock, its peaks. A CPU stands in where code is rehearsed."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

#: What the driver takes of a card beside torch's allocator; a limit of N GB leaves N GB minus this to allocate.
CONTEXT_BYTES = 500_000_000


@dataclass(frozen=True)
class Card:
    """A CUDA device, or the CPU, whose "peak" is that of the whole process and means nothing."""

    device: torch.device

    @property
    def is_real(self) -> bool:
        """Whether there is a card at all."""
        return self.device.type == "cuda"

    @property
    def total_bytes(self) -> int:
        """All memory of the card."""
        return torch.cuda.get_device_properties(self.device).total_memory if self.is_real else 2**60

    @contextmanager
    def limited(self, limit_bytes: int | None) -> Iterator[None]:
        """Within it torch may allocate ``limit_bytes`` and no more: beyond them it is out of memory."""
        if self.is_real and limit_bytes is not None:
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / self.total_bytes), self.device)
        try:
            yield
        finally:
            if self.is_real:
                torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def empty(self) -> None:
        """Give back what nothing holds any more."""
        if self.is_real:
            gc.collect()
            torch.cuda.empty_cache()

    def reset_peak(self) -> None:
        """Count peaks from here on."""
        if self.is_real:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        """Most bytes allocated at once since ``reset_peak``."""
        if self.is_real:
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def reserved_bytes(self) -> int:
        """Most bytes the allocator held at once since ``reset_peak``: what a limit applies to."""
        return torch.cuda.max_memory_reserved(self.device) if self.is_real else self.peak_bytes()

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds until ``work`` is done on the device."""
        self._synchronize()
        start = time.perf_counter()
        work()
        self._synchronize()
        return time.perf_counter() - start

    def describe(self) -> dict[str, str]:
        """What it is."""
        name = torch.cuda.get_device_name(self.device) if self.is_real else "REHEARSAL on a CPU: numbers mean nothing"
        return {"device": name, "torch": torch.__version__, "cuda": str(torch.version.cuda)}

    def _synchronize(self) -> None:
        if self.is_real:
            torch.cuda.synchronize(self.device)


def available_host_bytes() -> int:
    """Host memory that could be used without swapping (``MemAvailable``)."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
