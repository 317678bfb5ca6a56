"""The shipped workflows for the real files with the toy ones in their places, small and short."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from tools.downloads import CLIP_L, KEYFRAME_LORA, LLM, VAE, VISION
from tools.paths import WORKFLOWS as FOLDER
from tools.toy_model import build
from tools.workflow_catalog import WORKFLOWS
from tools.workflow_graphs import SMALL_SIZE, TOKEN_REPLACE

FRAMES, STEPS = 5, 2
#: What stands for a real file; transformers depend on the workflow.
TOYS = {
    VAE.file: build.VAE,
    LLM.file: build.LLAMA,
    CLIP_L.file: build.CLIP,
    VISION.file: build.VISION,
    KEYFRAME_LORA.file: build.KEYFRAME_LORA,
}
#: Settings that go with so few steps, wherever they are.
FEW = {"steps": STEPS, "n_max": STEPS}
#: Settings by node that go with so few blocks, and so small a video.
SMALL: dict[str, dict[str, Any]] = {
    "HyvEmptyLatent": SMALL_SIZE,
    "HyvSTG": {"blocks": "double 1"},
    "HyvSeamlessLoop": {"shift_latent_frames": 1},
    "HyvSlidingTileAttention": {f"tile_{axis}": 1 for axis in ("frames", "height", "width")},
}


def with_toy_files(name: str) -> dict[str, Any]:
    """A workflow in API format by its name; everything but files, and what depends on size, length and depth, stays."""
    real = WORKFLOWS[name].files
    model = build.IMAGE_TRANSFORMER if real.kind == TOKEN_REPLACE else build.TRANSFORMER
    toys = {real.model: model, **TOYS}
    graph: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    for node in graph.values():
        inputs = node["inputs"]
        files = {key: toys[value] for key, value in inputs.items() if isinstance(value, str) and value in toys}
        inputs.update({key: PurePosixPath(file).name for key, file in files.items()})
        inputs.update({key: value for key, value in FEW.items() if key in inputs})
        inputs.update(SMALL.get(node["class_type"], {}))
        if node["class_type"] == "HyvEmptyLatent":
            inputs["frames"] = min(inputs["frames"], FRAMES)
    return graph
