"""Compiling what lies between the matrix products of a block, where a compiler has something to win.

The products stay as they are, so packed weights, low-rank terms, their strengths and weights that are exchanged
never reach a compiled function: it sees activations of one shape, a whole chunk, and serves all blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

from hyvideo_core.errors import HyVideoError

P = ParamSpec("P")
R = TypeVar("R")

#: What the compiled function of the self-test may be off, relative to its result.
SELF_TEST_TOLERANCE = 1e-5


class CompileError(HyVideoError):
    """Blocks shall be compiled where that cannot work."""


@cache
def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, compiled on its first call with arguments of given shapes.

    After torch's ``recompile_limit`` of shapes (8), new ones run uncompiled and torch logs it once.
    """
    # Not with fullgraph, under which that limit is an error.
    return torch.compile(function, dynamic=False)


@cache
def why_not_compile(device: torch.device) -> str:
    """Why functions cannot be compiled for this device, by compiling one; empty where they can."""
    x = torch.linspace(-3, 3, 64, device=device)
    try:
        found = torch.compile(_example, dynamic=False)(x)
    except Exception as error:  # whatever compilers, drivers and their absence raise is the answer, not a crash
        needed = "a C++ compiler" if device.type == "cpu" else "Triton and a C compiler"
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"torch.compile fails on {device.type} ({reason[0]}). It needs {needed}; install what is missing."
    distance = ((found - _example(x)).norm() / _example(x).norm()).item()
    return "" if distance <= SELF_TEST_TOLERANCE else f"compiled functions are {distance:.1e} off on {device.type}."


def _example(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh") * x.square().mean().rsqrt()
