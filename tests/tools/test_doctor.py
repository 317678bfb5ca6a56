"""The doctor's report is whole, survives what is broken, and says whether a video is possible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from model_file_data import WIDE_TRANSFORMER, header_file

from tools import model_files
from tools.console import ToolError
from tools.demo_model import files as demo_files
from tools.doctor import command, files
from tools.doctor.lines import BAD, GOOD, section
from tools.paths import ROOT


def test_missing_parts_are_exactly_those_not_found(tmp_path: Path) -> None:
    found = model_files.scan([header_file(tmp_path / "x.safetensors", WIDE_TRANSFORMER).parent])
    assert files.missing_kinds(found) == [model_files.VAE, model_files.LLAMA, model_files.CLIP]


@pytest.mark.parametrize("error", [ToolError("set it right"), RuntimeError("driver too old"), ImportError("no torch")])
def test_a_part_that_fails_is_reported_and_does_not_end_the_report(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail() -> None:
        raise error

    assert section("Devices", fail) is None
    assert str(error) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("works", "models", "fits", "demo", "code"),
    [
        (True, True, True, False, 0),
        (True, True, False, False, 1),
        (True, False, True, False, 1),
        (True, False, False, True, 0),
        (False, True, True, True, 1),
    ],
)
def test_the_exit_code_says_whether_a_video_is_possible(
    capsys: pytest.CaptureFixture[str], works: bool, models: bool, fits: bool, demo: bool, code: int
) -> None:
    assert command.verdict(works, models, fits, demo) == code
    said = capsys.readouterr().out
    assert ("model: possible" in said) == (works and models and fits)


def test_the_shipped_model_is_found_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert files.report_demo()
    assert capsys.readouterr().out.count(GOOD) == len(demo_files.ALL)


@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1", b"\xff" * 300])
def test_a_shipped_file_that_is_missing_or_damaged_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "demo.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(demo_files, "ALL", (demo_files.VAE, path))
    assert not files.report_demo()
    good, bad = capsys.readouterr().out.splitlines()[:2]
    assert GOOD in good
    assert BAD in bad
    assert ("missing" if content is None else "damaged") in bad


def test_the_report_runs_here_and_covers_everything() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "dev.py"), "doctor"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode in (0, 1), done.stderr
    headings = ["ComfyUI", "Software", "Devices", "Kernels", "Model files", "Memory", "Demo model", "Verdict"]
    assert [line for line in done.stdout.splitlines() if line and line[0] != " "] == headings
    assert "Traceback" not in done.stderr
