"""From a checkpoint to a module, each tensor straight into its final dtype and device.

The module is built on the meta device and filled by assignment, so weights exist once: memory-mapped where
dtype and device already fit, otherwise copied tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

from hyvideo_core.errors import CheckpointError
from hyvideo_core.ops import PLAIN, Linear, Stored
from hyvideo_core.weights.files import Checkpoint

Module = TypeVar("Module", bound=nn.Module)
Adapt = Callable[[str, torch.Tensor], torch.Tensor]
#: What a ``Linear`` shall hold of its weight, by the weight's name; None for plain numbers.
Pack = Callable[[str, Stored], Stored | None]

#: How many names an error lists before it only counts.
NAMES_SHOWN = 4


def materialise(
    build: Callable[[], Module],
    checkpoint: Checkpoint,
    name_in_file: Callable[[str], str],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    adapt: Adapt | None = None,
    pack: Pack = lambda name, stored: None,
    float32: tuple[str, ...] = (),
) -> Module:
    """Build a module and give it the tensors of ``checkpoint``.

    ``name_in_file`` gives the file's name for a parameter of the module; ``adapt`` may reshape a tensor on its
    way (it gets the module's name); ``pack`` may have a ``Linear`` hold its weight packed; parameters whose name
    begins with one of ``float32`` keep that dtype. Returns the module in eval mode without gradients. Raises
    ``CheckpointError`` for tensors that are missing, of another shape, or not floating point.
    """
    with torch.device("meta"):
        module = build()
    expected = module.state_dict()
    missing = [name for name in expected if name_in_file(name) not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path.name} lacks {len(missing)} of {len(expected)} tensors of {type(module).__name__}: "
            f"{listed(missing)}. The file is incomplete or of another architecture; choose the matching "
            "checkpoint or download it again."
        )
    for name, slot in expected.items():
        stored = _checked(module, checkpoint, name_in_file(name), name, slot, adapt)
        owner = module.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, Linear) and name.endswith(".weight"):
            packed = pack(name, stored.to(device))
            if packed is not None:
                owner.store(packed)
                continue
        wanted = torch.float32 if name.startswith(float32) else dtype
        if stored.is_packed:
            _assign(module, name, stored.to(device).dense(wanted))
        else:
            _assign(module, name, stored.data.to(device=device, dtype=wanted))
    return module.eval().requires_grad_(False)


def _checked(
    module: nn.Module, checkpoint: Checkpoint, found: str, name: str, slot: torch.Tensor, adapt: Adapt | None
) -> Stored:
    """The tensor that the file calls ``found``, of the shape and kind that the module's ``name`` needs."""
    stored = checkpoint.stored(found)
    if adapt is not None:
        stored = Stored(adapt(name, stored.dense(torch.float32) if stored.is_packed else stored.data))
    if stored.shape != slot.shape:
        raise CheckpointError(
            f"{checkpoint.path.name}: {found} has shape {list(stored.shape)}, but this "
            f"{type(module).__name__} needs {list(slot.shape)}. The file belongs to a model of another "
            "size; leave the configuration to be detected or choose the matching file."
        )
    if stored.packing is PLAIN and not stored.data.is_floating_point():
        raise CheckpointError(
            f"{checkpoint.path.name}: {found} holds {stored.data.dtype}, which is quantised in a way not known here, "
            "or no weight at all. Choose the bf16, fp8 or GGUF file."
        )
    return stored


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _assign(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
    else:
        owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
