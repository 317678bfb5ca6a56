"""The arithmetic of the size picker and what it tells of a plan, run in Node.js where that is installed."""

from __future__ import annotations

import json

import pytest
import web_modules
from web_modules import evaluated

from hyvideo_core.types import Geometry

LIMITS = "{min: 1, max: 1025}"
GB = 10**9

pytestmark = web_modules.needs_node


def test_any_number_of_seconds_becomes_the_nearest_length_the_model_can_make():
    asked = [0, -3, 0.01, 1 / 24, 0.1, 1, 2.5, 5, 5.375, 5.4, 42.7, 1e6]
    frames = evaluated(f"{asked}.map((s) => framesOf(s, {LIMITS}))", "picker/size.js")
    for seconds, found in zip(asked, frames, strict=True):
        Geometry(64, 64, found)
        best = min(range(1, 1026, 4), key=lambda each: abs(each - seconds * 24))
        assert abs(found - seconds * 24) == abs(best - seconds * 24)
    assert frames[asked.index(5.375)] == 129


def test_seconds_and_frames_go_both_ways_without_loss():
    lengths = list(range(1, 1026, 4))
    assert evaluated(f"{lengths}.map((n) => framesOf(secondsOf(n), {LIMITS}))", "picker/size.js") == lengths


def test_frames_and_sides_are_brought_to_their_grids_within_the_limits():
    assert evaluated(f"[0, 2, 4, 16, 128, 130, 2000].map((n) => snappedFrames(n, {LIMITS}))", "picker/size.js") == [
        1, 1, 5, 17, 129, 129, 1025,
    ]  # fmt: skip
    sides = evaluated("[0, 1, 23, 24, 353, 5000].map((px) => snappedSide(px, {min: 16, max: 4096}))", "picker/size.js")
    assert sides == [16, 16, 16, 32, 352, 4096]


@pytest.mark.parametrize("clip", [(1280, 720, 129), (64, 48, 5), (16, 4096, 1)])
def test_the_latent_is_that_of_the_core(clip):
    width, height, frames = clip
    found = evaluated(f"latentShape({{width: {width}, height: {height}, frames: {frames}}})", "picker/size.js")
    assert tuple(found) == Geometry(*clip).latent_shape


def test_simple_ratios_are_told_as_such_and_others_as_a_number():
    sizes = [[1280, 720], [720, 1280], [960, 960], [1104, 832], [960, 544], [544, 960]]
    assert evaluated(f"{sizes}.map(([w, h]) => aspect(w, h))", "picker/size.js") == [
        "16:9", "9:16", "1:1", "1.33:1", "1.76:1", "1:1.76",
    ]  # fmt: skip


def plan(**changes):
    sampling = {
        "fits": True, "peak_bytes": 17.2 * GB, "limit_bytes": 22.1 * GB, "is_all_memory": False,
        "lora_bytes": 0, "feature_bytes": 0,
        "blocks": 60, "resident_blocks": 60, "streamed_bytes": 0, "streaming_shows": False, "head_groups": 1,
    }  # fmt: skip
    return {
        "memory": {"device": "cuda:0", "free_bytes": 22.1 * GB, "is_given": False},
        "fits": True,
        "sampling": sampling | changes.pop("sampling", {}),
        "decoding": {
            "fits": True, "peak_bytes": 3.28 * GB, "limit_bytes": 22.1 * GB, "tile_size_px": 256, "tile_frames": 64,
        },
        "time": None,
        "instead": [],
        **changes,
    }  # fmt: skip


def told(locale="en", **changes):
    expression = f"costLines({json.dumps(plan(**changes))}, textsOf('{locale}'))"
    return "\n".join(evaluated(expression, "cost.js", "say.js"))


def test_a_plan_is_told_in_words():
    assert told() == (
        "Sampling: 17.2 GB of 22.1 GB free · all 60 blocks on the card\n"
        "Decoding: 3.28 GB of 22.1 GB free, tiles of 256 px, 64 frames\n"
        "Time: not known before a run of about this size in this session"
    )


