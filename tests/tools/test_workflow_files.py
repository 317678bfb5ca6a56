"""The shipped workflow files: what people and programs see of them besides the graph."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
from PIL import Image

from tools import downloads, locales, model_files
from tools.paths import ROOT
from tools.workflow_about import ABOUT, about
from tools.workflow_catalog import WITHOUT_DEMO, WORKFLOWS
from tools.workflow_layout import TITLE_PX, note_height_px
from tools.workflows import FOLDER

NAMES = sorted(WORKFLOWS)
REAL_NAMES = [name for name in NAMES if "_demo_" not in name]
THUMBNAIL_PX = (400, 400)
#: Of all nodes of the pack.
DISPLAY_NAMES = {
    node["display_name"] for node in json.loads((locales.FOLDER / "en" / locales.NODES).read_text()).values()
}
#: In bold too: what is written in a prompt, and a solver.
WRITTEN = {"&lt;image&gt;", "(word:1.2)", "dpm++ 2m"}
#: Left, upper, right and lower edge, in px.
Box = tuple[float, float, float, float]


def template(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return content


def node_box(node: dict[str, Any]) -> Box:
    """A node with its title, which stands above its position."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_PX, left + width, top + height


def group_box(group: dict[str, Any]) -> Box:
    left, top, width, height = group["bounding"]
    return left, top, left + width, top + height


def overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def inside(inner: Box, outer: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def notes(name: str) -> dict[str, str]:
    """Markdown by title."""
    return {
        node["title"]: node["widgets_values"][0] for node in template(name)["nodes"] if node["type"] == "MarkdownNote"
    }


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_template_stands_over_something_else(name: str) -> None:
    content = template(name)
    for kind, box in (("nodes", node_box), ("groups", group_box)):
        for first, second in combinations(content[kind], 2):
            assert not overlap(box(first), box(second)), (first["id"], second["id"])


@pytest.mark.parametrize("name", NAMES)
def test_each_node_and_note_stands_in_one_group_and_no_group_is_empty(name: str) -> None:
    content = template(name)
    groups = [group_box(group) for group in content["groups"]]
    found = [[number for number, group in enumerate(groups) if inside(node_box(n), group)] for n in content["nodes"]]
    assert all(len(each) == 1 for each in found)
    assert {number for each in found for number in each} == set(range(len(groups)))
    about_it, *steps = (group["title"] for group in content["groups"])
    assert about_it == "About this template"
    assert steps[:2] == ["1 Models", "2 Prompt"]
    assert steps == sorted(steps)


@pytest.mark.parametrize("name", NAMES)
def test_the_notes_tell_what_it_does_what_to_change_and_what_it_needs(name: str) -> None:
    (title, does), (needs, needed) = notes(name).items()
    assert (title, needs) == (about(name).title, "What it needs")
    assert does.startswith(about(name).does)
    assert "Change first:" in does
    if name not in REAL_NAMES:
        assert "Nothing to download" in needed
        return
    for each in WORKFLOWS[name].files.downloads:
        assert f"- **models/{each.folder}**: [{each.file}]({each.url}), {each.size}" in needed
    assert re.search(r"sampling: \d+\.\d GB .* \d+\.\d GB with all its 60 blocks streamed", needed)


@pytest.mark.parametrize("name", NAMES)
def test_the_notes_name_nodes_and_inputs_that_there_are(name: str) -> None:
    """In bold inputs and titles of the template's own nodes, in italics nodes of the pack, also others."""
    api = json.loads((FOLDER / "api" / f"{name}.json").read_text("utf-8")).values()
    own = {node["_meta"]["title"] for node in api}
    inputs = {key.split(".")[-1] for node in api for key in node["inputs"]}
    what = about(name)
    for entry in (what.does, *(what.real if name in REAL_NAMES else what.demo), *what.first):
        assert set(re.findall(r"\*\*([^*]+)\*\*", entry)) <= own | inputs | WRITTEN
        assert set(re.findall(r"(?<!\*)\*(HyVideo [^*]+)\*", entry)) <= DISPLAY_NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_note_has_room_for_its_text_and_no_code(name: str) -> None:
    for node in template(name)["nodes"]:
        if node["type"] == "MarkdownNote":
            (text,) = node["widgets_values"]
            assert node["size"][1] >= note_height_px(text)
            assert "`" not in text
            assert not re.search(r"<[^>]*>", text), "the browser would take it for HTML"


@pytest.mark.parametrize("name", REAL_NAMES)
def test_the_browser_is_told_where_to_download_what_is_missing(name: str) -> None:
    """Source: ComfyUI_frontend ``missingModelDownload.ts``: a name, a folder of ComfyUI's, and the file's address."""
    told = {
        (model["name"], model["directory"], model["url"])
        for node in template(name)["nodes"]
        for model in node["properties"].get("models", [])
    }
    assert told == {(each.file, each.folder, each.url) for each in WORKFLOWS[name].files.downloads}
    for file, folder, url in told:
        assert folder in (*model_files.FOLDERS, model_files.LORAS)
        assert url.startswith("https://huggingface.co/")
        assert url.endswith(f"/{file}")


def test_every_template_is_described_and_nothing_else_is() -> None:
    assert {name.removeprefix("hyvideo_").removeprefix("demo_") for name in NAMES} == set(ABOUT)
    assert len({each.title for each in ABOUT.values()}) == len(ABOUT)


def test_the_documents_name_the_same_files_in_the_same_sizes() -> None:
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "guide.md"))
    for each in downloads.ALL:
        lines = [line for line in text.splitlines() if f"`{each.file}`" in line]
        assert any(each.folder in line and each.size in line for line in lines), each.file
        assert each.repository in text


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


def test_the_notes_and_the_readme_predict_the_same_memory() -> None:
    (most, least), *_ = re.findall(
        r"^\| 960×544 \| (\S+ GB) \| (\S+ GB)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    needed = notes("hyvideo_t2v")["What it needs"]
    assert f"sampling: {most} with all of the bf16 file there; {least} with all its 60 blocks streamed" in needed


def test_windows_need_no_more_than_their_own_length_and_caches_need_more() -> None:
    def least(name: str) -> float:
        return float(re.search(r"there; (\S+) GB with all its", notes(name)["What it needs"])[1])

    assert least("hyvideo_long") == least("hyvideo_t2v") < least("hyvideo_fast")
    assert least("hyvideo_image") < least("hyvideo_t2v") < least("hyvideo_batch")
