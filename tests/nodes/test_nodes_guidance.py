"""Guidance beside cfg: each setting reaches the result, neutral ones leave it alone, what cannot work is told."""

from __future__ import annotations

import pytest
import torch
from branches import latents, with_features

CFG = {
    "sampler.cfg": 3.0,
    "sampler.negative": ["prompt", 1],
    "prompt.negative": "blurry",
    "sampler.steps": 4,
}
#: The demo model has two double blocks and four single ones, and latents that show waves up to 4 in its pictures.
NODES = {
    "HyvCfgZeroStar": {"optimized_scale": True, "zero_steps": 1},
    "HyvSTG": {"scale": 1.0, "blocks": "double 1", "mode": "residual (STG-R)"},
    "HyvSLG": {"scale": 3.0, "blocks": "single 1-2", "start": 0.0, "end": 0.5},
    "HyvFreSca": {"low": 0.5, "high": 2.0, "cutoff": 2},
    "HyvAPG": {"eta": 0.0, "momentum": -0.5, "norm_threshold": 5.0},
}
CHANGES = [
    ("HyvCfgZeroStar", {"optimized_scale": False}),
    ("HyvCfgZeroStar", {"zero_steps": 0}),
    ("HyvCfgZeroStar", {"start": 0.5}),
    ("HyvCfgZeroStar", {"end": 0.5}),
    ("HyvSTG", {"scale": 2.0}),
    ("HyvSTG", {"blocks": "double 0"}),
    ("HyvSTG", {"mode": "attention (STG-A)"}),
    ("HyvSTG", {"start": 0.5}),
    ("HyvSTG", {"end": 0.5}),
    ("HyvSLG", {"scale": 1.0}),
    ("HyvSLG", {"blocks": "single 1"}),
    ("HyvSLG", {"start": 0.25}),
    ("HyvSLG", {"end": 0.75}),
    ("HyvFreSca", {"low": 1.0}),
    ("HyvFreSca", {"high": 1.0}),
    ("HyvFreSca", {"cutoff": 1}),
    ("HyvFreSca", {"start": 0.5}),
    ("HyvFreSca", {"end": 0.5}),
    ("HyvAPG", {"eta": 1.0}),
    ("HyvAPG", {"momentum": 0.0}),
    ("HyvAPG", {"norm_threshold": 0.5}),
    ("HyvAPG", {"start": 0.5}),
    ("HyvAPG", {"end": 0.5}),
]
NEUTRAL = [
    ("HyvCfgZeroStar", {"optimized_scale": False, "zero_steps": 0}),
    ("HyvSTG", NODES["HyvSTG"] | {"scale": 0.0}),
    ("HyvSLG", NODES["HyvSLG"] | {"scale": 0.0}),
    ("HyvFreSca", {"low": 1.0, "high": 1.0}),
    ("HyvAPG", {"eta": 1.0, "momentum": 0.0, "norm_threshold": 0.0}),
]


def test_every_setting_changes_the_video_and_neutral_ones_do_not(studio):
    every = [[pair] for pair in NODES.items()]
    changed = [[(kind, NODES[kind] | change)] for kind, change in CHANGES]
    plain, *found = latents(studio, [[], *every, *changed, *([each] for each in NEUTRAL), NEUTRAL], CFG)
    usual = dict(zip(NODES, found, strict=False))
    for kind, one in usual.items():
        assert torch.isfinite(one).all(), kind
        assert not torch.equal(one, plain), kind
    for (kind, change), one in zip(CHANGES, found[len(every) :], strict=False):
        assert not torch.equal(one, usual[kind]), (kind, change)
    for one in found[len(every) + len(changed) :]:
        assert torch.equal(one, plain)


def test_the_order_of_nodes_is_irrelevant_and_stg_and_slg_may_be_several(studio):
    features = [*NODES.items(), ("HyvSTG", NODES["HyvSTG"] | {"blocks": "single 3"})]
    one, other = latents(studio, [features, features[::-1]], CFG)
    assert torch.equal(one, other)


def test_what_needs_no_negative_prompt_acts_without_cfg(studio):
    features = [[], [("HyvSTG", NODES["HyvSTG"])], [("HyvSLG", NODES["HyvSLG"])]]
    plain, *found = latents(studio, features)
    assert not any(torch.equal(one, plain) for one in found)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([("HyvSTG", NODES["HyvSTG"] | {"blocks": "double 2"})], ["double block 2", "has 2 double blocks"]),
        ([("HyvSLG", NODES["HyvSLG"] | {"blocks": "double 0, tripel 1"})], ["'tripel 1'", "like 'double 2'"]),
        ([("HyvAPG", NODES["HyvAPG"])] * 2, ["went through HyVideo APG already"]),
        ([("HyvFreSca", NODES["HyvFreSca"] | {"start": 0.9, "end": 0.1})], ["start is 0.9", "Lower start"]),
    ],
    ids=["blocks", "words", "twice", "interval"],
)
def test_what_cannot_work_is_told(studio, features, words):
    error = studio.failure(with_features(features, CFG))
    assert all(word in error for word in words), error


def test_blocks_that_the_model_lacks_are_told_before_it_is_read(studio):
    studio.release()
    before = studio.reads()["transformer"]
    error = studio.failure(with_features([("HyvSLG", NODES["HyvSLG"] | {"blocks": "single 4"})], CFG))
    assert "single block 4" in error
    # One reading belongs to the job that follows every failure.
    assert studio.reads()["transformer"] - before <= 1