def test_on_a_cpu_all_memory_and_free_memory_have_words_of_their_own():
    cpu = {"memory": {"device": "cpu", "is_given": False}, "sampling": {"limit_bytes": 64 * GB, "is_all_memory": True}}
    sampling, decoding, _ = told(**cpu).splitlines()
    assert sampling == "Sampling: 17.2 GB of 64.0 GB memory in all · on the CPU"
    assert decoding.startswith("Decoding: 3.28 GB of 22.1 GB free")
    assert "17.2 GB / 内存共 64.0 GB" in told("zh", **cpu)


def test_a_missing_file_is_told_with_its_place():
    decoding = {"fits": None, "text": "node 7", "missing": {"file": "vae.safetensors", "folder": "models/vae"}}
    assert "Decoding unknown: vae.safetensors is not in models/vae. Put it there" in told(decoding=decoding)
    assert "models/vae 里没有 vae.safetensors" in told("zh", decoding=decoding)


def test_streamed_blocks_are_told_with_what_they_cost():
    streamed = {"resident_blocks": 40, "streamed_bytes": 8.2 * GB}
    assert "20 of 60 blocks streamed, 8.20 GB an evaluation · hidden" in told(sampling=streamed)
    assert "each step will wait" in told(sampling=streamed | {"streaming_shows": True})


def test_a_time_says_where_it_comes_from():
    time = {
        "first_step_s": 12.0, "step_s": 12.0, "steps": 30, "total_s": 360.0,
        "is_scaled": True, "measured_step_s": 3.1, "measured_size": [640, 352, 49],
    }  # fmt: skip
    text = told(time=time)
    assert "about 12 s a step, 6 min for 30 steps, scaled by operations from 3.1 s a step" in text
    assert "640×352 px, 49 frames, measured in this session" in text
    assert "measured at this size" in told(time=time | {"is_scaled": False})
    assert "for" not in told(time=time | {"steps": None, "total_s": None, "is_scaled": False}).splitlines()[-1]
    slow = time | {"first_step_s": 72.0, "total_s": 420.0}
    assert "about 12 s a step (the first 72 s), 7 min for 30 steps" in told(time=slow)


def test_what_does_not_fit_is_told_without_a_time():
    sampling = {"fits": False, "needed_bytes": 24.5 * GB, "limit_bytes": 22.1 * GB}
    text = told(sampling=sampling, fits=False)
    assert "Sampling does not fit: 24.5 GB at least, 22.1 GB free" in text
    assert "No length, batch or official size fits" in text
    assert "Time" not in text
    instead = [{"frames": 45}, {"batch_size": 1}, {"width": 960, "height": 544}]
    assert "No length" not in told(sampling=sampling, fits=False, instead=instead)
    offered = evaluated(f"offers({json.dumps({'instead': instead})}, textsOf('en'))", "cost.js", "say.js")
    assert [each["changes"] for each in offered] == instead
    assert "45 frames" in offered[0]["text"]


def test_where_nothing_fits_a_card_is_named_only_where_there_is_one():
    sampling = {"fits": False, "needed_bytes": 80 * GB, "limit_bytes": 64 * GB}
    for locale, card, here in (("en", "the card", "this computer's memory"), ("zh", "显存", "这台电脑的内存")):
        last = told(locale, sampling=sampling, fits=False).splitlines()[-1]
        assert card in last
        for is_given in (False, True):
            cpu = {"memory": {"device": "cpu", "is_given": is_given}}
            last = told(locale, sampling=sampling, fits=False, **cpu).splitlines()[-1]
            assert (card in last, here in last) == (is_given, not is_given)


def test_an_offer_is_taken_by_the_widgets_that_hold_it():
    sizes = ["544p 16:9 · 960×544", "custom"]

    def widgets(**changes):
        return evaluated(f"widgetsOf({json.dumps(changes)}, {json.dumps(sizes)})", "cost.js")

    assert widgets(frames=45) == [["frames", 45]]
    assert widgets(batch_size=1) == [["batch_size", 1]]
    assert widgets(width=960, height=544) == [["resolution", "544p 16:9 · 960×544"]]
    # In JSON undefined is null: no value is written for a size that the list does not have.
    assert widgets(width=544, height=960) == [["resolution", None]]


@pytest.mark.parametrize("locale", ["zh", "zh-TW"])
def test_chinese_is_told_in_chinese(locale):
    assert "采样：17.2 GB" in told(locale)


def test_an_unknown_language_is_told_in_english():
    assert told("xx") == told()
