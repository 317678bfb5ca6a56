"""ComfyUI with this pack in the browser, until it is stopped."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from tools.console import step
from tools.paths import HOST_BASE, HOST_COMFYUI
from tools.server import Server


def run(host: Path, port: int) -> int:
    """Start the server, open the browser, and wait for the end."""
    models = [] if host == HOST_COMFYUI else [host / "models"]
    server = Server(host, HOST_BASE, models=models, port=port)
    server.check_port()
    try:
        with step("Starting ComfyUI"):
            server.start()
        print(f"Open {server.url}\nModels go to {HOST_BASE / 'models'}\nResults go to {server.output}")
        print(f"The log is {server.log}\nCtrl-C ends it.")
        webbrowser.open(server.url)
        return server.wait()
    finally:
        server.stop()
