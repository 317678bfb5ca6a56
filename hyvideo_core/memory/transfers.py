"""Copies from host to device that run beside the computation, and the order between the two.

Nothing is ever copied back: weights do not change, so the host's copy stays valid.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

logger = logging.getLogger(__name__)

Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]


class Transfers(Protocol):
    """A lane of copies beside the computation. A mark is a point in one lane that the other can wait for."""

    def copy(self, pairs: Pairs, after: Any) -> Any:
        """Copy each (target on the device, source on the host), not before the mark ``after`` of the computation.

        Returns the mark at which they are complete.
        """

    def await_copies(self, mark: Any) -> None:
        """Let the computation that follows wait for the copies before ``mark``."""

    def mark_computation(self) -> Any:
        """A mark after all computation enqueued so far."""

    def close(self) -> None:
        """Wait until nothing is in flight."""


class ImmediateTransfers:
    """Copies on the spot: for devices without lanes of their own, the CPU among them."""

    def copy(self, pairs: Pairs, after: Any) -> None:
        """Copy now."""
        for target, source in pairs:
            target.copy_(source)

    def await_copies(self, mark: Any) -> None:
        """Nothing is in flight."""

    def mark_computation(self) -> None:
        """Everything before is done."""

    def close(self) -> None:
        """Nothing is in flight."""


class CudaTransfers:
    """Copies on a stream of their own.

    Page-locked sources go straight there. Others (memory-mapped files) would stop the caller until they are read, so a
    thread carries them through a page-locked buffer.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._thread: ThreadPoolExecutor | None = None
        self._staging: torch.Tensor | None = None
        self._staging_free: torch.cuda.Event | None = None

    def copy(self, pairs: Pairs, after: torch.cuda.Event) -> Callable[[], torch.cuda.Event]:
        """Enqueue the copies."""
        if all(source.is_pinned() for _, source in pairs):
            event = self._enqueue(pairs, after)
            return lambda: event
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="hyvideo-transfer")
        future: Future[torch.cuda.Event] = self._thread.submit(self._stage, pairs, after)
        return future.result

    def await_copies(self, mark: Callable[[], torch.cuda.Event]) -> None:
        """Have the current stream wait; the caller too where a thread has yet to enqueue."""
        torch.cuda.current_stream(self._device).wait_event(mark())

    def mark_computation(self) -> torch.cuda.Event:
        """An event on the current stream."""
        return torch.cuda.current_stream(self._device).record_event()

    def close(self) -> None:
        """Wait for the thread and the stream."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._stream.synchronize()

    def _enqueue(self, pairs: Pairs, after: torch.cuda.Event) -> torch.cuda.Event:
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(after)
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
            return self._stream.record_event()

    def _stage(self, pairs: Pairs, after: torch.cuda.Event) -> torch.cuda.Event:
        with torch.inference_mode(), torch.cuda.device(self._device):
            needed = sum(source.nbytes for _, source in pairs)
            if self._staging_free is not None:
                self._staging_free.synchronize()
            if self._staging is None or self._staging.numel() < needed:
                self._staging = torch.empty(needed, dtype=torch.uint8, pin_memory=True)
            staged, start = [], 0
            for target, source in pairs:
                part = self._staging[start : start + source.nbytes]
                part.copy_(source.contiguous().view(-1).view(torch.uint8))
                staged.append((target.view(-1).view(torch.uint8), part))
                start += source.nbytes
            self._staging_free = self._enqueue(staged, after)
            return self._staging_free


def transfers_for(device: torch.device) -> Transfers:
    """The transfers that suit a device."""
    return CudaTransfers(device) if device.type == "cuda" else ImmediateTransfers()


def pin(buffer: torch.Tensor) -> bool:
    """Page-lock a buffer where it is, so that copies from it run beside the computation; whether that worked.

    torch's own page-locked allocator rounds up to powers of two, which for blocks of 680 MB wastes a third.
    """
    if not torch.cuda.is_available():
        return False
    error = torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)
    if int(error):
        logger.warning(
            "%.1f GB could not be page-locked (CUDA error %d); transfers go through a smaller buffer.",
            buffer.nbytes / 1e9,
            int(error),
        )
        _forget_error()
    return not int(error)


def unpin(buffer: torch.Tensor) -> None:
    """Undo ``pin``."""
    if int(torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())):
        _forget_error()


def _forget_error() -> None:
    """Have CUDA report the last error now; it would otherwise be raised by whatever kernel starts next."""
    try:
        torch.zeros(1, device="cuda").add_(1)
        torch.cuda.synchronize()
    except RuntimeError as error:
        logger.debug("CUDA reported %s, which was dealt with.", error)
