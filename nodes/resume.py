"""Runs that go on where the server was stopped: a file in the output folder, named by all that decides the result."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import folder_paths
import torch

from hyvideo_core.errors import CheckpointError
from hyvideo_core.sample import Step
from hyvideo_core.sample.checkpoint import Checkpoint, described, read_checkpoint, write_checkpoint
from hyvideo_core.weights import Lora

from . import host
from .handles import FileVersion, ModelHandle

logger = logging.getLogger(__name__)

#: In the host's output folder: it empties the temporary one when it starts.
FOLDER = "hyvideo_checkpoints"
#: Digits of a run's digest in the name of its file.
NAME_DIGITS = 24


@dataclass(frozen=True)
class Saved:
    """The checkpoint of the run with the fingerprint ``run``, written after every so many steps."""

    run: Mapping[str, str]
    every: int

    @property
    def path(self) -> Path:
        """Where it is, or will be."""
        digest = hashlib.sha256(json.dumps(dict(self.run), sort_keys=True).encode()).hexdigest()
        return Path(folder_paths.get_output_directory()) / FOLDER / f"{digest[:NAME_DIGITS]}.safetensors"

    def found(self) -> Checkpoint | None:
        """The last one of an interrupted run; None, with the reason in the log, if there is none that can be read."""
        if not self.path.is_file():
            return None
        try:
            found = read_checkpoint(self.path, self.run)
        except CheckpointError as error:
            logger.warning("The run begins anew: %s", error)
            return None
        logger.info("The run goes on after step %d, from %s", found.index + 1, self.path.name)
        return found

    def after(self, step: Step, steps: range) -> None:
        """Write the checkpoint if it is time to; after the last of ``steps`` it is of no more use and goes."""
        if step.index + 1 == steps.stop:
            self.path.unlink(missing_ok=True)
        elif (step.index + 1 - steps.start) % self.every == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(self.path, step.checkpoint(), self.run)


def identity(model: ModelHandle) -> str:
    """All of a model that decides what it says, in words that are the same in every process.

    Where its weights are while it runs is left out, and so is the order of its features.
    """
    rest = replace(model, loras=(), merged=(), extensions=(), resident_blocks=None)
    parts = {field: value for field, value in vars(rest).items() if field != "file"}
    parts |= {
        "file": str(model.file),
        "loras": [_version(lora) for lora in model.loras],
        "merged": [_version(lora) for lora in model.merged],
        "features": sorted(map(described, model.extensions)),
        "device": host.transformer_device().type,
        "torch": torch.__version__,
    }
    return described(parts)


def _version(lora: Lora) -> tuple[str, float, str]:
    return str(FileVersion.of(lora.file)), lora.strength, lora.blocks
