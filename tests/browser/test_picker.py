"""The picker in HyVideo Empty Latent turns seconds into frames and tells what a job costs before it is queued."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

#: The cost is asked for once the graph has been the same for a moment.
ANSWER_MS = 15_000


def open_picker(page: Any, template: str = "hyvideo_demo_t2v") -> tuple[int, Any]:
    """The node of the size, in view, and its picker."""
    page.open_template(template)
    (node,) = page.node_ids("HyvEmptyLatent")
    page.look_at(node)
    picker = page.page.get_by_test_id("hyv-picker")
    expect(picker).to_be_visible()
    return node, picker


def frames_of(page: Any, node: int) -> int:
    return page.prompt()[str(node)]["inputs"]["frames"]


def test_seconds_become_frames(page):
    node, picker = open_picker(page)
    seconds = picker.get_by_test_id("hyv-picker-seconds")
    for typed, frames in (("2", 49), ("5", 121)):
        seconds.fill(typed)
        seconds.press("Enter")
        page.settle()
        assert frames_of(page, node) == frames


def test_frames_become_seconds(page):
    node, picker = open_picker(page)
    page.set(node, {"frames": 97})
    expect(picker.get_by_test_id("hyv-picker-seconds")).to_have_value("4.042")


def test_the_cost_is_told_before_the_job_is_queued(page):
    _, picker = open_picker(page)
    expect(picker.get_by_test_id("hyv-picker-cost")).to_contain_text("GB", timeout=ANSWER_MS)


@pytest.mark.where(newest=True)
def test_a_file_that_is_missing_is_named_where_the_cost_would_be(page):
    _, picker = open_picker(page, "hyvideo_t2v")
    missing = "hunyuan_video_t2v_720p_bf16.safetensors"
    expect(picker.get_by_test_id("hyv-picker-cost")).to_contain_text(missing, timeout=ANSWER_MS)
