"""Placement and streaming of blocks: exact, one way, and nothing left behind, whatever goes wrong."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_data import inputs, prompt, randn, random_dit, save
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import DoesNotFitError
from hyvideo_core.extensions import BlockSwap, Loras
from hyvideo_core.memory import BlockStream, Placement, streamed
from hyvideo_core.memory.placement import spread
from hyvideo_core.memory.tensors import places
from hyvideo_core.memory.transfers import ImmediateTransfers, Pairs
from hyvideo_core.model import DiT
from hyvideo_core.ops import Linear, Stored, fp8
from hyvideo_core.ops.ggml import Ggml
from hyvideo_core.sample import sample
from hyvideo_core.sample.schedule import flow_sigmas
from hyvideo_core.weights import Lora

#: Wide enough for blocks of 32 numbers.
WIDE = DiTConfig(
    hidden_size=64, heads=2, double_blocks=2, single_blocks=2, rope_dims=(8, 12, 12), in_channels=4, out_channels=4,
    text_dim=16, pooled_dim=8,
)  # fmt: skip
CPU = torch.device("cpu")


class LazyTransfers:
    """Copies as late as is allowed, when the computation waits for them: a missing wait shows as wrong numbers.

    Logs what happens. Until then the targets hold NaN, and so do they once the computation is over.
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.pending: list[tuple[int, Pairs]] = []
        self.marks = self.sent = 0
        self.is_closed = False

    def copy(self, pairs: Pairs, after: int) -> int:
        assert after <= self.marks, "waits for a computation that was never marked"
        for target, _ in pairs:
            target.view(-1).view(torch.uint8).fill_(255)
        self.sent += 1
        self.pending.append((self.sent, pairs))
        self.log.append(("copy", self.sent))
        return self.sent

    def await_copies(self, mark: int) -> None:
        while self.pending and self.pending[0][0] <= mark:
            _, pairs = self.pending.pop(0)
            for target, source in pairs:
                target.copy_(source)
        self.log.append(("await", mark))

    def mark_computation(self) -> int:
        self.marks += 1
        return self.marks

    def close(self) -> None:
        self.is_closed = True


def blocks_of(dit: DiT) -> list[nn.Module]:
    return [*dit.double_blocks, *dit.single_blocks]


def placed(dit: DiT, resident: int) -> Placement:
    placement = Placement(dit, blocks_of(dit), CPU)
    placement.put(resident)
    return placement


def velocities(dit: DiT, extensions: Sequence[Any] = (), steps: int = 3) -> list[torch.Tensor]:
    config = dit.config
    run = sample(
        dit, randn(1, config.in_channels, 2, 4, 6), prompt(), sigmas=flow_sigmas(steps, 7.0), extensions=extensions
    )
    return [step.x for step in run]


def fp8_dit() -> DiT:
    dit = random_dit()
    for block in blocks_of(dit):
        for layer in block.modules():
            if isinstance(layer, Linear):
                layer.store(fp8.quantized(layer.weight))
    return dit


