"""Where things live in a clone. Everything the commands create lies in the folders ``.gitignore`` names."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
WORKFLOWS = ROOT / "workflows" / "api"
SHIPPED_MODELS = ROOT / "models"

VENV = ROOT / ".venv"
HOST = ROOT / ".host"
DEMO = ROOT / ".demo"
CACHE = ROOT / ".cache"

HOST_COMFYUI = HOST / "ComfyUI"
HOST_BASE = HOST / "base"
DEMO_BASE = DEMO / "base"
DEMO_OUTPUT = DEMO / "output"
LOGS = CACHE / "logs"
TOY_MODELS = CACHE / "toy_model"


def venv_python() -> Path:
    """The interpreter inside the clone's virtual environment."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
