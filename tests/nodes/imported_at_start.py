"""Loads the pack as ComfyUI does in a process without a server, and prints as JSON which modules that imported.

Run by ``test_start.py`` with the path of ComfyUI as its argument, in ComfyUI's folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, sys.argv.pop(1))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing(False)
from comfy.cli_args import args  # noqa: E402

args.cpu = True
import server  # noqa: E402

import nodes  # noqa: E402

server.PromptServer(asyncio.new_event_loop())
# The host imports its reader of pyproject.toml when the first pack is loaded.
from comfy_config import config_parser  # noqa: E402, F401

before = set(sys.modules)
loaded = asyncio.run(nodes.load_custom_node(str(ROOT)))
own = str(ROOT).replace(".", "_x_")
new = {name.split(".")[0] for name in set(sys.modules) - before if not name.startswith(own)}
found = {
    "loaded": loaded,
    "foreign": sorted(new - sys.stdlib_module_names),
    "nodes": [name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("Hyv")],
}
sys.stdout.write(json.dumps(found))
