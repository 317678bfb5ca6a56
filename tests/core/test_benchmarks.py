"""The benchmarks run: every kind of row of the GPU's is rehearsed, and the CPU's measure what they say."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import loading
import pytest
import torch

from hyvideo_core.weights import load_dit

BENCHMARKS = Path(loading.__file__).parent
#: Sizes and precisions repeat code that other rows run.
REPEATED = (
    *("544×960×129 fp8", "544×960×129 tiled", "720×1280×1 ", "fp8 fast under"),
    *("step 320×512×61", "decode 320×512×61", "320×512×61 step"),
)
#: Reasons that a CPU has for not running a row.
EXPECTED_REASONS = ("DoesNotFitError", "ValueError: attention", "RuntimeError: No viable backend")
TINY = replace(loading.ONE_GB, hidden_size=128, heads=1, double_blocks=1, single_blocks=1)


def gpu(folder: Path, *arguments: str) -> dict[str, Any]:
    """The report of ``gpu.py --rehearse``."""
    file = folder / "results.json"
    command = [sys.executable, BENCHMARKS / "gpu.py", "--rehearse", "--json", file, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return report


@pytest.mark.slow
def test_every_kind_of_row_of_the_gpu_benchmark_is_rehearsed(tmp_path: Path) -> None:
    skips = [argument for text in REPEATED for argument in ("--skip", text)]
    table = tmp_path / "results.md"
    rows = {row["row"]: row for row in gpu(tmp_path, *skips, "--markdown", str(table))["rows"]}
    kinds = ("resident", "under 16 GB", "decode", "diffusers step", "diffusers decode", "attention", "loading")
    features = (
        "one call",
        "sliding tiles 3×3×3 720×1280×129 step",
        "step, computed",
        "step, skipped",
        "run, by default",
    )
    for kind in (*kinds, *features):
        assert any("seconds" in row for name, row in rows.items() if kind in name), kind
    for name, row in rows.items():
        # Compiling needs a C++ compiler, the fast product a processor that can.
        if "compiled" not in name and "fp8 fast" not in name:
            assert "seconds" in row or row["reason"].startswith(EXPECTED_REASONS), row
        assert name in table.read_text("utf-8")
    # The caps do what they are for: all fits, some streams, nothing fits.
    blocks = [rows[f"step 720×1280×129 bf16 under {cap} GB"].get("resident_blocks") for cap in (24, 16, 8)]
    assert blocks == ["9 of 9", "4 of 9", None]
    assert rows["step 720×1280×129 bf16 under 8 GB"]["reason"].startswith("DoesNotFitError")


@pytest.mark.slow
def test_a_gpu_benchmark_that_was_cut_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    only = ("--only", "one call", "--skip", "flash", "--skip", "sage")
    assert gpu(tmp_path, *only, "--minutes", "0")["rows"] == []
    first = gpu(tmp_path, *only, "--skip", "chunked")["rows"]
    whole = gpu(tmp_path, *only, "--resume")["rows"]
    assert whole[: len(first)] == first
    assert len(whole) == len(first) + 1


@pytest.mark.parametrize("layout", loading.LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_that_is_measured_loads(layout: loading.Layout, tmp_path: Path) -> None:
    config = layout.config(TINY)
    path = layout.write(tmp_path, config)
    dit = load_dit(path, dtype=getattr(torch, layout.dtype), storage=layout.storage)
    assert dit.config == config


def test_peaks_see_memory_that_is_given_back_before_the_end() -> None:
    # Straight from the system, since an allocator might hand out memory that is counted already.
    with loading.peaks() as found, mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE) as block:
        for _ in range(64):
            block.write(bytes(2**20))
        # The watcher looks a thousand times a second.
        time.sleep(0.1)
    assert 64 * 2**20 <= found["peak_anonymous_bytes"] < 72 * 2**20
    assert found["peak_file_bytes"] < 8 * 2**20


@pytest.mark.parametrize(
    ("resident", "anonymous", "goal"),
    [(115, 0, "met"), (116, 115, "met without file pages"), (200, 116, "missed")],
)
def test_the_goal_of_loading_is_judged_on_all_memory_and_on_what_cannot_be_dropped(
    resident: int, anonymous: int, goal: str
) -> None:
    found = {"seconds": 1.0, "final_bytes": 100, "peak_rss_bytes": resident, "peak_anonymous_bytes": anonymous}
    assert loading.verdict(found | {"peak_file_bytes": 0})["goal"] == f"≤ 1.15: {goal}"
