"""The shipped workflows: valid, current, served as templates, and the demo ones make what they promise."""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse

import numpy as np
import pytest
import torch
from PIL import Image

from hyvideo_core.video import write_mp4
from tools.demo_model.judge import obedience, see
from tools.demo_model.world import Scene, Thing
from tools.server import PACK_NAME
from tools.toy_model.workflows import FRAMES, with_toy_files
from tools.workflow_catalog import WORKFLOWS
from tools.workflow_features_video import CLIP
from tools.workflow_graphs import DEMO_VIDEO, SMALL_SIZE
from tools.workflows import FOLDER, render_all

API = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / "api").glob("*.json"))}
REAL_NAMES = sorted(name for name in API if not name.startswith("hyvideo_demo_"))
RED = Thing("red", "circle", "left", "")
#: What each demo shows.
DEMO_THINGS = {
    "hyvideo_demo_t2v": (RED,),
    "hyvideo_demo_i2v": (Thing("red", "square", "left", ""),),
    "hyvideo_demo_image": (Thing("red", "circle", "", ""),),
    "hyvideo_demo_guidance": (RED,),
    "hyvideo_demo_fast": (RED,),
    "hyvideo_demo_solver": (RED,),
    "hyvideo_demo_long": (RED,),
    "hyvideo_demo_loop": (Thing("red", "circle", "still", ""),),
    "hyvideo_demo_prompt_schedule": (Thing("", "circle", "left", ""),),
    "hyvideo_demo_prompt_blend": (Thing("orange", "circle", "left", ""),),
    "hyvideo_demo_flow_edit": (Thing("blue", "circle", "left", ""),),
    "hyvideo_demo_rf_inversion": (Thing("blue", "square", "still", ""),),
    "hyvideo_demo_inpaint": (Thing("red", "square", "still", ""), Thing("blue", "circle", "up", "")),
    "hyvideo_demo_batch": (RED,),
}
#: What the second clip shows, where there are two.
SECOND_THINGS = {"hyvideo_demo_batch": (Thing("green", "square", "grow", ""),)}
#: Frames of those that are not as long as the others.
DEMO_FRAMES = {"hyvideo_demo_long": 49, "hyvideo_demo_loop": 20}
TOY_FRAMES = {"hyvideo_loop": 8}
SIZE_PX = (SMALL_SIZE["resolution.width"], SMALL_SIZE["resolution.height"])
NOTES = ("Note", "MarkdownNote")
FILE_INPUTS = {"model", "vae", "llm", "clip", "vision", "lora", "vae_name", "clip_name1", "clip_name2"}


@pytest.fixture(autouse=True)
def inputs(server):
    """What these workflows need beside models: the host's own picture, and a clip of the user's."""
    shutil.copy(server.comfyui / "input" / "example.png", server.base / "input")
    path = server.base / "input" / CLIP
    if not path.is_file():
        greys = (np.full((*reversed(SIZE_PX), 3), 60 + 20 * number, np.uint8) for number in range(FRAMES))
        write_mp4(greys, path, fps=24.0, crf=16)


def without_fingerprints(prompt):
    """The prompt as it was queued: the host writes the loaders' fingerprints into it."""
    return {name: {key: value for key, value in node.items() if key != "is_changed"} for name, node in prompt.items()}


def assert_shows(frames, things):
    """The judge sees the things on white in frames [F, H, W, 3] of bytes, and nothing else."""
    verdict = obedience(see(torch.from_numpy(frames).movedim(-1, 0) / 127.5 - 1), Scene(*SIZE_PX, "white", things))
    assert verdict.all, verdict


def pictures(studio, outputs):
    """What a workflow saved of pictures and clips, in the order of its nodes."""
    found = [path for node_id in sorted(outputs, key=int) for path in studio.files(outputs, node_id)]
    return [path for path in found if path.suffix in (".png", ".mp4")]


def test_there_is_a_demo_of_each_kind():
    assert sorted(DEMO_THINGS) == sorted(set(API) - set(REAL_NAMES))


@pytest.mark.parametrize("name", [name for name in DEMO_THINGS if "image" not in name])
def test_a_demo_workflow_makes_an_mp4_of_its_prompt_with_itself_inside(studio, clip, name):
    workflow = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    outputs = studio.run(API[name], extra_data={"extra_pnginfo": {"workflow": workflow}})
    shown = [DEMO_THINGS[name], *([SECOND_THINGS[name]] if name in SECOND_THINGS else [])]
    for path, things in zip(pictures(studio, outputs), shown, strict=True):
        video = clip(path)
        assert path.suffix == ".mp4"
        assert video.size_px == SIZE_PX
        assert len(video.frames) == DEMO_FRAMES.get(name, DEMO_VIDEO.frames)
        assert video.fps == 24.0
        assert video.codec == "h264"
        assert json.loads(video.tags["workflow"]) == workflow
        assert without_fingerprints(json.loads(video.tags["prompt"])) == API[name]
        assert_shows(video.frames, things)


def test_the_demo_image_workflow_makes_one_png_of_its_prompt(studio):
    (path,) = pictures(studio, studio.run(API["hyvideo_demo_image"]))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == SIZE_PX
        assert without_fingerprints(json.loads(image.info["prompt"])) == API["hyvideo_demo_image"]
        assert_shows(np.asarray(image.convert("RGB"))[None], DEMO_THINGS["hyvideo_demo_image"])


def test_what_is_inverted_stays_where_it_was(studio, clip):
    """The square is drawn away from the middle, where the model puts things by itself."""
    video = clip(*pictures(studio, studio.run(API["hyvideo_demo_rf_inversion"])))
    columns = np.nonzero(video.frames.mean(axis=(0, 3)) < 200)[1]
    assert columns.mean() > 56


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
    assert set(found) == {each.file for each in WORKFLOWS[name].files.downloads}
    assert all(file in details for file, details in found.items())


@pytest.mark.parametrize("name", REAL_NAMES)
def test_a_workflow_for_the_real_files_makes_what_it_promises(studio, clip, name):
    made = pictures(studio, studio.run(with_toy_files(name)))
    assert len(made) == (2 if name == "hyvideo_batch" else 1)
    for path in made:
        if "image" in name:
            with Image.open(path) as image:
                assert (image.format, image.size) == ("PNG", SIZE_PX)
            continue
        video = clip(path)
        assert (path.suffix, video.codec) == (".mp4", "h264")
        assert (video.size_px, len(video.frames), video.fps) == (SIZE_PX, TOY_FRAMES.get(name, FRAMES), 24.0)


def test_sparse_attention_leaves_something_out(studio):
    studio.run(with_toy_files("hyvideo_sparse_attention"))
    found = re.findall(r"a video token attended to (\d+)% of the video", studio.server.log.read_text("utf-8"))
    assert found
    assert 0 < int(found[-1]) < 100


def test_the_committed_files_are_what_the_running_host_gives(client):
    rendered = render_all(client.object_info())
    assert {*FOLDER.glob("*.json"), *(FOLDER / "api").glob("*.json")} <= rendered.keys()
    stale = [path.name for path, content in rendered.items() if path.read_text("utf-8") != content]
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
