"""The VAE's nodes log what a pass was predicted to take and what it took, with a stand-in for the host."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from hyvideo_core.configs import VAEConfig
from hyvideo_core.decoding_plan import vae_activation_bytes
from hyvideo_core.vae import VAE

FILE = Path(__file__).parent.parent.parent / "nodes" / "decode.py"
CONFIG = VAEConfig(block_out_channels=(8, 8, 16, 16), norm_groups=4)
LATENT = (33, 90, 160)
FOREIGN_BYTES, MEASURED_BYTES = 7_000_000_000, 1_500_000_000
TILED = {"tiling": "tiled", "tile_size": 128, "tile_frames": 32, "overlap": 0.25}
CHOICES: list[tuple[dict[str, Any], tuple[int | None, int | None]]] = [
    ({"tiling": "auto"}, (256, 64)),
    ({"tiling": "whole"}, (None, None)),
    (TILED, (128, 32)),
]


@pytest.fixture
def decode(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the nodes; ``host`` in it is a stand-in."""
    latest = ModuleType("comfy_api.latest")
    latest.io = MagicMock(ComfyNode=object)  # type: ignore[attr-defined]
    package = ModuleType("pack")
    package.__path__ = []
    stand_ins = {"comfy_api": ModuleType("comfy_api"), "comfy_api.latest": latest, "pack": package}
    stand_ins |= {f"pack.{name}": MagicMock() for name in ("host", "memory", "adapt", "handles", "progress", "video")}
    for name, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    spec = importlib.util.spec_from_file_location("pack.decode", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def run(decode: Any, monkeypatch: pytest.MonkeyPatch, choice: dict[str, Any], counted: bool) -> tuple[VAE, list[str]]:
    """The VAE, and the order in which the host counted and the work was done."""
    vae, order = VAE(CONFIG), []
    held = sum(weight.nbytes for weight in vae.parameters())

    def watch_peak(device: torch.device) -> int:
        order.append("watched")
        return held + FOREIGN_BYTES

    def peak_bytes(device: torch.device) -> int | None:
        order.append("asked")
        return FOREIGN_BYTES + MEASURED_BYTES if counted else None

    decode.host.dtype_of.return_value = torch.float32
    decode.memory.loaded.return_value, decode.memory.unreserved_bytes.return_value = vae, 2**40
    decode.memory.watch_peak, decode.memory.peak_bytes = watch_peak, peak_bytes
    monkeypatch.setattr(decode, "parameter_count", lambda path: 0)
    assert decode._with_tiles(MagicMock(), LATENT, choice, lambda *_: order.append("worked") or "result") == "result"
    return vae, order


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("choice", "tile"), CHOICES)
def test_the_peak_is_logged_before_and_where_it_is_counted_after(
    decode: Any,
    choice: dict[str, Any],
    tile: tuple[int | None, int | None],
    counted: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    vae, order = run(decode, monkeypatch, choice, counted)
    assert order == ["watched", "worked", "asked"]
    weights = sum(weight.nbytes for weight in vae.parameters())
    predicted = (weights + vae_activation_bytes(LATENT, *tile, 4, CONFIG)) / 1e9
    messages = [message for message in caplog.messages if "peak" in message]
    measured = [f"VAE: measured peak 1.50 GB, predicted {predicted:.2f} GB"] if counted else []
    planned, *after = messages
    assert planned.startswith("plan: VAE: ")
    assert f"predicted peak {predicted:.2f} GB of {(2**40 + weights) / 1e9:.2f} GB free" in planned
    assert after == measured
