"""What a case is: the same work by several implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], torch.Tensor]


class Missing(Exception):
    """An implementation cannot run here; the message says why."""


@dataclass(frozen=True)
class Case:
    """A name, and for each implementation a function that prepares one run of the work; the first is compared.

    ``agree`` is the largest relative L2 distance between results, where they can be compared at all. ``threads`` None
    is the command's. ``numbers`` is how many the work makes, where throughput is of interest. ``goal`` limits the time
    of the first implementation, in times of the second's.
    """

    name: str
    implementations: Mapping[str, Callable[[], Work]]
    agree: float | None = None
    threads: int | None = None
    numbers: int = 0
    goal: float | None = None
