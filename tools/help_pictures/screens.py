"""Pictures of nodes that show nothing in a video, or that need what the small model lacks: taken in the browser."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tools.client import ComfyClient
from tools.help_pictures import drawing
from tools.server import Server
from tools.workflow_catalog import WORKFLOWS
from tools.workflow_features import with_features
from tools.workflow_graphs import Graph, Link, Node
from tools.workflows import api_format

#: Chromium, where Playwright did not bring its own.
CHROMIUM = os.environ.get("CHROMIUM_PATH", "/usr/bin/chromium")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WINDOW = {"width": 1600, "height": 1200}
READY_MS, SETTLED_MS = 120_000, 3_000
WIDTH_PX = 430
IS_READY = "() => Boolean(window.app?.extensionManager && window.LiteGraph?.registered_node_types?.HyvSampler)"
#: Our node alone, at its natural size, away from the menus.
PLACE = """([kind, width]) => {
    const node = app.graph._nodes.find((each) => each.type === kind)
    for (const other of [...app.graph._nodes]) if (other !== node) app.graph.remove(other)
    node.pos = [0, 0]; node.setSize([width, node.computeSize()[1]])
    app.canvas.ds.scale = 1; app.canvas.ds.offset = [300, 250]; app.canvas.setDirty(true, true)
    return node.id
}"""


def make(server: Server, client: ComfyClient, folder: Path) -> None:
    """Write a picture of each of the nodes."""
    info = client.object_info()
    with browser(server, client) as page:
        for name, (kind, graph, runs) in SCREENS.items():
            prompt = api_format(graph, info)
            page.evaluate("prompt => app.loadApiJson(prompt, 'help')", prompt)
            page.wait_for_timeout(SETTLED_MS)
            if runs:
                page.evaluate("() => app.queuePrompt(0, 1)")
                page.wait_for_timeout(SETTLED_MS * 3)
            number = page.evaluate(PLACE, [kind, WIDTH_PX])
            page.wait_for_timeout(SETTLED_MS)
            shot = page.locator(f'[data-node-id="{number}"]').first.screenshot()
            drawing.write([Image.open(io.BytesIO(shot)).convert("RGB")], folder / f"{name}.webp")


@contextmanager
def browser(server: Server, client: ComfyClient) -> Iterator[Page]:
    """ComfyUI in a browser of its own, in English and with the nodes drawn the newer way."""
    for setting, value in (("TutorialCompleted", b"true"), ("VueNodes.Enabled", b"true"), ("Locale", b'"en"')):
        client.request(f"/settings/Comfy.{setting}", value, {"Content-Type": "application/json"})
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, viewport=WINDOW, args=SWITCHES
        )
        try:
            page = context.pages[0]
            page.goto(server.url)
            page.wait_for_function(IS_READY, timeout=READY_MS)
            yield page
        finally:
            context.close()


def _planned() -> Graph:
    graph = WORKFLOWS["hyvideo_demo_t2v"].graph
    plan = {"model": Link("model"), "latent": Link("size"), "memory_gb": 1.0, "text_encoders": Link("encoders")}
    return {name: graph[name] for name in ("model", "encoders", "size")} | {"plan": Node("HyvPlan", plan)}


def _rewritten() -> Graph:
    asked: dict[str, Any] = {"prompt": "a cat on the grass", "mode": "normal", "llm": "none", "wording": 0}
    return {"rewrite": Node("HyvRewritePrompt", asked | {"max_new_tokens": 256})}


def _in_memory() -> Graph:
    return with_features(WORKFLOWS["hyvideo_demo_t2v"].graph, ("memory", Node("HyvMemory", {"resident_blocks": 20})))


#: By the picture's name: the node, the graph it stands in, and whether that is run first, for what the node then shows.
SCREENS: dict[str, tuple[str, Graph, bool]] = {
    "encode_image_prompt": ("HyvEncodeImagePrompt", WORKFLOWS["hyvideo_ip2v"].graph, False),
    "keyframes": ("HyvKeyframes", WORKFLOWS["hyvideo_keyframes"].graph, False),
    "plan": ("HyvPlan", _planned(), True),
    "memory": ("HyvMemory", _in_memory(), False),
    "save_prompt": ("HyvSavePrompt", WORKFLOWS["hyvideo_demo_prompt_blend"].graph, False),
    "rewrite_prompt": ("HyvRewritePrompt", _rewritten(), False),
}
