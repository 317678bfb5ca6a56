"""What a run needs to go on after it was interrupted, and the file that keeps it.

A checkpoint belongs to one run. Its file says what determines that run, and any other run refuses it; so it does when
a single byte is not as it was written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hyvideo_core.errors import CheckpointError
from hyvideo_core.sample.guidance import Guidance
from hyvideo_core.sample.seams import Extension, Running
from hyvideo_core.sample.solvers import Estimate
from hyvideo_core.types import Conditioning
from hyvideo_core.weights.files import SafetensorsCheckpoint

#: Written into every file; another number for another layout.
KIND = "hyvideo run checkpoint 1"
TEXTS = ("kind", "run", "state")
ESTIMATE_PARTS = ("x", "velocity", "denoised")
#: Digits of a digest that tell two settings apart.
DIGEST_DIGITS = 16


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after its step ``index``, counted from 0.

    ``x`` [B, C, T, H, W] is the latent then, ``past`` the estimates that solvers look back at, the last one first, and
    ``kept`` what extensions remember, by their names and then by theirs.
    """

    index: int
    x: torch.Tensor
    past: tuple[Estimate, ...] = ()
    kept: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)


class Standing:
    """Where a run stands: gives out its checkpoint after a step, and refuses once the run has gone on or has ended."""

    def __init__(self, running: Sequence[Running], stack: ExitStack) -> None:
        self._running = running
        self._index: int | None = None
        stack.callback(setattr, self, "_index", None)

    def after(self, index: int, x: torch.Tensor, past: Sequence[Estimate] = ()) -> Callable[[], Checkpoint]:
        """What makes the checkpoint after a step, on demand."""
        self._index = index
        return partial(self._checkpoint, index, x, tuple(past))

    def _checkpoint(self, index: int, x: torch.Tensor, past: tuple[Estimate, ...]) -> Checkpoint:
        if self._index != index:
            raise ValueError(
                f"The run has gone on since step {index + 1}, and what its extensions remember with it. Ask for a "
                "step's checkpoint before asking for the next step."
            )
        kept = {name: dict(extension.keep(state)) for name, extension, state in _named(self._running)}
        return Checkpoint(index, x, past, {name: tensors for name, tensors in kept.items() if tensors})


def resumed(
    checkpoint: Checkpoint, running: Sequence[Running], device: torch.device
) -> tuple[torch.Tensor, list[Estimate]]:
    """The latent and the past to go on with; brings the extensions, just started, to what they remembered.

    Raises ``ValueError`` where one that remembered something is missing.
    """
    named = {name: (extension, state) for name, extension, state in _named(running)}
    for name, tensors in checkpoint.kept.items():
        if name not in named:
            raise ValueError(
                f"The checkpoint holds what the extension {name} remembered, but this run has only "
                f"{', '.join(named) or 'none'}. Resume with the features of the run that was interrupted."
            )
        extension, state = named[name]
        extension.restore(state, {own: tensor.to(device) for own, tensor in tensors.items()})
    past = [
        Estimate(each.sigma, *(getattr(each, part).to(device) for part in ESTIMATE_PARTS)) for each in checkpoint.past
    ]
    return checkpoint.x.to(device), past


def check_resume(checkpoint: Checkpoint, x: torch.Tensor, steps: int) -> None:
    """Raise ``ValueError`` for a checkpoint of a latent of another size than x, or of a longer run."""
    if checkpoint.x.shape != x.shape:
        raise ValueError(
            f"The checkpoint's latent is {list(checkpoint.x.shape)}, but this run's is {list(x.shape)}. Choose the "
            "size of the run that was interrupted, or begin anew."
        )
    if not 0 <= checkpoint.index < steps:
        raise ValueError(
            f"The checkpoint was made after step {checkpoint.index + 1}, but this run has {steps}. Choose the number "
            "of steps of the run that was interrupted, or begin anew."
        )


def fingerprint(
    x: torch.Tensor,
    positive: Conditioning,
    *,
    sigmas: torch.Tensor,
    negative: Conditioning | None = None,
    guidance: Guidance | None = None,
    solver: str = "euler",
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    identity: str = "",
) -> dict[str, str]:
    """What determines a run of ``sample``, each part by its name, in words that are the same in every process.

    The arguments are those of ``sample``, but ``solver`` is a name. ``identity`` stands for what only the caller
    knows: the model's file and dtype, LoRAs, and the extensions that matter, such as ``described`` words them. For
    other kinds of runs any such mapping serves.
    """
    guidance = guidance or Guidance()
    # Named only where they are not those that every batch has by itself.
    others = {} if numbers is None or [*numbers] == [*range(len(x))] else {"clips' numbers": described([*numbers])}
    return {
        "latent": described(x),
        "noise levels": f"{len(sigmas) - 1} steps {described(sigmas)}",
        "positive prompt": described(positive),
        "negative prompt": described(negative if guidance.cfg > 1 else None),
        "guidance": described(guidance),
        "solver": solver,
        "seed": str(seed),
        "model and features": identity,
        **others,
    }


