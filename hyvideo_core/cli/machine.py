"""The device of a run: what is free on it, and how much of it was used."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import psutil
import torch


@dataclass(frozen=True)
class Machine:
    """A device, of which ``cap_bytes`` may be used; None for all of it."""

    device: torch.device
    cap_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.on_gpu and self.cap_bytes is not None:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.cap_bytes / total), self._index)

    @property
    def on_gpu(self) -> bool:
        """Whether it is a card with memory of its own."""
        return self.device.type == "cuda"

    def free_bytes(self) -> int:
        """What may still be used, the unused part of torch's own pool included."""
        if not self.on_gpu:
            free = available_bytes()
            return free if self.cap_bytes is None else self.cap_bytes
        allocated = torch.cuda.memory_allocated(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - allocated
        return free if self.cap_bytes is None else min(free, self.cap_bytes - allocated)

    def release(self) -> None:
        """Give back what nobody holds any more."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def watch_peak(self) -> None:
        """Count the peak anew."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)

    def measured_peak(self) -> str:
        """The most that was used at once: of the card since ``watch_peak``, else by the process since its start."""
        if self.on_gpu:
            return f"measured peak {torch.cuda.max_memory_allocated(self.device) / 1e9:.2f} GB"
        return f"measured peak {process_peak_bytes() / 1e9:.2f} GB, of the whole process and the files it has mapped"

    @property
    def _index(self) -> int:
        return torch.cuda.current_device() if self.device.index is None else self.device.index


def available_bytes() -> int:
    """The host memory that is free."""
    return int(psutil.virtual_memory().available)


def process_peak_bytes() -> int:
    """The most physical memory this process has had."""
    memory: Any = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows counts it, and has no ``resource``
        return int(memory.peak_wset)
    import resource

    unit = 1 if psutil.MACOS else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
