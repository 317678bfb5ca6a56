"""What the panel on a sampler's node tells of a run, run in Node.js where that is installed."""

from __future__ import annotations

import json
from typing import Any

import web_modules
from web_modules import evaluated

pytestmark = web_modules.needs_node

GB = 10**9
STEPS = {
    "done": 12, "total": 30, "made": 12, "last_s": 12.344, "first_s": 40.1, "each_s": 12.3439, "left_s": 222.2,
    "total_s": None,
}  # fmt: skip
FINISHED = STEPS | {"done": 30, "made": 30, "last_s": 12.3, "left_s": 0.0, "total_s": 398.073}
SAMPLING = {
    "peak_bytes": 17.2 * GB, "limit_bytes": 22.1 * GB, "is_all_memory": False, "lora_bytes": 0,
    "feature_bytes": 0, "blocks": 60,
    "resident_blocks": 40, "streamed_bytes": 8.2 * GB, "streaming_shows": False, "head_groups": 1,
}  # fmt: skip
PROGRESS = {
    "state": "running", "error": None, "steps": STEPS, "device": "cuda:0", "sampling": SAMPLING,
    "measured_peak_bytes": None, "caches": [], "preview": None, "awaited": None, "remarks": [],
}  # fmt: skip
CACHE = {
    "name": "TeaCache",
    "branches": [{"name": "positive", "skipped": 4, "steps": 12}, {"name": "source stg", "skipped": 3, "steps": 11}],
    "saved_share": 0.296,
}
REMARK = {"code": "taehv_missing", "text": "-", "file": "taehv.safetensors", "folder": "models/vae_approx"}


def told(language: str = "en", **changes: Any) -> list[str]:
    """The lines of an event."""
    event = json.dumps(PROGRESS | changes)
    lines: list[str] = evaluated(f"progressLines({event}, textsOf('{language}'))", "preview/lines.js", "say.js")
    return lines


def test_a_run_is_told_in_words() -> None:
    assert told(caches=[CACHE], preview={"step": 11, "method": "TAEHV", "frames": 33}) == [
        "Step 12/30 took 12.34 s · 3.7 min left",
        "Sampling: 17.2 GB of 22.1 GB free · 20 of 60 blocks streamed, 8.20 GB an evaluation · "
        "hidden behind the computation",
        "TeaCache skipped 4 of 12 steps of positive, 3 of 11 steps of source stg: 30% of the blocks' work",
        "Preview of step 11: TAEHV, 33 frames",
    ]


def test_a_run_is_told_in_chinese() -> None:
    assert told("zh-CN", caches=[CACHE], awaited={"method": "TAEHV", "share": 0.01}, remarks=[REMARK]) == [
        "第 12/30 步，用时 12.34 秒 · 剩余 3.7 分钟",
        "采样：17.2 GB / 空闲 22.1 GB · 60 个块中有 20 个流式传输，每次前向计算 8.20 GB · 被计算掩盖",
        "TeaCache 跳过正面 12 步中的 4 步、源 stg 11 步中的 3 步，省去模型块计算量的 30%",
        "TAEHV 已就绪，等它占用的时间不超过各步用时的 1% 时显示",
        "未使用 TAEHV：models/vae_approx 中没有 taehv.safetensors",
    ]


def test_the_plan_is_told_in_the_words_of_the_picker() -> None:
    plan = {"memory": {"device": "cuda:0", "is_given": False}, "sampling": {"fits": True, **SAMPLING}, "fits": True}
    picker = evaluated(f"costLines({json.dumps(plan)}, textsOf('en'))", "cost.js", "say.js")
    assert told()[1] == picker[0]


def test_a_finished_run_tells_its_time_and_its_peak_where_that_is_counted() -> None:
    time, _, peak = told(state="finished", steps=FINISHED, measured_peak_bytes=16.91 * GB)
    assert time == "30 steps in 398.07 s: the first 40.10 s, then 12.34 s each"
    assert peak == "Measured peak: 16.9 GB, planned 17.2 GB"
    assert told(state="finished", steps=FINISHED)[2] == "Measured peak: counted on CUDA devices only"


def test_a_run_of_one_step_tells_its_time_once() -> None:
    steps = FINISHED | {"done": 1, "total": 1, "made": 1, "total_s": 40.1}
    assert told(state="finished", steps=steps)[0] == "1 step in 40.10 s"
    assert told("zh", state="finished", steps=steps)[0] == "1 步，用时 40.10 秒"


def test_a_run_that_ended_early_says_why_and_how_far_it_came_but_no_time_that_is_left() -> None:
    assert told(state="stopped")[:2] == ["Stopped", "Step 12/30"]
    assert told(state="failed", error="Out of memory")[:2] == ["Failed: Out of memory", "Step 12/30"]
    assert told("zh", state="failed", error="Out of memory")[0] == "失败：Out of memory"


def test_a_remark_that_no_text_is_known_for_is_told_in_its_own_words() -> None:
    assert told("zh", remarks=[{"code": "new", "text": "Something new."}])[-1] == "Something new."