def described(value: Any) -> str:
    """Settings in words, with a digest in place of each tensor.

    Callables are left out, as what an extension works with (where weights are, how they are carried), not what it does.
    """
    if isinstance(value, torch.Tensor):
        return f"{list(value.shape)} {_digest({'': value})[:DIGEST_DIGITS]}"
    if is_dataclass(value) and not isinstance(value, type):
        settings = {each.name: getattr(value, each.name) for each in fields(value)}
        words = (f"{name}={described(given)}" for name, given in settings.items() if not callable(given))
        return f"{type(value).__name__}({', '.join(words)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {described(given)}' for key, given in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(described, value))}]"
    return repr(value)


def write_checkpoint(path: str | Path, checkpoint: Checkpoint, run: Mapping[str, str]) -> None:
    """Write a safetensors file for the run with the fingerprint ``run``; until it is whole, ``path`` stays as it was.

    Raises ``CheckpointError`` where it cannot be written.
    """
    path = Path(path)
    # Copies, since the format has no way to say that two tensors are one.
    tensors = {name: each.to("cpu", copy=True).contiguous() for name, each in _flat(checkpoint).items()}
    state = {"index": checkpoint.index, "sigmas": [each.sigma for each in checkpoint.past]}
    texts = dict(zip(TEXTS, (KIND, json.dumps(dict(run)), json.dumps(state)), strict=True))
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(tensors, part, texts | {"digest": _digest(tensors, *texts.values())})
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"The checkpoint {path} cannot be written ({error}). Free some space there, or choose another folder."
        ) from error


def read_checkpoint(path: str | Path, run: Mapping[str, str]) -> Checkpoint:
    """The checkpoint at ``path``, on the CPU. Raises ``CheckpointError`` if it is damaged or not of the run ``run``."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. Begin the run anew, or check the path.")
    try:
        file = SafetensorsCheckpoint(path)
        if file.metadata.get("kind") != KIND:
            raise ValueError(f"it does not say that it is a '{KIND}'")
        texts = [file.metadata[name] for name in TEXTS]
        # In memory, so that the file can be replaced on every system.
        tensors = {name: file[name].clone() for name in file}
        if _digest(tensors, *texts) != file.metadata["digest"]:
            raise ValueError("its contents are not what was written")
        _, made_by, state = texts
        checkpoint = _unflat(json.loads(state), tensors)
    except (CheckpointError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} is no checkpoint of a run, or it is damaged: {error}. Delete it and begin the run anew, or "
            "choose another file."
        ) from error
    _check_same_run(path, json.loads(made_by), run)
    return checkpoint


def _check_same_run(path: Path, made_by: Mapping[str, str], run: Mapping[str, str]) -> None:
    differing = [
        f"the {name} was {made_by.get(name)}, but is {run.get(name)}"
        for name in dict.fromkeys((*made_by, *run))
        if made_by.get(name) != run.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"The checkpoint {path.name} is of another run: {'; '.join(differing)}. Set back what was changed to "
            "resume that run, or delete the file to begin anew."
        )


def _flat(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by one name each."""
    flat = {"x": checkpoint.x}
    for place, estimate in enumerate(checkpoint.past):
        flat |= {f"past.{place}.{part}": getattr(estimate, part) for part in ESTIMATE_PARTS}
    for owner, tensors in checkpoint.kept.items():
        flat |= {f"kept.{owner}.{name}": tensor for name, tensor in tensors.items()}
    return flat


def _unflat(state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
    """The checkpoint with these tensors."""
    past = [
        Estimate(sigma, *(tensors[f"past.{place}.{part}"] for part in ESTIMATE_PARTS))
        for place, sigma in enumerate(state["sigmas"])
    ]
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for flat_name, tensor in tensors.items():
        group, _, rest = flat_name.partition(".")
        if group == "kept":
            owner, _, name = rest.partition(".")
            kept.setdefault(owner, {})[name] = tensor
    return Checkpoint(state["index"], tensors["x"], tuple(past), kept)


def _named(running: Sequence[Running]) -> Iterator[tuple[str, Extension, Any]]:
    """Each extension of a run with its state and a name: its class, and a number among those of that class."""
    counts: Counter[str] = Counter()
    for extension, state in running:
        kind = type(extension).__name__
        yield f"{kind} {counts[kind]}", extension, state
        counts[kind] += 1


def _digest(tensors: Mapping[str, torch.Tensor], *texts: str) -> str:
    """SHA-256 over texts and tensors, with their names, dtypes and shapes."""
    sha = hashlib.sha256(json.dumps(texts).encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
