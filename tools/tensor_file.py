"""Writes safetensors files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors so that ``path`` is either the whole new file or what it was."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(dict(tensors), str(partial), metadata={"format": "pt", **metadata})
    partial.chmod(0o644)  # safetensors lets nobody else read what it wrote
    os.replace(partial, path)
