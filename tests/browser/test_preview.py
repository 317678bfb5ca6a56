"""While the sampler works its node shows the clip that is coming, and how far it is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tools.browser.page import RUN

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

TEMPLATE = "hyvideo_demo_t2v"
#: Enough for previews to come between steps that take a few milliseconds; far more than a test waits for.
STEPS, ENDLESS = 20, 1000
#: Nothing of a run with a seed that no other test has is known yet.
SEEDS = itertools.count(101)
PANEL_TIMEOUT_MS = 60_000
CANVAS = "document.querySelector('[data-testid=\"hyv-preview\"]')"
TEXT = "document.querySelector('[data-testid=\"hyv-progress\"]')"
#: Runs what is open; every text that the sampler showed meanwhile, once.
WATCH = f"""async () => {{
    const texts = new Set();
    let runs = true;
    const run = ({RUN})().finally(() => (runs = false));
    while (runs) {{
        if ({TEXT}?.textContent) texts.add({TEXT}.textContent);
        await new Promise((done) => setTimeout(done, 20));
    }}
    await run;
    return [...texts];
}}"""
#: Whether the preview shows more than one picture, though no other comes.
MOVES = f"""async () => {{
    const pictures = new Set();
    for (let looks = 0; looks < 500 && pictures.size < 2; looks += 1) {{
        if (!{CANVAS}.hidden) pictures.add({CANVAS}.toDataURL());
        await new Promise((done) => setTimeout(done, 20));
    }}
    return pictures.size >= 2;
}}"""
START = f"() => {{ window.ended = ({RUN})().catch((error) => String(error)); }}"
STOP = "async () => { await app.api.interrupt(); await window.ended; }"
#: Opens a copy of what is open beside it, and tells how the sampler's node there fared while its own job did not run.
OTHER_TAB = f"""async (id) => {{
    await app.loadGraphData(app.graph.serialize(), true, true, 'another');
    let steps = 0;
    const count = () => (steps += 1);
    app.api.addEventListener('hyvideo.progress', count);
    while (steps < 20) await new Promise((done) => setTimeout(done, 20));
    app.api.removeEventListener('hyvideo.progress', count);
    const names = app.graph.getNodeById(id).widgets.map(({{ name }}) => name);
    return {{ panel: names.includes('hyvideo_preview'), drawn: Boolean({TEXT}) }};
}}"""
BACK = "() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')"


def open_sampler(page: Any, steps: int = STEPS) -> int:
    """The sampler of the template, in view, for a run that nobody knows the outcome of."""
    page.open_template(TEMPLATE)
    (sampler,) = page.node_ids("HyvSampler")
    page.set(sampler, {"steps": steps, "seed": next(SEEDS)})
    page.look_at(sampler)
    return sampler


@contextmanager
def setting(page: Any, choice: str) -> Iterator[None]:
    """The setting of previews, for a time."""
    choose = "(choice) => app.extensionManager.setting.set('HyVideoStudio.LivePreview', choice)"
    for value in (choice, "auto"):
        with page.page.expect_response(lambda answer: answer.url.endswith("/hyvideo/preview")):
            page.page.evaluate(choose, value)
        if value == choice:
            yield


def saved_size(page: Any, node_id: int) -> list[float]:
    """A node's size as it would be saved."""
    (size,) = [node["size"] for node in page.workflow()["nodes"] if str(node["id"]) == str(node_id)]
    return size


def test_the_progress_tells_the_step_and_the_time_left(page):
    open_sampler(page)
    texts: list[str] = page.page.evaluate(WATCH)
    steps = {int(step) for text in texts for step in re.findall(rf"(\d+) ?/ ?{STEPS}", text)}
    assert len(steps) >= 2
    assert any(re.search(r"\d+(\.\d+)? s left", text) for text in texts)


