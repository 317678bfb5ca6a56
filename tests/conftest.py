"""Fixtures of the tests that need a running ComfyUI. It runs in a process of its own and is used by its API."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import comfyui
from tools.client import ComfyClient
from tools.paths import ROOT
from tools.server import Server
from tools.toy_model import build

BROWSER_TESTS = "tests/browser/"


class RootIsNoPackage:
    """Keeps pytest from importing the pack's own ``__init__.py``, which only ComfyUI can."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect the clone's root as a plain folder."""
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    """A hook written into this file directly would be asked about the folders below it only."""
    config.pluginmanager.register(RootIsNoPackage())
    # How long an example takes says nothing here: machines are shared and slow.
    settings.register_profile("hyvideo", deadline=None)
    settings.load_profile("hyvideo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that take long first, so that no process has one of them left when the others are done."""
    long = {item.path for item in items if item.get_closest_marker("slow") or item.nodeid.startswith(BROWSER_TESTS)}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the browser tests of each frontend to one process, for they share its server; other tests by their files."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if not nodeid.startswith(BROWSER_TESTS):
                return super()._split_scope(nodeid)
            frontend = re.search(r"\[(\d+\.\d+\.\d+)-", nodeid)
            return BROWSER_TESTS + (frontend[1] if frontend else "")

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ComfyUI with this pack and the toy models, started once; has ``url``, ``pid``, ``log``, ``output``."""
    host = comfyui.locate()
    if host is None:
        pytest.fail("There is no ComfyUI: run the tests with python tools/dev.py test, or set COMFYUI_PATH.")
    base = tmp_path_factory.mktemp("comfyui")
    models = build.ensure()
    with Server(host, base, models=[models], native_widths=True, python=Path(sys.executable)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[ComfyClient]:
    """A client of its own for each test."""
    with server.client() as connected:
        yield connected
