"""The reference of all nodes, ``docs/nodes.md``, from what the nodes say of themselves in the running host.

Tooltips are where a setting is explained; this is the same text to read without ComfyUI.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tools.paths import ROOT

FILE = ROOT / "docs" / "nodes.md"
MENU = "HyVideo Studio"
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
#: Longer defaults, such as templates, are not shown.
LONGEST_DEFAULT = 60

Json = dict[str, Any]


def render(object_info: Json) -> str:
    """The whole file."""
    ours = [node for node in object_info.values() if node["category"].startswith(MENU)]
    lines = [
        "# Nodes",
        "",
        "Every node of the pack with its inputs and outputs, as their tooltips explain them. This file is written by",
        "`python tools/dev.py workflows`; to change it, change the node. *Advanced* settings may be folded away.",
        "",
        "Before each description is what programs call the node; `GET /object_info/` with it lists ranges and allowed",
        "values.",
    ]
    for category in sorted({node["category"] for node in ours}, key=_place(ours)):
        lines += ["", f"## {category.removeprefix(MENU).strip('/').capitalize()}"]
        for node in ours:
            if node["category"] == category:
                lines += ["", *_node(node)]
    return "\n".join(lines) + "\n"


def _place(ours: list[Json]) -> Any:
    """Groups stand in the order of their first nodes."""
    order = [node["category"] for node in ours]
    return order.index


def _node(node: Json) -> Iterator[str]:
    yield f"### {node['display_name']}"
    yield ""
    yield f"`{node['name']}` · {node['description']}"
    yield ""
    rows = list(_inputs(node["input"]))
    if rows:
        yield "| Input | Default | |"
        yield "|---|---|---|"
        yield from rows
        yield ""
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    told = "; ".join(f"**{name}**: {_cell(tooltip or '')}" for name, tooltip in outputs)
    yield f"Gives {told}" if told else "Gives nothing to other nodes."


def _inputs(inputs: Json, prefix: str = "", choice: str = "") -> Iterator[str]:
    """A row for each input, those behind a ``choice`` included."""
    for group in ("required", "optional"):
        for name, (kind, options, *_) in ((n, [*spec, {}]) for n, spec in inputs.get(group, {}).items()):
            advanced = " *(advanced)*" if options.get("advanced") else ""
            tooltip = _cell(options.get("tooltip") or "")
            yield f"| {prefix}{name}{choice}{advanced} | {_default(kind, options)} | {tooltip} |"
            for option in options["options"] if kind == DYNAMIC else []:
                yield from _inputs(option["inputs"], f"{prefix}{name}.", f" *(with {option['key']})*")


def _default(kind: Any, options: Json) -> str:
    """A default in words: what is connected has none."""
    value = options.get("default", options["options"][0]["key"] if kind == DYNAMIC else None)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value) if isinstance(value, str) else f"{value:g}".replace("-", "−")
    return (_cell(text) or "empty") if len(text) <= LONGEST_DEFAULT else "a text"


def _cell(text: str) -> str:
    """A text that a table's cell may hold."""
    return " ".join(text.split()).replace("|", "\\|")
