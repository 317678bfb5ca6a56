"""Stopping: while it samples, while it waits, and by an error; the next job works and nothing stays behind."""

from __future__ import annotations

import time

import jobs
import psutil
import pytest
import torch
from safetensors.torch import load_file

from tools.paths import DEMO_MODELS

MANY_STEPS = {"sampler.steps": 1000, "size.frames": 33}
#: One block of the demo model takes milliseconds; a stop that waits for the whole run takes minutes.
STOP_S = 10.0


def wait_until_sampling(client, prompt_id):
    """Follow the run until a few steps are done."""
    for event in client.follow(prompt_id, timeout_s=60):
        if event.type == "progress" and event.data["node"] == "sampler" and event.data["value"] >= 3:
            return event.data["value"]
    pytest.fail("the run ended before it was stopped")


def stop(studio, prompt_id):
    """Interrupt, and return the final event and how long it took to come."""
    asked = time.monotonic()
    studio.client.interrupt()
    final = [event for event in studio.client.follow(prompt_id, timeout_s=60) if event.is_final][-1]
    return final, time.monotonic() - asked


def status_kinds(record):
    return [kind for kind, _ in record["status"]["messages"]]


def test_a_stop_takes_effect_at_once_and_the_next_job_runs(studio):
    prompt_id = studio.client.queue(jobs.text_to_latent(MANY_STEPS))
    wait_until_sampling(studio.client, prompt_id)
    final, seconds = stop(studio, prompt_id)
    assert final.type == "execution_interrupted"
    assert final.data["node_id"] == "sampler"
    assert seconds < STOP_S
    record = studio.client.history(prompt_id)
    assert "execution_interrupted" in status_kinds(record)
    assert not record["outputs"]
    studio.assert_works()


def test_a_stopped_run_leaves_the_result_of_the_next_one_as_it_was(studio):
    expected = studio.latent()
    studio.drop_results()
    prompt_id = studio.client.queue(jobs.text_to_latent(MANY_STEPS))
    wait_until_sampling(studio.client, prompt_id)
    stop(studio, prompt_id)
    assert torch.equal(studio.latent(), expected)


def test_stopping_again_and_again_holds_no_memory(studio):
    levels = []
    for seed in range(4):
        prompt_id = studio.client.queue(jobs.text_to_latent(MANY_STEPS | {"sampler.seed": seed}))
        wait_until_sampling(studio.client, prompt_id)
        assert stop(studio, prompt_id)[0].type == "execution_interrupted"
        studio.release()
        levels.append(studio.rss_mib())
    assert levels[-1] - levels[0] < 40, levels


def test_a_waiting_job_can_be_cancelled(studio):
    running = studio.client.queue(jobs.text_to_latent(MANY_STEPS))
    waiting = studio.client.queue(jobs.text_to_latent({"sampler.seed": 77}))
    wait_until_sampling(studio.client, running)
    studio.client.post("/queue", {"delete": [waiting]})
    assert not studio.client.queue_state()["queue_pending"]
    assert stop(studio, running)[0].type == "execution_interrupted"
    assert studio.client.history(waiting) is None
    studio.assert_works()


@pytest.mark.parametrize("tiling", ["whole", "tiled"])
def test_a_stop_takes_effect_while_decoding(studio, tiling):
    big = {"size.resolution.width": 256, "size.resolution.height": 256, "size.frames": 33, "sampler.steps": 1}
    prompt_id = studio.client.queue(jobs.text_to_images(big | {"decode.tiling": tiling, "decode.tiling.tile_size": 64}))
    for event in studio.client.follow(prompt_id, timeout_s=60):
        if event.type == "progress" and event.data["node"] == "decode":
            break
    final, seconds = stop(studio, prompt_id)
    assert final.type == "execution_interrupted"
    assert final.data["node_id"] == "decode"
    assert seconds < STOP_S
    studio.assert_works()


def test_a_stop_while_saving_leaves_no_file_and_no_encoder(studio):
    job = {
        "picture": jobs.node("EmptyImage", width=1024, height=1024, batch_size=120, color=0),
        "save": jobs.node("HyvSaveVideo", images=["picture", 0], fps=24.0, crf=0, filename_prefix="stopped/clip"),
    }
    prompt_id = studio.client.queue(job)
    for event in studio.client.follow(prompt_id, timeout_s=60):
        if event.type == "executing" and event.data["node"] == "save":
            break
    assert stop(studio, prompt_id)[0].type == "execution_interrupted"
    assert not list((studio.server.output / "stopped").iterdir())
    children = psutil.Process(studio.server.pid).children(recursive=True)
    assert not [child for child in children if "ffmpeg" in child.name()]
    studio.assert_works()


def test_an_error_in_the_middle_leaves_the_server_as_it_was(studio, place):
    tensors = load_file(DEMO_MODELS / "diffusion_models" / jobs.MODEL)
    tensors["single_blocks.3.linear2.bias"][:] = float("inf")
    place("diffusion_models/overflow.safetensors", tensors)
    expected = studio.latent()
    levels = []
    for _ in range(4):
        assert "NaN or infinity in step 1" in studio.failure(
            jobs.text_to_latent({"model.model": "overflow.safetensors"})
        )
        studio.release()
        levels.append(studio.rss_mib())
    assert levels[-1] - levels[0] < 40, levels
    assert torch.equal(studio.latent(), expected)
