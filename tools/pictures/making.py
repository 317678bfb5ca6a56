"""Makes the pictures: runs their graphs in a real ComfyUI and draws what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageSequence

from tools.client import ComfyClient
from tools.console import step
from tools.locales import PAGES
from tools.paths import DEMO_BASE
from tools.pictures import drawing, readme, screens, thumbnails
from tools.pictures.catalog import PICTURES, Panel
from tools.server import Server
from tools.workflow_graphs import Graph, Link, Node
from tools.workflows import api_format

FOLDER = PAGES / "pictures"
#: Formats whose readers give frames as they were.
EXACT: dict[str, Any] = {"fps": 24.0, "crf": 16, "filename_prefix": "help", "format": "PNG sequence"}

Json = dict[str, Any]


def run(host: Path, only: list[str]) -> int:
    """Make all pictures, screenshots, thumbnails and those of README anew, or those whose names are given."""
    with Server(host, DEMO_BASE) as server, server.client() as client:
        studio = Studio(server, client)
        for name, panels in PICTURES.items():
            if not only or name in only:
                with step(f"Picture {name}"):
                    drawing.draw([(panel.caption, studio.frames(panel)) for panel in panels], FOLDER / f"{name}.webp")
        if not only or "thumbnails" in only:
            with step("Thumbnails"):
                thumbnails.make(studio.of_workflow)
        if not only or "screens" in only:
            with step("Screenshots"):
                screens.make(server, client, FOLDER)
    if not only or "readme" in only:
        readme.make(host)
    return 0


class Studio:
    """Frames that graphs make; each graph runs once."""

    def __init__(self, server: Server, client: ComfyClient) -> None:
        self._server, self._client = server, client
        self._info = client.object_info()
        self._made: dict[str, drawing.Frames] = {}

    def frames(self, panel: Panel) -> drawing.Frames:
        """Those of a panel."""
        frames = self._run(*_with_save(panel.graph, panel.shown))
        return np.concatenate([frames] * panel.plays)

    def of_workflow(self, graph: Graph) -> drawing.Frames:
        """What a shipped workflow decodes; of several clips one after the other."""
        if "decode" in graph:
            return self._run(*_with_save(graph, Link("decode")))
        clips = [name for name in graph if name.startswith("clip_")]
        return np.concatenate([self._run(*_with_save(_decoding(graph, clip), Link("decode"))) for clip in clips])

    def _run(self, graph: Graph, save: str) -> drawing.Frames:
        prompt = api_format(_needed(graph, save), self._info)
        key = json.dumps(prompt, sort_keys=True)
        if key not in self._made:
            outputs = self._client.run(prompt)["outputs"]
            number = next(number for number, node in prompt.items() if node["class_type"] == graph[save].kind)
            self._made[key] = read(self._saved(outputs[number]))
        return self._made[key]

    def _saved(self, output: Json) -> Path:
        (file,) = output.get("files") or output["images"]
        return self._server.output / file["subfolder"] / file["filename"]


def read(path: Path) -> drawing.Frames:
    """Frames [T, H, W, 3] of a video, of a moving picture, or of a folder of pictures."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(each).convert("RGB")) for each in sorted(path.glob("*.png"))])
    if path.suffix in (".gif", ".webp"):
        with Image.open(path) as picture:
            return np.stack([np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(picture)])
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _with_save(graph: Graph, shown: Link) -> tuple[Graph, str]:
    """The graph with a node that saves what is shown, and that node's name."""
    if graph[shown.node].kind == "HyvSaveVideo":
        return graph, shown.node
    return {**graph, "shown": Node("HyvSaveVideo", {"images": shown, **EXACT})}, "shown"


def _decoding(graph: Graph, clip: str) -> Graph:
    """The graph with a node that decodes one of its clips."""
    return {**graph, "decode": Node("HyvDecode", {"vae": Link("vae"), "latent": Link(clip), "tiling": "auto"})}


def _needed(graph: Graph, save: str) -> Graph:
    """The nodes that one needs, in their order."""
    needed, waiting = set(), [save]
    while waiting:
        needed.add(name := waiting.pop())
        waiting += [value.node for value in graph[name].inputs.values() if isinstance(value, Link)]
    return {name: node for name, node in graph.items() if name in needed}
