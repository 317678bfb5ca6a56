"""The sockets of the old nodes, by their old names, what travels over them, and what the nodes share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io, ui

from hyvideo_core.errors import HyVideoError
from hyvideo_core.types import Conditioning

from ..handles import TextEncodersHandle, VAEHandle
from . import features

logger = logging.getLogger(__name__)

#: Not that of the other nodes: these are for old workflows only.
CATEGORY = "HyVideo legacy"

Model = io.Custom("HYVIDEOMODEL")
Embeds = io.Custom("HYVIDEMBEDS")
TextEncoder = io.Custom("HYVIDTEXTENCODER")
Lora = io.Custom("HYVIDLORA")
Blocks = io.Custom("SELECTEDBLOCKS")
Swap = io.Custom("BLOCKSWAPARGS")
Compile = io.Custom("COMPILEARGS")
Cfg = io.Custom("HYVID_CFG")
PromptTemplate = io.Custom("PROMPT_TEMPLATE")
Stg = io.Custom("STGARGS")
Slg = io.Custom("SLGARGS")
Enhance = io.Custom("FETAARGS")
Tea = io.Custom("TEACACHEARGS")
Context = io.Custom("HYVIDCONTEXT")
Loop = io.Custom("LOOPARGS")
Fresca = io.Custom("FRESCA_ARGS")


@dataclass(frozen=True)
class OldTextEncoders:
    """The text encoders, and whether CLIP-L was to come from elsewhere."""

    handle: TextEncodersHandle
    is_clip_disabled: bool


@dataclass(frozen=True, eq=False)
class OldEmbeds:
    """An encoded prompt with its negative one, and how strongly that acts."""

    positive: Conditioning = field(repr=False)
    negative: Conditioning | None = field(default=None, repr=False)
    cfg: features.Cfg = field(default_factory=features.Cfg)


def percent_inputs(
    what: str, names: tuple[str, str] = ("start_percent", "end_percent"), start: float = 0.0, end: float = 1.0
) -> list[io.Input]:
    """The part of the steps in which something acts."""
    return [
        io.Float.Input(
            name, default=default, min=0.0, max=1.0, step=0.01, tooltip=f"Part of the steps at which {what} {does}."
        )
        for name, default, does in zip(names, (start, end), ("begins", "ends"), strict=True)
    ]


def unused(kind: Any, name: str, **more: Any) -> io.Input:
    """An input of this kind, such as ``io.Boolean``, that has its place, and no effect."""
    return kind.Input(name, tooltip="Without effect here: kept for old workflows.", **more)


def result(*values: Any, remarks: Iterable[str] = ()) -> io.NodeOutput:
    """The outputs of a node, and what it does another way than it was, in the log and in what the job reports."""
    lines = list(remarks)
    for line in lines:
        logger.warning("%s", line)
    return io.NodeOutput(*values, ui=ui.PreviewText("\n".join(lines))) if lines else io.NodeOutput(*values)


def our_vae(vae: Any) -> VAEHandle:
    """The VAE of the old loader. Raises ``HyVideoError`` for one of the host's, on a socket of the same name."""
    if not isinstance(vae, VAEHandle):
        raise HyVideoError(
            "vae comes from a node of ComfyUI itself, but this node needs that of HunyuanVideo VAE Loader. Connect "
            "that loader, or take ComfyUI's own VAE Decode or VAE Encode."
        )
    return vae