# --- swapping is exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transfers", [ImmediateTransfers, LazyTransfers])
@pytest.mark.parametrize("make", [random_dit, fp8_dit], ids=["plain", "fp8"])
@pytest.mark.parametrize("resident", range(5))
def test_a_swapped_run_is_bit_identical(resident: int, make: Any, transfers: Any) -> None:
    expected = velocities(make())
    dit = make()
    placement = placed(dit, resident)
    found = velocities(dit, [BlockSwap(waiting=placement.waiting, transfers=lambda _: transfers())])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def gguf_dit() -> DiT:
    """Blocks in Q8_0, as the gguf package packs them."""
    import gguf

    dit = random_dit(WIDE)
    for block in blocks_of(dit):
        for layer in block.modules():
            if isinstance(layer, Linear):
                rows = gguf.quants.quantize(layer.weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
                layer.store(Stored(torch.from_numpy(rows), Ggml("Q8_0")))
    return dit


def lora_file(folder: Path) -> Path:
    layer = "double_blocks.1.img_attn_qkv"
    down, up = randn(2, WIDE.hidden_size, seed=3), randn(3 * WIDE.hidden_size, 2, seed=4)
    return save(folder / "lora.safetensors", {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up})


@pytest.mark.parametrize("make", [lambda: random_dit(WIDE), gguf_dit], ids=["plain", "gguf"])
@pytest.mark.parametrize("compile_blocks", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_swapping_works_with_gguf_lora_and_compiled_blocks(make: Any, compile_blocks: bool, tmp_path: Path) -> None:
    loras = Loras(loras=(Lora(lora_file(tmp_path), 0.7),))
    dit = make()
    dit.compile_blocks = compile_blocks
    plain, expected = velocities(dit), velocities(dit, [loras])
    placement = placed(dit, 1)
    swap = BlockSwap(waiting=placement.waiting, transfers=lambda _: LazyTransfers())
    found = velocities(dit, [swap, loras])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(expected[-1], plain[-1])


def test_without_blocks_that_wait_nothing_is_wrapped() -> None:
    dit = random_dit()
    placement = placed(dit, 4)
    extension = BlockSwap(waiting=placement.waiting)
    stream = BlockStream(placement.waiting(), CPU, ImmediateTransfers())
    inner = object()
    assert extension.wrap_block(inner, stream) is inner  # type: ignore[arg-type]
    assert stream.buffer_bytes == 0


def test_the_next_block_is_on_its_way_before_the_one_before_it_computes() -> None:
    lane = LazyTransfers()
    dit = random_dit()
    placement = placed(dit, 0)
    velocities(dit, [BlockSwap(waiting=placement.waiting, transfers=lambda _: lane)], steps=1)
    # Copy 1 is of block 1; whenever a block is waited for, the copy after it has been sent already.
    sent = 0
    for what, number in lane.log:
        sent = number if what == "copy" else sent
        assert what == "copy" or sent == number + 1
    assert [number for what, number in lane.log if what == "await"] == [1, 2, 3, 4]
    assert lane.is_closed


def test_two_blocks_that_fit_the_two_buffers_are_sent_once() -> None:
    lane = LazyTransfers()
    dit = random_dit()
    placement = placed(dit, 2)
    velocities(dit, [BlockSwap(waiting=placement.waiting, transfers=lambda _: lane)], steps=4)
    assert lane.sent == 2


def test_the_buffers_hold_two_blocks_whatever_their_number() -> None:
    dit = random_dit()
    blocks = blocks_of(dit)
    stream = BlockStream(blocks, CPU, ImmediateTransfers())
    largest = max(sum(p.nbytes for p in block.parameters()) for block in blocks)
    assert 2 * largest <= stream.buffer_bytes < 2 * largest + 2 * 256 * 40


@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=12))
@settings(max_examples=30)
def test_blocks_may_be_skipped_or_repeated(order: list[int]) -> None:
    layers = [nn.Linear(3, 3).requires_grad_(False) for _ in range(4)]
    x = torch.randn(2, 3)
    stream = BlockStream(layers, CPU, LazyTransfers())
    for number in order:
        expected = layers[number](x)
        with stream.arrived(layers[number]):
            assert torch.equal(layers[number](x), expected)


# --- nothing is left behind -------------------------------------------------------------------------------------


class Boom(BaseException):
    pass


@pytest.mark.parametrize("how", ["exception", "interrupt", "closed"])
def test_after_any_end_the_hosts_tensors_are_back_and_the_lane_is_closed(how: str) -> None:
    dit = random_dit()
    placement = placed(dit, 1)
    before = [place.get().data_ptr() for place in places(dit)]
    lane = LazyTransfers()
    handles = []

    def fail(*_: Any) -> None:
        raise (ValueError("no") if how == "exception" else Boom())

    if how != "closed":
        handles.append(dit.single_blocks[0].register_forward_pre_hook(fail))
    run = sample(
        dit,
        randn(1, 4, 2, 4, 6),
        prompt(),
        sigmas=flow_sigmas(3, 7.0),
        extensions=[BlockSwap(waiting=placement.waiting, transfers=lambda _: lane)],
    )
    if how == "closed":
        next(run)
        run.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises((ValueError, Boom)):
            list(run)
    assert [place.get().data_ptr() for place in places(dit)] == before
    assert lane.is_closed


# --- placement ------------------------------------------------------------------------------------------------


