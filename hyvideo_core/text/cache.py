"""Encoded prompts remembered on disk, so that a known prompt needs no text encoder.

Each entry is a file of ``embeddings_file``, named by a hash of everything that its numbers depend on. Prompts stand in
them in plain text. Several processes may use one folder: entries are written whole, and their loss costs only time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hyvideo_core.errors import CheckpointError
from hyvideo_core.text.embeddings_file import SUFFIX, Provenance, load_conditioning, save_conditioning
from hyvideo_core.text.templates import Template
from hyvideo_core.types import Conditioning

logger = logging.getLogger(__name__)

#: Raised whenever the same prompt is encoded to other numbers than before.
ENCODING_VERSION = 1
#: Nothing else in the folder is ever deleted.
ENTRY = re.compile(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}")
#: What a process that was ended while writing leaves behind, and how old it must be to be that.
UNFINISHED, UNFINISHED_SECONDS = re.compile(rf"\.[0-9a-f]{{64}}{re.escape(SUFFIX)}\.[0-9a-f]{{32}}\.tmp"), 3600


@dataclass(frozen=True)
class EncoderFile:
    """A text encoder's file or folder as it is now; a replaced one is another."""

    name: str
    size_bytes: int
    modified_ns: int

    def __str__(self) -> str:
        return f"{self.name}:{self.size_bytes}:{self.modified_ns}"


@dataclass(frozen=True)
class EncodingKey:
    """All that an encoding depends on; ``dtype`` is the encoders', as torch names it.

    ``encoders`` are all files that took part, those of tokenizers among them; ``images`` the digests of images in the
    prompt (``image_digest``), and ``reading`` what is kept of them. The device is not part: other devices give the same
    but for rounding.
    """

    prompt: str
    template: Template
    encoders: tuple[EncoderFile, ...]
    dtype: str
    weighted: bool = False
    truncate: bool = False
    images: tuple[str, ...] = ()
    reading: str = ""

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        content = {"version": ENCODING_VERSION, **asdict(self), "prompt": self.prompt.strip()}
        # The name of a template changes nothing that is encoded.
        del content["template"]["name"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def provenance(self) -> Provenance:
        """What the entry's file says of itself."""
        encoder = ", ".join([*map(str, self.encoders), self.dtype])
        return Provenance(self.prompt.strip(), self.template.text, encoder)


def image_digest(image: torch.Tensor) -> str:
    """64 hexadecimal digits that tell an image [H, W, C] from any other, by its size and every value."""
    values = image.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(f"{list(values.shape)} ".encode() + values.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class EncodingCache:
    """A folder of at most ``max_bytes``; entries used longest ago go first. It is made when it is first needed."""

    folder: Path
    max_bytes: int

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise ValueError(f"max_bytes is {self.max_bytes}, but must be 0 or more. With 0 nothing is remembered.")

    def get(self, key: EncodingKey, encode: Callable[[], Conditioning]) -> Conditioning:
        """The conditioning on the CPU, from the folder if it is there, else from ``encode`` and remembered.

        A damaged entry is dropped, and a folder that cannot be used costs only time: both are logged.
        """
        path = self.folder / f"{key.digest}{SUFFIX}"
        found = self._found(path, key)
        if found is not None:
            return found
        conditioning = encode().to("cpu")
        try:
            self._remember(path, conditioning, key)
        except OSError as error:
            logger.warning("the encoded prompt is not remembered: %s cannot be written (%s)", self.folder, error)
        return conditioning

    def _found(self, path: Path, key: EncodingKey) -> Conditioning | None:
        try:
            if not path.is_file():
                return None
            conditioning, provenance = load_conditioning(path)
            if provenance != key.provenance:
                raise CheckpointError(f"{path.name} holds another prompt than its name says.")
        except CheckpointError as error:
            logger.warning("a remembered prompt is dropped and encoded anew: %s", error)
            _delete(path)
            return None
        except OSError as error:
            # Another process may have deleted it just now, or it may not be ours to read.
            logger.warning("a remembered prompt is encoded anew: %s cannot be read (%s)", path, error)
            return None
        _mark_used(path)
        return conditioning

    def _remember(self, path: Path, conditioning: Conditioning, key: EncodingKey) -> None:
        if not self.max_bytes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_conditioning(path, conditioning, key.provenance)
        self._shrink()

    def _shrink(self) -> None:
        """Delete what was used longest ago until the rest fits."""
        entries = sorted(_files(self.folder), reverse=True)
        held = 0
        for modified_ns, path, size_bytes in entries:
            if UNFINISHED.fullmatch(path.name):
                if time.time_ns() - modified_ns > UNFINISHED_SECONDS * 10**9:
                    _delete(path)
                continue
            # What is too large alone takes no room from the others.
            held += size_bytes if size_bytes <= self.max_bytes else 0
            if held > self.max_bytes or size_bytes > self.max_bytes:
                _delete(path)


def _files(folder: Path) -> Iterator[tuple[int, Path, int]]:
    """When each of the cache's own files was used last, its path, and its bytes."""
    for path in folder.iterdir():
        if ENTRY.fullmatch(path.name) or UNFINISHED.fullmatch(path.name):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # another process was quicker
            yield status.st_mtime_ns, path, status.st_size


def _mark_used(path: Path) -> None:
    try:
        os.utime(path)
    except OSError as error:
        # A folder that may only be read serves all the same.
        logger.debug("%s cannot be marked as used (%s)", path, error)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be deleted (%s)", path, error)
