"""The plan against the allocator of a CUDA device, and a device without room; skipped where there is none."""

from __future__ import annotations

import gc

import pytest
import torch
from dit_data import randn
from torch import nn

from hyvideo_core.configs import DiTConfig
from hyvideo_core.extensions import BlockSwap
from hyvideo_core.memory import Placement
from hyvideo_core.model import DiT
from hyvideo_core.ops import Linear, fp8
from hyvideo_core.sample import flow_sigmas, sample
from hyvideo_core.sampling_plan import SamplingPlan, held_weights
from hyvideo_core.types import Conditioning

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DEVICE = torch.device("cuda")
#: Head size and proportions of the full model, embedders left small.
CONFIG = DiTConfig(hidden_size=1024, heads=8, double_blocks=2, single_blocks=4, text_dim=256)
#: 7,680 video tokens.
LATENT = (1, 16, 8, 48, 80)
TEXT_TOKENS = 256


def placed(storage: str) -> Placement:
    torch.manual_seed(0)
    with DEVICE:
        dit = DiT(CONFIG)
    dit = dit.bfloat16().cpu().eval().requires_grad_(False)
    dit.final_layer.linear.float()
    blocks: list[nn.Module] = [*dit.double_blocks, *dit.single_blocks]
    if storage == "fp8":
        for layer in (layer for block in blocks for layer in block.modules() if isinstance(layer, Linear)):
            layer.store(fp8.quantized(layer.weight.float()))
    return Placement(dit, blocks, DEVICE)


def allocated() -> int:
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("storage", ["bf16", "fp8"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("resident", [0, 3, 6])
def test_the_planned_peak_is_not_below_the_measured_one(resident: int, groups: int, storage: str) -> None:
    before = allocated()
    placement = placed(storage)
    dit = placement.module
    assert isinstance(dit, DiT)
    elements = [sum(p.numel() for p in block.parameters()) for block in placement.blocks]
    others = sum(p.numel() for p in dit.parameters()) - sum(elements)
    weights = held_weights(placement.block_bytes, elements, others, CONFIG, 2)
    plan = SamplingPlan(CONFIG, weights, LATENT, 2, 2**33, resident, groups)
    placement.put(resident)
    dit.head_groups = groups
    prompt = Conditioning(randn(1, TEXT_TOKENS, CONFIG.text_dim), randn(1, CONFIG.pooled_dim))
    torch.cuda.reset_peak_memory_stats()
    extensions = [BlockSwap(waiting=placement.waiting)]
    for _ in sample(dit, randn(*LATENT), prompt, sigmas=flow_sigmas(2, 7.0), extensions=extensions):
        pass
    assert torch.cuda.max_memory_allocated() - before <= plan.peak_bytes


def test_a_device_without_room_keeps_nothing_of_the_model() -> None:
    placement = placed("bf16")
    blocks = len(placement.blocks)
    before = allocated()
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + placement.total_bytes // 2
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(DEVICE).total_memory)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            placement.put(blocks)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert allocated() == before
    placement.put(blocks)
    placement.release()
    assert allocated() == before
