"""The picker in HyVideo Empty Latent turns seconds into frames and tells what a job costs before it is queued."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tools.server import PACK_NAME
from tools.workflow_catalog import WORKFLOWS

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
    told = f"{missing} is not in models/diffusion_models. Put it there"
    expect(picker.get_by_test_id("hyv-picker-cost")).to_contain_text(told, timeout=ANSWER_MS)


#: The next plan that is asked for comes when `release` is called.
LATE = """() => {
    const { api } = app;
    const { fetchApi } = api;
    api.fetchApi = async (path, ...rest) => {
        if (!path.startsWith('/hyvideo/plan')) return fetchApi.call(api, path, ...rest);
        api.fetchApi = fetchApi;
        await new Promise((release) => { window.release = release; });
        return Response.json({ code: 'unconnected' });
    };
}"""


@pytest.mark.where(newest=True)
def test_an_answer_that_comes_late_does_not_replace_a_newer_one(page):
    node, picker = open_picker(page)
    cost = picker.get_by_test_id("hyv-picker-cost")
    expect(cost).to_have_attribute("data-state", "fits", timeout=ANSWER_MS)
    page.page.evaluate(LATE)
    page.set(node, {"batch_size": 2})
    page.page.wait_for_function("() => window.release")
    assert cost.get_attribute("data-state") == "asking"
    page.set(node, {"batch_size": 3})
    expect(cost).to_have_attribute("data-state", "fits", timeout=ANSWER_MS)
    page.page.evaluate("() => window.release()")
    page.settle()
    assert cost.get_attribute("data-state") == "fits"


#: Whether the list of sizes takes its value by a wire.
WIRED = """([id, wired]) => {
    const size = app.graph.getNodeById(id);
    const place = size.inputs.findIndex(({ name }) => name === 'resolution');
    if (!wired) return size.disconnectInput(place);
    const primitive = LiteGraph.createNode('PrimitiveNode');
    app.graph.add(primitive);
    primitive.connect(0, size, place);
}"""


@pytest.mark.where(newest=True)
def test_an_offer_is_taken_where_its_widgets_can_hold_it(page):
    node, picker = open_picker(page)

    def too_large(route: Any) -> None:
        instead = [{"frames": 5}, {"width": 960, "height": 544}, {"width": 16, "height": 16}]
        route.fulfill(json={**route.fetch().json(), "fits": False, "instead": instead})

    page.page.route("**/hyvideo/plan*", too_large)
    try:
        page.set(node, {"frames": 9})
        fewer, smaller, unlisted = (picker.get_by_test_id("hyv-picker-offer").nth(place) for place in range(3))
        expect(unlisted).to_be_disabled(timeout=ANSWER_MS)
        expect(smaller).to_be_enabled()
        page.page.evaluate(WIRED, [node, True])
        expect(smaller).to_be_disabled(timeout=ANSWER_MS)
        page.page.evaluate(WIRED, [node, False])
        expect(smaller).to_be_enabled(timeout=ANSWER_MS)
        for offer in (smaller, fewer):
            offer.click()
            page.settle()
        inputs = page.prompt()[str(node)]["inputs"]
        assert (inputs["resolution"], inputs["frames"]) == ("540p 16:9 · 960×544", 5)
    finally:
        page.page.unroute("**/hyvideo/plan*")


#: A node of another pack whose widget must be asked by nobody but a job that starts.
RECORDER = """() => {
    window.asked = 0;
    LiteGraph.registerNodeType('test/recorder', class extends LGraphNode {});
    const node = LiteGraph.createNode('test/recorder');
    node.comfyClass = 'Recorder';
    const widget = node.addWidget('text', 'recording', '', () => {});
    widget.serializeValue = async () => (window.asked += 1);
    app.graph.add(node);
}"""


def test_the_picker_asks_no_widget_of_another_pack(page):
    node, _ = open_picker(page)
    page.page.evaluate(RECORDER)
    with page.page.expect_response(lambda answer: "/hyvideo/plan" in answer.url) as planned:
        page.set(node, {"frames": 101})
    assert planned.value.ok
    assert page.page.evaluate("window.asked") == 0
    page.prompt()
    assert page.page.evaluate("window.asked") == 1


#: What the picker asks with, and what would be queued.
BOTH = f"""async () => {{
    const {{ plannedPrompt }} = await import('/extensions/{PACK_NAME}/picker/prompt.js');
    return [plannedPrompt(), (await app.graphToPrompt()).output];
}}"""


@pytest.fixture
def half_done(page: Any) -> Iterator[Any]:
    """A page in which workflows without models may be open: no picker of it reaches the server."""
    page.page.route("**/hyvideo/plan*", lambda route: route.fulfill(json={"code": "unconnected"}))
    yield page
    page.page.evaluate("() => app.graph.clear()")
    page.page.unroute("**/hyvideo/plan*")


def assert_asks_with_what_would_be_queued(page: Any) -> None:
    """All nodes and wires are the same, and the values of the nodes whose values a plan reads."""
    asked, queued = page.page.evaluate(BOTH)
    assert asked.keys() == queued.keys()
    for name, node in queued.items():
        is_read = node["class_type"].startswith(("Hyv", "Primitive"))
        inputs = {key: value for key, value in node["inputs"].items() if is_read or isinstance(value, list)}
        assert asked[name] == {"class_type": node["class_type"], "inputs": inputs}


@pytest.mark.spread("name", list(WORKFLOWS))
def test_the_picker_asks_with_the_workflow_that_would_be_queued(half_done, name):
    half_done.open_template(name)
    assert_asks_with_what_would_be_queued(half_done)


#: Ways to change the wires of the open template.
DETOURS = {
    "a bypassed model node": """() => {
        const [model, sampler] = [one('HyvLoadModel'), one('HyvSampler')];
        const cache = added('HyvTeaCache');
        model.connect(0, cache, 'model');
        cache.connect(0, sampler, 'model');
        cache.mode = 4;
    }""",
    "a muted model": "() => { one('HyvLoadModel').mode = 2; }",
    "a reroute": """() => {
        const reroute = added('Reroute');
        one('HyvEmptyLatent').connect(0, reroute, 0);
        reroute.connect(0, one('HyvSampler'), 'latent');
    }""",
    "a value of the frontend's": """() => {
        const [primitive, size] = [added('PrimitiveNode'), one('HyvEmptyLatent')];
        primitive.connect(0, size, size.inputs.findIndex(({ name }) => name === 'frames'));
        primitive.widgets[0].value = 77;
        primitive.widgets[0].callback?.(77);
    }""",
    "a value of the host's": """() => {
        const [primitive, size] = [added('PrimitiveInt'), one('HyvEmptyLatent')];
        primitive.connect(0, size, size.inputs.findIndex(({ name }) => name === 'frames'));
        primitive.widgets[0].value = 77;
    }""",
    "a subgraph with the size": "() => { boxed('HyvEmptyLatent'); }",
    "a subgraph with the model and the sampler": "() => { boxed('HyvLoadModel', 'HyvSampler'); }",
    "a subgraph in a subgraph": """() => {
        const inner = boxed('HyvSampler');
        app.graph.convertToSubgraph(new Set([inner, one('HyvLoadModel')]));
    }""",
    "a bypassed subgraph": "() => { boxed('HyvSampler').mode = 4; }",
    "a widget of a subgraph": """() => {
        const box = boxed('HyvEmptyLatent');
        const [size] = box.subgraph.nodes;
        const input = size.inputs.find(({ name }) => name === 'frames');
        box.subgraph.inputNode.emptySlot.connect(input, size);
        box.widgets.find(({ name }) => name === 'frames').value = 61;
    }""",
}
LEAVE_NO_TRACE = ("a bypassed model node", "a reroute")
TOOLS = """
    const one = (kind) => app.graph.nodes.find(({ type }) => type === kind);
    const added = (kind) => { const node = LiteGraph.createNode(kind); app.graph.add(node); return node; };
    const boxed = (...kinds) => app.graph.convertToSubgraph(new Set(kinds.map(one))).node;
"""


@pytest.mark.parametrize("detour", DETOURS)
def test_wires_are_followed_as_for_a_job(half_done, detour):
    half_done.open_template("hyvideo_demo_t2v")
    before = half_done.prompt()
    half_done.page.evaluate(f"() => {{ {TOOLS} ({DETOURS[detour]})(); }}")
    half_done.settle()
    assert (half_done.prompt() == before) == (detour in LEAVE_NO_TRACE)
    assert_asks_with_what_would_be_queued(half_done)
