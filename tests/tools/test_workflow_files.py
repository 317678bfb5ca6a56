"""The shipped workflow files: what people and programs see of them besides the graph."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tools.workflow_catalog import WITHOUT_DEMO, WORKFLOWS
from tools.workflows import FOLDER

NAMES = sorted(WORKFLOWS)
THUMBNAIL_PX = (400, 186)


@pytest.mark.parametrize("name", NAMES)
def test_every_node_of_an_api_file_has_the_title_that_the_browser_shows(name: str) -> None:
    for node in json.loads((FOLDER / "api" / f"{name}.json").read_text("utf-8")).values():
        assert node["_meta"]["title"]
        assert not node["_meta"]["title"].startswith("Hyv") or " " in node["_meta"]["title"]


@pytest.mark.parametrize("name", NAMES)
def test_every_template_has_a_thumbnail(name: str) -> None:
    with Image.open(FOLDER / f"{name}.jpg") as image:
        assert image.size == THUMBNAIL_PX


def test_each_workflow_of_our_nodes_has_its_demo() -> None:
    """ComfyUI's own loaders take neither the small text encoders nor the small VAE; some features have no demo."""
    demos = {name.replace("_demo", "") for name in NAMES if "_demo" in name}
    ours = {name for name in NAMES if "_demo" not in name and "_native_" not in name}
    assert demos == ours - set(WITHOUT_DEMO)
    assert set(WITHOUT_DEMO) <= ours


@pytest.mark.parametrize("name", [name for name in NAMES if "_native_" in name])
def test_only_model_size_and_sampler_are_ours_among_comfyuis_own_nodes(name: str) -> None:
    graph = json.loads((FOLDER / "api" / f"{name}.json").read_text("utf-8"))
    ours = {node["class_type"] for node in graph.values() if node["class_type"].startswith("Hyv")}
    assert ours == {"HyvLoadModel", "HyvEmptyLatent", "HyvSampler"}
