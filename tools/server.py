"""One ComfyUI process on a free loopback port, with a base folder of its own and this pack installed in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tools import environment, model_files
from tools.client import ComfyClient, ComfyError
from tools.console import ToolError, clean_environment, tail
from tools.paths import ROOT, TOOLS, venv_python

PACK_NAME = "hyvideo-studio"
NATIVE_WIDTHS = TOOLS / "toy_model" / "native_widths"
HOST_ADDRESS = "127.0.0.1"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.2
PORT_ATTEMPTS = 5
PORT_TAKEN = re.compile(r"address already in use|Errno 98|Errno 48|10048", re.IGNORECASE)
LOG_LINES = 40


class Server:
    """A ComfyUI process. Use it as a context manager: leaving the block always ends the process.

    ``base`` holds its custom nodes, inputs, outputs, user data and log. ``models`` are additional models
    folders. ``native_widths`` installs the toy model's helper of that name. ``port`` 0 means any free one.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        *,
        models: Sequence[Path] = (),
        output: Path | None = None,
        native_widths: bool = False,
        port: int = 0,
        python: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.comfyui = comfyui
        self.base = base.resolve()
        self.models = tuple(models)
        self.output = (output or self.base / "output").resolve()
        self.native_widths = native_widths
        self.fixed_port = port
        self.python = python or venv_python()
        self.arguments = list(arguments)
        self.log = self.base / "server.log"
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address of the user interface and of the API."""
        return f"http://{HOST_ADDRESS}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id, for memory readings."""
        if self._process is None:
            raise ToolError("The server is not running.")
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def client(self) -> ComfyClient:
        """A new client of this server."""
        return ComfyClient(self.url)

    def start(self) -> None:
        """Start the process and return when it answers; ``ToolError`` with the log's end if it dies first."""
        self.check_port()
        self.prepare_base()
        attempts = 1 if self.fixed_port else PORT_ATTEMPTS
        for attempt in range(attempts):
            self.port = self.fixed_port or free_port()
            self._launch()
            try:
                self._wait_until_ready()
                return
            except BaseException:
                self.stop()
                if attempt + 1 == attempts or not PORT_TAKEN.search(tail(self.log, LOG_LINES)):
                    raise

    def check_port(self) -> None:
        """Raise ``ToolError`` when the chosen port is in use."""
        if self.fixed_port and is_taken(self.fixed_port):
            raise ToolError(f"Port {self.fixed_port} is in use on this machine: choose another with --port.")

    def wait(self) -> int:
        """Wait until the process ends by itself and return its exit code."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """End the process: ask, wait, then kill. Does nothing when it has ended."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def prepare_base(self) -> None:
        """Make the base folder with this pack in its ``custom_nodes``."""
        nodes = self.base / "custom_nodes"
        for folder in (nodes, self.base / "input", self.base / "user", self.output):
            folder.mkdir(parents=True, exist_ok=True)
        model_files.make_folders(self.base / "models")
        link_folder(nodes / PACK_NAME, ROOT)
        helper = nodes / NATIVE_WIDTHS.name
        if self.native_widths:
            shutil.copytree(NATIVE_WIDTHS, helper, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif helper.exists():
            shutil.rmtree(helper)

    def command(self) -> list[str]:
        """The command line of the process."""
        command = [str(self.python), "main.py", "--listen", HOST_ADDRESS, "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--output-directory", str(self.output)]
        command += ["--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}", "--disable-auto-launch"]
        if self.models:
            command += ["--extra-model-paths-config", str(self._write_model_paths())]
        if not environment.has_gpu(self.python):
            command.append("--cpu")
        return command + self.arguments

    def _write_model_paths(self) -> Path:
        """Name every folder in ``models`` to ComfyUI (its YAML reader takes JSON too)."""
        content = {}
        for models in self.models:
            folders = {path.name: path.name for path in sorted(models.iterdir()) if path.is_dir()}
            content[str(models)] = {"base_path": str(models.resolve()), **folders}
        file = self.base / "extra_model_paths.yaml"
        file.write_text(json.dumps(content, indent=2), encoding="utf-8")
        return file

    def _launch(self) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.comfyui,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
                # Ctrl-C reaches this process alone, which then ends the server in order.
                start_new_session=os.name != "nt",
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        client = self.client()
        while time.monotonic() < deadline:
            if not self.is_alive():
                raise ToolError(f"ComfyUI ended while starting. Its log, {self.log}:\n{tail(self.log, LOG_LINES)}")
            try:
                client.system_stats()
            except ComfyError:
                time.sleep(POLL_S)
                continue
            if self.is_alive():
                return
        raise ToolError(
            f"ComfyUI did not answer within {START_TIMEOUT_S:g} s. Its log, {self.log}:\n{tail(self.log, LOG_LINES)}"
        )


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST_ADDRESS, 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST_ADDRESS, port)) == 0


def link_folder(link: Path, target: Path) -> None:
    """Make ``link`` lead to ``target``: a symbolic link, or a junction where Windows does not allow one."""
    if link.exists() and link.resolve() == target.resolve():
        return
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise ToolError(f"{link} is in the way of the link to {target}: move it away and run the command again.")
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
