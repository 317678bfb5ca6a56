"""Lets the tests of this folder import its helpers, which pytest's importlib mode does not; the real tokenizers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Peaks are traced on one thread: CPU kernels keep working memory for each, which no card has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _shipped(name: str) -> Path:
    host = comfyui.locate()
    if host is None or not (host / "comfy" / name).is_dir():
        pytest.fail(
            f"There is no comfy/{name} in {host or 'any ComfyUI'}: run the tests with python tools/dev.py test, which "
            "fetches a ComfyUI, or set COMFYUI_PATH to one."
        )
    return host / "comfy" / name
