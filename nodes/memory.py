"""Our modules in the books of the host's memory manager: loaded when needed, given back when asked, true in size."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import comfy.model_management as mm
import psutil
import torch
from comfy.model_patcher import ModelPatcher

from hyvideo_core.errors import is_out_of_memory
from hyvideo_core.memory import Placement

logger = logging.getLogger(__name__)

#: The plan for a number of free bytes and a placement.
Decide = Callable[[int, Placement | None], "Plan | None"]
#: Part of the free memory of the host that may be page-locked for weights.
LOCKED_SHARE = 0.5


class HostedModule(ModelPatcher):
    """A module of ours in the host's books: loaded whole, released whole, with sizes that tell the truth.

    Weights are read when a device first needs them, straight to it. Releasing drops them; they are never copied
    back to the host's memory, since the file (or its page cache) still has them.
    """

    def __init__(
        self, role: str, read: Callable[[torch.device], torch.nn.Module], device: torch.device, size_bytes: int
    ) -> None:
        # The host names the class in its log, so each role gets one.
        slot = type(f"HyVideo {role}", (_Slot,), {})()
        super().__init__(slot, load_device=device, offload_device=torch.device("cpu"), size=size_bytes)
        self._read = read

    @property
    def module(self) -> torch.nn.Module:
        """The loaded module."""
        module: torch.nn.Module | None = self.model.content
        if module is None:
            raise RuntimeError("The weights were released while in use. Queue the job again.")
        return module

    def loaded_size(self) -> int:
        """Bytes held now."""
        return self.model_size() if self.model.content is not None else 0

    def current_loaded_device(self) -> torch.device:
        """Where the weights are, or would wait."""
        return self.load_device if self.model.content is not None else self.offload_device

    def partially_load(
        self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Load everything; returns the bytes that took."""
        if self.model.content is not None:
            return 0
        logger.info("reading the weights of %s", type(self.model).__name__)
        module = self._read(device_to)
        self.size = sum(p.numel() * p.element_size() for p in module.parameters())
        self.model.content = module
        return self.size

    def partially_unload(
        self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Release everything; returns the bytes that freed."""
        freed = self.loaded_size()
        self.model.content = None
        return freed

    def detach(self, unpatch_all: bool = True) -> torch.nn.Module:
        """The host forgets this entry; it wants the weights gone too unless it only registers them anew."""
        if unpatch_all:
            self.partially_unload(self.offload_device)
        return self.model

    def model_dtype(self) -> torch.dtype | None:
        """Dtype of the weights, if loaded."""
        content = self.model.content
        return None if content is None else next(content.parameters()).dtype


class Plan(Protocol):
    """What decides how much of a module is on its device."""

    @property
    def resident_blocks(self) -> int:
        """Blocks that stay there."""

    def lowered(self) -> Plan | None:
        """A plan that takes less; None if there is none."""


class HostedBlocks(HostedModule):
    """A module made of blocks in the host's books: as many of them on the device as ``decide`` says.

    Its weights are read on the host, memory-mapped where possible. ``decide`` gets the bytes that are free on the
    device and the placement (None on a CPU, where there is nothing to place); ``plan`` is what it answered last.
    ``lock`` page-locks what waits, which pays for weights that stream again and again.
    """

    def __init__(
        self,
        role: str,
        read: Callable[[torch.device], torch.nn.Module],
        device: torch.device,
        size_bytes: int,
        blocks_of: Callable[[torch.nn.Module], Sequence[torch.nn.Module]],
        lock: bool,
    ) -> None:
        super().__init__(role, read, device, size_bytes)
        self._blocks_of, self._lock = blocks_of, lock
        self.decide: Decide = lambda free, placement: None
        self.plan: Plan | None = None
        self._placement: Placement | None = None

    def waiting(self) -> list[torch.nn.Module]:
        """Blocks that must be streamed, in the order in which they run."""
        return [] if self._placement is None else self._placement.waiting()

    def follow(self, plan: Plan | None) -> None:
        """Have on the device what the plan says, or a lower plan each time the device runs out of memory."""
        self.plan = plan
        while self._placement is not None and self.plan is not None:
            try:
                self._placement.put(self.plan.resident_blocks)
                break
            except RuntimeError as error:
                lower = self.plan.lowered()
                if lower is None or not is_out_of_memory(error):
                    raise
            # Outside of the handler, which would keep the failed attempt's tensors alive.
            mm.soft_empty_cache()
            logger.warning("The device ran out of memory; again with %d blocks on it.", lower.resident_blocks)
            self.plan = lower
        if self._placement is not None and self._lock:
            # Half of what is free: the host keeps results there, and other programs live there too.
            self._placement.lock(int(psutil.virtual_memory().available * LOCKED_SHARE))

    def loaded_size(self) -> int:
        """Bytes on the device now; asked by the thread of plans, too, while a job may give the placement up."""
        placement = self._placement
        return super().loaded_size() if placement is None else placement.resident_bytes

    def partially_load(
        self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Load what fits by the plan; returns the bytes that took."""
        before = self.loaded_size()
        if self.model.content is None:
            super().partially_load(torch.device("cpu"))
            if device_to.type != "cpu":
                self._placement = Placement(self.module, self._blocks_of(self.module), device_to)
        try:
            self.follow(self.decide(self._room(device_to, before), self._placement))
        except BaseException:
            # The host has struck us off its list before it asked; what stayed here could never be freed.
            self.detach()
            raise
        return self.loaded_size() - before

    def _room(self, device: torch.device, held: int) -> int:
        """Bytes a plan may use; on a CPU all there is, since mapped weights give way."""
        if self._placement is None:
            return _all_of_host()
        return max(0, unreserved_bytes(device) + held)

    def partially_unload(
        self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Take blocks off the device until enough is freed; returns the bytes that freed."""
        if self._placement is None:
            return super().partially_unload(device_to, memory_to_free)
        return self._placement.free(math.ceil(min(memory_to_free, self.model_size())))

    def detach(self, unpatch_all: bool = True) -> torch.nn.Module:
        """The host forgets this entry; with ``unpatch_all`` everything is given back, in its memory too."""
        if unpatch_all and self._placement is not None:
            self._placement.release()
            self._placement = None
            self.model.content = None
        return super().detach(unpatch_all)


class _Slot(torch.nn.Module):
    """What the host takes for the model: its identity stays while the weights come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["content"] = None
        self.device = torch.device("cpu")

    def __setattr__(self, name: str, value: Any) -> None:
        # ``content`` must not become a submodule: the host measures submodules itself.
        self.__dict__[name] = value


class _Cache:
    """At most one hosted module for each role; a new one for the role releases the old one first."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Hashable, HostedModule]] = {}

    def get(self, role: str, key: Hashable, make: Callable[[], HostedModule]) -> HostedModule:
        """The module of this role for ``key``."""
        held = self._held.get(role)
        if held is not None and held[0] == key:
            return held[1]
        if held is not None:
            held[1].detach()
            del self._held[role], held
            mm.cleanup_models()
        hosted = make()
        self._held[role] = (key, hosted)
        return hosted


_cache = _Cache()


def loaded(
    role: str,
    key: Hashable,
    read: Callable[[torch.device], torch.nn.Module],
    *,
    device: torch.device,
    size_bytes: int,
    activation_bytes: int,
) -> torch.nn.Module:
    """The module for ``key``, loaded on ``device`` with room left for its activations.

    ``read`` makes it on a device; ``size_bytes`` is what its weights are expected to take.
    """
    hosted = _cache.get(role, key, lambda: HostedModule(role, read, device, size_bytes))
    mm.load_models_gpu([hosted], memory_required=activation_bytes, force_full_load=True)
    return hosted.module


def loaded_blocks(
    role: str,
    key: Hashable,
    read: Callable[[torch.device], torch.nn.Module],
    *,
    device: torch.device,
    size_bytes: int,
    activation_bytes: int,
    blocks_of: Callable[[torch.nn.Module], Sequence[torch.nn.Module]],
    decide: Decide,
    lock: bool,
) -> HostedBlocks:
    """The module for ``key``, on ``device`` as far as ``decide`` says for the bytes that are free there."""
    hosted = _cache.get(role, key, lambda: HostedBlocks(role, read, device, size_bytes, blocks_of, lock))
    assert isinstance(hosted, HostedBlocks)
    hosted.decide = decide
    mm.load_models_gpu([hosted], memory_required=activation_bytes)
    return hosted


def available_bytes(device: torch.device) -> int:
    """What can be had on a device: what is free, and what the host would take from models that are loaded now."""
    # A patcher is only weakly held, and may go while a job in another thread runs.
    loaded = [model.model for model in mm.current_loaded_models if model.device == device]
    held = sum(patcher.loaded_size() for patcher in loaded if patcher is not None)
    # Less may be free than the host keeps back.
    return max(0, unreserved_bytes(device) + (0 if device.type == "cpu" else held))


def plannable_bytes(device: torch.device) -> int:
    """What a plan of blocks may count on: on a CPU all there is, since mapped weights give way."""
    return _all_of_host() if device.type == "cpu" else available_bytes(device)


def _all_of_host() -> int:
    return int(psutil.virtual_memory().total)


def make_room(size_bytes: int, device: torch.device) -> None:
    """Have the host take models off a device until so much is free there, or none is left."""
    mm.free_memory(size_bytes, device)


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes allocated on the device since ``watch_peak``; None where nobody counts."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def watch_peak(device: torch.device) -> int:
    """Count the peak anew; the bytes allocated now."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def unreserved_bytes(device: torch.device) -> int:
    """What is free on a device now, the unused part of torch's own pool included, less what the host keeps back."""
    return int(mm.get_free_memory(device)) - int(mm.extra_reserved_memory())


def empty_cache() -> None:
    """Give torch's unused pool back."""
    mm.soft_empty_cache()
