"""Drives ``nodes.memory`` against ComfyUI's real memory manager in a process without a server; prints JSON.

The device is torch's ``meta``: weights put there take no memory, but every count is as on a card. What is free on it is
what the script says. Run by ``test_nodes_host.py`` with the path of ComfyUI as its argument.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, sys.argv.pop(1))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing(False)
from comfy.cli_args import args  # noqa: E402

args.cpu = True
import comfy.model_management as mm  # noqa: E402
import torch  # noqa: E402

spec = importlib.util.spec_from_file_location("memory", ROOT / "nodes" / "memory.py")
assert spec is not None
assert spec.loader is not None
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)
logging.disable(logging.CRITICAL)

DEVICE = torch.device("meta")
BLOCK_BYTES = 1000 * 1000 * 4
found: dict[str, object] = {}
card = {"total": 40 * BLOCK_BYTES, "foreign": 0}
reads: list[str] = []


class Toy(torch.nn.Module):
    """Ten blocks of 4 MB and a head of 4 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(1000, 1000, bias=False) for _ in range(10))
        self.head = torch.nn.Linear(1000, 1000, bias=False)


def used() -> int:
    """What is really there, whatever the host's list says."""
    return sum(hosted.loaded_size() for _, hosted in memory._cache._held.values())


def free(device: torch.device | None = None, torch_free_too: bool = False) -> object:
    left = card["total"] - card["foreign"] - used()
    return (left, 0) if torch_free_too else left


mm.get_free_memory = free
mm.extra_reserved_memory = lambda: 0
mm.minimum_inference_memory = lambda: 0
mm.soft_empty_cache = lambda *_: None


class Fits:
    """As many blocks as the room holds."""

    def __init__(self, resident_blocks: int) -> None:
        self.resident_blocks = resident_blocks

    def lowered(self) -> Fits | None:
        return Fits(self.resident_blocks // 2) if self.resident_blocks else None


def load(role: str, key: str, beside_blocks: int = 0) -> object:
    def read(device: torch.device) -> Toy:
        reads.append(key)
        return Toy().to(device).requires_grad_(False)

    return memory.loaded_blocks(
        role,
        key,
        read,
        device=DEVICE,
        size_bytes=11 * BLOCK_BYTES,
        activation_bytes=beside_blocks * BLOCK_BYTES,
        blocks_of=lambda toy: list(toy.blocks),
        decide=lambda room, placement: Fits(placement.fitting(room - beside_blocks * BLOCK_BYTES)),
        lock=False,
    )


def state(hosted: object) -> dict[str, int]:
    blocks = hosted.module.blocks  # type: ignore[attr-defined]
    return {
        "resident": sum(block.weight.device == DEVICE for block in blocks),
        "waiting": len(hosted.waiting()),  # type: ignore[attr-defined]
        "told": hosted.loaded_size() // BLOCK_BYTES,  # type: ignore[attr-defined]
    }


first = load("transformer", "a")
found["with room for all"] = state(first)
found["loaded twice, read"] = [state(load("transformer", "a")), len(reads)]
card["foreign"] = 33 * BLOCK_BYTES
found["with room for seven"] = state(load("transformer", "a"))
card["foreign"] = 0
found["with room again"] = state(load("transformer", "a", beside_blocks=34))
# Somebody else's model needs room: the host asks ours for it.
mm.free_memory(39 * BLOCK_BYTES, DEVICE)
found["after the host asked for room"] = [state(first), free()]
mm.free_memory(41 * BLOCK_BYTES, DEVICE)
found["after the host asked for everything"] = [first.loaded_size(), first.model.content is None, used()]  # type: ignore[attr-defined]
again = load("transformer", "a")
found["after that"] = [state(again), len(reads)]
del first, again
other = load("transformer", "b")
found["another model of the role"] = [state(other), used() // BLOCK_BYTES, len(mm.current_loaded_models)]
encoder = load("text encoders", "c")
found["two roles"] = [state(other), state(encoder), used() // BLOCK_BYTES]
mm.free_memory(1e30, DEVICE)
found["unloaded"] = [used(), other.model.content is None, encoder.model.content is None]  # type: ignore[attr-defined]
try:
    card["foreign"] = 39 * BLOCK_BYTES
    load("transformer", "d")
except Exception as error:
    found["too little"] = [type(error).__name__, str(error), used()]
card["foreign"] = 0
found["after too little"] = state(load("transformer", "d"))
# A size that does not fit, asked of a model that is loaded: nothing may stay that the host does not know of.
card["foreign"] = 39 * BLOCK_BYTES - 11 * BLOCK_BYTES
found["before it stopped fitting"] = state(load("transformer", "d"))
try:
    load("transformer", "d", beside_blocks=99)
except Exception as error:
    found["no longer fits"] = [type(error).__name__, used(), free() // BLOCK_BYTES]
card["foreign"] = 0
# The device is fuller than it said: placing fails once, and again with half.
original, copies = memory.Placement._copy, [0]


def full(self: object, places: object) -> None:
    copies[0] += 1
    if copies[0] == 6:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    original(self, places)


memory.Placement._copy = full
found["fuller than it said"] = state(load("transformer", "e"))
memory.Placement._copy = original
sys.stdout.write(json.dumps(found))
