"""What travels over the pack's own sockets: light frozen descriptions, never weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError
from hyvideo_core.sample.seams import Extension
from hyvideo_core.weights import Lora

HyvModel = io.Custom("HYV_MODEL")
HyvTextEncoders = io.Custom("HYV_TEXT_ENCODER")
HyvVAE = io.Custom("HYV_VAE")

CATEGORY = "HyVideo Studio"


@dataclass(frozen=True)
class FileVersion:
    """A file or folder as it was when the handle was made: a replaced one is another."""

    path: Path
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: str | Path) -> FileVersion:
        """The version on disk now."""
        path = Path(path)
        statuses = [file.stat() for file in (path, *(path.iterdir() if path.is_dir() else ()))]
        return cls(path, sum(s.st_size for s in statuses), max(s.st_mtime_ns for s in statuses))

    def __str__(self) -> str:
        """For the host's fingerprints, which end up as JSON inside saved files: no folder names."""
        return f"{self.path.name}:{self.size_bytes}:{self.modified_ns}"


@dataclass(frozen=True)
class ModelHandle:
    """A transformer: which file, how its weights are held and multiplied, what it is for, what is applied to it.

    ``storage`` as in ``load_dit``, ``fp8_products`` "auto", "exact" or "fast", ``resident_blocks`` None for what the
    plan says. ``loras`` act while the model runs, ``merged`` ones were added to its weights; ``extensions`` are what
    else plugs into sampling.
    """

    file: FileVersion
    dtype: str
    attention: str
    storage: str = "auto"
    fp8_products: str = "auto"
    kind: str = "text-to-video"
    loras: tuple[Lora, ...] = ()
    merged: tuple[Lora, ...] = ()
    extensions: tuple[Extension, ...] = ()
    resident_blocks: int | None = None
    compile_blocks: bool = False

    def extended(self, *extensions: Extension) -> ModelHandle:
        """The model with these as well."""
        return replace(self, extensions=(*self.extensions, *extensions))


def with_feature(model: ModelHandle, feature: Extension, node: str, *, several: bool = False) -> ModelHandle:
    """The model with one feature more, which the node called ``node`` adds.

    Raises ``HyVideoError`` where the model has one of its kind already, unless there may be ``several``.
    """
    if not several and any(type(each) is type(feature) for each in model.extensions):
        raise HyVideoError(f"model went through {node} already, which acts once. Take one of the two away.")
    return model.extended(feature)


@dataclass(frozen=True)
class TextEncodersHandle:
    """The language model and CLIP-L; ``vision`` reads images for the language model, where there is one."""

    llm: FileVersion
    clip: FileVersion
    dtype: str
    vision: FileVersion | None = None


@dataclass(frozen=True)
class VAEHandle:
    """A VAE: which file, in which dtype."""

    file: FileVersion
    dtype: str
