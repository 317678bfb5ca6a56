"""The examples that users copy from: they run as they are, and say what went wrong in the server's words."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tools.client import ComfyClient
from tools.demo_model.judge import obedience, see
from tools.demo_model.world import Scene, Thing
from tools.paths import WORKFLOWS
from tools.server import Server, free_port
from tools.toy_model.workflows import with_toy_files
from tools.workflow_graphs import REAL

pytestmark = pytest.mark.server

PYTHON, SHELL = "client.py", "client.sh"
SIZE_PX = (96, 48)
PROMPT = "a red square moving right on a white background"
#: A name that shells and URLs must quote.
IMAGE = "ein Bild, é & 視頻.png"
TOO_LONG = "a red circle " * 150

needs_curl = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("sh", "curl", "jq")), reason="sh, curl and jq are needed"
)
both = pytest.mark.parametrize("example", [PYTHON, pytest.param(SHELL, marks=needs_curl)])
Example = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The examples with the workflows, of which one has the toy model's files, in a folder with a space."""
    copy = tmp_path / "the pack"
    shutil.copytree(WORKFLOWS, copy)
    native = "hyvideo_image_native_nodes"
    (copy / f"{native}.json").write_text(json.dumps(with_toy_files(native)), encoding="utf-8")
    return copy


def command(example: str, folder: Path, workflow: str, prompt: str, image: Path | None = None) -> list[str]:
    if example == PYTHON:
        given = ["--image", str(image)] if image else []
        return [sys.executable, str(folder / PYTHON), "--workflow", workflow, "--prompt", prompt, *given]
    return ["sh", str(folder / SHELL), workflow, prompt, *([str(image)] if image else [])]


def with_server(command: list[str], url: str) -> tuple[list[str], dict[str, str]]:
    """The command for this server, and its environment."""
    environment = {**os.environ, "PYTHONUTF8": "1", "no_proxy": "127.0.0.1", "COMFYUI_URL": url}
    return [*command, *(["--server", url] if PYTHON in command[1] else [])], environment


