"""Everything that must hold before a change goes in: lint, format, types, tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from tools.console import clean_environment
from tools.paths import ROOT
from tools.toy_model import build

CHECKS = (
    ("ruff check", ["ruff", "check", "."]),
    ("ruff format", ["ruff", "format", "--check", "."]),
    ("mypy", ["mypy"]),
)


def run(pytest_args: Sequence[str]) -> int:
    """Run every check and then all tests; only pytest when it is given arguments. Returns the exit code."""
    build.ensure()
    failed = [] if pytest_args else [name for name, command in CHECKS if run_module(command)]
    for name in failed:
        print(f"✗ {name} failed, see above", flush=True)
    code = run_module(["pytest", *(pytest_args or ["tests"])])
    return code or int(bool(failed))


def run_module(command: Sequence[str]) -> int:
    """Run a module of the environment in the clone's root with its output shown; its exit code."""
    print(f"… {' '.join(command)}", flush=True)
    return subprocess.call([sys.executable, "-m", *command], cwd=ROOT, env=clean_environment())
