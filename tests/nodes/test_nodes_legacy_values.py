"""What the values of old widgets and options are here, without any host."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import ContextWindows, SkipGuidance
from hyvideo_core.extensions.rf_inversion import trended
from hyvideo_core.extensions.skip_guidance import NegativeSkip
from hyvideo_core.sample.schedule import flow_sigmas
from hyvideo_core.weights.lora import parse_blocks
from tools.paths import ROOT


def module(name: str) -> Any:
    """A file of the old nodes that needs no host."""
    spec = importlib.util.spec_from_file_location(f"legacy_{name}", ROOT / "nodes" / "legacy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


settings, features = module("settings"), module("features")


@given(st.integers(1, 60), st.integers(0, 100), st.integers(0, 100))
def test_a_part_of_a_run_has_the_steps_it_had(steps, start, end):
    start, end = start / 100, end / 100
    found = features.OldRun(steps).part(start, end)
    had = [step for step in range(steps) if start <= step / steps <= end]
    assert [step for step in range(steps) if found.contains(step, steps)] == had


@given(st.integers(1, 60), st.integers(0, 100))
def test_denoising_takes_the_last_steps_of_the_schedule(steps, percent):
    made = int(steps * percent / 100 + 1e-9)
    if not made:
        with pytest.raises(HyVideoError, match="denoise_strength is"):
            settings.levels(steps, 7.0, percent / 100)
        return
    assert torch.equal(settings.levels(steps, 7.0, percent / 100), flow_sigmas(steps, 7.0)[-made - 1 :])


def test_sizes_and_tiles():
    assert [settings.aligned(size) for size in (16, 17, 512, 514)] == [16, 32, 512, 528]
    assert settings.tiling(False, 64, 256, True) == {"tiling": "whole"}
    assert settings.tiling(True, 64, 256, True) == {"tiling": "auto"}
    own = settings.tiling(True, 18, 192, False)
    assert own == {"tiling": "tiled", "tile_size": 192, "tile_frames": 16, "overlap": 0.25}


def test_templates():
    own = settings.Template("custom", "tell: {}", crop_start=2)
    assert [settings.template(name, own).name for name in ("video", "image", "custom")] == ["video", "image", "custom"]
    plain = settings.template("disabled", None)
    assert (plain.fill("a cat"), plain.crop_start) == ("a cat", 0)
    with pytest.raises(HyVideoError, match="nothing is connected to custom_prompt_template"):
        settings.template("custom", None)


def test_blocks_of_a_lora_that_were_switched_off_have_no_effect():
    chosen = {f"double_blocks.{i}.": i != 3 for i in range(20)} | {f"single_blocks.{i}.": i > 1 for i in range(40)}
    found = settings.selected_blocks(chosen)
    assert found == "double 3: 0, single 0: 0, single 1: 0, other: 0"
    assert parse_blocks(found)
    assert settings.selected_blocks(dict.fromkeys(chosen, False)) == ""
    assert settings.selected_blocks(dict.fromkeys(chosen, True)) == "other: 0"


def test_blocks_are_named_by_numbers():
    assert settings.named_blocks("", "20") == "single 20"
    assert settings.named_blocks("1, 2", " 20,21,") == "double 1, double 2, single 20, single 21"
    with pytest.raises(HyVideoError, match="single_blocks has '2-3'"):
        settings.named_blocks("", "2-3")


def test_swapped_blocks_are_those_that_do_not_stay():
    config = DiTConfig()
    assert (config.double_blocks, config.single_blocks) == (settings.DOUBLE_BLOCKS, settings.SINGLE_BLOCKS)
    assert [settings.Swap(*pair).resident_blocks(config) for pair in ((0, 0), (20, 0), (20, 40))] == [60, 40, 0]


@pytest.mark.parametrize(
    ("first", "last", "skippable"),
    [(0, -1, range(1, 9)), (3, -1, range(3, 9)), (0, 5, range(1, 5)), (2, 99, range(2, 9)), (6, 2, range(0))],
)
def test_teacache_acts_between_its_two_steps(first, last, skippable):
    cache = features.Tea(0.15, "offload_device", first, last).feature(features.OldRun(10))
    assert (cache.threshold, cache.device) == (0.15, "cpu")
    assert [step for step in range(10) if cache.may_skip(step, 10)] == list(skippable)


def test_context_windows_are_cut_to_what_a_window_may_be():
    options = features.Context("uniform_looped", 66, 8, 18, True)
    expected = ContextWindows(window_frames=65, overlap_frames=16, schedule="looped", freenoise=True, seed=5)
    assert options.feature(features.OldRun(30, seed=5)) == expected
    assert "context_stride 8" in options.remarks()[0]
    assert features.Context("static_standard", 2, 4, 100, False).feature(features.OldRun(30)).window_frames == 5


def test_options_that_are_off_add_nothing():
    nothing = [
        features.Cfg("", 1.0, zero_star=True),
        features.Cfg("", 3.0),
        features.Stg("STG-R", -1, 1.0, 0.0, 1.0),
        features.Stg("STG-A", 2, 0.0, 0.0, 1.0),
        features.Slg("", 0.0, 1.0),
        features.Enhance(2.0, False, False, 0.0, 1.0),
        features.Tea(0.0, "main_device", 0, -1),
        features.Fresca(1.0, 1.0, 20),
        features.Loop(0, 0.0, 1.0),
    ]
    assert [each.feature(features.OldRun(30)) for each in nothing] == [None] * len(nothing)


def test_guidances_keep_their_blocks_and_frequencies():
    run = features.OldRun(10)
    assert features.Stg("STG-R", 7, 1.5, 0.0, 1.0).feature(run) == SkipGuidance(blocks="single 7", scale=1.5)
    slg = features.Slg("single 20", 0.4, 0.8).feature(run)
    assert (type(slg), slg.blocks, slg.when.contains(8, 10)) == (NegativeSkip, "single 20", True)
    all_high = features.Fresca(1.0, 1.5, 0).feature(run)
    assert (all_high.low, all_high.high) == (1.5, 1.5)


def test_trends_of_inversion():
    levels = [0.0, 0.25, 0.5, 0.75, 1.0]

    def strengths(strength, trend, first, end):
        return trended(strength, settings.TRENDS[trend], levels, settings.step_range(first, end, len(levels)))

    assert strengths(0.5, "constant", 1, 3) == [0, 0.5, 0.5, 0, 0]
    assert strengths(1.0, "linear_increase", 0, 9) == levels
    assert strengths(1.0, "linear_decrease", 2, 5) == [0, 0, 1, 0.5, 0]
    with pytest.raises(HyVideoError, match="start_step is 3 and end_step 3"):
        strengths(1.0, "constant", 3, 3)


@given(st.integers(1, 60), st.integers(0, 70), st.integers(0, 70))
def test_a_range_of_steps_holds_those_from_the_first_to_before_the_end(steps, first, end):
    if not first < min(end, steps):
        with pytest.raises(HyVideoError, match=f"start_step is {first} and end_step {end}"):
            settings.step_range(first, end, steps)
        return
    found = settings.step_range(first, end, steps)
    assert [step for step in range(steps) if found.contains(step, steps)] == list(range(first, min(end, steps)))
