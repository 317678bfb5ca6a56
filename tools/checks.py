"""Everything that must hold before a change goes in: lint, format, types, tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools import environment
from tools.browser import chromium, frontends
from tools.console import ToolError, clean_environment
from tools.paths import ROOT
from tools.toy_model import build

CHECKS = (
    ("ruff check", ["ruff", "check", "."]),
    ("ruff format", ["ruff", "format", "--check", "."]),
    ("mypy", ["mypy"]),
)
#: Each has a ComfyUI of its own, of 1 to 2 GB.
MOST_WORKERS = 4


def run(pytest_args: Sequence[str]) -> int:
    """Run every check and then all tests; only pytest when it is given arguments. Returns the exit code."""
    build.ensure()
    if not pytest_args:
        fetch_browser()
    failed = [] if pytest_args else [name for name, command in CHECKS if run_module(command)]
    for name in failed:
        print(f"✗ {name} failed, see above", flush=True)
    count = 1 if pytest_args else workers()
    sharing = [] if count == 1 else ["-n", str(count), "--dist", "loadfile", "--no-loadscope-reorder"]
    code = run_module(["pytest", *(pytest_args or ["tests"]), *sharing], workers=count)
    return code or int(bool(failed))


def fetch_browser() -> None:
    """Have a browser and the frontends before processes share the tests; without them those tests tell why."""
    try:
        chromium.ensure()
        for frontend in frontends.NEWEST:
            frontends.ensure(frontend)
    except ToolError as error:
        print(f"no browser tests: {error}", flush=True)


def workers() -> int:
    """How many processes the test files are shared out to; one on a GPU, whose memory the tests measure."""
    return 1 if environment.has_gpu(Path(sys.executable)) else min(os.cpu_count() or 1, MOST_WORKERS)


def run_module(command: Sequence[str], workers: int = 1) -> int:
    """Run a module of the environment in the clone's root with its output shown; its exit code."""
    print(f"… {' '.join(command)}", flush=True)
    variables = clean_environment()
    if workers > 1:
        # Together they use each core once.
        variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    return subprocess.call([sys.executable, "-m", *command], cwd=ROOT, env=variables)
