"""A saved clip of each format is shown in the node, can be scrubbed, and opens its workflow when it is dropped."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hyvideo_core.video import FORMATS
from tools.workflow_features_video import CLIP

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

Json = dict[str, Any]
SAVE, PICTURE = 9, 1
WIDTH_PX, HEIGHT_PX, FRAMES = 96, 48, 9
RED, BLUE = 0xE01010, 0x1020E0
LOADED_S = 30.0
#: A mean difference of a byte that no codec makes of a plain colour.
TOLERANCE = 24
MIME = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".webp": "image/webp",
    ".png": "image/png",
}
#: The mean colour of what an element shows, if it is a video at this part of its length.
COLOUR = """async (shown, part) => {
    if (shown.duration) {
        shown.pause();
        const sought = new Promise((done) => shown.addEventListener('seeked', done, { once: true }));
        shown.currentTime = part * shown.duration;
        await sought;
    }
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [shown.videoWidth || shown.naturalWidth, shown.videoHeight || shown.naturalHeight];
    const context = canvas.getContext('2d');
    context.drawImage(shown, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    return [0, 1, 2].map((channel) => {
        let sum = 0;
        for (let place = channel; place < data.length; place += 4) sum += data[place];
        return (4 * sum) / data.length;
    });
}"""
#: Plays a video until it begins again.
LOOPS = """async (video) => {
    video.muted = true;
    video.currentTime = 0;
    await video.play();
    for (let waits = 0, last = 0; waits < 400; waits += 1) {
        await new Promise((done) => setTimeout(done, 20));
        if (video.currentTime < last) return !video.paused;
        last = video.currentTime;
    }
    return false;
}"""
DROP = """async ([address, name, type]) => {
    const file = new File([await (await fetch(address)).blob()], name, { type });
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(file);
    const where = { clientX: 1200, clientY: 850, bubbles: true, cancelable: true };
    app.canvas.canvas.dispatchEvent(new DragEvent('drop', { dataTransfer, ...where }));
}"""
EMPTY = {"nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4}


def node(number: int, kind: str, left_px: int, values: list[Any], inputs: list[Json], outputs: list[Json]) -> Json:
    return {
        "id": number,
        "type": kind,
        "pos": [left_px, 0],
        "size": [360, 420],
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": {},
        "widgets_values": values,
    }


def saving(kind: str, colour: int = RED) -> Json:
    """A plain colour, saved as one format."""
    picture = [WIDTH_PX, HEIGHT_PX, FRAMES, colour]
    out, into = {"name": "IMAGE", "type": "IMAGE", "links": [1]}, {"name": "images", "type": "IMAGE", "link": 1}
    return EMPTY | {
        "last_node_id": SAVE,
        "last_link_id": 1,
        "nodes": [
            node(PICTURE, "EmptyImage", 0, picture, [], [out]),
            node(SAVE, "HyvSaveVideo", 420, [24.0, 16, "video/saved", kind], [into], []),
        ],
        "links": [[1, PICTURE, 0, SAVE, 0, "IMAGE"]],
    }


def clip() -> Json:
    """The input folder's clip, which grows lighter, saved anew."""
    video, images = {"name": "VIDEO", "type": "VIDEO", "links": [1]}, {"name": "images", "type": "IMAGE", "links": [2]}
    return EMPTY | {
        "last_node_id": SAVE,
        "last_link_id": 2,
        "nodes": [
            node(1, "LoadVideo", 0, [CLIP, "image"], [], [video]),
            node(2, "GetVideoComponents", 420, [], [{"name": "video", "type": "VIDEO", "link": 1}], [images]),
            node(
                SAVE,
                "HyvSaveVideo",
                840,
                [24.0, 16, "video/clip", "H.264 mp4"],
                [{"name": "images", "type": "IMAGE", "link": 2}],
                [],
            ),
        ],
        "links": [[1, 1, 0, 2, 0, "VIDEO"], [2, 2, 0, SAVE, 0, "IMAGE"]],
    }


def rgb(colour: int) -> list[int]:
    return [colour >> 16 & 255, colour >> 8 & 255, colour & 255]


def is_near(found: list[float], colour: int) -> bool:
    return all(abs(a - b) < TOLERANCE for a, b in zip(found, rgb(colour), strict=True))


def saved_file(outputs: Json) -> tuple[str, str]:
    """Name and subfolder of the file that opens the workflow."""
    told = outputs[str(SAVE)]
    file = (told.get("files") or told["images"])[0]
    name, folder = file["filename"], file["subfolder"]
    if name.endswith(".gif"):
        return name.replace(".gif", ".png"), folder
    return (name, folder) if "." in name else ("frame_00001.png", f"{folder}/{name}")


def content(workflow: Json) -> list[tuple[Any, ...]]:
    """What a workflow says, without how it is drawn."""
    found = [(each["id"], each["type"], each["pos"], each["widgets_values"]) for each in workflow["nodes"]]
    return sorted(found) + [tuple(link) for link in workflow["links"]]


@pytest.mark.spread("kind", FORMATS)
def test_the_node_shows_the_clip_of_this_run_and_not_the_one_before(page, kind):
    page.open(saving("H.264 mp4"))
    page.run()
    assert is_near(page.shown(SAVE, "video").evaluate(COLOUR, 0), RED)
    page.set(PICTURE, {"color": BLUE})
    page.set(SAVE, {"format": kind})
    page.run()
    # The frontend keeps the clip of before until the new one is loaded.
    deadline = time.monotonic() + LOADED_S
    while not is_near((shown := page.shown(SAVE, "video")).evaluate(COLOUR, 0.5), BLUE):
        assert time.monotonic() < deadline, "the clip of the run before stays"
        page.settle()
    assert shown.evaluate("({ videoWidth, videoHeight }) => [videoWidth, videoHeight]") == [WIDTH_PX, HEIGHT_PX]


@pytest.mark.spread("kind", FORMATS)
def test_a_saved_file_dropped_on_the_canvas_opens_its_workflow(page, kind):
    page.open(saving(kind, BLUE))
    before = page.workflow()
    name, folder = saved_file(page.run())
    page.open(EMPTY)
    assert page.workflow()["nodes"] == []
    address = f"/api/view?filename={name}&subfolder={folder}&type=output"
    page.page.evaluate(DROP, [address, name, MIME[f".{name.rsplit('.')[-1]}"]])
    page.page.wait_for_function("() => app.graph.nodes.length === 2")
    assert content(page.workflow()) == content(before)
    assert page.prompt()[str(SAVE)]["inputs"]["format"] == kind


def test_a_shown_video_can_be_scrubbed_and_plays_in_a_loop(page):
    page.open(clip())
    page.run()
    shown = page.shown(SAVE, "video")
    assert shown.evaluate("(video) => video.controls")
    first, last = (shown.evaluate(COLOUR, part) for part in (0, 0.9))
    # The clip's frames are 20 apart.
    assert last[0] > first[0] + 40
    assert shown.evaluate(LOOPS)
