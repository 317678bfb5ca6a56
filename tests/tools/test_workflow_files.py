"""The shipped workflow files: what people and programs see of them besides the graph."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tools.client import ComfyClient
from tools.server import Server
from tools.workflow_graphs import SMALL_SIZE, WORKFLOWS
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


def test_each_workflow_with_real_files_has_its_demo() -> None:
    demos = {name.replace("_demo", "") for name in NAMES if "_demo" in name}
    assert demos == {name for name in NAMES if "_demo" not in name}


def test_the_image_is_made_with_comfyuis_own_nodes_too(server: Server, client: ComfyClient) -> None:
    graph = json.loads((FOLDER / "api" / "hyvideo_demo_image_native_nodes.json").read_text("utf-8"))
    ours = {node["class_type"] for node in graph.values() if node["class_type"].startswith("Hyv")}
    assert ours == {"HyvLoadModel", "HyvEmptyLatent", "HyvSampler"}
    (saved,) = [file for output in client.run(graph, timeout_s=120)["outputs"].values() for file in output["images"]]
    with Image.open(server.output / saved["subfolder"] / saved["filename"]) as image:
        assert image.format == "PNG"
        assert image.size == (SMALL_SIZE["resolution.width"], SMALL_SIZE["resolution.height"])
