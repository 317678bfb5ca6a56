"""Writes ``workflows/*.json`` (for the browser) and ``workflows/api/*.json`` (for programs) from one description, and
``docs/nodes.md``, the reference of the nodes, and ``locales/en``, their texts as the browser looks them up.

Run ``python tools/dev.py workflows`` after changing a node or a graph. Which inputs are widgets and in which order
they stand comes from the running host, so the files cannot drift from the nodes; a test holds them equal.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from tools import locales, node_reference, workflow_notes
from tools import workflow_layout as layout
from tools.paths import DEMO_BASE, ROOT
from tools.server import PACK_NAME, Server
from tools.workflow_catalog import WORKFLOWS
from tools.workflow_graphs import Files, Graph, Link, Node

FOLDER = ROOT / "workflows"
DYNAMIC = node_reference.DYNAMIC
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC}
#: Sockets of which there is always one more than is connected.
GROWING = "COMFY_AUTOGROW_V3"
SEEDS = ("seed", "noise_seed")

Json = dict[str, Any]


def render_all(object_info: Json) -> dict[Path, str]:
    """Every file with its content."""
    files = {}
    for name, (graph, models) in WORKFLOWS.items():
        files[FOLDER / "api" / f"{name}.json"] = _text(api_format(graph, object_info))
        files[FOLDER / f"{name}.json"] = _text(ui_format(name, graph, models, object_info))
    files[node_reference.FILE] = node_reference.render(object_info)
    return files | locales.render(object_info)


def run(host: Path) -> int:
    """Start the host, ask it about its nodes, write the files."""
    with Server(host, DEMO_BASE) as server, server.client() as client:
        write_all(client.object_info())
    return 0


def write_all(object_info: Json) -> None:
    """Write every file that changed."""
    for path, content in render_all(object_info).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != content:
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


def api_format(graph: Graph, object_info: Json) -> Json:
    """The form that ``POST /prompt`` takes, with all widgets and titles, as the browser exports it."""
    ids = _ids(graph)
    return {
        str(ids[name]): {
            "class_type": node.kind,
            "inputs": _api_inputs(node, ids, object_info[node.kind]),
            "_meta": {"title": node.title or object_info[node.kind]["display_name"] or node.kind},
        }
        for name, node in graph.items()
    }


def ui_format(name: str, graph: Graph, models: Files, object_info: Json) -> Json:
    """The form that the browser opens."""
    ids = _ids(graph)
    links = _links(graph, ids, object_info)
    notes = workflow_notes.notes(name, graph, models)
    boxes, note_boxes = layout.boxes(graph, notes)
    nodes = []
    for key, node in graph.items():
        place = {"pos": [boxes[key].left, boxes[key].top], "size": [boxes[key].width, boxes[key].height]}
        nodes.append(_ui_node(ids[key], node, links, models, object_info) | place)
    for number, (note, box) in enumerate(zip(notes, note_boxes, strict=True), start=len(ids) + 1):
        nodes.append(layout.note_node(note, box, number))
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK_NAME}/{name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": max(link[0] for link in links),
        "nodes": nodes,
        "links": links,
        "groups": layout.groups(graph, notes),
        "config": {},
        "extra": {"ds": {"scale": 0.7, "offset": [140, 200]}},
        "version": 0.4,
    }


def _ids(graph: Graph) -> dict[str, int]:
    return {name: number for number, name in enumerate(graph, start=1)}


def _api_inputs(node: Node, ids: dict[str, int], info: Json) -> Json:
    """Widgets in their order, those that the graph does not mention with their defaults, and then the wires."""
    wires = {key: [str(ids[value.node]), value.slot] for key, value in node.inputs.items() if isinstance(value, Link)}
    return _widgets(node, _specs(info)) | wires


def _links(graph: Graph, ids: dict[str, int], object_info: Json) -> list[list[Any]]:
    """[id, from node, from slot, to node, to slot, type] of every wire."""
    links: list[list[Any]] = []
    for name, node in graph.items():
        for slot, socket in enumerate(_sockets(node, object_info[node.kind])):
            value = node.inputs.get(socket)
            if isinstance(value, Link):
                kind = object_info[graph[value.node].kind]["output"][value.slot]
                links.append([len(links) + 1, ids[value.node], value.slot, ids[name], slot, kind])
    return links


def _ui_node(number: int, node: Node, links: list[list[Any]], models: Files, object_info: Json) -> Json:
    info = object_info[node.kind]
    incoming = {link[4]: link[0] for link in links if link[3] == number}
    specs = _specs(info)
    is_ours = info["python_module"].startswith("custom_nodes.")
    properties: Json = {"cnr_id": PACK_NAME if is_ours else "comfy-core", "Node name for S&R": node.kind}
    used = [each for each in map(models.download, node.inputs.values()) if each is not None]
    if used:
        properties["models"] = [{"name": each.file, "url": each.url, "directory": each.folder} for each in used]
    return {
        "id": number,
        "type": node.kind,
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [
            {"name": socket, "type": kind, "link": incoming.get(slot)}
            | ({"label": socket.split(".")[1]} if "." in socket else {})
            | ({"shape": 7} if socket in info["input"].get("optional", {}) else {})
            for slot, (socket, kind) in enumerate(_sockets(node, info).items())
        ],
        "outputs": [
            {"name": label, "type": kind, "links": [link[0] for link in links if link[1:3] == [number, slot]] or None}
            for slot, (label, kind) in enumerate(zip(info["output_name"], info["output"], strict=True))
        ],
        **({"title": node.title} if node.title else {}),
        "properties": properties,
        "widgets_values": _widget_values(node, specs),
    }


def _specs(info: Json) -> dict[str, list[Any]]:
    """Each input's [type, options], required ones first."""
    inputs = info["input"]
    return {**inputs.get("required", {}), **inputs.get("optional", {})}


def _is_widget(spec: list[Any]) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    return (isinstance(spec[0], list) or spec[0] in WIDGET_TYPES) and not options.get("forceInput")


def _sockets(node: Node, info: Json) -> dict[str, str]:
    """Names and types of a node's sockets; of those that grow, the connected ones and the next."""
    found: dict[str, str] = {}
    for name, spec in _specs(info).items():
        if spec[0] == GROWING:
            template = spec[1]["template"]
            (kind, *_), *_ = _specs(template).values()
            connected = sum(key.startswith(f"{name}.") for key in node.inputs)
            found |= {f"{name}.{template['prefix']}{number}": kind for number in range(connected + 1)}
        elif not _is_widget(spec):
            found[name] = spec[0]
    return found


def _widgets(node: Node, specs: dict[str, list[Any]], prefix: str = "") -> Json:
    """Each widget's value in the order of the widgets; a dynamic choice is followed by the widgets it brings."""
    values: Json = {}
    for name, spec in specs.items():
        if not _is_widget(spec):
            continue
        key = prefix + name
        options = spec[1] if len(spec) > 1 else {}
        choices = options["options"] if spec[0] == DYNAMIC else []
        values[key] = node.inputs.get(key, choices[0]["key"] if choices else options.get("default"))
        if choices:
            chosen = next(option for option in choices if option["key"] == values[key])
            values |= _widgets(node, _specs({"input": chosen["inputs"]}), prefix=f"{key}.")
    return values


def _widget_values(node: Node, specs: dict[str, list[Any]]) -> list[Any]:
    """The values as the browser stores them: a seed is followed by its "control after generate"."""
    values: list[Any] = []
    for key, value in _widgets(node, specs).items():
        values.append(value)
        if key.rpartition(".")[2] in SEEDS:
            values.append("fixed")
    return values


def _text(content: Json) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
