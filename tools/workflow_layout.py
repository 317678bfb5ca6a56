"""Where the nodes of a workflow stand: columns from left to right, each a coloured group, and a note below."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tools.workflow_graphs import Graph

TITLE_PX = 30  # of a node; its position is that of its body
GAP_PX = 24
GROUP_TITLE_PX = 50
COLUMN_GAP_PX = 80
NOTE_SIZE_PX = (820, 160)

Json = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One step of the work."""

    title: str
    color: str
    width_px: int


COLUMNS = (
    Column("1 Models", "#3f789e", 340),
    Column("2 Prompt and size", "#8A8", 400),
    Column("3 Sample", "#b58b2a", 340),
    Column("4 Save", "#a1309b", 460),
)
LEFT_PX = (0, *accumulate(column.width_px + COLUMN_GAP_PX for column in COLUMNS))


def boxes(graph: Graph) -> dict[str, tuple[list[int], list[int]]]:
    """Position and size of every node, in px: those of a column one below the other."""
    below = [0] * len(COLUMNS)
    found = {}
    for name, node in graph.items():
        size = [COLUMNS[node.column].width_px, node.height_px]
        found[name] = ([LEFT_PX[node.column], below[node.column]], size)
        below[node.column] += node.height_px + TITLE_PX + GAP_PX
    return found


def groups(graph: Graph) -> list[Json]:
    """The columns' frames, all as high as the longest needs."""
    top = -TITLE_PX - GROUP_TITLE_PX
    height = _bottom_px(graph) + GAP_PX - top
    return [
        {
            "id": number,
            "title": column.title,
            "bounding": [left - GAP_PX, top, column.width_px + 2 * GAP_PX, height],
            "color": column.color,
            "font_size": 24,
            "flags": {},
        }
        for number, (column, left) in enumerate(zip(COLUMNS, LEFT_PX, strict=False), start=1)
    ]


def note(graph: Graph, number: int, title: str, text: str) -> Json:
    """A note below the groups. It exists in the browser only."""
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": title,
        "pos": [0, _bottom_px(graph) + 3 * GAP_PX + TITLE_PX],
        "size": list(NOTE_SIZE_PX),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def _bottom_px(graph: Graph) -> int:
    return max(position[1] + size[1] for position, size in boxes(graph).values())
