"""The notes beside a workflow's graph: what it does and what to change first, and what it needs.

They are Markdown without code, which Nodes 2.0 shows dark blue on dark blue.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools import workflow_memory
from tools.workflow_about import about
from tools.workflow_graphs import Files, Graph

#: What the small model of the pack knows. Source: ``tools/demo_model/world.py``.
DEMO = (
    "**Nothing to download**: a very small HunyuanVideo comes with the pack, and runs on any machine.\n\n"
    "It knows one or two circles, squares, triangles and crosses; red, orange, yellow, green, cyan, blue, purple, "
    "white and black; that they move in any direction, stay, grow or shrink, slowly or fast; and the background. "
    "Sizes are 96×48 and 64×64, with 17 frames or 1.\n\n"
    "For real videos open the template **hyvideo_t2v**."
)


@dataclass(frozen=True)
class Note:
    """A note: its title and its Markdown."""

    title: str
    text: str


def notes(name: str, graph: Graph, files: Files) -> tuple[Note, Note]:
    """Those of a workflow, from top to bottom."""
    what = about(name)
    to_change = (*(what.real if files.downloads else what.demo), *what.first)
    lines = [what.does, "", "Change first:", "", *(f"- {entry}" for entry in to_change)]
    return Note(what.title, "\n".join(lines)), Note("What it needs", _needs(graph, files))


def _needs(graph: Graph, files: Files) -> str:
    if not files.downloads:
        return DEMO
    lines = [f"- **models/{each.folder}**: [{each.file}]({each.url}), {each.size}" for each in files.downloads]
    asked = "Download each file into its folder, then press **R** to refresh the lists."
    return "\n".join([asked, "", *lines, "", workflow_memory.told(graph)])
