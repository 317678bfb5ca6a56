"""Batches: several seeds and several prompts in one queue entry, each clip as if it were alone."""

from __future__ import annotations

import jobs
import pytest

EXACT = {"model.dtype": "float32", "sampler.steps": 2}
OTHER = "A red car drives through the rain."


def is_alike(found, expected):
    return (found - expected).norm() / expected.norm() < 1e-4


def picked(number, count=1):
    """A batch of three empty latents of which the host takes some, with the numbers they had."""
    job = jobs.text_to_latent(EXACT | {"size.batch_size": 3, "sampler.latent": ["pick", 0]})
    job["pick"] = jobs.node("LatentFromBatch", samples=["size", 0], batch_index=number, length=count)
    return job


def test_a_clip_taken_out_of_a_batch_has_the_noise_it_has_in_the_batch(studio):
    whole = studio.latent(EXACT | {"size.batch_size": 3})
    assert is_alike(studio.saved_latent(picked(1, 2)), whole[1:])
    assert is_alike(studio.saved_latent(picked(0)), studio.latent(EXACT))


def test_a_clip_taken_out_of_a_batch_has_the_noise_that_a_solver_adds_in_the_batch(studio):
    noisy = {"sampler.solver": "lcm"}
    whole = studio.latent(EXACT | noisy | {"size.batch_size": 3})
    assert is_alike(studio.saved_latent(jobs.changed(picked(1, 2), noisy)), whole[1:])


def test_latents_of_one_number_have_one_noise(studio):
    job = picked(2)
    job["repeat"] = jobs.node("BatchLatentsNode", **{"latents.latent0": ["pick", 0], "latents.latent1": ["pick", 0]})
    found = studio.saved_latent(jobs.changed(job, {"sampler.latent": ["repeat", 0]}))
    assert is_alike(found[0], found[1])


def test_the_numbers_travel_on_to_the_next_sampler(studio):
    job = picked(2)
    job["second"] = jobs.changed(job, {"sampler.latent": ["sampler", 0]})["sampler"]
    again = {name: content for name, content in job.items() if name not in ("sampler", "pick")}
    direct = jobs.changed(again, {"second.latent": ["size", 0], "save.samples": ["second", 0]})
    through = jobs.changed(job, {"save.samples": ["second", 0]})
    assert is_alike(studio.saved_latent(through), studio.saved_latent(direct)[2:])


def with_prompts(changes=None, count=2):
    """Two prompts of different lengths for two clips."""
    job = jobs.text_to_latent(EXACT | {"size.batch_size": count, "sampler.positive": ["prompts", 0]})
    job["other"] = jobs.changed(job, {"prompt.prompt": OTHER})["prompt"]
    job["prompts"] = jobs.node("HyvBatchPrompts", **{"prompts.prompt0": ["prompt", 0], "prompts.prompt1": ["other", 0]})
    return jobs.changed(job, changes or {})


@pytest.mark.parametrize("cfg", [{}, {"sampler.cfg": 3.0, "sampler.negative": ["prompt", 1]}], ids=["plain", "cfg"])
def test_each_clip_has_its_own_prompt(studio, cfg):
    both = EXACT | cfg | {"size.batch_size": 2}
    first, second = (studio.latent(both | {"prompt.prompt": prompt}) for prompt in (jobs.PROMPT, OTHER))
    found = studio.saved_latent(with_prompts(cfg))
    assert is_alike(found[0], first[0])
    assert is_alike(found[1], second[1])


def test_prompts_for_another_number_of_clips_are_told(studio):
    assert "prompt has 2 rows for a batch of 3" in studio.failure(with_prompts(count=3))


def test_prompts_of_different_guidance_are_told(studio):
    job = with_prompts({"prompts.prompts.prompt1": ["guide", 0]})
    job["guide"] = jobs.node("FluxGuidance", conditioning=["other", 0], guidance=2.5)
    assert "Put FluxGuidance behind HyVideo Batch Prompts" in studio.failure(job)
