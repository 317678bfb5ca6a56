"""Which attention kernels there are, which of them work here, and which one ``auto`` means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hyvideo_core.attention.kernels import chunked, sdpa

AttentionKernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

KERNELS: dict[str, AttentionKernel] = {"sdpa": sdpa, "chunked": chunked}

#: Largest relative error against float32 that a correct kernel shows in the self-test.
SELF_TEST_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Report:
    """What the self-test found of one kernel: ``ok``, and the ``reason`` where it is not."""

    name: str
    ok: bool
    reason: str


def resolve(name: str) -> AttentionKernel:
    """The kernel called ``name``; ``auto`` is ``sdpa``, the fastest in all of ``benchmarks/results``.

    Raises ``ValueError`` for an unknown name.
    """
    if name == "auto":
        name = "sdpa"
    if name not in KERNELS:
        raise ValueError(f"attention is '{name}', but must be auto or one of {', '.join(KERNELS)}.")
    return KERNELS[name]


def available(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16, head_dim: int = 128
) -> list[Report]:
    """A self-test of every kernel at the given head size against float32 attention."""
    return [_self_test(name, kernel, torch.device(device), dtype, head_dim) for name, kernel in KERNELS.items()]


def _self_test(name: str, kernel: AttentionKernel, device: torch.device, dtype: torch.dtype, head_dim: int) -> Report:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 257, 2, head_dim, generator=generator).to(device, dtype) for _ in range(3))
    scores = torch.einsum("blnd,bmnd->bnlm", q.float(), k.float()) * head_dim**-0.5
    exact = torch.einsum("bnlm,bmnd->blnd", scores.softmax(-1), v.float())
    before = [part.clone() for part in (q, k, v)]
    try:
        error = ((kernel(q, k, v).float() - exact).norm() / exact.norm()).item()
    except Exception as problem:  # whatever a third party's kernel raises is a finding, not a crash
        return Report(name, False, f"fails on {device.type} in {dtype}: {problem!r}")
    if not all(torch.equal(part, copy) for part, copy in zip((q, k, v), before, strict=True)):
        return Report(name, False, f"changes its inputs in place on {device.type}")
    if not error <= SELF_TEST_TOLERANCE[dtype]:
        return Report(name, False, f"relative error {error:.1e} against float32 on {device.type}")
    return Report(name, True, "")
