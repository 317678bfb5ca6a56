"""Caches of steps: each setting reaches the result, off is as without, one at a time, and a calibration is used."""

from __future__ import annotations

import re

import jobs
import pytest
import torch
from branches import latents, with_features

#: Enough for steps to be skipped between the first ones and the last.
STEPS = {"sampler.steps": 8}
ALL = 10.0
NODES = {
    "HyvTeaCache": {"threshold": ALL},
    "HyvFirstBlockCache": {"threshold": ALL},
    "HyvEasyCache": {"threshold": ALL, "warm_up": 2},
}


def log(studio) -> str:
    return studio.server.log.read_text("utf-8", "replace")


def test_every_setting_changes_the_video_and_off_does_not(studio):
    changes = [{"warm_up": 4}, {"last": 3}, {"start": 0.5}, {"end": 0.5}]
    kinds = list(NODES.items())
    branches = [[], *([pair] for pair in kinds)]
    branches += [[(kind, usual | {"threshold": 0.0})] for kind, usual in kinds]
    branches += [[(kind, usual | {"device": "cpu"})] for kind, usual in kinds]
    branches += [[(kind, usual | change)] for kind, usual in kinds for change in changes]
    plain, *found = latents(studio, branches, STEPS)
    usual, off, elsewhere, changed = found[:3], found[3:6], found[6:9], found[9:]
    for one, same in zip(usual, elsewhere, strict=True):
        assert torch.isfinite(one).all()
        assert not torch.equal(one, plain)
        assert torch.equal(one, same)
    assert all(torch.equal(one, plain) for one in off)
    for number, one in enumerate(changed):
        assert not torch.equal(one, usual[number // len(changes)]), branches[10 + number]
    for name in ("TeaCache", "First-Block Cache", "EasyCache"):
        assert re.search(rf"{name} skipped [1-6] of 8 steps of positive", log(studio)), name


def test_the_order_of_nodes_is_irrelevant(studio):
    stg = ("HyvSTG", {"scale": 1.0, "blocks": "double 1", "mode": "residual (STG-R)"})
    both = [("HyvTeaCache", NODES["HyvTeaCache"]), stg]
    one, other = latents(studio, [both, both[::-1]], STEPS)
    assert torch.equal(one, other)


@pytest.mark.parametrize("second", ["HyvEasyCache", "HyvTeaCache", "HyvTeaCacheCalibration"])
def test_a_second_cache_is_refused(studio, second):
    features = [("HyvTeaCache", NODES["HyvTeaCache"]), (second, NODES.get(second, {}))]
    error = studio.failure(with_features(features, STEPS))
    assert "model went through HyVideo TeaCache already" in error
    assert "only one cache" in error


def test_a_cache_is_planned_for(studio):
    job = with_features([("HyvFirstBlockCache", NODES["HyvFirstBlockCache"])])
    large = {"size.resolution.width": 1280, "size.resolution.height": 720, "size.frames": 129}
    kept = {name: content for name, content in job.items() if name in ("model", "size", "feature0")}
    plan = jobs.node("HyvPlan", model=["feature0", 0], latent=["size", 0], memory_gb=80.0)
    (told,) = studio.run(jobs.changed(kept, large) | {"plan": plan})["plan"]["text"]
    # Three results of 118,800 tokens of 256 bf16 numbers.
    assert "features 0.18, activations" in told


# --- calibration ----------------------------------------------------------------------------------------------


@pytest.fixture
def calibration(studio):
    """The folder of calibrations, emptied after the test."""
    folder = studio.server.base / "models" / "hyvideo_teacache"
    yield folder
    for path in folder.glob("*"):
        path.unlink()


def test_a_calibration_changes_no_video_adds_up_and_is_used(studio, calibration):
    measuring = [("HyvTeaCacheCalibration", {})]
    plain, measured = latents(studio, [[], measuring], STEPS)
    assert torch.equal(measured, plain)
    (path,) = calibration.iterdir()
    assert path.name == jobs.MODEL.replace(".safetensors", ".txt")
    assert len(path.read_text().splitlines()) == 7
    assert "TeaCache: the coefficients for this checkpoint are " in log(studio)
    latents(studio, [measuring], STEPS | {"sampler.seed": 5})
    assert len(path.read_text().splitlines()) == 14
    options = studio.client.object_info()["HyvTeaCache"]["input"]["optional"]["coefficients"][1]["options"]
    assert options == ["HunyuanVideo", path.name]
    # One that says that every change of the input is a large one of the result, and one that says that none is.
    own = [("HyvTeaCache", {"threshold": 0.3, "coefficients": path.name})]
    path.write_text("0.001 1000\n")
    (found,) = latents(studio, [own], STEPS)
    assert torch.equal(found, plain)
    path.write_text("0.5 0\n0.5 0\n")
    (found,) = latents(studio, [own], STEPS)
    assert not torch.equal(found, plain)
    assert "TeaCache: the coefficients are 0, 0\n" in log(studio)


def test_a_calibration_that_is_none_or_has_a_bad_name_is_told(studio, calibration, place):
    place("hyvideo_teacache/broken.txt", b"not numbers\n")
    error = studio.failure(with_features([("HyvTeaCache", {"threshold": 0.3, "coefficients": "broken.txt"})]))
    assert "broken.txt is no calibration of TeaCache: its line 1" in error
    error = studio.failure(with_features([("HyvTeaCacheCalibration", {"name": "../up"})]))
    assert "name is '../up'" in error
