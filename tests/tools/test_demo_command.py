"""The demo command fills in a workflow, shows its progress, and finds the video."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tools import demo
from tools.client import Event, ExecutionFailed
from tools.console import ToolError
from tools.demo_model.judge import obedience, see
from tools.demo_model.world import Scene, Thing
from tools.paths import ROOT

GRAPH = {
    "1": {"class_type": "HyvEncodePrompt", "inputs": {"prompt": "old"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "old"}, "_meta": {"title": "Negative prompt"}},
    "3": {"class_type": "HyvSampler", "inputs": {"seed": 1, "steps": 4}, "_meta": {"title": "Sample"}},
    "4": {"class_type": "Other", "inputs": {"seed": ["3", 0]}},
}


@pytest.fixture
def graph() -> dict:
    return json.loads(json.dumps(GRAPH))


def test_the_prompt_reaches_every_prompt_node_but_the_negative_one(graph: dict) -> None:
    demo.set_prompt(graph, "a dog")
    assert graph["1"]["inputs"]["prompt"] == "a dog"
    assert graph["2"]["inputs"]["text"] == "old"


def test_a_workflow_without_a_prompt_node_is_refused() -> None:
    with pytest.raises(ToolError, match="HyvEncodePrompt"):
        demo.set_prompt({"1": {"class_type": "EmptyImage", "inputs": {}}}, "a dog")


def test_the_seed_replaces_numbers_and_never_links(graph: dict) -> None:
    demo.set_seed(graph, 7)
    assert graph["3"]["inputs"] == {"seed": 7, "steps": 4}
    assert graph["4"]["inputs"]["seed"] == ["3", 0]


def test_an_unknown_workflow_is_named() -> None:
    with pytest.raises(ToolError, match="no_such_workflow"):
        demo.load_workflow("no_such_workflow")


def test_a_workflow_in_ui_format_is_refused_with_the_way_to_export_it(tmp_path: Path) -> None:
    (tmp_path / "ui.json").write_text('{"nodes": [], "links": []}')
    with pytest.raises(ToolError, match="Export"):
        demo.load_workflow(str(tmp_path / "ui.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read"), ("[1]", "Export"), ('{"1": {"class_type": "X"}}', "Export"), ("null", "Export")],
)
def test_a_broken_workflow_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ToolError, match=words):
        demo.load_workflow(str(tmp_path / "x.json"))


def step(value: int) -> Event:
    return Event("progress", {"node": "3", "value": value, "max": 4})


def test_progress_names_the_node_its_steps_and_their_pace(graph: dict) -> None:
    events = [Event("executing", {"node": "3"}), *(step(i) for i in range(1, 5)), Event("execution_success", {})]
    lines = list(demo.progress_lines(iter(events), graph, every_step=True))
    assert lines[0] == "… Sample"
    assert lines[1] == f"… Sample [{'#' * 6}{'.' * 18}] 1/4"
    assert "4/4" in lines[4]
    assert lines[4].endswith("s/step")
    assert lines[5].startswith("✓")
    assert len(list(demo.progress_lines(iter(events), graph, every_step=False))) == 3


def test_a_failed_run_is_told_with_its_node(graph: dict) -> None:
    data = {"node_id": "3", "node_type": "HyvSampler", "exception_type": "E", "exception_message": "NaN in step 2"}
    events = iter([Event("execution_error", data)])
    with pytest.raises(ExecutionFailed, match=r"HyvSampler.*NaN in step 2"):
        list(demo.progress_lines(events, graph, every_step=True))


def test_the_video_is_found_among_previews_and_images() -> None:
    outputs = {
        "1": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}], "text": ["x"]},
        "2": {"images": [{"filename": "b.mp4", "subfolder": "s", "type": "output"}], "animated": [True]},
        "3": {"images": [{"filename": "c.mp4", "subfolder": "", "type": "temp"}]},
    }
    assert demo.finished_video({"outputs": outputs}, Path("out")) == Path("out/s/b.mp4")
    with pytest.raises(ToolError, match="saved no file"):
        demo.finished_video({"outputs": {}}, Path("out"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "background", "thing"),
    [
        ("a red circle moving left on a white background", "white", Thing("red", "circle", "left", "")),
        ("A yellow triangle grows. The background is blue.", "blue", Thing("yellow", "triangle", "grow", "")),
    ],
)
def test_the_command_makes_the_video_that_the_prompt_describes(
    tmp_path: Path, prompt: str, background: str, thing: Thing
) -> None:
    command = [sys.executable, str(ROOT / "tools" / "dev.py"), "demo", "--prompt", prompt, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    path = Path(done.stdout.splitlines()[-1])
    assert path.is_relative_to(tmp_path)
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    clip = torch.from_numpy(frames).movedim(-1, 0) / 127.5 - 1
    verdict = obedience(see(clip), Scene(clip.shape[3], clip.shape[2], background, (thing,)))
    assert verdict.all, verdict
