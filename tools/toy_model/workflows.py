"""The shipped workflows for the real files with the toy ones in their places, small and short."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from tools.paths import WORKFLOWS as FOLDER
from tools.toy_model import build
from tools.workflow_graphs import REAL_I2V, SMALL_SIZE, WORKFLOWS

FRAMES, STEPS = 5, 2


def with_toy_files(name: str) -> dict[str, Any]:
    """A workflow in API format by its name; everything but files, size, frames and steps stays."""
    real = WORKFLOWS[name][1]
    model = build.IMAGE_TRANSFORMER if real is REAL_I2V else build.TRANSFORMER
    toys = {real.model: model, real.vae: build.VAE, real.llm: build.LLAMA, real.clip: build.CLIP}
    graph: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    for node in graph.values():
        inputs = node["inputs"]
        files = {key: toys[value] for key, value in inputs.items() if isinstance(value, str) and value in toys}
        inputs.update({key: PurePosixPath(file).name for key, file in files.items()})
        if node["class_type"] == "HyvEmptyLatent":
            inputs.update(SMALL_SIZE | {"frames": min(inputs["frames"], FRAMES)})
        if node["class_type"] == "HyvSampler":
            inputs["steps"] = STEPS
    return graph
