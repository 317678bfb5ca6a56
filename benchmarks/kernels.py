"""Attention kernels on the CPU, at the shape of the small transformer: which one ``auto`` should mean there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from comfyui import sub_quadratic
from networks import DTYPES

from cases import Case, Missing, Work
from hyvideo_core.attention import AttentionKernel, resolve
from hyvideo_core.attention.registry import KERNELS

#: Tokens, heads and head size of one call.
SHAPE = (1, 3510, 6, 128)
#: Rounding in bfloat16.
AGREE = 2e-2


def ours(name: str, dtype: torch.dtype) -> Work:
    """A kernel of the registry. Raises ``Missing`` for one that does not run here."""
    try:
        attend = resolve(name, torch.device("cpu"), dtype, SHAPE[-1])
    except ValueError as error:
        raise Missing(str(error)) from error
    return _call(attend, dtype)


def comfyui(dtype: torch.dtype) -> Work:
    """ComfyUI's."""
    work = _call(sub_quadratic, dtype)
    work()
    return work


def _call(attend: AttentionKernel, dtype: torch.dtype) -> Work:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, *SHAPE, generator=generator).to(dtype).unbind(0)
    return lambda: attend(q, k, v)


def _case(dtype: str) -> Case:
    found: dict[str, Callable[[], Work]] = {name: partial(ours, name, DTYPES[dtype]) for name in KERNELS}
    return Case(f"attention {dtype}", found | {"comfyui sub_quad": partial(comfyui, DTYPES[dtype])}, agree=AGREE)


CASES = [_case(name) for name in DTYPES]
