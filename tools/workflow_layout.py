"""Where the nodes of a workflow stand: a coloured group for each step of the work, from left to right.

The notes are the first group. Heights are those that the nodes take in the browser, in the taller of its two ways to
draw them; those that show a picture or a clip have room for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tools.workflow_graphs import Graph
from tools.workflow_notes import Note

TITLE_PX = 30  # of a node; its position is that of its body
GAP_PX = 24
GROUP_TITLE_PX = 50
COLUMN_GAP_PX = 80

Json = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One step of the work."""

    title: str
    color: str
    width_px: int


ABOUT = Column("About this template", "#c08040", 420)
MODELS = Column("1 Models", "#3f789e", 360)
PROMPT = Column("2 Prompt", "#8A8", 400)
PICTURES = Column("3 Size and pictures", "#88A", 340)
SAMPLE = Column("4 Sample", "#b58b2a", 340)
SAVE = Column("5 Decode and save", "#a1309b", 460)
COLUMNS = (MODELS, PROMPT, PICTURES, SAMPLE, SAVE)

#: The column of each class of nodes, and the height of its nodes.
PLACES: dict[str, tuple[Column, int]] = {
    "HyvLoadModel": (MODELS, 190),
    "HyvLora": (MODELS, 150),
    "HyvLoadTextEncoders": (MODELS, 180),
    "HyvLoadVAE": (MODELS, 120),
    "DualCLIPLoader": (MODELS, 150),
    "VAELoader": (MODELS, 100),
    "HyvEncodePrompt": (PROMPT, 310),
    "HyvEncodeImagePrompt": (PROMPT, 340),
    "HyvBlendPrompts": (PROMPT, 120),
    "HyvBatchPrompts": (PROMPT, 110),
    "HyvSavePrompt": (PROMPT, 180),
    "CLIPTextEncode": (PROMPT, 220),
    "FluxGuidance": (PROMPT, 80),
    "HyvEmptyLatent": (PICTURES, 390),
    "LoadImage": (PICTURES, 360),
    "LoadVideo": (PICTURES, 360),
    "GetVideoComponents": (PICTURES, 110),
    "EmptyImage": (PICTURES, 160),
    "ImageCompositeMasked": (PICTURES, 170),
    "SolidMask": (PICTURES, 130),
    "MaskComposite": (PICTURES, 150),
    "HyvEncode": (PICTURES, 120),
    "SetLatentNoiseMask": (PICTURES, 70),
    "HyvSchedule": (SAMPLE, 180),
    "HyvImageToVideo": (SAMPLE, 180),
    "HyvKeyframes": (SAMPLE, 150),
    "HyvCfgZeroStar": (SAMPLE, 150),
    "HyvSTG": (SAMPLE, 190),
    "HyvFirstBlockCache": (SAMPLE, 190),
    "HyvContextWindows": (SAMPLE, 230),
    "HyvEnhanceAVideo": (SAMPLE, 120),
    "HyvSeamlessLoop": (SAMPLE, 100),
    "HyvSlidingTileAttention": (SAMPLE, 240),
    "HyvPromptSchedule": (SAMPLE, 170),
    "HyvInvert": (SAMPLE, 270),
    "HyvRFInversion": (SAMPLE, 170),
    "HyvSampler": (SAMPLE, 460),
    "HyvFlowEdit": (SAMPLE, 420),
    "LatentFromBatch": (SAVE, 100),
    "HyvDecode": (SAVE, 170),
    "VAEDecodeTiled": (SAVE, 160),
    "CreateVideo": (SAVE, 120),
    "HyvSaveVideo": (SAVE, 480),
    "HyvDecodeVideo": (SAVE, 580),
    "SaveVideo": (SAVE, 440),
    "SaveImage": (SAVE, 400),
}
#: What a node grows by when a run first shows its preview there (``web/preview/panel.js``): room kept below it.
GROWTH_PX = dict.fromkeys(("HyvSampler", "HyvFlowEdit", "HyvInvert"), 300)
#: Those that decode show ComfyUI's own line of progress meanwhile; Nodes 2.0 keeps its room.
GROWTH_PX |= dict.fromkeys(("HyvDecode", "HyvDecodeVideo"), 60)
#: Of the text of a note: what fits in a line of its width, what a line takes, and what is above and below them all.
NOTE_LINE_CHARACTERS, NOTE_LINE_PX, NOTE_MARGIN_PX = 72, 17, 40
LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


@dataclass(frozen=True)
class Box:
    """Where a node's body stands, in px: its left and upper edge, its width, its height, and the room kept below."""

    left: int
    top: int
    width: int
    height: int
    room: int = 0

    @property
    def bottom(self) -> int:
        """The lower edge of the body and its room."""
        return self.top + self.height + self.room


def boxes(graph: Graph, notes: Sequence[Note]) -> tuple[dict[str, Box], list[Box]]:
    """That of every node, and of the notes: those of a column one below the other."""
    columns = used(graph)
    lefts = dict(zip(columns, _lefts(columns), strict=True))
    below = dict.fromkeys(columns, 0)

    def next_in(column: Column, height: int, room: int = 0) -> Box:
        box = Box(lefts[column], below[column], column.width_px, height, room)
        below[column] = box.bottom + TITLE_PX + GAP_PX
        return box

    nodes = {name: next_in(*PLACES[node.kind], GROWTH_PX.get(node.kind, 0)) for name, node in graph.items()}
    return nodes, [next_in(ABOUT, note_height_px(note.text)) for note in notes]


def groups(graph: Graph, notes: Sequence[Note]) -> list[Json]:
    """The columns' frames, each as high as what stands in it."""
    columns = used(graph)
    nodes, texts = boxes(graph, notes)
    found = []
    for number, (column, left) in enumerate(zip(columns, _lefts(columns), strict=True), start=1):
        inside = [box for box in (*nodes.values(), *texts) if box.left == left]
        top = -TITLE_PX - GROUP_TITLE_PX
        height = max(box.bottom for box in inside) + GAP_PX - top
        bounding = [left - GAP_PX, top, column.width_px + 2 * GAP_PX, height]
        found.append(
            {
                "id": number,
                "title": column.title,
                "bounding": bounding,
                "color": column.color,
                "font_size": 24,
                "flags": {},
            }
        )
    return found


def used(graph: Graph) -> tuple[Column, ...]:
    """The columns in which something stands."""
    with_nodes = {PLACES[node.kind][0] for node in graph.values()}
    return ABOUT, *(column for column in COLUMNS if column in with_nodes)


def note_height_px(text: str) -> int:
    """Room for a note's Markdown, of whose links only the words are shown."""
    shown = LINK.sub(r"\1", text).splitlines()
    lines = sum(max(1, math.ceil(len(line) / NOTE_LINE_CHARACTERS)) for line in shown)
    return lines * NOTE_LINE_PX + NOTE_MARGIN_PX


def note_node(note: Note, box: Box, number: int) -> Json:
    """A note as the browser has it; programs know nothing of it."""
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": note.title,
        "pos": [box.left, box.top],
        "size": [box.width, box.height],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [note.text],
        "color": "#432",
        "bgcolor": "#653",
    }


def _lefts(columns: Sequence[Column]) -> list[int]:
    return [0, *accumulate(column.width_px + COLUMN_GAP_PX for column in columns[:-1])]
