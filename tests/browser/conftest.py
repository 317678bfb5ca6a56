"""A real ComfyUI in a real Chromium: the newest frontends, both ways to draw nodes, both languages of the pack.

A test that asks for ``page`` runs in all four pairs of frontend and canvas; ``spread`` and ``where`` choose fewer.
Tests are put in the order of these, so that each server and each browser starts once. What a page showed at the end of
a test is kept in ``.cache/screenshots``.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Playwright, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "nodes"))
# The server inherits it: threads gain nothing on tensors this small, and cost much on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import old_files
from hyvideo_core.video import write_mp4
from tools import comfyui
from tools.browser import chromium, frontends
from tools.browser.frontends import NEWEST, Frontend
from tools.browser.page import CANVASES, ComfyPage, opened
from tools.console import ToolError
from tools.paths import CACHE
from tools.server import Server
from tools.toy_model import build
from tools.workflow_features_video import CLIP
from tools.workflow_graphs import SMALL_SIZE

SCREENSHOTS = CACHE / "screenshots"
ENGLISH, CHINESE = "en", "zh"


@dataclass(frozen=True)
class Look:
    """How a user sees the pack."""

    frontend: Frontend
    canvas: str
    language: str = ENGLISH

    def __str__(self) -> str:
        chinese = "" if self.language == ENGLISH else f"-{self.language}"
        return f"{self.frontend.version}-{self.canvas.replace(' ', '')}{chinese}"


ORDER = tuple(
    Look(frontend, canvas, language) for frontend in NEWEST for canvas in CANVASES for language in (ENGLISH, CHINESE)
)
LOOKS = tuple(each for each in ORDER if each.language == ENGLISH)


class Studio:
    """One ComfyUI and one page at a time, of the look that was asked for last."""

    def __init__(self, playwright: Playwright, browser: Path, base: Path) -> None:
        self.playwright, self.browser, self.base = playwright, browser, base
        self.server: Server | None = None
        self._look: Look | None = None
        self._opened = None
        self._page: ComfyPage | None = None

    def page(self, look: Look) -> ComfyPage:
        """The page, loaded anew only if it looked otherwise."""
        if self._page is None or look != self._look:
            self._close_page()
            if self.server is None or self._look is None or look.frontend != self._look.frontend:
                self._start_server(look.frontend)
            settings = {"Comfy.Locale": look.language}
            self._opened = opened(self.playwright, self.browser, self.server.url, look.canvas, settings)
            self._page, self._look = self._opened.__enter__(), look
        return self._page

    def close(self) -> None:
        """End the browser and the server."""
        self._close_page()
        if self.server is not None:
            self.server.stop()

    def _close_page(self) -> None:
        opened_page, self._opened, self._page = self._opened, None, None
        if opened_page is not None:
            opened_page.__exit__(None, None, None)

    def _start_server(self, frontend: Frontend) -> None:
        host = comfyui.locate()
        if host is None:
            pytest.fail("There is no ComfyUI: run the tests with python tools/dev.py test, or set COMFYUI_PATH.")
        if self.server is not None:
            self.server.stop()
        root = frontends.ensure(frontend)
        for old in SCREENSHOTS.glob(f"*{frontend.version}*"):
            old.unlink()
        self.server = Server(
            host,
            self.base / frontend.version,
            models=[build.ensure()],
            python=Path(sys.executable),
            arguments=["--front-end-root", str(root)],
        )
        self.server.start()
        put_inputs(self.server)
        old_files.put(self.server.base)


def put_inputs(server: Server) -> None:
    """What the templates take for the user's own picture and clip."""
    folder = server.base / "input"
    shutil.copy(server.comfyui / "input" / "example.png", folder)
    size = (SMALL_SIZE["resolution.height"], SMALL_SIZE["resolution.width"], 3)
    if (folder / CLIP).is_file():
        return
    greys = (np.full(size, 60 + 20 * number, np.uint8) for number in range(5))
    write_mp4(greys, folder / CLIP, fps=24.0, crf=16)


@pytest.fixture(scope="package")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """The ComfyUI and the browser of these tests. Where no browser is to be had, the tests are skipped."""
    try:
        browser = chromium.ensure()
    except ToolError as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        running = Studio(playwright, browser, tmp_path_factory.mktemp("browser"))
        try:
            yield running
        finally:
            running.close()


@pytest.fixture
def look(request: pytest.FixtureRequest) -> Look:
    """How the page of a test looks; chosen by ``pytest_generate_tests``."""
    return request.param


@pytest.fixture
def page(studio: Studio, look: Look, request: pytest.FixtureRequest) -> Iterator[ComfyPage]:
    """A page of ComfyUI. The test fails if anything of ours goes wrong in it."""
    found = studio.page(look)
    found.errors.clear()
    yield found
    if look.frontend == NEWEST[0] or getattr(request.node, "failed", False):
        found.screenshot(SCREENSHOTS / f"{file_name(request.node.name)}.png")
    assert not found.errors


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Tells ``page`` whether the test failed."""
    report = yield
    if report.failed:
        item.failed = True
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All looks for a test of a page, or those of its marks.

    ``where(frontends=…, canvas=…, language=…)`` narrows them; ``spread(name, values)`` gives each value one of them.
    """
    if "look" not in metafunc.fixturenames:
        return
    looks = list(LOOKS)
    for mark in metafunc.definition.iter_markers("where"):
        looks = [narrowed for each in looks if (narrowed := narrow(each, **mark.kwargs)) is not None]
    for mark in metafunc.definition.iter_markers("spread"):
        name, values = mark.args
        pairs = list(zip(cycle(looks), values, strict=False))
        ids = [f"{each}-{value}" for each, value in pairs]
        metafunc.parametrize(("look", name), pairs, indirect=["look"], ids=ids)
        return
    metafunc.parametrize("look", looks, indirect=True, ids=str)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of a look beside each other, and the looks of a frontend."""
    places = [place for place, item in enumerate(items) if look_of(item) is not None]
    ordered = sorted((items[place] for place in places), key=lambda item: ORDER.index(look_of(item)))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def look_of(item: pytest.Item) -> Look | None:
    """The look that a test asks for."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("look")


def narrow(look: Look, newest: bool = False, canvas: str | None = None, language: str = ENGLISH) -> Look | None:
    """The look in that language, None if it is of another kind than asked for."""
    if (newest and look.frontend != NEWEST[0]) or (canvas and look.canvas != canvas):
        return None
    return Look(look.frontend, look.canvas, language)


def file_name(text: str) -> str:
    """A test's name as a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")