@given(total=st.integers(1, 60), data=st.data())
def test_residents_lie_among_those_that_stream_and_stay_when_more_come(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    chosen = spread(count, total)
    assert sum(chosen) == count
    if count < total:
        more = spread(count + 1, total)
        assert all(there for here, there in zip(chosen, more, strict=True) if here)
    runs = [len(run) for run in "".join("x" if here else " " for here in chosen).split("x")]
    # Evenly, each run of blocks that stream would be total / (count + 1) long.
    assert max(runs) <= 2 * math.ceil(total / (count + 1))


def test_freeing_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = placed(random_dit(), 4)
    monkeypatch.setattr(Placement, "_copy", lambda *_: pytest.fail("a copy"))
    sizes = [placement.resident_bytes]
    while placement.resident_bytes:
        assert placement.free(1) == sizes[-1] - placement.resident_bytes
        sizes.append(placement.resident_bytes)
    assert len(sizes) == 6
    assert sizes[-1] == 0


def test_locked_copies_take_the_place_of_what_no_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    unlocked: list[int] = []
    monkeypatch.setattr("hyvideo_core.memory.placement.pin", lambda buffer: True)
    monkeypatch.setattr("hyvideo_core.memory.placement.unpin", lambda buffer: unlocked.append(buffer.nbytes))
    dit = random_dit()
    arguments = inputs()
    expected = dit(**arguments)
    old = weakref.ref(dit.double_blocks[0].img_attn_qkv.weight.untyped_storage())
    placement = placed(dit, 1)
    assert placement.waiting()[0] is dit.double_blocks[0]
    locked = placement.lock(10**9)
    assert locked >= sum(size for size, here in zip(placement.block_bytes, spread(1, 4), strict=True) if not here)
    assert old() is None, "the weights are held twice"
    assert torch.equal(dit(**arguments), expected)
    placement.put(4)
    assert len(unlocked) == 3, "blocks on the device need no locked copies"
    placement.release()
    assert torch.equal(dit(**arguments), expected)


def test_a_copy_that_is_no_longer_wanted_lands_before_its_buffer_is_used_again() -> None:
    """Copies wait in a queue here, as in a thread: what was abandoned must not arrive later."""
    layers = [nn.Linear(3, 3).requires_grad_(False) for _ in range(5)]
    lane = LazyTransfers()
    stream = BlockStream(layers, CPU, lane)
    with stream.arrived(layers[0]):
        pass
    with stream.arrived(layers[3]):
        assert lane.log.index(("await", 2)) < lane.log.index(("copy", 3))


@pytest.mark.parametrize("count", [-1, 5])
def test_more_residents_than_blocks_are_an_error(count: int) -> None:
    with pytest.raises(ValueError, match=rf"resident blocks are {count}.*4 blocks"):
        spread(count, 4)


@given(steps=st.lists(st.one_of(st.integers(0, 4), st.just("free"), st.just("release")), min_size=1, max_size=6))
@settings(max_examples=25)
def test_whatever_is_done_the_sizes_tell_the_truth_and_the_weights_stay(steps: list[Any]) -> None:
    dit = random_dit()
    arguments = inputs()
    expected = dit(**arguments)
    placement = Placement(dit, blocks_of(dit), CPU)
    host = {id(place.get().untyped_storage()): 0 for place in places(dit)}
    for step in steps:
        before = placement.resident_bytes
        if step == "release":
            placement.release()
        elif step == "free":
            freed = placement.free(before // 3 + 1 if before else 0)
            assert freed == before - placement.resident_bytes
            assert freed > before // 3 or not before
        else:
            placement.put(step)
            assert placement.resident == step
        copies = [place.get() for place in places(dit) if place.get().data_ptr() not in pointers(placement)]
        assert sum(tensor.nbytes for tensor in copies) == placement.resident_bytes
        assert torch.equal(dit(**arguments), expected)
    placement.release()
    assert placement.resident_bytes == 0
    assert len(host) > 0


def pointers(placement: Placement) -> set[int]:
    """Where the host's own tensors are."""
    return {tensor.data_ptr() for tensor in placement._host.values()}


def test_a_device_that_runs_full_is_left_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    dit = random_dit()
    placement = Placement(dit, blocks_of(dit), CPU)
    copies = 0
    original = Placement._copy

    def full(self: Placement, found: Any) -> None:
        nonlocal copies
        copies += 1
        if copies == 4:
            found[0].put(found[0].get().clone())
            raise torch.OutOfMemoryError("full")
        original(self, found)

    monkeypatch.setattr(Placement, "_copy", full)
    with pytest.raises(torch.OutOfMemoryError):
        placement.put(4)
    assert placement.resident_bytes == 0
    assert {place.get().data_ptr() for place in places(dit)} == pointers(placement)


def test_leaving_comes_before_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two resident blocks of four that become two others never are three."""
    dit = random_dit()
    placement = placed(dit, 2)
    highest = 0
    original = Placement._copy

    def watched(self: Placement, found: Any) -> None:
        nonlocal highest
        original(self, found)
        highest = max(highest, self.resident + 1)

    monkeypatch.setattr(Placement, "_copy", watched)
    placement.put(3)
    assert highest <= 3


def test_calling_a_streamed_block_carries_it_first_and_leaves_no_trace() -> None:
    layers = [nn.Linear(3, 3).requires_grad_(False) for _ in range(5)]
    network, lane = nn.Sequential(*layers), LazyTransfers()
    x = torch.randn(2, 3)
    expected = network(x)
    with streamed(layers[1:], CPU, lane):
        assert torch.equal(network(x), expected)
        assert torch.equal(network(x), expected)
    assert lane.sent > 4
    assert lane.is_closed
    assert all("forward" not in layer.__dict__ for layer in layers)
    with pytest.raises(Boom), streamed(layers, CPU, LazyTransfers()):
        raise Boom
    assert torch.equal(network(x), expected)


@given(room=st.integers(0, 60))
def test_the_residents_that_fit_are_the_most_that_do(room: int) -> None:
    blocks = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(8))
    module = nn.ModuleDict({"blocks": blocks, "head": nn.Linear(10, 10, bias=False)}).requires_grad_(False)
    placement = Placement(module, list(blocks), CPU)
    if room < 3:
        with pytest.raises(DoesNotFitError, match="takes at least"):
            placement.fitting(room * 400)
        return
    resident = placement.fitting(room * 400)
    # The head, the residents, and two buffers while at least two blocks wait.
    assert 1 + resident + min(2, 8 - resident) <= room
    assert resident == 8 or 1 + (resident + 1) + min(2, 7 - resident) > room
