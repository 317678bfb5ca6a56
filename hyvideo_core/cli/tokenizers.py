"""Where the tokenizers are: inside the model's file, named, beside it, or in a ComfyUI."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hyvideo_core.errors import TokenizerError
from hyvideo_core.weights import holds_tokenizer

COMFYUI = "COMFYUI_PATH"


@dataclass(frozen=True)
class Wanted:
    """A tokenizer: whose, the argument that names it, the files that show it is there, its place in ComfyUI."""

    model: str
    argument: str
    files: tuple[str, ...]
    in_comfyui: str


LLM = Wanted("the language model", "--llm-tokenizer", ("tokenizer.json",), "comfy/text_encoders/llama_tokenizer")
CLIP = Wanted("CLIP-L", "--clip-tokenizer", ("vocab.json", "tokenizer.json"), "comfy/sd1_tokenizer")


def find(wanted: Wanted, named: Path | None, model: Path) -> Path | None:
    """The tokenizer for the model at ``model``; None where its file holds its own.

    Raises ``TokenizerError`` that tells all ways to give it.
    """
    if holds_tokenizer(model):
        return None
    if named is not None:
        return named
    comfyui = os.environ.get(COMFYUI)
    places = [model, *([Path(comfyui).expanduser() / wanted.in_comfyui] if comfyui else [])]
    for place in places:
        if any((place / name).is_file() for name in wanted.files):
            return place
    raise TokenizerError(
        f"There is no tokenizer for {wanted.model}: {' or '.join(wanted.files)} is not in "
        f"{' nor in '.join(map(str, places))}. Name it with {wanted.argument}, or set {COMFYUI} to the folder of a "
        f"ComfyUI, which has it in {wanted.in_comfyui}."
    )
