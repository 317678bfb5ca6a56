"""Old nodes look as they did, old files open in the browser as they did, and the other pack's own nodes win."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from old_jobs import HERE, NODES, WIDGETS, WORKFLOWS, options_of

from tools.server import Server

OTHER_PACK = """
class Sampler:
    CATEGORY, FUNCTION, RETURN_TYPES = "other", "run", ("LATENT",)
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})

    def run(self):
        return (None,)


NODE_CLASS_MAPPINGS = {"HyVideoSampler": Sampler, "HyVideoDecode": Sampler}
"""


@pytest.fixture(scope="module")
def info(server):
    with server.client() as client:
        return client.object_info()


@pytest.mark.parametrize("name", NODES)
def test_an_old_node_looks_as_it_did(info, name):
    old, new = NODES[name], info[name]
    assert new["deprecated"]
    assert new["display_name"] == old["display_name"]
    assert not new["category"].startswith("HyVideo Studio")
    outputs = zip(new["output"], new["output_name"], strict=True)
    assert [*outputs] == [(each["type"], each["name"]) for each in old["outputs"]]
    for group in ("required", "optional"):
        was, now = old["inputs"].get(group, {}), new["input"].get(group, {})
        # The order of widgets is what a workflow's values are found by.
        assert list(was) == list(now)
        for field in was:
            assert_same_input(field, was[field], now[field])


def assert_same_input(field: str, was: list[Any], now: list[Any]) -> None:
    before, after = options_of(was), options_of(now)
    if isinstance(was[0], list):
        assert now[0] == "COMBO", field
        if not was[0][0].startswith("<files"):
            assert after["options"] == was[0], field
        if before.get("default") in was[0]:
            assert after["default"] == before["default"], field
    else:
        assert now[0] == was[0], field
    if was[0] in WIDGETS:
        keys = ("min", "max", "step", "multiline", "forceInput", *(["default"] if was[0] != "STRING" else []))
        assert [before.get(key) or 0 for key in keys] == [after.get(key) or 0 for key in keys], field
    assert after["tooltip"]


def test_there_are_old_workflows_of_each_kind():
    assert WORKFLOWS == ["i2v", "t2v", "t2v_lora_teacache_enhance", "v2v_cfg"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_file_of_the_browser_opens_as_its_api_form(info, name):
    """The values are taken by their places, as the browser does, from the schemas of the running host."""
    workflow = json.loads((HERE / "old_workflows" / f"{name}.json").read_text("utf-8"))
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    opened = {}
    for node in workflow["nodes"]:
        schema = info[node["type"]]["input"]
        specs = {**schema.get("required", {}), **schema.get("optional", {})}
        wires = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        assert wires.keys() <= specs.keys()
        for slot in node["inputs"]:
            assert slot["type"] == specs[slot["name"]][0]
        values = iter(node["widgets_values"])
        inputs: dict[str, Any] = {}
        for field, spec in specs.items():
            if (spec[0] in WIDGETS or spec[0] == "COMBO" or isinstance(spec[0], list)) and not options_of(spec).get(
                "forceInput"
            ):
                inputs[field] = next(values)
                if field == "seed":
                    assert next(values) in ("fixed", "randomize", "increment", "decrement")
        opened[str(node["id"])] = inputs | wires
    api = json.loads((HERE / "old_workflows" / "api" / f"{name}.json").read_text("utf-8"))
    assert opened == {node_id: node["inputs"] for node_id, node in api.items()}


@pytest.mark.slow
def test_the_other_packs_own_nodes_win(server, tmp_path):
    pack = tmp_path / "custom_nodes" / "ComfyUI-HunyuanVideoWrapper"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(OTHER_PACK, encoding="utf-8")
    with Server(server.comfyui, tmp_path, python=Path(sys.executable)) as second, second.client() as client:
        found = client.object_info()
    assert {found[name]["category"] for name in ("HyVideoSampler", "HyVideoDecode")} == {"other"}
    assert "HyvSampler" in found
