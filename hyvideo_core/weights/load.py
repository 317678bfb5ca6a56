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
from hyvideo_core.weights.files import Checkpoint

Module = TypeVar("Module", bound=nn.Module)
Adapt = Callable[[str, torch.Tensor], torch.Tensor]

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
    float32: tuple[str, ...] = (),
) -> Module:
    """Build a module and give it the tensors of ``checkpoint``.

    ``name_in_file`` gives the file's name for a parameter of the module; ``adapt`` may reshape a tensor on its
    way (it gets the module's name); parameters whose name begins with one of ``float32`` keep that dtype.
    Returns the module in eval mode without gradients. Raises ``CheckpointError`` for tensors that are missing,
    of another shape, or not floating point.
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
        tensor = checkpoint[name_in_file(name)]
        if adapt is not None:
            tensor = adapt(name, tensor)
        if tensor.shape != slot.shape:
            raise CheckpointError(
                f"{checkpoint.path.name}: {name_in_file(name)} has shape {list(tensor.shape)}, but this "
                f"{type(module).__name__} needs {list(slot.shape)}. The file belongs to a model of another "
                "size; leave the configuration to be detected or choose the matching file."
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{checkpoint.path.name}: {name_in_file(name)} holds {tensor.dtype}, which is quantised or no "
                "weight at all, and this loader reads plain floating point. Choose the bf16 or fp8_e4m3fn file."
            )
        wanted = torch.float32 if name.startswith(float32) else dtype
        _assign(module, name, tensor.to(device=device, dtype=wanted))
    return module.eval().requires_grad_(False)


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
