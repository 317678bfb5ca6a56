"""LoRAs as low-rank terms beside the weights while the model runs, whatever the weights are stored in.

The terms are on the modules during an evaluation only, so that nothing is left behind between steps or after a
failure, and ``when`` limits them to a part of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.errors import CheckpointError
from hyvideo_core.model.dit import DiT
from hyvideo_core.ops import Linear, LowRank
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run
from hyvideo_core.weights.lora import Lora, lora_shapes
from hyvideo_core.weights.lora_file import LoraFile, read_lora

Term = tuple[nn.Module, LowRank]

#: Files remembered for each model.
REMEMBERED_FILES = 8
#: What was read for a model, in host memory (mapped from the file where possible), so that a change of strength
#: reads nothing; goes with the model. Path, size and time of change → content, the last used at the end.
_READ: WeakKeyDictionary[DiT, dict[tuple[Path, int, int], LoraFile]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Loras(Extension):
    """LoRAs applied together; their order does not matter. Without any, or at strength 0, nothing is touched."""

    rank: ClassVar[int] = 1000
    loras: tuple[Lora, ...] = ()

    def start(self, run: Run) -> list[Term]:
        """The terms of all files, on the model's device. Raises ``CheckpointError`` for files that do not fit."""
        dit = run.dit
        modules = dict(dit.named_modules())
        terms: list[Term] = []
        for lora in sorted(self.loras):
            if lora.strength == 0:
                continue
            for name, term in lora.weighted(_read(dit, lora.file).terms, modules).items():
                dtype = torch.float32 if name.startswith(dit.FLOAT32_PARAMETERS) else dit.dtype
                terms.append((modules[name], term.to(dit.device, dtype)))
        return terms

    def wrap_predict(self, inner: Predict, state: Sequence[Term]) -> Predict:
        """The evaluation with the terms attached."""
        if not state:
            return inner

        def predict(evaluation: Evaluation) -> torch.Tensor:
            with attached(state):
                return inner(evaluation)

        return predict


@contextmanager
def attached(terms: Sequence[Term]) -> Iterator[None]:
    """The terms beside the weights of their modules, until the end of the context."""
    with ExitStack() as stack:
        for module, term in terms:
            if isinstance(module, Linear):
                stack.callback(setattr, module, "adapters", module.adapters)
                module.adapters = (*module.adapters, term)
            else:
                stack.callback(module.register_forward_hook(partial(_add_patches, term)).remove)
        yield


def _add_patches(term: LowRank, conv: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """The term of a convolution whose stride is its patch: ``down`` is one such convolution, ``up`` mixes channels."""
    assert isinstance(conv, nn.Conv3d)
    kernel = term.down.unflatten(1, (-1, *conv.weight.shape[2:]))
    channels, found = kernel.shape[1], inputs[0].shape[1]
    if channels > found:
        raise CheckpointError(
            f"A LoRA takes {channels} input channels, but only the {found} of the latent are given. It was trained for "
            "a first and a last frame: give it both by HyVideo Keyframes, or take it away."
        )
    # A LoRA of a model with a narrower input knows the first channels, those of the latent.
    narrow = F.conv3d(inputs[0][:, :channels], kernel, stride=conv.stride)
    return out.add(F.conv3d(narrow, term.up[..., None, None, None]), alpha=term.strength)


def _read(dit: DiT, path: Path) -> LoraFile:
    """The file's terms for this model, read only if it is new or has changed."""
    if not path.is_file():
        return read_lora(path, lora_shapes(dit))  # which says what is wrong
    status = path.stat()
    version = (path, status.st_size, status.st_mtime_ns)
    remembered = _READ.setdefault(dit, {})
    found = remembered.pop(version, None) or read_lora(path, lora_shapes(dit))
    remembered[version] = found
    for old in list(remembered)[:-REMEMBERED_FILES]:
        del remembered[old]
    return found
