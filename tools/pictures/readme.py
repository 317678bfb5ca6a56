"""The pictures of the README, made by the pack itself: ``docs/pictures/graph.png`` and ``docs/pictures/clip.webp``.

Run ``python tools/dev.py pictures readme`` after a change of what they show.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tools.browser import chromium, frontends
from tools.browser.page import NODES_2, ComfyPage, opened
from tools.client import ComfyClient, Json
from tools.console import step
from tools.demo import load_workflow
from tools.paths import DEMO_BASE, ROOT
from tools.server import Server
from tools.workflows import FOLDER as TEMPLATES

FOLDER = ROOT / "docs" / "pictures"
WORKFLOW = "hyvideo_demo_t2v"
#: Readers load the README over slow lines too.
MOST_BYTES = 400_000
COLOURS = 256
#: How much the demo's clip is enlarged: it is very small.
ENLARGED = 4
MARGIN_PX = 12
#: Left, top and width of each node for the picture, in px: nearer to each other than in the template, so that a page's
#: width leaves the words readable, and with no wire behind a node.
PLACES = {
    "HyvLoadModel": (0, 0, 300),
    "HyvLoadTextEncoders": (0, 290, 300),
    "HyvEncodePrompt": (350, 80, 340),
    "HyvEmptyLatent": (350, 490, 340),
    "HyvSampler": (740, 0, 320),
    "HyvLoadVAE": (740, 830, 320),
    "HyvDecode": (1100, 330, 250),
    "HyvSaveVideo": (1400, 330, 340),
}
#: Where in the clip the picture shows it.
MIDDLE = """(video) => new Promise((done) => {
    video.controls = false;
    video.addEventListener('seeked', done, { once: true });
    video.currentTime = video.duration / 2;
})"""
#: The part of the screen that the nodes take up, in px.
PLACE = """() => {
    const boxes = app.graph.nodes.map((node) => node.getBounding());
    const [left, top] = [0, 1].map((side) => Math.min(...boxes.map((box) => box[side])));
    const [right, bottom] = [0, 1].map((side) => Math.max(...boxes.map((box) => box[side] + box[side + 2])));
    const { x, y } = app.canvas.canvas.getBoundingClientRect();
    const [from, to] = [[left, top], [right, bottom]].map((place) => app.canvas.ds.convertOffsetToCanvas(place));
    return [x + from[0], y + from[1], to[0] - from[0], to[1] - from[1]];
}"""


def make(host: Path) -> None:
    """Make both pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    root = frontends.ensure(frontends.NEWEST[0])
    browser = chromium.ensure()
    with Server(host, DEMO_BASE, arguments=["--front-end-root", str(root)]) as server:
        with (
            step("Making the picture of the graph"),
            sync_playwright() as playwright,
            opened(playwright, browser, server.url, NODES_2, pixels=2) as page,
        ):
            make_graph(page, FOLDER / "graph.png")
        # After it: what was made once already would show no preview.
        with step("Making the clip"), server.client() as client:
            make_clip(client, server.output, FOLDER / "clip.webp")


def make_clip(client: ComfyClient, output: Path, target: Path) -> None:
    """The demo's video as a picture that moves, enlarged."""
    record = client.run(enlarged(load_workflow(WORKFLOW)))
    saved = next(node["files"] for node in record["outputs"].values() if "files" in node)
    shutil.copy(output / saved[0]["subfolder"] / saved[0]["filename"], target)


def enlarged(workflow: Json) -> Json:
    """The workflow with its frames enlarged before they are saved, as a WebP."""
    save = next(node for node in workflow.values() if node["class_type"] == "HyvSaveVideo")
    factor = {"upscale_method": "bicubic", "scale_by": float(ENLARGED)}
    workflow["scale"] = {"class_type": "ImageScaleBy", "inputs": {"image": save["inputs"]["images"], **factor}}
    save["inputs"] |= {"images": ["scale", 0], "format": "WebP"}
    return workflow


def compact(workflow: Json) -> Json:
    """The template's nodes alone, at their ``PLACES``."""
    nodes = [node for node in workflow["nodes"] if node["type"] in PLACES]
    for node in nodes:
        *node["pos"], node["size"][0] = PLACES[node["type"]]
    return {**workflow, "nodes": nodes, "groups": []}


def make_graph(page: ComfyPage, target: Path) -> None:
    """The demo's graph after a run, without what is around it."""
    page.open(compact(json.loads((TEMPLATES / f"{WORKFLOW}.json").read_text("utf-8"))))
    page.run()
    page.page.evaluate("() => app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    page.fit()
    for node_id in page.node_ids("HyvSaveVideo"):
        page.shown(node_id, "video").evaluate(MIDDLE)
    left, top, width, height = page.page.evaluate(PLACE)
    clip = {
        "x": left - MARGIN_PX,
        "y": top - MARGIN_PX,
        "width": width + 2 * MARGIN_PX,
        "height": height + 2 * MARGIN_PX,
    }
    page.page.screenshot(path=target, clip=clip)
    if target.stat().st_size > MOST_BYTES:
        with Image.open(target) as picture:
            picture.convert("RGB").quantize(COLOURS).save(target, optimize=True)
