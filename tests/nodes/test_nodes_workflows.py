"""The shipped workflows: valid, current, served as templates, and the demo ones make what they promise."""

from __future__ import annotations

import json
import shutil
import urllib.parse

import numpy as np
import pytest
import torch
from PIL import Image

from tools.demo_model.judge import obedience, see
from tools.demo_model.world import Scene, Thing
from tools.server import PACK_NAME
from tools.toy_model.workflows import FRAMES, with_toy_files
from tools.workflow_graphs import DEMO_VIDEO, SMALL_SIZE, WORKFLOWS
from tools.workflows import FOLDER, render_all

API = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / "api").glob("*.json"))}
REAL_NAMES = sorted(name for name in API if not name.startswith("hyvideo_demo_"))
#: What each demo shows.
DEMO_THINGS = {
    "hyvideo_demo_t2v": Thing("red", "circle", "left", ""),
    "hyvideo_demo_i2v": Thing("red", "square", "left", ""),
    "hyvideo_demo_image": Thing("red", "circle", "", ""),
}
SIZE_PX = (SMALL_SIZE["resolution.width"], SMALL_SIZE["resolution.height"])
NOTES = ("Note", "MarkdownNote")
FILE_INPUTS = {"model", "vae", "llm", "clip", "vae_name", "clip_name1", "clip_name2"}


@pytest.fixture(autouse=True)
def host_picture(server):
    """What these workflows need beside models: the host's own picture."""
    shutil.copy(server.comfyui / "input" / "example.png", server.base / "input")


def without_fingerprints(prompt):
    """The prompt as it was queued: the host writes the loaders' fingerprints into it."""
    return {name: {key: value for key, value in node.items() if key != "is_changed"} for name, node in prompt.items()}


def assert_shows(frames, thing):
    """The judge sees the thing on white in frames [F, H, W, 3] of bytes, and nothing else."""
    verdict = obedience(see(torch.from_numpy(frames).movedim(-1, 0) / 127.5 - 1), Scene(*SIZE_PX, "white", (thing,)))
    assert verdict.all, verdict


def test_there_is_a_demo_of_each_kind():
    assert sorted(DEMO_THINGS) == sorted(set(API) - set(REAL_NAMES))


@pytest.mark.parametrize("name", [name for name in DEMO_THINGS if "image" not in name])
def test_a_demo_workflow_makes_an_mp4_of_its_prompt_with_itself_inside(studio, clip, name):
    workflow = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    outputs = studio.run(API[name], extra_data={"extra_pnginfo": {"workflow": workflow}})
    (path,) = [path for node_id in outputs for path in studio.files(outputs, node_id)]
    video = clip(path)
    assert path.suffix == ".mp4"
    assert video.size_px == SIZE_PX
    assert len(video.frames) == DEMO_VIDEO.frames
    assert video.fps == 24.0
    assert video.codec == "h264"
    assert json.loads(video.tags["workflow"]) == workflow
    assert without_fingerprints(json.loads(video.tags["prompt"])) == API[name]
    assert_shows(video.frames, DEMO_THINGS[name])


def test_the_demo_image_workflow_makes_one_png_of_its_prompt(studio):
    outputs = studio.run(API["hyvideo_demo_image"])
    (path,) = [path for node_id in outputs for path in studio.files(outputs, node_id)]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == SIZE_PX
        assert without_fingerprints(json.loads(image.info["prompt"])) == API["hyvideo_demo_image"]
        assert_shows(np.asarray(image.convert("RGB"))[None], DEMO_THINGS["hyvideo_demo_image"])


@pytest.mark.parametrize("name", REAL_NAMES)
def test_a_workflow_for_the_real_files_lacks_nothing_but_the_files(studio, name):
    errors = studio.rejection(API[name])
    found = {}
    for node_id, report in errors.items():
        for error in report["errors"]:
            assert error["type"] == "value_not_in_list", error
            field = error["extra_info"]["input_name"]
            assert field in FILE_INPUTS
            found[API[name][node_id]["inputs"][field]] = error["details"]
    files = WORKFLOWS[name][1]
    assert set(found) == {files.model, files.vae, files.llm, files.clip}
    assert all(file in details for file, details in found.items())


@pytest.mark.parametrize("name", REAL_NAMES)
def test_a_workflow_for_the_real_files_makes_what_it_promises(studio, clip, name):
    outputs = studio.run(with_toy_files(name))
    (path,) = [path for node_id in outputs for path in studio.files(outputs, node_id)]
    if "image" in name:
        with Image.open(path) as image:
            assert (image.format, image.size) == ("PNG", SIZE_PX)
        return
    video = clip(path)
    assert (path.suffix, video.codec) == (".mp4", "h264")
    assert (video.size_px, len(video.frames), video.fps) == (SIZE_PX, FRAMES, 24.0)


def test_the_committed_files_are_what_the_running_host_gives(client):
    rendered = render_all(client.object_info())
    committed = {path: path.read_text("utf-8") for path in (*FOLDER.glob("*.json"), *(FOLDER / "api").glob("*.json"))}
    assert rendered.keys() == committed.keys()
    stale = [path.name for path, content in rendered.items() if committed[path] != content]
    assert not stale, f"run python tools/dev.py workflows: {stale}"


def test_every_template_is_offered_and_served(client):
    offered = client.get("/api/workflow_templates")[PACK_NAME]
    assert sorted(offered) == sorted(API)
    for name in offered:
        served = client.get(f"/api/workflow_templates/{PACK_NAME}/{urllib.parse.quote(name)}.json")
        assert served == json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(API))
def test_a_template_connects_what_its_api_form_connects(client, name):
    info = client.object_info()
    template = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    links = {link[0]: link for link in template["links"]}
    nodes = [node for node in template["nodes"] if node["type"] not in NOTES]
    assert {str(node["id"]) for node in nodes} == set(API[name])
    for node in nodes:
        inputs = API[name][str(node["id"])]["inputs"]
        wires = {key: value for key, value in inputs.items() if isinstance(value, list)}
        connected = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        assert {key: [str(link[1]), link[2]] for key, link in connected.items()} == wires
        # A seed is followed by the browser's own "control after generate".
        widgets = [value for value in node["widgets_values"] if value != "fixed"]
        assert widgets == _in_schema_order(info[node["type"]], inputs)


def _in_schema_order(info, inputs):
    """Widget values of the API form in the order of the schema, a dynamic choice followed by what belongs to it."""
    ordered = []
    for name, spec in {**info["input"].get("required", {}), **info["input"].get("optional", {})}.items():
        keys = [key for key in inputs if key == name or key.startswith(f"{name}.")]
        ordered += [inputs[key] for key in keys if not isinstance(inputs[key], list)]
        if not keys and "default" in spec[-1]:
            ordered.append(spec[-1]["default"])
    return ordered
