"""The tiny decoder from its published file, ``taehv.safetensors`` or ``taehv.pth``; the encoder in it is left alone."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from hyvideo_core.preview.taehv import BLOCKS, Taehv, TaehvDecoder
from hyvideo_core.weights.files import open_checkpoint
from hyvideo_core.weights.load import materialise

#: Places in the file's list of layers: the first of a stage, those from stage to stage, and the last of all.
FIRST, PER_STAGE, LAST = 3, 6, 22


def load_taehv(path: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Taehv:
    """Previews by the decoder in ``path``. Raises ``CheckpointError`` for a file that is damaged or another."""
    with torch.device("meta"):
        expected = TaehvDecoder().state_dict()

    def last_frames(name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A file may hold a layer that makes more frames than HunyuanVideo needs; the last are those it shares."""
        return tensor[-expected[name].shape[0] :] if name.endswith(".grow.weight") else tensor

    decoder = materialise(
        TaehvDecoder, open_checkpoint(path), name_in_file, dtype=dtype, device=device, adapt=last_frames
    )
    return Taehv(decoder)


def name_in_file(name: str) -> str:
    """The file's name of a parameter of ``TaehvDecoder``."""
    name = name.replace("enter.", "1.", 1) if name.startswith("enter.") else name
    name = name.replace("leave.", f"{LAST}.", 1) if name.startswith("leave.") else name
    if stage := re.match(r"stages\.(\d)\.", name):
        first = FIRST + PER_STAGE * int(stage[1])
        name = name[stage.end() :]
        name = re.sub(
            r"^blocks\.(\d)\.convolutions\.(\d)", lambda at: f"{first + int(at[1])}.conv.{2 * int(at[2])}", name
        )
        name = re.sub(r"^grow", f"{first + BLOCKS + 1}.conv", name)
        name = re.sub(r"^leave", f"{first + BLOCKS + 2}", name)
    return f"decoder.{name}"
