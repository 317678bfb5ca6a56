"""The Chromium of the browser tests: this machine's, else one of our own below ``.cache``. Nothing is installed."""

from __future__ import annotations

import getpass
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tools.console import ToolError, run_logged, step
from tools.paths import CACHE, LOGS

#: Both hold parts of the browser, and what is installed already is fetched by name only.
PACKAGES = ("chromium", "chromium-common")
NAMES = ("chromium", "chromium-browser", "google-chrome")
FOLDER = CACHE / "chromium"
#: Without a GPU, without services that phone home, and without the sandbox, which root and containers lack.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
START_TIMEOUT_S = 60.0
#: Finds its libraries beside it, and fonts there if the system has no fontconfig. libpulse keeps a part in a folder.
WRAPPER = """#!/bin/sh
root={root}
for folder in "$root"/usr/lib/*-linux-gnu* "$root"/usr/lib/*-linux-gnu*/pulseaudio "$root"/usr/lib/chromium; do
    LD_LIBRARY_PATH="$folder${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
done
export LD_LIBRARY_PATH
if [ ! -e /etc/fonts/fonts.conf ]; then export FONTCONFIG_SYSROOT="$root"; fi
exec "$root/usr/lib/chromium/chromium" "$@"
"""


def ensure() -> Path:
    """A Chromium that starts: on the PATH, fetched before, from Playwright, or from Debian's packages.

    Raises ``ToolError`` with each reason if there is none to be had.
    """
    failures = []
    for find in (on_path, fetched, from_playwright, from_debian):
        try:
            path = find()
            if path is not None:
                check(path)
                return path
        except ToolError as error:
            failures.append(str(error))
    reasons = "\n".join(failures)
    raise ToolError(f"There is no Chromium, and none could be fetched. Install one as {' or '.join(NAMES)}.\n{reasons}")


def on_path() -> Path | None:
    """This machine's own."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return None if found is None else Path(found)


def fetched() -> Path | None:
    """The one that an earlier call has fetched."""
    return next((path for path in (_debians(), *_playwrights()) if path.is_file()), None)


def check(path: Path) -> None:
    """Raise ``ToolError`` if this Chromium does not start."""
    command = [str(path), "--headless", *FLAGS, "--dump-dom", "data:text/html,<p>works</p>"]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{path} does not start: {error}") from error
    if "works" not in probe.stdout:
        raise ToolError(f"{path} does not start (exit code {probe.returncode}): {probe.stderr.strip()[-500:]}")


def from_playwright() -> Path | None:
    """Playwright's own build, from its download site."""
    command = [sys.executable, "-m", "playwright", "install", "chromium"]
    run_logged(
        command,
        title="Fetching Chromium with Playwright (170 MB)",
        log=LOGS / "chromium-playwright.log",
        variables={"PLAYWRIGHT_BROWSERS_PATH": str(FOLDER / "playwright")},
    )
    return next(iter(_playwrights()), None)


def from_debian() -> Path | None:
    """Debian's packages, fetched and unpacked below our own folder with apt and dpkg, for which no root is needed."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise ToolError(f"Debian's Chromium cannot be unpacked here: there is no {program}.")
    apt = FOLDER / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    own = {"Dir::State::lists": apt / "lists", "Dir::Cache": apt, "Dir::Cache::archives": apt / "archives"}
    # Nothing of the system is written, so nothing needs its locks or its download user.
    own |= {"Debug::NoLocking": 1, "APT::Sandbox::User": getpass.getuser()}
    command = ["apt-get", *(f"-o{name}={value}" for name, value in own.items())]
    run_logged([*command, "update"], title="Reading Debian's package lists", log=LOGS / "chromium-lists.log")
    command += ["install", "--download-only", "--reinstall", "--no-install-recommends", "--yes", *PACKAGES]
    run_logged(command, title="Fetching Debian's Chromium (100 MB)", log=LOGS / "chromium-packages.log")
    with step("Unpacking Chromium"):
        unpack(sorted((apt / "archives").glob("*.deb")), FOLDER / "debian")
    shutil.rmtree(apt)
    return _debians()


def unpack(packages: list[Path], root: Path) -> None:
    """Unpack Debian's packages below ``root`` and put the wrapper ``chromium`` there."""
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for package in packages:
        subprocess.run(["dpkg", "-x", package, partial], check=True)
    if not (partial / "usr/lib/chromium/chromium").is_file():
        raise ToolError("This system's package chromium holds no Chromium (Ubuntu's only asks for a snap).")
    wrapper = partial / "chromium"
    wrapper.write_text(WRAPPER.format(root=shlex.quote(str(root))), encoding="utf-8")
    wrapper.chmod(0o755)
    shutil.rmtree(root, ignore_errors=True)
    partial.rename(root)


def _debians() -> Path:
    return FOLDER / "debian" / "chromium"


def _playwrights() -> list[Path]:
    """Playwright names its folders by system; a finished one is marked."""
    done = sorted((FOLDER / "playwright").glob("chromium-*/INSTALLATION_COMPLETE"))
    names = ("chrome", "chrome.exe", "Chromium", "Google Chrome for Testing")
    return [path for mark in done for path in mark.parent.rglob("*") if path.name in names and path.is_file()]
