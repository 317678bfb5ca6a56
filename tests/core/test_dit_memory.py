"""What is alive in a forward: activations by head groups, and the unpacked weights of one layer at a time."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from dit_data import TINY, inputs, random_dit
from measure import traced_peak_bytes

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model import DiT
from hyvideo_core.model.dit import Seams
from hyvideo_core.ops import LowRank, Stored
from hyvideo_core.ops.linear import Linear

pytestmark = pytest.mark.usefixtures("one_thread")

WIDE = DiTConfig(hidden_size=512, heads=4, double_blocks=1, single_blocks=1, text_dim=64, pooled_dim=32)
TEXT_TOKENS = 40
#: Beside what spans the sequence: the rope table, chunks, and the attention kernel's own room.
BESIDE = 0.75


@pytest.mark.parametrize(("groups", "sequences"), [(1, 5), (2, 4), (4, 3)])
def test_the_peak_is_the_stream_q_k_v_and_the_output(groups: int, sequences: int) -> None:
    dit = random_dit(WIDE, chunk_tokens=64, head_groups=groups)
    given_inputs = inputs(WIDE, thw=(4, 32, 32), length=TEXT_TOKENS)
    unit_bytes = (4 * 16 * 16 + TEXT_TOKENS) * WIDE.hidden_size * 4
    assert sequences <= traced_peak_bytes(lambda: dit(**given_inputs)) / unit_bytes <= sequences + BESIDE


@dataclass(eq=False)
class Recorded:
    """Numbers stored as they are that count as packed, and what is known of every unpacking."""

    count: int = 0
    alive: int = 0
    history: list[int] = field(default_factory=list)

    name = "recorded"

    def shape(self, data: torch.Tensor) -> tuple[int, ...]:
        return tuple(data.shape)

    def dense(self, data: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        numbers = data.to(dtype, copy=True).numpy()
        self.count += 1
        self.alive += 1
        self.history.append(self.alive)
        # A tensor may be wrapped anew; what it is a view of dies with the last of its wrappers.
        weakref.finalize(numbers, self.let_go)
        return torch.from_numpy(numbers)

    def let_go(self) -> None:
        self.alive -= 1


def packed(dit: DiT) -> Recorded:
    """Store all layers of the blocks as packed."""
    packing = Recorded()
    for block in (*dit.double_blocks, *dit.single_blocks):
        for layer in block.modules():
            if isinstance(layer, Linear):
                layer.store(Stored(layer.weight.data, packing))
    return packing


def with_low_rank(dit: DiT) -> DiT:
    """The transformer with a low-rank term beside every layer of its blocks."""
    for block in (*dit.double_blocks, *dit.single_blocks):
        for layer in block.modules():
            if isinstance(layer, Linear):
                layer.adapters = (LowRank(0.1 * layer.weight[:2].clone(), 0.1 * layer.weight[:, :2].clone(), 0.5),)
    return dit


@pytest.mark.parametrize("groups", [1, 2])
def test_packed_weights_are_unpacked_once_for_all_chunks(groups: int) -> None:
    counts = Counter[int]()
    for chunk_tokens in (1, 2, 4):
        dit = with_low_rank(random_dit(chunk_tokens=chunk_tokens, head_groups=groups))
        plain = dit(**inputs(), token_replace=True)
        packing = packed(dit)
        assert torch.equal(dit(**inputs(), token_replace=True), plain)
        counts[packing.count] += 1
    assert len(counts) == 1


def test_no_unpacked_weight_is_alive_during_attention_and_at_most_those_of_one_mlp_otherwise() -> None:
    dit = random_dit(head_groups=2)
    packing = packed(dit)
    during: list[int] = []

    def watch(inner: AttentionKernel) -> AttentionKernel:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            during.append(packing.alive)
            return inner(q, k, v)

        return attend

    dit(**inputs(), seams=Seams(attend=watch))
    assert during == [0] * 2 * (TINY.double_blocks + TINY.single_blocks)
    assert max(packing.history) == 2
    assert packing.alive == 0
