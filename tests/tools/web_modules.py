"""The pack's JavaScript modules that need no page, run in Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tools.paths import ROOT

WEB = ROOT / "web"
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed; the browser tests cover this too")


@cache
def _copy() -> TemporaryDirectory[str]:
    """The modules where Node.js takes them for such: in the pack nothing says that they are no scripts of its own."""
    folder = TemporaryDirectory(prefix="hyvideo-web-", ignore_cleanup_errors=True)
    shutil.copytree(WEB, folder.name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("docs"))
    Path(folder.name, "package.json").write_text('{"type": "module"}', "utf-8")
    return folder


def evaluated(expression: str, *modules: str) -> Any:
    """The JSON value of a JavaScript expression that sees what these modules, files below ``web``, export."""
    script = "\n".join(
        [
            *(f"Object.assign(globalThis, await import('./{module}'));" for module in modules),
            f"process.stdout.write(JSON.stringify({expression}));",
        ]
    )
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-"],
        input=script,
        capture_output=True,
        encoding="utf-8",
        cwd=_copy().name,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
