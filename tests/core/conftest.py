"""Lets the tests of this folder import its helpers, which pytest's importlib mode does not; the real tokenizers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tools import comfyui


@pytest.fixture(scope="session")
def llama_tokenizer() -> Path:
    """The folder with Llama-3's tokenizer.json that ComfyUI ships."""
    return _shipped("text_encoders/llama_tokenizer")


@pytest.fixture(scope="session")
def clip_tokenizer() -> Path:
    """The folder with CLIP-L's vocab.json and merges.txt that ComfyUI ships."""
    return _shipped("sd1_tokenizer")


def _shipped(name: str) -> Path:
    host = comfyui.locate()
    if host is None or not (host / "comfy" / name).is_dir():
        pytest.fail(
            f"There is no comfy/{name} in {host or 'any ComfyUI'}: run the tests with python tools/dev.py test, which "
            "fetches a ComfyUI, or set COMFYUI_PATH to one."
        )
    return host / "comfy" / name
