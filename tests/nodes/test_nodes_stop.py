"""Stopping: while it samples, while it waits, and by an error; the next job works and nothing stays behind."""

from __future__ import annotations

import time

import jobs
import psutil
import pytest
import torch

import models

MANY_STEPS = {"sampler.steps": 1000, "size.frames": 33}
#: One block takes a fraction of a second here; a stop that waits for the whole step, or for the run, takes minutes.
STOP_S = 10.0
#: What readings of the same state differ by, with room.
GROWTH_MIB = 8
#: What a job must be seen to hold before it is stopped; its exception's frames alone hold a fifth of it.
HELD_MIB = 60


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


LARGE = {"size.resolution.width": 256, "size.resolution.height": 256, "size.frames": 33, "size.batch_size": 16}


@pytest.fixture
def deep(studio, place):
    """Changes to a job: many quick blocks with large activations, so that a step takes as long as 100 blocks."""
    place("diffusion_models/cheap.safetensors", models.cheap_transformer())
    place("diffusion_models/deep.safetensors", models.transformer(hidden_size=128, heads=1, single_blocks=100))
    changes = {"model.model": "deep.safetensors", "sampler.steps": 1}
    # Kernels for these shapes stay compiled, and weights loaded; neither is what a stopped run must give back.
    studio.latent(LARGE | changes | {"model.model": "cheap.safetensors"})
    studio.latent(changes)
    # The host keeps the empty latent for the next job.
    job = jobs.text_to_latent(LARGE | {"save.samples": ["size", 0]})
    studio.run({name: job[name] for name in ("size", "save")})
    return LARGE | changes


def test_a_stop_takes_effect_within_one_block_and_gives_its_memory_back(studio, deep):
    before = studio.rss_mib()
    for seed in range(3):
        prompt_id = studio.client.queue(jobs.text_to_latent(deep | {"sampler.seed": seed}))
        wait_for_memory(studio, before + HELD_MIB)
        final, seconds = stop(studio, prompt_id)
        assert final.type == "execution_interrupted"
        assert final.data["node_id"] == "sampler"
        assert seconds < STOP_S
        # Without a /free.
        assert studio.rss_mib() - before < GROWTH_MIB


def wait_for_memory(studio, level_mib):
    """Wait until the running job holds so much: only then is it seen whether that is given back."""
    deadline = time.monotonic() + 60
    while studio.rss_mib() < level_mib:
        assert time.monotonic() < deadline, f"the job never holds {level_mib} MiB"
        time.sleep(0.005)


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
    folder = studio.server.output / "stopped"
    job = {
        "picture": jobs.node("EmptyImage", width=512, height=512, batch_size=400, color=0),
        "save": jobs.node("HyvSaveVideo", images=["picture", 0], fps=24.0, crf=0, filename_prefix="stopped/clip"),
    }
    prompt_id = studio.client.queue(job)
    deadline = time.monotonic() + 60
    # A first ffmpeg only tells which encoders it has.
    while not (encoders(studio) and folder.is_dir() and any(folder.iterdir())):
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.005)
    final, _ = stop(studio, prompt_id)
    assert final.type == "execution_interrupted"
    assert final.data["node_id"] == "save"
    assert not list(folder.iterdir())
    assert not encoders(studio)
    studio.assert_works()


def encoders(studio):
    """Processes of ffmpeg that the server started."""
    children = psutil.Process(studio.server.pid).children(recursive=True)
    return [child for child in children if "ffmpeg" in child.name()]


def test_an_error_in_the_middle_leaves_the_server_as_it_was(studio, place):
    tensors = models.cheap_transformer()
    tensors["single_blocks.0.linear2.bias"][:] = float("inf")
    place("diffusion_models/overflow.safetensors", tensors)
    place("diffusion_models/cheap.safetensors", models.cheap_transformer())
    size = {"size.resolution.width": 128, "size.resolution.height": 128, "size.frames": 33, "size.batch_size": 32}
    failing = jobs.text_to_latent(size | {"model.model": "overflow.safetensors"})
    expected = studio.latent()
    studio.latent(size | {"model.model": "cheap.safetensors", "sampler.steps": 1})
    studio.assert_works()
    before = studio.rss_mib()
    for _ in range(4):
        assert "NaN or infinity in step 1" in studio.failure(failing)
    # Without a /free: nothing of what a failed job held may stay.
    assert studio.rss_mib() - before < GROWTH_MIB
    assert torch.equal(studio.latent(), expected)
