"""What the user sees while a command works: one line a step with its time, and errors that say what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

REFRESH_S = 0.5
#: Between the lines of a step where none can be rewritten: a log shows that it goes on, and is not flooded.
LOG_EVERY_S = 15.0
TAIL_LINES = 15
LINE_WIDTH = 100


class ToolError(Exception):
    """A failure together with its remedy; shown without a traceback."""


def use_safe_encoding() -> None:
    """Let a terminal that lacks a character show a replacement instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def rewrite(text: str) -> None:
    """Show ``text`` in place of the terminal's current line, cut to its width: a longer one would wrap and stay."""
    width = min(LINE_WIDTH, shutil.get_terminal_size().columns - 1)
    print(f"\r{one_line(text, width):<{width}}", end="", flush=True)


def one_line(text: str, width: int = LINE_WIDTH) -> str:
    """``text`` without breaks, tabs and returns, cut to ``width``."""
    return " ".join(text.split())[:width]


@contextmanager
def step(title: str, detail: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Show ``title`` with the elapsed seconds while the block runs, and its outcome afterwards.

    On a terminal one line is rewritten; elsewhere there is a line now and then.
    """
    start = time.monotonic()
    done = threading.Event()
    live = sys.stdout.isatty()
    show, pause = (rewrite, REFRESH_S) if live else (partial(print, flush=True), LOG_EVERY_S)

    def line(sign: str, note: str = "") -> str:
        return one_line(f"{sign} {title} ({time.monotonic() - start:.0f} s) {note}")

    def refresh() -> None:
        while not done.wait(pause):
            show(line("…", detail()))

    ticker = threading.Thread(target=refresh, daemon=True)
    if not live:
        show(f"… {title}")
    ticker.start()
    sign = "✗"
    try:
        yield
        sign = "✓"
    finally:
        done.set()
        ticker.join()
        show(line(sign))
        if live:
            print(flush=True)


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a text file; empty if there is none."""
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def clean_environment() -> dict[str, str]:
    """The caller's environment without the variables that would lead our interpreter to foreign modules."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def run_logged(
    command: Sequence[str | Path],
    *,
    title: str,
    log: Path,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run ``command`` as one shown step; its output goes to ``log``, named with a reason if it fails.

    ``variables`` are added to its environment.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with step(title, lambda: tail(log, 1)), log.open("wb") as output:
        finished = subprocess.run(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=clean_environment() | dict(variables or {}),
            cwd=cwd,
        )
        if finished.returncode:
            raise ToolError(
                f"{title} failed with exit code {finished.returncode}. {explain(log)}\n"
                f"The whole log: {log}\nIts end:\n{tail(log)}"
            )


#: First matching pattern in a log wins; each comes with what it means and what to do.
KNOWN_FAILURES = (
    (r"No space left on device|Errno 28|WinError 112", "The disk is full: free some space, then run it again."),
    (
        r"DO NOT MATCH THE HASHES",
        "The downloaded file is not the one this project was checked with, so it was refused. "
        "Try again; if it stays so, the package index or a proxy serves a changed file.",
    ),
    (
        r"name resolution|getaddrinfo failed|nodename nor servname|NewConnectionError|Network is unreachable"
        r"|ConnectTimeout|Read timed out|Max retries exceeded|ProxyError|SSLError",
        "The package index could not be reached: check the network, proxy and certificates "
        "(pip reads PIP_INDEX_URL, HTTPS_PROXY and PIP_CERT), then run it again.",
    ),
    (
        r"No matching distribution found|ResolutionImpossible",
        "A package has no version for this Python or this machine. Python 3.10 to 3.13 on a 64-bit system "
        "is known to work: delete .venv and start the command with one of these.",
    ),
    (r"Permission denied|Access is denied|WinError 5", "A file could not be written: close programs that use it."),
)


def explain(log: Path) -> str:
    """What a failed command's log means, in one sentence; empty when it is none of the known cases."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return next((meaning for pattern, meaning in KNOWN_FAILURES if re.search(pattern, text)), "")
