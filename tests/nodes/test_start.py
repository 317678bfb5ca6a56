"""ComfyUI waits for the pack when it starts: only what ComfyUI has imported itself is imported then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tools import comfyui

SCRIPT = Path(__file__).parent / "imported_at_start.py"


def test_the_pack_imports_nothing_at_start_but_itself():
    """transformers' models, gguf, imageio-ffmpeg and others take long, and most sessions need few of them."""
    host = comfyui.locate()
    done = subprocess.run([sys.executable, SCRIPT, host], cwd=host, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"], done.stderr
    assert "HyvSampler" in found["nodes"]
    assert found["foreign"] == ["hyvideo_core"]
