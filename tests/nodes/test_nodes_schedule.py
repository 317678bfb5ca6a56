"""Solvers, and noise levels as the host's own SIGMAS in both directions, on the real server."""

import jobs
import pytest
import torch

from hyvideo_core.sample import SOLVERS
from hyvideo_core.sample.schedule import shift_for


@pytest.fixture
def latent(studio):
    """The latent of a text-to-video job with changes."""
    return lambda changes=None, extra=None: studio.saved_latent(jobs.text_to_latent(changes) | (extra or {}))


def schedule(**settings):
    return {"levels": jobs.node("HyvSchedule", **{"steps": 3, "shift": 7.0, "denoise": 1.0, **settings})}


def test_every_solver_makes_another_video_and_euler_is_the_default(latent):
    found = {name: latent({"sampler.solver": name}) for name in SOLVERS}
    assert torch.equal(found["euler"], latent())
    for i, (name, one) in enumerate(found.items()):
        for other in list(found)[:i]:
            assert not torch.equal(one, found[other]), (name, other)


def test_a_schedule_says_what_the_samplers_own_settings_say(latent):
    by_wire = {"sampler.sigmas": ["levels", 0], "sampler.steps": 50, "sampler.shift": 2.0}
    assert torch.equal(latent(by_wire, schedule()), latent())
    assert torch.equal(latent(by_wire, schedule(shift=3.0)), latent({"sampler.shift": 3.0}))


def test_a_native_schedule_is_taken(latent):
    # Beta57-like curves differ, so the host's own levels are compared with the same by hand.
    levels = {"levels": jobs.node("ManualSigmas", sigmas="1.0, 0.9333, 0.77778, 0.0")}
    by_hand, own = latent({"sampler.sigmas": ["levels", 0]}, levels), latent()
    assert (by_hand - own).norm() / own.norm() < 0.01


@pytest.mark.parametrize("solver", ["euler", "heun", "euler stochastic", "lcm"])
def test_two_samplers_on_a_split_schedule_make_the_whole(studio, latent, solver):
    setting = {"model.dtype": "float32", "sampler.solver": solver}
    job = jobs.text_to_latent(setting | {"sampler.sigmas": ["split", 0]}) | schedule()
    job["split"] = jobs.node("SplitSigmas", sigmas=["levels", 0], step=1)
    second = {**job["sampler"]["inputs"], "sigmas": ["split", 1], "latent": ["sampler", 0], "add_noise": False}
    job["second"] = jobs.node("HyvSampler", **second)
    job["save"]["inputs"]["samples"] = ["second", 0]
    whole = latent(setting)
    assert (studio.saved_latent(job) - whole).norm() / whole.norm() < 1e-5


def planned(studio, changes):
    """What the plan in the log says of a run."""
    before = len(studio.server.log.read_text("utf-8", "replace"))
    studio.latent(changes)
    log = studio.server.log.read_text("utf-8", "replace")[before:]
    return [line.partition("plan: ")[2] for line in log.splitlines() if "plan: " in line]


def test_batched_cfg_is_planned_as_twice_as_many_clips(studio):
    cfg = {"sampler.cfg": 3.0, "sampler.negative": ["prompt", 1]}
    large = {"size.resolution.width": 640, "size.resolution.height": 640, "sampler.steps": 1}
    one, batched, two = (
        planned(studio, cfg | large | {"sampler.seed": 5} | more)
        for more in ({}, {"sampler.batched_cfg": True}, {"size.batch_size": 2})
    )
    assert one
    assert batched == two != one


def test_batched_cfg_is_the_same_but_for_rounding(latent):
    cfg = {"model.dtype": "float32", "sampler.cfg": 3.0, "sampler.negative": ["prompt", 1]}
    apart, together = latent(cfg), latent(cfg | {"sampler.batched_cfg": True})
    assert (together - apart).norm() / apart.norm() < 1e-4


def test_a_schedule_that_begins_a_rounding_above_one_is_taken(latent):
    levels = {"levels": jobs.node("ManualSigmas", sigmas="1.0000001, 0.93, 0.77, 0.0")}
    exact = {"levels": jobs.node("ManualSigmas", sigmas="1.0, 0.93, 0.77, 0.0")}
    by_wire = {"sampler.sigmas": ["levels", 0]}
    assert torch.equal(latent(by_wire, levels), latent(by_wire, exact))


@pytest.mark.parametrize("sigmas", ["14.6, 3.0, 0.0", "0.0, 1.0", "1.0, 0.5, 0.5, 0.0"])
def test_levels_of_another_kind_of_model_are_an_error(studio, sigmas):
    job = jobs.text_to_latent({"sampler.sigmas": ["levels", 0]})
    job["levels"] = jobs.node("ManualSigmas", sigmas=sigmas)
    error = studio.failure(job)
    assert "falling levels between 1 and 0 are needed" in error
    assert "HyVideo Schedule" in error


def test_the_size_of_the_video_decides_the_shift_where_the_latent_is_connected(latent):
    by_wire = {"sampler.sigmas": ["levels", 0]}
    by_size = latent(by_wire, schedule(latent=["size", 0]))
    assert torch.equal(by_size, latent({"sampler.shift": shift_for(2 * 3 * 4, max_shift=1.95)}))
    for end in ("base_shift", "max_shift"):
        assert not torch.equal(latent(by_wire, schedule(latent=["size", 0], **{end: 0.8})), by_size)
