"""Reading the reference results, and the two distances they are judged by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and parsed metadata of ``tests/golden/<name>.safetensors``."""
    with safe_open(str(GOLDEN / f"{name}.safetensors"), framework="pt") as file:
        metadata = {k: _parsed(v) for k, v in (file.metadata() or {}).items()}
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


def of_case(tensors: dict[str, torch.Tensor], case: str) -> dict[str, torch.Tensor]:
    """The tensors stored under ``<case>/``."""
    return {k.removeprefix(case + "/"): v for k, v in tensors.items() if k.startswith(case + "/")}


def rel_l2(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance, in float64."""
    found, expected = found.double(), expected.double()
    return ((found - expected).norm() / expected.norm()).item()


def assert_close(found: torch.Tensor, expected: torch.Tensor, *, rel: float, max_abs: float) -> None:
    """Fail unless both distances are within their tolerance."""
    assert found.shape == expected.shape
    assert rel_l2(found, expected) <= rel
    assert (found.double() - expected.double()).abs().max().item() <= max_abs


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
