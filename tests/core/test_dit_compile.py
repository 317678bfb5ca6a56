"""Compiled blocks: the same velocity, few graphs, none more when weights or prompts change; refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from dit_data import inputs, random_dit
from torch import nn
from torch._dynamo.utils import counters

from golden_data import rel_l2
from hyvideo_core.model import DiT, compiling
from hyvideo_core.model.compiling import CompileError, why_not_compile
from hyvideo_core.ops import Linear, LowRank
from hyvideo_core.ops.fp8 import quantized

ROUNDING = 1e-5
CPU = torch.device("cpu")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """A compiler that remembers no graph, before and after."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def block_linears(dit: DiT) -> Iterator[Linear]:
    for block in (*dit.double_blocks, *dit.single_blocks):
        yield from (layer for layer in block.modules() if isinstance(layer, Linear))


def difference(dit: DiT, **changes: object) -> float:
    """Distance of the compiled velocity from the plain one."""
    given_inputs = inputs(**changes)
    dit.compile_blocks = False
    plain = dit(**given_inputs, token_replace=True)
    dit.compile_blocks = True
    return rel_l2(dit(**given_inputs, token_replace=True), plain)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_blocks_give_the_same_velocity_from_few_graphs() -> None:
    assert why_not_compile(CPU) == ""
    dit = random_dit(chunk_tokens=4)
    before = graphs()
    assert difference(dit, thw=(3, 4, 6)) <= ROUNDING
    # One for q, k and v and one beside the MLP, for whole chunks; the others are not compiled.
    assert graphs() - before == 2

    # Neither another prompt, size, weight or stored format nor a LoRA's strength makes new ones.
    assert difference(dit, thw=(2, 8, 8), length=7) <= ROUNDING
    for layer in block_linears(dit):
        layer.weight = nn.Parameter(layer.weight.flip(0).clone(), requires_grad=False)
    assert difference(dit, thw=(3, 4, 8), length=6) <= ROUNDING
    for layer in block_linears(dit):
        layer.store(quantized(layer.weight))
        layer.adapters = (LowRank(torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2), 0.01),)
    assert difference(dit, thw=(3, 4, 8)) <= ROUNDING
    for layer in block_linears(dit):
        layer.adapters = tuple(replace(adapter, strength=0.02) for adapter in layer.adapters)
    assert difference(dit, thw=(3, 4, 8)) <= ROUNDING
    assert difference(dit, thw=(3, 4, 8), batch=2) <= ROUNDING
    assert graphs() - before == 2

    # A group of heads is another shape. Where there were too many of them, it runs as it is.
    dit.head_groups = 2
    assert difference(dit, thw=(3, 4, 8)) <= ROUNDING
    assert graphs() - before == 3
    dit.chunk_tokens = 3
    with torch._dynamo.config.patch(recompile_limit=1):
        assert difference(dit, thw=(3, 4, 8)) <= ROUNDING
    assert graphs() - before == 3


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_a_machine_without_a_compiler_is_told_so() -> None:
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    with fresh_cache(), config.patch({"cpp.cxx": ("/nowhere/g++",)}):
        reason = why_not_compile.__wrapped__(CPU)
    assert "torch.compile fails on cpu" in reason
    assert "C++ compiler" in reason


def test_where_blocks_cannot_be_compiled_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    dit = random_dit(compile_blocks=True)
    monkeypatch.setattr("hyvideo_core.model.dit.why_not_compile", lambda device: f"There is no Triton on {device}.")
    with pytest.raises(CompileError, match="There is no Triton on cpu"):
        dit(**inputs())


def test_a_compiler_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda x: 1.01 * function(x))
    assert "off on cpu" in compiling.why_not_compile.__wrapped__(CPU)
