"""Runs that go on after a stop and after the death of the server, to the same end bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import jobs
import psutil
import pytest
import torch
from safetensors.torch import load_file

from tools import comfyui
from tools.server import Server
from tools.toy_model import build

STEPS = 24
#: For the whole of a run on a busy machine.
TIMEOUT_S = 600.0
#: A solver that looks back, and a feature whose state begins with the run.
LONG = {
    "sampler.steps": STEPS,
    "sampler.solver": "unipc",
    "sampler.model": ["windows", 0],
    "sampler.checkpoint_every": 2,
    "size.frames": 17,
}
WINDOWS = {"window_frames": 9, "overlap_frames": 4, "schedule": "uniform", "blend": "pyramid", "freenoise": True}


def long_job(changes=None):
    job = jobs.text_to_latent(LONG | (changes or {}))
    return job | {"windows": jobs.node("HyvContextWindows", model=["model", 0], **WINDOWS)}


def wait_for_step(client, prompt_id, step):
    for event in client.follow(prompt_id, timeout_s=TIMEOUT_S):
        if event.type == "progress" and event.data["node"] == "sampler" and event.data["value"] >= step:
            return
    pytest.fail("the run ended before it was stopped")


def checkpoints(output):
    return sorted((output / "hyvideo_checkpoints").glob("*"))


def resumed_after(log):
    """The steps after which runs went on, as the log tells."""
    text = log.read_text("utf-8", "replace")
    return [int(line.split("goes on after step ")[1].split(",")[0]) for line in text.splitlines() if "goes on" in line]


@pytest.fixture
def expected(studio):
    """The result of the uninterrupted run, without checkpoints."""
    outputs = studio.client.run(long_job({"sampler.checkpoint_every": 0}), timeout_s=TIMEOUT_S)["outputs"]
    return load_file(studio.files(outputs)[0])["latent_tensor"]


def test_a_run_goes_on_after_a_stop_and_leaves_nothing(studio, expected):
    prompt_id = studio.client.queue(long_job())
    wait_for_step(studio.client, prompt_id, 5)
    studio.client.interrupt()
    assert [event for event in studio.client.follow(prompt_id, timeout_s=60) if event.is_final]
    (path,) = checkpoints(studio.server.output)
    # Another run does not take it.
    before = resumed_after(studio.server.log)
    studio.saved_latent(long_job({"sampler.seed": 2, "sampler.steps": 4}))
    assert resumed_after(studio.server.log) == before
    assert checkpoints(studio.server.output) == [path]
    assert torch.equal(studio.saved_latent(long_job()), expected)
    assert resumed_after(studio.server.log)[-1] > 3
    assert checkpoints(studio.server.output) == []


def test_a_damaged_checkpoint_is_told_and_the_run_begins_anew(studio):
    job = long_job({"sampler.steps": 6, "sampler.seed": 3, "sampler.checkpoint_every": 1})
    prompt_id = studio.client.queue(job)
    wait_for_step(studio.client, prompt_id, 2)
    studio.client.interrupt()
    assert [event for event in studio.client.follow(prompt_id, timeout_s=60) if event.is_final]
    (path,) = checkpoints(studio.server.output)
    path.write_bytes(path.read_bytes()[:-1])
    found = studio.saved_latent(job)
    assert "The run begins anew" in studio.server.log.read_text("utf-8", "replace")
    whole = long_job({"sampler.steps": 6, "sampler.seed": 3, "sampler.checkpoint_every": 0})
    assert torch.equal(found, studio.saved_latent(whole))


def test_a_run_goes_on_after_the_server_was_killed(tmp_path: Path, expected):
    host = comfyui.locate()
    assert host is not None
    server = Server(host, tmp_path, models=[build.ensure()], native_widths=True, python=Path(sys.executable))
    try:
        server.start()
        with server.client() as client:
            prompt_id = client.queue(long_job())
            wait_for_step(client, prompt_id, 5)
            psutil.Process(server.pid).kill()
        server.stop()
        assert len(checkpoints(server.output)) == 1
        server.start()
        with server.client() as client:
            outputs = client.run(long_job(), timeout_s=TIMEOUT_S)["outputs"]
        (last,) = resumed_after(server.log)
        assert 4 <= last < STEPS
        (file,) = [file for kind in outputs["save"].values() for file in kind]
        found = load_file(server.output / file["subfolder"] / file["filename"])["latent_tensor"]
        assert torch.equal(found, expected)
        assert checkpoints(server.output) == []
    finally:
        server.stop()
