"""ComfyUI's page, driven from Python as a user drives it: open a workflow, run it, look at what a node shows."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import ConsoleMessage, Locator, Page, Playwright, Response

from tools.browser.chromium import FLAGS
from tools.client import ComfyClient
from tools.server import PACK_NAME

Json = dict[str, Any]

CLASSIC, NODES_2 = "classic", "nodes 2.0"
#: The two ways in which the frontend draws nodes, and its setting.
CANVASES = {CLASSIC: False, NODES_2: True}
SIZE_PX = {"width": 1600, "height": 1000}
START_TIMEOUT_MS = 60_000
SHOW_TIMEOUT_MS = 60_000
RUN_TIMEOUT_MS = 300_000
#: No tour for new users, no panel that an earlier page left open, and all of the canvas to be seen.
QUIET = {"Comfy.TutorialCompleted": True, "Comfy.RightSidePanel.IsOpen": False, "Comfy.Minimap.Visible": False}
#: What a fresh user does not have yet; the frontend asks for it all the same.
USUALLY_MISSING = ("/user.css", "/api/userdata/", "/api/userdata?")
#: Help is asked for in the user's language first; English is what there is for all others, see ``tools/locales.py``.
ENGLISH_HELP = re.compile(rf"/extensions/{re.escape(PACK_NAME)}/docs/\w+/en\.md")
#: Nothing but this machine is asked: a page must not depend on the internet.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

OPEN = """async ([workflow, name]) => {
    const tabs = app.extensionManager.workflow;
    await app.loadGraphData(workflow, true, true, name);
    for (const tab of [...tabs.openWorkflows])
        if (tab !== tabs.activeWorkflow) await tabs.closeWorkflow(tab);
}"""
RUN = f"""() => new Promise((resolve, reject) => {{
    setTimeout(() => reject(new Error('the run did not end within {RUN_TIMEOUT_MS} ms')), {RUN_TIMEOUT_MS});
    const told = {{
        execution_success: () => resolve(),
        execution_error: ({{ detail }}) => reject(new Error(`${{detail.node_type}}: ${{detail.exception_message}}`)),
        execution_interrupted: () => reject(new Error('interrupted')),
    }};
    const events = Object.keys(told);
    const listen = (event) => {{
        for (const name of events) app.api.removeEventListener(name, listen);
        told[event.type](event);
    }};
    for (const name of events) app.api.addEventListener(name, listen);
    app.queuePrompt(0, 1).then(() => {{
        if (Object.keys(app.lastNodeErrors ?? {{}}).length) reject(new Error(JSON.stringify(app.lastNodeErrors)));
    }}, reject);
}})"""
#: What a node shows of its result: in Nodes 2.0 it is a part of the node, on the canvas a widget's. Pictures are drawn
#: on the canvas itself.
SHOWN = """([id, tag]) => {
    const drawn = document.querySelector(`[data-node-id="${id}"]`);
    if (drawn) return drawn.querySelector(tag);
    const node = app.graph.getNodeById(id);
    const found = (node.widgets ?? []).map((widget) => widget.element?.querySelector(tag)).find(Boolean);
    return found ?? (tag === 'img' ? node.imgs?.[0] : null);
}"""
#: A picture or a video that has arrived has a size.
ARRIVED = f"""([id, tag]) => {{
    const found = ({SHOWN})([id, tag]);
    return found && (found.videoWidth || found.naturalWidth) ? found : null;
}}"""
#: All texts that the next frame draws on the canvas.
DRAWN = """() => new Promise((done) => {
    const [texts, prototype] = [[], CanvasRenderingContext2D.prototype];
    const { fillText } = prototype;
    prototype.fillText = function (text, ...rest) {
        texts.push(text);
        return fillText.call(this, text, ...rest);
    };
    app.canvas.setDirty(true, true);
    requestAnimationFrame(() => requestAnimationFrame(() => {
        prototype.fillText = fillText;
        done(texts);
    }));
})"""


@dataclass
class ComfyPage:
    """A page of ComfyUI. ``errors`` grows by what goes wrong in it, but for what the frontend itself lets fail."""

    page: Page
    url: str
    canvas: str
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        self.page.on("response", self._on_response)

    def start(self, **query: str) -> None:
        """Load the page anew, at its address with ``query``, until the pack's nodes are there."""
        self.page.goto(f"{self.url}/?{urlencode(query)}")
        self.page.wait_for_function(
            "() => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.HyvSampler && app.graph",
            timeout=START_TIMEOUT_MS,
        )

    def open(self, workflow: Json, name: str | None = None) -> None:
        """Open a workflow in the place of all that are open."""
        self.page.evaluate(OPEN, [workflow, name])
        self.settle()

    def open_template(self, name: str) -> None:
        """Open a template of this pack by the address from which the frontend takes it."""
        route = f"/api/workflow_templates/{PACK_NAME}/{name}.json"
        self.open(self.page.evaluate("async (route) => await (await fetch(route)).json()", route), name)

    def settle(self) -> None:
        """Wait until what was changed is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def prompt(self) -> Json:
        """What the page would queue, in API format."""
        output: Json = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return output

    def workflow(self) -> Json:
        """What the page would save."""
        found: Json = self.page.evaluate("() => app.graph.serialize()")
        return found

    def run(self) -> Json:
        """Run what is open to its end; outputs by node id. Raises Playwright's ``Error`` with the node's message."""
        self.page.evaluate(RUN)
        self.settle()
        outputs: Json = self.page.evaluate("() => app.nodeOutputs")
        return outputs

    def shown(self, node_id: int | str, tag: str) -> Any:
        """The ``video`` or ``img`` that a node shows, once its file has arrived."""
        return self.page.wait_for_function(ARRIVED, arg=[int(node_id), tag], timeout=SHOW_TIMEOUT_MS)

    def set(self, node_id: int | str, values: Mapping[str, Any]) -> None:
        """Set widgets of a node by their names."""
        self.page.evaluate(
            """([id, values]) => {
                for (const widget of app.graph.getNodeById(id).widgets)
                    if (widget.name in values) {
                        widget.value = values[widget.name];
                        widget.callback?.(widget.value);
                    }
            }""",
            [int(node_id), dict(values)],
        )
        self.settle()

    def node_ids(self, kind: str) -> list[int]:
        """Ids of the open nodes of a type."""
        ids: list[int] = self.page.evaluate(
            "(kind) => app.graph.nodes.filter(({ type }) => type === kind).map(({ id }) => id)", kind
        )
        return ids

    def unknown_nodes(self) -> list[str]:
        """Types of the open nodes that no installed pack has."""
        types: list[str] = self.page.evaluate(
            "() => app.graph.nodes.map(({ type }) => type).filter((type) => !LiteGraph.registered_node_types[type])"
        )
        return types

    def boxes(self, what: str = "nodes") -> dict[int, tuple[float, float, float, float]]:
        """Left, upper, right and lower edge of each node with its title, or of the ``groups``, by id."""
        found = self.page.evaluate(
            "(what) => app.graph[what].map(({ id, boundingRect }) => [id, ...boundingRect].map(Number))", what
        )
        return {int(number): (x, y, x + width, y + height) for number, x, y, width, height in found}

    def texts(self) -> str:
        """What can be read in the nodes that are in view."""
        if CANVASES[self.canvas]:
            return "\n".join(self.page.locator("[data-node-id]").all_inner_texts())
        return "\n".join(self.page.evaluate(DRAWN))

    def look_at(self, node_id: int) -> None:
        """Bring a node into view in its natural size, and select it."""
        self.page.evaluate(
            """(id) => {
                const node = app.graph.getNodeById(id);
                app.canvas.ds.scale = 1;
                app.canvas.ds.offset = [350 - node.pos[0], 200 - node.pos[1]];
                app.canvas.selectItems([node]);
                app.canvas.setDirty(true, true);
            }""",
            node_id,
        )
        self.settle()

    def open_help(self) -> None:
        """Open the help of the selected node by its button."""
        self.page.get_by_test_id("info-button").click()

    def help(self) -> Locator:
        """The help that is open."""
        return self.page.locator(".node-help-content")

    def fit(self, nodes: Sequence[int] | None = None) -> None:
        """Show the whole workflow, or these nodes."""
        self.page.evaluate(
            """(ids) => {
                if (ids) app.canvas.selectItems(ids.map((id) => app.graph.getNodeById(id)));
                else app.canvas.deselectAll();
            }""",
            nodes,
        )
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        # The view glides to its place.
        self.page.wait_for_timeout(600)
        self.page.evaluate("() => app.canvas.deselectAll()")
        self.settle()

    def screenshot(self, path: Path) -> None:
        """Save what is seen as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def _on_console(self, message: ConsoleMessage) -> None:
        # Requests that fail are told with their addresses by ``_on_response``.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(f"console: {message.text}")

    def _on_response(self, response: Response) -> None:
        path = response.url.removeprefix(self.url)
        is_english_help = response.status == 404 and ENGLISH_HELP.fullmatch(path)
        if response.status >= 400 and not path.startswith(USUALLY_MISSING) and not is_english_help:
            self.errors.append(f"{response.status} {path}")


@contextmanager
def opened(
    playwright: Playwright,
    chromium: Path,
    url: str,
    canvas: str,
    settings: Mapping[str, Any] | None = None,
    *,
    pixels: int = 1,
) -> Iterator[ComfyPage]:
    """A page of the ComfyUI at ``url`` with this canvas, in a browser profile of its own.

    ``pixels`` of a screenshot, across and down, are of each of the page's.
    """
    choose(url, {"Comfy.VueNodes.Enabled": CANVASES[canvas], **(settings or {})})
    with tempfile.TemporaryDirectory(prefix="hyvideo-chromium-", ignore_cleanup_errors=True) as profile:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=chromium,
            headless=True,
            viewport=SIZE_PX,
            device_scale_factor=pixels,
            args=[*FLAGS, OFFLINE],
        )
        try:
            page = ComfyPage(context.pages[0], url, canvas)
            page.start()
            yield page
        finally:
            context.close()


def choose(url: str, settings: Mapping[str, Any]) -> None:
    """Set settings of the frontend for pages that are opened from now on, beside ``QUIET``."""
    with ComfyClient(url) as client:
        for name, value in {**QUIET, **settings}.items():
            client.request(f"/settings/{name}", json.dumps(value).encode(), {"Content-Type": "application/json"})
