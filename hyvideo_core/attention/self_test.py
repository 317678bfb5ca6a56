"""Whether a kernel computes attention on this device: its results beside float32 ones from the CPU.

Lengths that end inside a block, one token, strided views, and on a GPU as many tokens as the model was trained on,
since kernels are known that turn to noise only there (thu-ml/SageAttention issue 388).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyvideo_core.attention.kernels import AttentionKernel


@dataclass(frozen=True)
class Case:
    """``strided``: q, k and v lie beside each other in every token, as a projection leaves them, not one by one."""

    batch: int
    tokens: int
    heads: int
    strided: bool = False


CASES = (Case(2, 257, 2, strided=True), Case(1, 65, 2), Case(2, 1, 2))
#: 720×1280×129: 33·45·80 video tokens and 256 of text. A GPU takes a fraction of a second and 0.25 GB for it.
LONG_CASE = Case(1, 118_800 + 256, 1)
#: So many queries are compared, evenly spread, each over all keys.
COMPARED_QUERIES = 257
#: The last value is this large, so that losing the last key shows at every length.
LAST_VALUE = 8.0


def find_fault(
    attend: AttentionKernel, device: torch.device, dtype: torch.dtype, head_dim: int, tolerance: float
) -> str:
    """What is wrong with a kernel's results; empty if nothing is.

    ``tolerance`` is the largest relative L2 error allowed. Raises whatever the kernel raises.
    """
    for case in (*CASES, LONG_CASE) if device.type == "cuda" else CASES:
        inputs = _noise(case, device, dtype, head_dim)
        kept = inputs.clone()
        q, k, v = inputs.unbind(0)
        out = attend(q, k, v)
        if out.shape != q.shape or out.dtype != dtype:
            return f"returns {out.dtype} {list(out.shape)} where {dtype} {list(q.shape)} is due"
        if not torch.equal(inputs, kept):
            return "changes its inputs in place"
        error = _relative_error(out, kept)
        if not error <= tolerance:
            return f"relative error {error:.1e} against float32 with {case.tokens} tokens; {tolerance:.1e} is allowed"
    return ""


def _noise(case: Case, device: torch.device, dtype: torch.dtype, head_dim: int) -> torch.Tensor:
    """q, k, v [3, B, L, N, D], the same on every run."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (case.batch, case.tokens, 3, case.heads, head_dim)
    noise = torch.randn(shape, generator=generator, device=device).to(dtype).movedim(2, 0)
    if not case.strided:
        noise = noise.contiguous()
    noise[2, :, -1] *= LAST_VALUE
    return noise


def _relative_error(out: torch.Tensor, inputs: torch.Tensor) -> float:
    q, k, v = inputs.unbind(0)
    step = -(-q.shape[1] // COMPARED_QUERIES)
    q, k, v, found = (part.float().cpu() for part in (q[:, ::step], k, v, out[:, ::step]))
    scores = torch.einsum("blnd,bmnd->bnlm", q, k) * q.shape[-1] ** -0.5
    exact = torch.einsum("bnlm,bmnd->blnd", scores.softmax(-1), v)
    return ((found - exact).norm() / exact.norm()).item()
