"""Live output rewrites its line on a terminal of any width, and is plain lines elsewhere."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tools.paths import ROOT

SCRIPT = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from tools import console, demo
from tools.client import Event
console.use_safe_encoding()
console.REFRESH_S = 0.01
console.LOG_EVERY_S = 0.12
try:
    with console.step("A step with a title of some length", lambda: "and\\ta long detail of what it does now " * 9):
        time.sleep(0.3)
    with console.step("fails"):
        raise OSError("broken")
except OSError:
    pass

class Client:
    def queue(self, graph): return "1"
    def history(self, prompt_id): return {{"done": True}}
    def follow(self, prompt_id):
        yield Event("executing", {{"node": "1"}})
        for value in range(40):
            yield Event("progress", {{"node": "1", "value": value + 1, "max": 40}})
        yield Event("execution_success", {{}})

graph = {{"1": {{"class_type": "Sampler", "inputs": {{}}, "_meta": {{"title": "A sampler " * 12}}}}}}
assert demo.follow(Client(), graph) == {{"done": True}}
print("end")
"""


def screen(output: str, columns: int) -> list[str]:
    """What a terminal shows: characters beyond the last column go to the next row."""
    rows, column = [[]], 0
    for character in output:
        if character == "\r":
            column = 0
        elif character == "\n":
            rows.append([])
        else:
            if column == columns:
                rows.append([])
                column = 0
            rows[-1][column : column + 1] = [character]
            column += 1
    return ["".join(row).rstrip() for row in rows]


def in_terminal(script: Path, columns: int) -> str:
    """The script's output as a terminal of this width receives it."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=theirs, stdout=theirs, env=environment | {"PYTHONUTF8": "1"}
    )
    os.close(theirs)
    received = b""
    try:
        while chunk := os.read(ours, 65536):
            received += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    return received.decode()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
@pytest.mark.parametrize("columns", [40, 80, 300])
def test_each_step_takes_one_row_of_a_terminal(script: Path, columns: int) -> None:
    output = in_terminal(script, columns)
    assert output.count("\r") > 50  # it is live
    rows = screen(output, columns)
    assert [row[:1] for row in rows] == ["✓", "✗", "✓", "e", ""]
    assert "A step with a title" in rows[0]
    assert "Finished" in rows[2]


def test_elsewhere_there_are_whole_lines_and_no_returns(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, env={**os.environ, "PYTHONUTF8": "1"}, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert "\r" not in done.stdout.decode().replace(os.linesep, "\n")
    last = next(number for number, line in enumerate(lines) if line[0] == "✓")
    assert lines[0] == "… A step with a title of some length"
    meanwhile = lines[1:last]
    assert meanwhile, "a log shows that the step goes on"
    assert all(re.match(r"… A step with a title of some length \(0 s\) and a long detail", line) for line in meanwhile)
    assert [line[:1] for line in lines[last:]] == ["✓", "…", "✗", "…", "…", "✓", "e"]
    assert lines[last + 4].count("A sampler") == 12
