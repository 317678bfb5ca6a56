"""The pictures of the README, made by the pack itself: ``docs/pictures/graph.png`` and ``docs/pictures/clip.webp``.

Run ``python tools/dev.py pictures readme`` after a change of what they show.
"""

from __future__ import annotations

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

FOLDER = ROOT / "docs" / "pictures"
WORKFLOW = "hyvideo_demo_t2v"
#: Readers load the README over slow lines too.
MOST_BYTES = 400_000
COLOURS = 256
#: How much the demo's clip is enlarged: it is very small.
ENLARGED = 4
MARGIN_PX = 12
#: Where in the clip the picture shows it.
MIDDLE = """(video) => new Promise((done) => {
    video.controls = false;
    video.addEventListener('seeked', done, { once: true });
    video.currentTime = video.duration / 2;
})"""
#: The part of the screen that the nodes and groups take up, in px.
PLACE = """() => {
    const [nodes, groups] = [app.graph.nodes, app.graph.groups];
    const boxes = [...nodes.map((node) => node.getBounding()), ...groups.map((group) => group._bounding)];
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


def make_graph(page: ComfyPage, target: Path) -> None:
    """The demo's graph after a run, without what is around it."""
    page.open_template(WORKFLOW)
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
