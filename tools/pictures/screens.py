"""Pictures of nodes that show nothing in a video, or that need what the small model lacks: taken in the browser."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tools.browser import chromium
from tools.browser.page import NODES_2, opened
from tools.client import ComfyClient
from tools.pictures import drawing
from tools.server import Server
from tools.workflow_catalog import WORKFLOWS
from tools.workflow_features import with_features, with_inputs
from tools.workflow_graphs import Graph, Link, Node
from tools.workflows import api_format

WIDTH_PX, SETTLED_MS = 430, 2_000
#: The node alone, as wide as that, at its natural size, away from the menus.
PLACE = """([id, width]) => {
    for (const other of [...app.graph.nodes]) if (other.id !== id) app.graph.remove(other);
    const node = app.graph.getNodeById(id);
    node.pos = [0, 0];
    node.setSize([width, Math.max(node.size[1], node.computeSize()[1])]);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [300, 250];
    app.canvas.setDirty(true, true);
}"""


def make(server: Server, client: ComfyClient, folder: Path) -> None:
    """Write a picture of each of the nodes."""
    info = client.object_info()
    with (
        sync_playwright() as playwright,
        opened(playwright, chromium.ensure(), server.url, NODES_2, {"Comfy.Locale": "en"}) as page,
    ):
        for name, (kind, graph, runs) in SCREENS.items():
            page.page.evaluate("(prompt) => app.loadApiJson(prompt, 'help')", api_format(graph, info))
            page.page.wait_for_timeout(SETTLED_MS)
            if runs:
                page.run()
            (number,) = page.node_ids(kind)
            page.page.evaluate(PLACE, [number, WIDTH_PX])
            page.page.wait_for_timeout(SETTLED_MS)
            shot = page.page.locator(f'[data-node-id="{number}"]').first.screenshot()
            drawing.write([Image.open(io.BytesIO(shot)).convert("RGB")], folder / f"{name}.webp")


def planned() -> Graph:
    """HyVideo Plan of the small model, for a card with 1 GB free."""
    graph = WORKFLOWS["hyvideo_demo_t2v"].graph
    # The page keeps values and results by the nodes' numbers, from one graph to the next.
    graph = {**graph, "encoders": with_inputs(graph["encoders"], vision="none")}
    plan = {"model": Link("model"), "latent": Link("size"), "memory_gb": 1.0, "text_encoders": Link("encoders")}
    return {name: graph[name] for name in ("model", "encoders", "size")} | {"plan": Node("HyvPlan", plan)}


def _rewritten() -> Graph:
    asked: dict[str, Any] = {"prompt": "a cat on the grass", "mode": "normal", "llm": "none", "wording": 0}
    return {"rewrite": Node("HyvRewritePrompt", asked | {"max_new_tokens": 256})}


def _in_memory() -> Graph:
    return with_features(WORKFLOWS["hyvideo_demo_t2v"].graph, ("memory", Node("HyvMemory", {"resident_blocks": 20})))


#: By the picture's name: the node, the graph it stands in, and whether that is run first, for what the node then shows.
SCREENS: dict[str, tuple[str, Graph, bool]] = {
    "memory": ("HyvMemory", _in_memory(), False),
    "save_prompt": ("HyvSavePrompt", WORKFLOWS["hyvideo_demo_prompt_blend"].graph, False),
    "rewrite_prompt": ("HyvRewritePrompt", _rewritten(), False),
    "plan": ("HyvPlan", planned(), True),
    # The last ones: the image that is missing to them would be shown missing in those after them.
    "encode_image_prompt": ("HyvEncodeImagePrompt", WORKFLOWS["hyvideo_ip2v"].graph, False),
    "keyframes": ("HyvKeyframes", WORKFLOWS["hyvideo_keyframes"].graph, False),
}
