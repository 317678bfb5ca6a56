"""What README and docs/ say can be done as it stands: their settings are the nodes', their examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hyvideo_core.text import IMAGE, VIDEO
from tools.client import ComfyClient
from tools.paths import ROOT
from tools.workflow_catalog import WORKFLOWS

PAGES = {path: path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
README, GUIDE, API = (PAGES[ROOT / name] for name in ("README.md", "docs/guide.md", "docs/api.md"))


def section(page: str, title: str) -> str:
    """The text under a heading, up to the next of the same or a higher level."""
    level, rest = re.search(rf"^(#+) {re.escape(title)}\n(.*)", page, re.MULTILINE | re.DOTALL).groups()
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def test_every_node_is_in_the_readme_or_the_guide(client: ComfyClient) -> None:
    """By its name, of which ``HyVideo`` is said once in an enumeration."""
    nodes = [node for node in client.object_info().values() if node["category"].startswith("HyVideo Studio")]
    unsaid = [
        node["display_name"] for node in nodes if node["display_name"].removeprefix("HyVideo ") not in README + GUIDE
    ]
    assert not unsaid


def test_the_limits_of_prompts_are_those_of_the_templates() -> None:
    # One token ends the prompt.
    rooms = [template.max_length - (template.crop_start or 0) - 1 for template in (VIDEO, IMAGE)]
    assert "at most {} tokens, some 190 words; {} with the template `image`".format(*rooms) in section(
        GUIDE, "Settings"
    )


def test_every_template_is_named() -> None:
    named = re.findall(r"`(hyvideo_\w+)`", section(README, "The first video"))
    assert {name for name in WORKFLOWS if "_demo_" not in name} <= set(named)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_or_a_heading_leads_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGES[path]):
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
