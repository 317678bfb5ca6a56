"""While the sampler works its node shows the clip that is coming, and how far it is."""

from __future__ import annotations

import re

import pytest

from tools.browser.page import CANVASES, RUN

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

#: Enough for previews to come between steps that take a few milliseconds.
STEPS = 40
#: Runs what is open; every picture and every text that the sampler showed meanwhile, each once.
WATCH = f"""async () => {{
    const found = {{ pictures: new Set(), texts: new Set() }};
    let runs = true;
    const run = ({RUN})().finally(() => (runs = false));
    while (runs) {{
        const canvas = document.querySelector('[data-testid="hyv-preview"]');
        if (canvas && !canvas.hidden && canvas.width) found.pictures.add(canvas.toDataURL());
        const text = document.querySelector('[data-testid="hyv-progress"]')?.textContent;
        if (text) found.texts.add(text);
        await new Promise((done) => setTimeout(done, 20));
    }}
    await run;
    return {{ pictures: [...found.pictures], texts: [...found.texts] }};
}}"""


def test_the_preview_moves_and_the_progress_tells_the_step_and_the_time_left(page):
    page.open_template("hyvideo_demo_t2v")
    (sampler,) = page.node_ids("HyvSampler")
    # A seed that no other test has: nothing of this run is known yet.
    page.set(sampler, {"steps": STEPS, "seed": 101 + list(CANVASES).index(page.canvas)})
    page.look_at(sampler)
    seen: dict[str, list[str]] = page.page.evaluate(WATCH)
    assert len(seen["pictures"]) >= 2
    steps = {int(step) for text in seen["texts"] for step in re.findall(rf"(\d+) ?/ ?{STEPS}", text)}
    assert len(steps) >= 2
    assert any(re.search(r"\d+(\.\d+)? s left", text) for text in seen["texts"])
