"""Jobs of old nodes: workflows made with them, at a size that a test can afford, and single nodes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jobs
import torch

HERE = Path(__file__).resolve().parent

#: The interface of the old nodes as facts.
NODES = json.loads((HERE / "old_nodes.json").read_text("utf-8"))["nodes"]
WORKFLOWS = sorted(path.stem for path in (HERE / "old_workflows").glob("*.json"))
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")
#: The least that the old sampler takes, and what a test can afford.
WIDTH_PX, HEIGHT_PX = 80, 64
SMALL = {
    "width": WIDTH_PX,
    "height": HEIGHT_PX,
    "num_frames": jobs.FRAMES,
    "amount": jobs.FRAMES,
    "steps": 4,
}


def options_of(spec: list[Any]) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 else {}


def old(name: str, changes: dict[str, Any] | None = None) -> jobs.Json:
    """An old workflow in the API's format at a small size; ``changes`` by "id.input"."""
    job = json.loads((HERE / "old_workflows" / "api" / f"{name}.json").read_text("utf-8"))
    for node in job.values():
        for field, value in node["inputs"].items():
            if field in SMALL and not isinstance(value, list):
                node["inputs"][field] = SMALL[field]
        if node["class_type"] == "HyVideoBlockSwap":
            node["inputs"] |= {"double_blocks_to_swap": 1, "single_blocks_to_swap": 2}
        if node["class_type"] == "HyVideoDecode":
            node["inputs"]["spatial_tile_sample_min_size"] = 64
    return jobs.changed(job, changes or {})


def latent_of(studio, job: jobs.Json, node_id: str = "3") -> torch.Tensor:
    """The latent that a node of a job gives."""
    job = copy.deepcopy(job)
    for name in [name for name, node in job.items() if node["class_type"].startswith("Save")]:
        del job[name]
    job["save"] = jobs.node("SaveLatent", samples=[node_id, 0], filename_prefix="latents/old")
    return studio.saved_latent(job)


def complete(kind: str, values: dict[str, Any]) -> jobs.Json:
    """A node with all its widgets, as a workflow has them."""
    inputs = {}
    for group in NODES[kind]["inputs"].values():
        for field, spec in group.items():
            if isinstance(spec, list) and (isinstance(spec[0], list) or spec[0] in WIDGETS):
                default = options_of(spec).get("default", spec[0][0] if isinstance(spec[0], list) else None)
                if not options_of(spec).get("forceInput"):
                    inputs[field] = default
    return jobs.node(kind, **(inputs | values))
