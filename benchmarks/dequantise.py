"""GGUF unpacking beside the gguf package's own: one matrix of 3072 × 3072 in each format, to float32.

On one thread, since the package uses no more.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from cases import Case, Work
from hyvideo_core.ops.ggml import FORMATS, Ggml

SIZE = 3072


def rows(kind: str) -> np.ndarray:
    """Random packed rows; the same small float16 number wherever a scale may lie keeps everything finite."""
    layout = FORMATS[kind]
    data = np.random.default_rng(0).integers(0, 256, (SIZE * SIZE // layout.numbers, layout.nbytes), dtype=np.uint8)
    for start in (start for start in (0, 2, 80, 82, 108, 208) if start < layout.nbytes):
        data[:, start : start + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return data.reshape(SIZE, -1)


def ours(kind: str, dtype: torch.dtype) -> Work:
    """Ours, to any dtype."""
    data = torch.from_numpy(rows(kind))
    return lambda: Ggml(kind).dense(data, None, dtype)


def package(kind: str) -> Work:
    """The package's, which knows float32 alone."""
    import gguf

    data, number = rows(kind), gguf.GGMLQuantizationType[kind]
    return lambda: torch.from_numpy(gguf.dequantize(data, number))


def _case(kind: str) -> Case:
    found = {"ours": partial(ours, kind, torch.float32), "gguf": partial(package, kind)}
    return Case(f"gguf {kind}", found, agree=0.0, threads=1, numbers=SIZE**2)


CASES = [_case(kind) for kind in FORMATS]
