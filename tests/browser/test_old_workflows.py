"""Files made with ComfyUI-HunyuanVideoWrapper open with their wires and values, run, and tell what is done otherwise.

Those beside this file are written by hand from the facts of the old nodes: features in other mixtures than in
``tests/nodes/old_workflows``, the fewer widgets of the first versions, a node of a third pack.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error, expect

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
OF_NODES = HERE.parent / "nodes"
#: The interface of the old nodes as facts, with their widgets in order.
FACTS = json.loads((OF_NODES / "old_nodes.json").read_text("utf-8"))["nodes"]
FILES = {path.stem: path for folder in (OF_NODES, HERE) for path in sorted((folder / "old_workflows").glob("*.json"))}
ANOTHER_PACKS, WITHOUT_COUNTERPART = "t2v_saved_by_another_pack", "prompt_mix"
RUNNING = [name for name in FILES if name not in (ANOTHER_PACKS, WITHOUT_COUNTERPART)]
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")
SEED_MODES = ("fixed", "randomize", "increment", "decrement")
#: What a test can afford of the toy model, whose blocks are few.
SMALL = {"width": 80, "height": 64, "num_frames": 5, "amount": 5, "steps": 4, "start_step": 0, "end_step": 3}
FEW = {"double_blocks_to_swap": 1, "single_blocks_to_swap": 2, "spatial_tile_sample_min_size": 64}


def read(name: str) -> Json:
    return json.loads(FILES[name].read_text("utf-8"))


def is_widget(spec: Any) -> bool:
    """Whether the old pack showed an input as a widget."""
    if not isinstance(spec, list):
        return False
    options = spec[1] if len(spec) > 1 else {}
    return isinstance(spec[0], list) or (spec[0] in WIDGETS and not options.get("forceInput"))


def values_by_name(node: Json) -> Json:
    """The values of an old node as the old pack read them: by their places, and defaults for those that came later."""
    groups = FACTS[node["type"]]["inputs"]
    specs = {**groups.get("required", {}), **groups.get("optional", {})}
    values = [value for value in node["widgets_values"] if value not in SEED_MODES]
    widgets = [name for name, spec in specs.items() if is_widget(spec)]
    defaults = {name: specs[name][1].get("default") for name in widgets[len(values) :]}
    return dict(zip(widgets, values, strict=False)) | defaults


def wires(workflow: Json) -> set[tuple[Any, ...]]:
    """From which output to which input, by names."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    return {
        (source, slot, target, nodes[target]["inputs"][place]["name"])
        for _, source, slot, target, place, _ in workflow["links"]
    }


def wires_of(prompt: Json) -> set[tuple[Any, ...]]:
    """The same of a prompt."""
    return {
        (int(value[0]), value[1], int(node_id), name)
        for node_id, node in prompt.items()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
    }


def make_small(page: Any) -> None:
    """Set a size and a number of steps for the toy model."""
    for node_id in page.prompt():
        page.set(node_id, SMALL | FEW)


@pytest.mark.where(newest=True)
@pytest.mark.parametrize("name", [name for name in FILES if name != ANOTHER_PACKS])
def test_an_old_file_opens_with_its_wires_and_values(page, name):
    workflow = read(name)
    page.open(workflow, name)
    assert page.unknown_nodes() == []
    prompt = page.prompt()
    assert wires_of(prompt) == wires(workflow)
    assert prompt.keys() == {str(node["id"]) for node in workflow["nodes"]}
    for node in workflow["nodes"]:
        if node["type"] in FACTS:
            inputs = prompt[str(node["id"])]["inputs"]
            values = {name: value for name, value in inputs.items() if not isinstance(value, list)}
            assert values == values_by_name(node), node["type"]


@pytest.mark.spread("name", RUNNING)
def test_an_old_file_runs_and_shows_its_result(page, name):
    page.open(read(name), name)
    make_small(page)
    outputs = page.run()
    (saver,) = page.node_ids("SaveAnimatedWEBP")
    assert outputs[str(saver)]["images"]
    assert page.shown(saver, "img").evaluate("({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight]") == [
        SMALL["width"],
        SMALL["height"],
    ]


def test_old_nodes_are_marked_as_deprecated(page):
    page.open(read("t2v"))
    (sampler,) = page.node_ids("HyVideoSampler")
    page.look_at(sampler)
    assert "DEPR" in page.texts()
    page.open_template("hyvideo_demo_t2v")
    (sampler,) = page.node_ids("HyvSampler")
    page.look_at(sampler)
    assert "DEPR" not in page.texts()


def test_a_node_without_a_counterpart_says_what_to_use_instead(page):
    page.open(read(WITHOUT_COUNTERPART))
    make_small(page)
    told = "has no counterpart in this pack. Use HyVideo Blend Prompts"
    with pytest.raises(Error, match=told):
        page.run()
    assert_told(page, told)


def test_a_node_of_another_pack_is_named_and_the_rest_opens(page):
    workflow = read(ANOTHER_PACKS)
    page.open(workflow)
    assert page.unknown_nodes() == ["VHS_VideoCombine"]
    assert_told(page, "VHS_VideoCombine")
    sampler = next(node for node in workflow["nodes"] if node["type"] == "HyVideoSampler")
    inputs = page.prompt()[str(sampler["id"])]["inputs"]
    assert inputs | values_by_name(sampler) == inputs


def assert_told(page: Any, words: str) -> None:
    """The page says so, once the details of what is wrong are opened."""
    page.page.get_by_role("button", name="View details").click()
    expect(page.page.locator("body")).to_contain_text(words)
