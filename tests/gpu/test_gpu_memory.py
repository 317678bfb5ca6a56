"""Placement and streaming on a CUDA device: exact, in time, and nothing left behind; skipped where there is none."""

from __future__ import annotations

import gc

import pytest
import torch
from dit_data import prompt, randn, random_dit

from hyvideo_core.configs import DiTConfig
from hyvideo_core.extensions import BlockSwap
from hyvideo_core.memory import Placement
from hyvideo_core.model import DiT
from hyvideo_core.ops import Linear, fp8
from hyvideo_core.sample import flow_sigmas, sample
from hyvideo_core.weights import set_fast_products

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DEVICE = torch.device("cuda")
#: Blocks of some MiB, so that a copy takes long enough to be overtaken where an order is missing.
WIDE = DiTConfig(hidden_size=512, heads=4, double_blocks=3, single_blocks=5, text_dim=64, pooled_dim=32)


def blocks_of(dit: DiT) -> list[torch.nn.Module]:
    return [*dit.double_blocks, *dit.single_blocks]


def on_host() -> DiT:
    dit = random_dit(WIDE).to(torch.bfloat16)
    dit.final_layer.linear.float()
    return dit


def last_latent(dit: DiT, *extensions: BlockSwap) -> torch.Tensor:
    x = randn(1, WIDE.in_channels, 3, 16, 16)
    run = sample(dit, x, prompt(WIDE), sigmas=flow_sigmas(6, 7.0), extensions=extensions)
    return [step.x for step in run][-1]


def allocated() -> int:
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("locked", [True, False], ids=["page-locked", "through the staging buffer"])
@pytest.mark.parametrize("resident", [0, 3, 6, 8])
def test_a_swapped_run_is_bit_identical_to_a_resident_one(resident: int, locked: bool) -> None:
    expected = last_latent(on_host().to(DEVICE))
    dit = on_host()
    before = allocated()
    placement = Placement(dit, blocks_of(dit), DEVICE)
    placement.put(resident)
    if locked:
        waiting_bytes = placement.total_bytes - placement.resident_bytes
        assert placement.lock(2**40) >= waiting_bytes
    assert allocated() - before == pytest.approx(placement.resident_bytes, rel=0.02, abs=2**20)
    held = allocated()
    for _ in range(3):
        assert torch.equal(last_latent(dit, BlockSwap(waiting=placement.waiting)), expected)
    assert allocated() - held < 2**20
    placement.release()
    assert allocated() - before < 2**20


def test_a_run_that_is_closed_in_the_middle_leaves_no_buffer() -> None:
    dit = on_host()
    placement = Placement(dit, blocks_of(dit), DEVICE)
    placement.put(2)
    held = allocated()
    run = sample(
        dit,
        randn(1, WIDE.in_channels, 3, 16, 16),
        prompt(WIDE),
        sigmas=flow_sigmas(6, 7.0),
        extensions=[BlockSwap(waiting=placement.waiting)],
    )
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert allocated() - held < 2**20


def test_fast_fp8_products_are_near_the_exact_ones() -> None:
    if reason := fp8.why_not_fast(DEVICE):
        pytest.skip(reason)
    dit = on_host().to(DEVICE)
    for block in blocks_of(dit):
        for layer in block.modules():
            if isinstance(layer, Linear):
                layer.store(fp8.quantized(layer.weight))
    exact = last_latent(dit)
    set_fast_products(dit, True)
    assert 0 < ((last_latent(dit) - exact).norm() / exact.norm()).item() < 0.1
