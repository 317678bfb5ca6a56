"""Names, tooltips and help pages are there in English and Chinese, where the user looks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tools import locales
from tools.paths import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

NODES = sorted(path.stem for path in locales.PAGES.glob("*.md"))
TEXTS = {
    language: json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))
    for language in ("en", "zh")
}
SAMPLER = "HyvSampler"
HOVER_MS = 5_000
#: Where a widget of the classic canvas is on the screen.
PLACE_OF_WIDGET = """([id, name]) => {
    const node = app.graph.getNodeById(id);
    const widget = node.widgets.find((each) => each.name === name);
    const { x, y } = app.canvas.canvas.getBoundingClientRect();
    const [left, top] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] + widget.y + 8]);
    return [x + left, y + top];
}"""
#: All pictures of the open help that are no pictures, once all have arrived or failed.
BROKEN = """async (help) => {
    const media = [...help.querySelectorAll('img, video')];
    const arrived = (each) => (each.tagName === 'IMG' ? each.complete : each.readyState > 0 || each.error);
    for (let waits = 0; waits < 100 && !media.every(arrived); waits += 1)
        await new Promise((done) => setTimeout(done, 50));
    return media.filter((each) => !(each.naturalWidth || each.videoWidth)).map(({ src }) => src);
}"""
in_chinese = pytest.mark.where(language="zh")


def all_nodes() -> dict[str, Any]:
    """A workflow with each node once."""
    nodes = [
        {"id": number, "type": name, "pos": [500 * (number % 8), 700 * (number // 8)], "size": [400, 600], "mode": 0}
        for number, name in enumerate(NODES, start=1)
    ]
    return {"last_node_id": len(NODES), "last_link_id": 0, "nodes": nodes, "links": [], "version": 0.4}


def title_of(page: Path) -> str:
    """A help page's first heading."""
    return page.read_text("utf-8").splitlines()[0].removeprefix("# ").strip()


def open_sampler(page: Any) -> int:
    page.open_template("hyvideo_demo_t2v")
    (sampler,) = page.node_ids(SAMPLER)
    page.look_at(sampler)
    return sampler


def tooltip_of(page: Any, node_id: int, widget: str, label: str) -> Any:
    """Hover over a widget; the place where the page shows tooltips."""
    if page.canvas == "classic":
        left, top = page.page.evaluate(PLACE_OF_WIDGET, [node_id, widget])
        page.page.mouse.move(left, top)
        page.page.mouse.move(left + 3, top)
        return page.page.locator(".node-tooltip")
    page.page.locator(f'[data-node-id="{node_id}"]').get_by_text(label, exact=True).first.hover()
    return page.page.locator("[role=tooltip]").first


def assert_speaks(page: Any, language: str) -> None:
    """Title, socket, widget and tooltip of the sampler are those of the language's file."""
    told = TEXTS[language][SAMPLER]
    sampler = open_sampler(page)
    texts = page.texts()
    for name in (told["display_name"], told["inputs"]["positive"]["name"], told["inputs"]["steps"]["name"]):
        assert name in texts
    tooltip = tooltip_of(page, sampler, "steps", told["inputs"]["steps"]["name"])
    expect(tooltip).to_have_text(told["inputs"]["steps"]["tooltip"], timeout=HOVER_MS)


def test_a_node_has_english_names_and_tooltips(page):
    assert_speaks(page, "en")


@in_chinese
def test_a_node_has_chinese_names_and_tooltips(page):
    assert TEXTS["zh"][SAMPLER] != TEXTS["en"][SAMPLER]
    assert_speaks(page, "zh")


@in_chinese
def test_the_setting_of_previews_has_chinese_names(page):
    told = json.loads((ROOT / "locales" / "zh" / "settings.json").read_text("utf-8"))["HyVideoStudio_LivePreview"]
    page.page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    dialog = page.page.get_by_role("dialog")
    dialog.get_by_text("HyVideo Studio", exact=True).first.click()
    setting = dialog.locator('[data-setting-id="HyVideoStudio.LivePreview"]')
    expect(setting).to_contain_text(told["name"])
    expect(setting).to_contain_text(told["options"]["auto"])
    page.page.keyboard.press("Escape")


def assert_help_opens(page: Any, language: str) -> None:
    """The help of every node, one after the other as a user selects them, with its pictures."""
    page.open(all_nodes())
    for number, name in enumerate(NODES, start=1):
        page.look_at(number)
        if number == 1:
            page.open_help()
        help_ = page.help()
        expect(help_.locator("h1").first).to_have_text(title_of(locales.page(name, language)))
        assert help_.evaluate(BROKEN) == [], name


@pytest.mark.where(newest=True, canvas="nodes 2.0")
def test_the_help_of_each_node_opens_in_english(page):
    assert_help_opens(page, "en")


@pytest.mark.where(newest=True, canvas="classic", language="zh")
def test_the_help_of_each_node_opens_in_chinese(page):
    assert_help_opens(page, "zh")