def lines_of_a_run(page: Any) -> list[str]:
    """What the sampler's panel says after a run, line by line."""
    open_sampler(page)
    page.run()
    page.page.wait_for_function(f"() => {TEXT}?.dataset.state === 'finished'", timeout=PANEL_TIMEOUT_MS)
    return page.page.evaluate(f"{TEXT}.textContent").splitlines()


def assert_matches(lines: list[str], patterns: list[str]) -> None:
    """Each line is as its pattern says, and there are no others."""
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_the_panel_tells_of_a_run_in_english(page):
    assert_matches(
        lines_of_a_run(page),
        [
            rf"{STEPS} steps in \d+\.\d\d s: the first \d+\.\d\d s, then \d+\.\d\d s each",
            r"Sampling: [\d.]+ GB of [\d.]+ GB memory in all · on the CPU",
            r"Measured peak: counted on CUDA devices only",
            r"Preview of step \d+: latent-to-RGB, \d+ frames",
        ],
    )


@pytest.mark.where(language="zh")
def test_the_panel_tells_of_a_run_in_chinese(page):
    assert_matches(
        lines_of_a_run(page),
        [
            rf"{STEPS} 步共 \d+\.\d\d 秒：第一步 \d+\.\d\d 秒，之后每步 \d+\.\d\d 秒",
            r"采样：[\d.]+ GB / 内存共 [\d.]+ GB · 在 CPU 上运行",
            r"实测峰值：只有 CUDA 设备会统计",
            r"第 \d+ 步的预览：latent-to-RGB，\d+ 帧",
        ],
    )


def test_the_last_preview_goes_on_moving_after_the_run(page):
    open_sampler(page)
    page.run()
    assert int(page.page.evaluate(f"{CANVAS}.dataset.frames")) >= 2
    assert page.page.evaluate(MOVES)


def test_a_run_without_previews_shows_none_of_the_run_before(page):
    sampler = open_sampler(page)
    page.run()
    page.page.wait_for_function(f"() => !{CANVAS}.hidden")
    with setting(page, "off"):
        page.set(sampler, {"seed": next(SEEDS)})
        page.run()
        assert f"{STEPS}" in page.page.evaluate(f"{TEXT}.textContent")
        assert page.page.evaluate(f"{CANVAS}.hidden")
        assert not page.page.evaluate(
            f"{CANVAS}.getContext('2d').getImageData(0, 0, {CANVAS}.width, {CANVAS}.height).data.some(Boolean)"
        )


def test_another_tab_with_the_same_nodes_shows_nothing_of_the_job(page):
    sampler = open_sampler(page, ENDLESS)
    page.page.evaluate(START)
    try:
        page.page.wait_for_function(f"() => {TEXT}?.textContent", timeout=PANEL_TIMEOUT_MS)
        assert page.page.evaluate(OTHER_TAB, sampler) == {"panel": False, "drawn": False}
        page.page.evaluate(BACK)
        page.look_at(sampler)
        page.page.wait_for_function(f"() => {TEXT}?.textContent", timeout=PANEL_TIMEOUT_MS)
    finally:
        page.page.evaluate(STOP)


def test_the_room_for_the_preview_is_not_saved_but_what_the_user_sets_is(page):
    sampler = open_sampler(page)
    before = saved_size(page, sampler)
    page.run()
    page.page.wait_for_function(f"() => !{CANVAS}.hidden")
    page.settle()
    assert saved_size(page, sampler) == before
    # As the frontend does when it builds a node's widgets anew.
    page.page.evaluate(
        """(id) => {
            const { widgets } = app.graph.getNodeById(id);
            widgets.splice(widgets.findIndex(({ name }) => name === 'hyvideo_preview'), 1);
        }""",
        sampler,
    )
    page.set(sampler, {"seed": next(SEEDS)})
    page.run()
    page.settle()
    assert saved_size(page, sampler) == before
    wanted = page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            node.setSize([node.size[0] + 30, node.size[1] + 50]);
            return [...node.size];
        }""",
        sampler,
    )
    page.settle()
    assert saved_size(page, sampler) == wanted
