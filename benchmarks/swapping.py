"""A step with blocks streamed from the host beside the same step with everything resident."""

from __future__ import annotations

from functools import partial

import torch
from networks import DTYPES, SMALL, dit_inputs, seeded

from cases import Case, Work
from hyvideo_core.extensions import BlockSwap
from hyvideo_core.memory import Placement
from hyvideo_core.model import DiT
from hyvideo_core.sample import flow_sigmas, sample
from hyvideo_core.types import Conditioning

#: On a CPU a transfer is a copy in memory that nothing hides: the worst case of what swapping may cost.
GOAL = 1.05


def step(resident: int | None, dtype: torch.dtype) -> Work:
    """One step of sampling with so many blocks resident; None places nothing at all."""
    dit = seeded(DiT(SMALL), dtype)
    assert isinstance(dit, DiT)
    dit.final_layer.linear.float()
    extensions = []
    if resident is not None:
        placement = Placement(dit, [*dit.double_blocks, *dit.single_blocks], torch.device("cpu"))
        placement.put(resident)
        extensions = [BlockSwap(waiting=placement.waiting)]
    x, _, text, pooled, _ = dit_inputs()
    prompt = Conditioning(text.to(dtype), pooled.to(dtype))
    return lambda: next(iter(sample(dit, x, prompt, sigmas=flow_sigmas(1, 7.0), extensions=extensions))).x


def _case(dtype: str) -> Case:
    found = {"swapped": partial(step, 0, DTYPES[dtype]), "resident": partial(step, None, DTYPES[dtype])}
    return Case(f"swapped step {dtype}", found, agree=0.0, goal=GOAL)


CASES = [_case(name) for name in DTYPES]
