"""Every template opens whole and as it is committed; every demo runs and shows what it made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest

from tools.demo import title
from tools.server import PACK_NAME
from tools.workflows import DYNAMIC, FOLDER

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

Json = dict[str, Any]
API = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / "api").glob("*.json"))}
DEMOS = [name for name in API if name.startswith("hyvideo_demo_")]
SAVERS = {"HyvSaveVideo": "video", "HyvDecodeVideo": "video", "SaveVideo": "video", "SaveImage": "img"}
#: What the frontend adds of its own to nodes that take or show files.
OF_THE_FRONTEND = {"upload", "video-preview", "audioUI"}


@pytest.fixture(scope="module")
def defaults(studio):
    """The default of an input of a node, also of one behind a choice as ``choice.input``."""
    known: dict[str, Json] = {}

    def default(kind: str, name: str, inputs: Json) -> Any:
        if kind not in known:
            with studio.server.client() as client:
                known[kind] = client.object_info(kind)[kind]["input"]
        return default_of(known[kind], name, inputs)

    return default


def default_of(inputs: Json, name: str, values: Json, prefix: str = "") -> Any:
    """What an input is if nothing is chosen; KeyError if there is no such input."""
    first, _, rest = name.partition(".")
    spec = {**inputs.get("required", {}), **inputs.get("optional", {})}[first]
    options = spec[1] if len(spec) > 1 else {}
    if rest:
        chosen = next(option for option in options["options"] if option["key"] == values[prefix + first])
        return default_of(chosen["inputs"], rest, values, f"{prefix}{first}.")
    if spec[0] == DYNAMIC:
        return options["options"][0]["key"]
    return options["default"]


def assert_is(prompt: Json, committed: Json, defaults: Any) -> None:
    """What the page would queue is what is committed; inputs that are not committed have their defaults."""
    assert prompt.keys() == committed.keys()
    for node_id, node in committed.items():
        opened = prompt[node_id]
        assert opened["class_type"] == node["class_type"]
        assert title(prompt, node_id) == title(committed, node_id)
        inputs = {name: value for name, value in opened["inputs"].items() if name not in OF_THE_FRONTEND}
        added = {name: value for name, value in inputs.items() if name not in node["inputs"]}
        assert inputs == node["inputs"] | added
        assert added == {name: defaults(node["class_type"], name, inputs) for name in added}


def assert_is_tidy(page: Any) -> None:
    """No node covers another, and each is within a group, also when it shows more than before."""
    nodes, groups = page.boxes(), page.boxes("groups")
    for (first, a), (second, b) in combinations(nodes.items(), 2):
        is_apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert is_apart, f"nodes {first} and {second} cover each other: {a}, {b}"
    for number, box in nodes.items():
        assert any(is_within(box, group) for group in groups.values()), f"node {number} is in no group: {box}"


def is_within(inner: Sequence[float], outer: Sequence[float]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


@pytest.mark.parametrize("name", API)
def test_a_template_opens_as_it_is_committed_and_tidy(page, defaults, name):
    page.open_template(name)
    assert page.unknown_nodes() == []
    assert_is(page.prompt(), API[name], defaults)
    assert_is_tidy(page)


def test_a_link_opens_its_template(page, defaults):
    page.start(template="hyvideo_demo_t2v", source=PACK_NAME)
    page.page.wait_for_function("() => app.graph.nodes.some(({ type }) => type === 'HyvSaveVideo')")
    assert_is(page.prompt(), API["hyvideo_demo_t2v"], defaults)


@pytest.mark.spread("name", DEMOS)
def test_a_demo_runs_and_plays_what_it_made(page, name):
    page.open_template(name)
    outputs = page.run()
    savers = [node_id for node_id, node in API[name].items() if node["class_type"] in SAVERS]
    assert savers
    for node_id in savers:
        assert outputs[node_id]["images"]
        tag = SAVERS[API[name][node_id]["class_type"]]
        # The canvas makes a video's element when it first draws it.
        page.look_at(int(node_id))
        shown = page.shown(node_id, tag)
        if tag == "video":
            assert shown.as_element().is_visible()
            assert shown.evaluate(PLAYS)
    assert_is_tidy(page)


#: Whether a video goes on once it is started.
PLAYS = """async (video) => {
    video.muted = true;
    await video.play();
    const start = video.currentTime;
    for (let waits = 0; waits < 100 && video.currentTime === start; waits += 1)
        await new Promise((done) => setTimeout(done, 50));
    return video.currentTime !== start;
}"""