def run(command: list[str], url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    whole, environment = with_server(command, url)
    return subprocess.run(whole, cwd=folder, capture_output=True, text=True, encoding="utf-8", env=environment)


def square(path: Path) -> Path:
    """A red square on white, where the model may go on."""
    image = Image.new("RGB", SIZE_PX, "white")
    ImageDraw.Draw(image).rectangle((20, 13, 41, 34), fill=(217, 26, 26))
    image.save(path)
    return path


@both
def test_an_example_makes_a_video_of_an_uploaded_image(
    server: Server, folder: Path, tmp_path: Path, clip, example: str
) -> None:
    image = square(tmp_path / IMAGE)
    done = run(command(example, folder, "hyvideo_demo_i2v", PROMPT, image), server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    assert (tmp_path / name).read_bytes() == (server.output / "video" / name).read_bytes()
    video = clip(tmp_path / name)
    assert json.loads(video.tags["prompt"])["8"]["inputs"] == {"image": IMAGE}
    seen = see(torch.from_numpy(video.frames).movedim(-1, 0) / 127.5 - 1)
    assert obedience(seen, Scene(*SIZE_PX, "white", (Thing("red", "square", "right", ""),))).all
    if example == PYTHON:
        assert list(tmp_path.glob("preview.*")), "no preview came"
    first = np.asarray(Image.open(image).convert("RGB"), np.float32)
    assert np.abs(video.frames[0] - first).mean() < 20


@both
@pytest.mark.parametrize("workflow", ["hyvideo_demo_image", "hyvideo_image_native_nodes"])
def test_an_example_writes_the_prompt_where_the_workflow_has_it(
    server: Server, folder: Path, tmp_path: Path, example: str, workflow: str
) -> None:
    done = run(command(example, folder, workflow, "a green cross on a black background"), server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / done.stdout.strip()) as image:
        assert "a green cross" in image.info["prompt"]


@both
def test_an_example_says_what_is_wrong_with_a_workflow(
    server: Server, folder: Path, tmp_path: Path, example: str
) -> None:
    done = run(command(example, folder, "hyvideo_t2v", PROMPT), server.url, tmp_path)
    assert done.returncode == 1
    assert not done.stdout
    assert "Traceback" not in done.stderr
    for file in (REAL.model, REAL.vae, REAL.llm, REAL.clip):
        assert re.search(rf"^node \d+, .*: Value not in list: .*{re.escape(file)}", done.stderr, re.MULTILINE)


@both
@pytest.mark.parametrize(
    ("workflow", "is_there", "told"),
    [("hyvideo_demo_i2v", False, "there is no file"), ("hyvideo_demo_t2v", True, "no node titled Image")],
)
def test_an_example_refuses_an_image_that_is_not_there_or_that_no_node_takes(
    server: Server, folder: Path, tmp_path: Path, example: str, workflow: str, is_there: bool, told: str
) -> None:
    image = tmp_path / "image.png"
    if is_there:
        square(image)
    done = run(command(example, folder, workflow, PROMPT, image), server.url, tmp_path)
    assert done.returncode != 0
    assert not done.stdout
    assert told in done.stderr.replace("There", "there")
    assert "Traceback" not in done.stderr


@both
def test_an_example_ends_with_the_message_of_the_node_that_failed(
    server: Server, folder: Path, tmp_path: Path, example: str
) -> None:
    done = run(command(example, folder, "hyvideo_demo_t2v", TOO_LONG), server.url, tmp_path)
    assert done.returncode == 1
    assert re.match(r"(Prompt|HyvEncodePrompt): prompt: .*has room for 255", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@both
def test_an_example_tells_where_no_server_answers(folder: Path, tmp_path: Path, example: str) -> None:
    port = free_port()
    done = run(command(example, folder, "hyvideo_demo_t2v", PROMPT), f"http://127.0.0.1:{port}", tmp_path)
    assert done.returncode
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_without_http_is_told(folder: Path, tmp_path: Path) -> None:
    done = run(command(PYTHON, folder, "hyvideo_demo_t2v", PROMPT), "127.0.0.1:8188", tmp_path)
    assert done.returncode == 2
    assert "--server: is '127.0.0.1:8188', but must begin with http:// or https://" in done.stderr


def test_a_workflow_that_is_not_there_is_told_with_those_that_are(folder: Path, tmp_path: Path) -> None:
    done = run(command(PYTHON, folder, "none_such", PROMPT), "http://127.0.0.1:1", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"There is no {folder / 'none_such.json'}. ")
    assert all(path.stem in done.stderr for path in folder.glob("*.json"))


@pytest.mark.parametrize("content", [b'{"1": {} "2": {}}', b"\xff\xfe{"])
def test_a_workflow_that_cannot_be_read_is_told_with_its_file(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / "broken.json").write_bytes(content)
    done = run(command(PYTHON, folder, "broken", PROMPT), "http://127.0.0.1:1", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{folder / 'broken.json'} holds no workflow (")


def test_a_python_without_websocket_client_is_told_what_to_install(folder: Path, tmp_path: Path) -> None:
    python, *rest = command(PYTHON, folder, "hyvideo_demo_t2v", PROMPT)
    done = run([python, "-S", *rest], "", tmp_path)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(f"{python} -m pip install websocket-client")
    assert "Traceback" not in done.stderr


@pytest.fixture
def endless(folder: Path) -> str:
    """A workflow that goes on until it is stopped."""
    workflow = json.loads((folder / "hyvideo_demo_t2v.json").read_text("utf-8"))
    (sampler,) = (node for node in workflow.values() if node["class_type"] == "HyvSampler")
    sampler["inputs"]["steps"] = 1000
    (folder / "endless.json").write_text(json.dumps(workflow), encoding="utf-8")
    return "endless"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(client: ComfyClient) -> list[str]:
    return [entry[1] for entry in client.queue_state()["queue_running"]]


@both
def test_an_example_tells_that_somebody_stopped_its_job(
    server: Server, client: ComfyClient, folder: Path, tmp_path: Path, endless: str, example: str
) -> None:
    whole, environment = with_server(command(example, folder, endless, PROMPT), server.url)
    with subprocess.Popen(whole, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        wait_for(lambda: bool(running(client)))
        client.interrupt()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted" in told


@both
def test_an_example_tells_that_its_job_was_cancelled_while_it_waited(
    server: Server, client: ComfyClient, folder: Path, tmp_path: Path, endless: str, example: str
) -> None:
    first = client.queue(json.loads((folder / f"{endless}.json").read_text("utf-8")))
    wait_for(lambda: running(client) == [first])
    whole, environment = with_server(command(example, folder, "hyvideo_demo_t2v", PROMPT), server.url)
    with subprocess.Popen(whole, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        wait_for(lambda: bool(client.queue_state()["queue_pending"]))
        client.post("/queue", {"clear": True})
        _, told = process.communicate(timeout=60)
    client.interrupt(first)
    wait_for(lambda: not running(client))
    assert process.returncode == 1
    assert "cancelled while it waited" in told


@both
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal for one process")
def test_ctrl_c_cancels_the_job_on_the_server(
    server: Server, client: ComfyClient, folder: Path, tmp_path: Path, endless: str, example: str
) -> None:
    whole, environment = with_server(command(example, folder, endless, PROMPT), server.url)
    with subprocess.Popen(
        whole,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        wait_for(lambda: bool(running(client)))
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    wait_for(lambda: not running(client))


@pytest.fixture(scope="module")
def example_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_client", WORKFLOWS / PYTHON)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("image", "suffix"), [(b"\xff\xd8\xff\xe0", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF....WEBP", ".webp")]
)
def test_a_preview_is_kept_under_what_it_is(
    example_module: ModuleType, tmp_path: Path, image: bytes, suffix: str
) -> None:
    # Source: ComfyUI server.py, encode_bytes and send_image: the event, the image's kind, the image.
    example_module.save_preview(b"\0\0\0\1" + b"\0\0\0\1" + image, tmp_path)
    assert (tmp_path / f"preview{suffix}").read_bytes() == image


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (
            {"status": "failed", "execution_error": {"node_id": "4", "exception_message": "too long\n"}},
            "Prompt: too long",
        ),
        ({"status": "cancelled"}, "interrupted"),
    ],
)
def test_an_end_that_no_event_told_of_is_told_by_the_job(
    example_module: ModuleType, monkeypatch: pytest.MonkeyPatch, job: dict, told: str
) -> None:
    monkeypatch.setattr(example_module, "request", lambda *_: json.dumps(job).encode())
    with pytest.raises(example_module.Failed, match=f"^{told}$"):
        example_module.has_ended("", "", {"4": {"_meta": {"title": "Prompt"}}})


@pytest.mark.parametrize(("status", "ended"), [("completed", True), ("in_progress", False), ("pending", False)])
def test_a_job_that_goes_on_is_waited_for(
    example_module: ModuleType, monkeypatch: pytest.MonkeyPatch, status: str, ended: bool
) -> None:
    monkeypatch.setattr(example_module, "request", lambda *_: json.dumps({"status": status}).encode())
    assert example_module.has_ended("", "", {}) is ended


def test_files_are_fetched_once_the_job_is_on_record(
    example_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Source: ComfyUI execution.py: execution_success is sent before PromptQueue.task_done writes the history.
    saved = {"filename": "a.mp4", "subfolder": "video", "type": "output"}
    histories = iter([{}, {}, {"a job": {"outputs": {"7": {"images": [saved], "animated": [True]}}}}])

    def answer(_server: str, path: str) -> bytes:
        if path == "/history/a job":
            return json.dumps(next(histories)).encode()
        assert path == "/view?filename=a.mp4&subfolder=video&type=output"
        return b"a video"

    monkeypatch.setattr(example_module, "request", answer)
    assert example_module.download("", "a job", tmp_path) == [tmp_path / "a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"a video"


def test_a_success_without_a_record_is_told_as_that(
    example_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(example_module, "request", lambda *_: b"{}")
    monkeypatch.setattr(example_module, "RECORD_S", 0.1)
    with pytest.raises(example_module.Failed, match=r"^Job 5 succeeded, but http://there has no record of its files"):
        example_module.download("http://there", "5", tmp_path)


def test_a_message_that_is_no_preview_is_not_kept(example_module: ModuleType, tmp_path: Path) -> None:
    example_module.save_preview(b"\0\0\0\3" + b"\0\0\0\1" + b"text about a node", tmp_path)
    assert not list(tmp_path.iterdir())
