"""8-bit floating point weights: quantisation, and products by the card's fp8 units.

Source: FP8 Formats for Deep Learning (arXiv 2209.05433) for e4m3; one scale for each output channel and, in the
fast product, one for each token, as in torch's row-wise ``_scaled_mm``.
"""

from __future__ import annotations

import torch

from hyvideo_core.ops.packing import PLAIN, Stored

FP8 = torch.float8_e4m3fn
FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
#: Largest finite number of e4m3.
FP8_MAX = torch.finfo(FP8).max
#: Scales below this would be denormal; a token of zeros gets it.
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
#: What the quantised activations may cost, in the self-test.
SELF_TEST_TOLERANCE = 0.06


def quantized(weight: torch.Tensor, per_channel: bool = True) -> Stored:
    """A weight [out, in] as e4m3 with one float32 scale for each output channel, or one for all."""
    exact = weight.float()
    largest = exact.abs().amax(dim=1, keepdim=True) if per_channel else exact.abs().amax()
    # An all-zero row has no scale of its own; any will do.
    scale = torch.where(largest > 0, largest / FP8_MAX, torch.ones_like(largest))
    return Stored((exact / scale).clamp_(-FP8_MAX, FP8_MAX).to(FP8), PLAIN, scale)


def scaled_linear(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """x [..., in] times an fp8 weight [out, in], both in fp8 with float32 sums, in the dtype of x.

    x is quantised here, each token by its own scale. Source: torch ``_scaled_mm``.
    """
    tokens = x.reshape(-1, x.shape[-1])
    token_scale = tokens.abs().amax(dim=1, keepdim=True).float().div_(FP8_MAX).clamp_(min=SMALLEST_SCALE)
    quantised = (tokens / token_scale).clamp_(-FP8_MAX, FP8_MAX).to(FP8)
    channels = weight.shape[0]
    weight_scale = torch.ones((), device=x.device) if scale is None else scale
    out = torch._scaled_mm(
        quantised,
        weight.t(),
        scale_a=token_scale,
        scale_b=weight_scale.float().expand(channels, 1).reshape(1, channels).contiguous(),
        bias=None if bias is None else bias.to(x.dtype),
        out_dtype=x.dtype,
    )
    return out.unflatten(0, x.shape[:-1])


def why_not_fast(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str:
    """Why the fast product cannot be used here for a model in ``dtype``; empty where it can.

    Tries it against the exact one, with a bias as the layers have it: cards give float32 only without one, or not at
    all.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 64, generator=generator).to(device, dtype)
    weight = quantized(torch.randn(48, 64, generator=generator).to(device))
    bias = torch.randn(48, generator=generator).to(device, dtype)
    exact = x.float() @ weight.dense(torch.float32).T + bias.float()
    try:
        found = scaled_linear(x, weight.data, weight.scale, bias).float()
    except (RuntimeError, NotImplementedError) as error:
        return f"this {device.type} device cannot multiply fp8 matrices with row-wise scales in {dtype} ({error})"
    distance = ((found - exact).norm() / exact.norm()).item()
    return "" if distance < SELF_TEST_TOLERANCE else f"fp8 products are {distance:.1%} off on this {device.type} device"
