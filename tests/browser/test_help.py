"""The help behind a node's (i): the page in the user's language, with its pictures."""

from __future__ import annotations

import re

import pytest

from tools.locales import page as help_page

pytestmark = [pytest.mark.browser, pytest.mark.server]

NODE, TEMPLATE = "HyvSampler", "hyvideo_demo_t2v"
#: By the addresses of the panel's pictures, whether each has arrived.
PICTURES = """() => Object.fromEntries([...document.querySelectorAll('img')]
    .filter(({ src }) => src.includes('/docs/pictures/'))
    .map(({ src, complete, naturalWidth }) =>
        [new URL(src).pathname.split('/docs/')[1], complete && naturalWidth > 0]))"""


def assert_helps(page, language):
    """The panel shows the page of the language whole."""
    text = help_page(NODE, language).read_text("utf-8")
    addresses = re.findall(r"\]\((pictures/.+)\)", text)
    page.open_template(TEMPLATE)
    page.fit(page.node_ids(NODE))
    page.page.evaluate("([id]) => app.canvas.selectItems([app.graph.getNodeById(id)])", page.node_ids(NODE))
    page.page.get_by_test_id("info-button").first.click()
    page.page.get_by_text(re.findall(r"^## (.+)$", text, re.MULTILINE)[-1], exact=True).wait_for()
    page.page.wait_for_function(f"() => Object.values(({PICTURES})()).filter(Boolean).length === {len(addresses)}")
    assert list(page.page.evaluate(PICTURES)) == addresses


def test_the_english_help_shows_its_pictures(page):
    assert_helps(page, "en")


@pytest.mark.where(newest=True, language="zh")
def test_the_chinese_help_shows_its_pictures(page):
    assert_helps(page, "zh")
