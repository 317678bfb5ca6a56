"""A Chromium and the newest frontends are found or fetched, checked, and told about when they cannot be had."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tools.browser import chromium, frontends
from tools.browser.frontends import Frontend
from tools.console import ToolError

WORKING = "#!/bin/sh\necho '<p>works</p>'\n"
LOADED = '#!/bin/sh\necho "<p>works</p> with $LD_LIBRARY_PATH"\n'

needs_shell = pytest.mark.skipif(shutil.which("sh") is None, reason="stands for a browser as a shell script")
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="makes a package of Debian")


@pytest.fixture(autouse=True)
def nothing_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's browser nor what earlier calls have fetched."""
    monkeypatch.setattr(chromium, "FOLDER", tmp_path / "chromium")
    monkeypatch.setattr(chromium, "on_path", lambda: None)
    monkeypatch.setattr(frontends, "FOLDER", tmp_path / "frontends")
    monkeypatch.setattr(frontends, "CACHE", tmp_path)


def script(path: Path, text: str = WORKING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def package(folder: Path, files: dict[str, str]) -> Path:
    """A package of Debian with these programs."""
    for name, text in files.items():
        script(folder / name, text)
    control = folder / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text("Package: chromium\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: none\n")
    target = folder.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "--build", folder, target], check=True, capture_output=True)
    return target


def fail(reason: str):
    def find() -> None:
        raise ToolError(reason)

    return find


@needs_shell
def test_the_first_browser_that_starts_is_taken(monkeypatch, tmp_path):
    broken = script(tmp_path / "broken", "#!/bin/sh\nexit 1\n")
    works = script(tmp_path / "works")
    monkeypatch.setattr(chromium, "on_path", lambda: broken)
    monkeypatch.setattr(chromium, "from_playwright", fail("no network"))
    monkeypatch.setattr(chromium, "from_debian", lambda: works)
    assert chromium.ensure() == works


@needs_shell
def test_without_a_browser_each_reason_is_told(monkeypatch, tmp_path):
    broken = script(tmp_path / "broken", "#!/bin/sh\necho no display >&2\nexit 1\n")
    monkeypatch.setattr(chromium, "on_path", lambda: broken)
    monkeypatch.setattr(chromium, "from_playwright", fail("no network"))
    monkeypatch.setattr(chromium, "from_debian", fail("no apt"))
    with pytest.raises(ToolError, match=r"(?s)Install one as chromium.*no display.*no network.*no apt"):
        chromium.ensure()


@needs_dpkg
def test_a_package_of_debian_is_unpacked_and_finds_its_libraries(tmp_path):
    folders = ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio", "usr/lib/chromium"]
    made = package(
        tmp_path / "made", {"usr/lib/chromium/chromium": LOADED} | {f"{each}/library": "" for each in folders}
    )
    root = chromium.FOLDER / "debian"
    chromium.unpack([made], root)
    assert chromium.fetched() == root / "chromium"
    told = subprocess.run([root / "chromium"], capture_output=True, text=True, check=True).stdout
    assert {str(root / each) for each in folders} <= set(re.split(r"[\s:]", told))
    assert chromium.ensure() == root / "chromium"


@needs_dpkg
def test_a_package_that_only_asks_for_another_is_refused(tmp_path):
    with pytest.raises(ToolError, match="holds no Chromium"):
        chromium.unpack([package(tmp_path / "made", {"usr/bin/chromium-browser": WORKING})], chromium.FOLDER / "debian")
    assert chromium.fetched() is None


def wheel(tmp_path: Path) -> Frontend:
    """A frontend that was downloaded already."""
    made = Frontend("9.9.9", "")
    path = tmp_path / "downloads" / made.wheel
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("static/index.html", "static/assets/app.js", "static/assets/app.js.map", "__init__.py"):
            archive.writestr(f"comfyui_frontend_package/{name}", name)
    return Frontend(made.version, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_frontend_is_unpacked_once(tmp_path):
    frontend = wheel(tmp_path)
    root = frontends.ensure(frontend)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {"index.html", "assets/app.js"}
    (root / "index.html").write_text("kept")
    assert frontends.ensure(frontend) == root
    assert (root / "index.html").read_text() == "kept"


def test_a_changed_frontend_is_refused(tmp_path):
    frontend = Frontend(wheel(tmp_path).version, "0" * 64)
    with pytest.raises(ToolError, match="SHA-256"):
        frontends.ensure(frontend)
    assert not (frontends.FOLDER / frontend.version).exists()


def test_the_newest_frontends_are_two_and_pinned():
    assert len({frontend.version for frontend in frontends.NEWEST}) == 2
    assert all(len(frontend.sha256) == 64 for frontend in frontends.NEWEST)
