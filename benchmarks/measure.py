"""How much memory a piece of work takes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile


def traced_peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes of CPU tensors alive at once during the second of two calls, beyond what was alive before it."""
    with torch.inference_mode():
        work()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            work()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(live, default=0)
