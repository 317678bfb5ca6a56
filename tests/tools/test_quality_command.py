"""The command that measures the table of quality, records it and holds it to its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import quality
import quality_report
from quality_data import TINY_SET, random_files
from quality_files import Files


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return random_files(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two prompts in every set; the folder of results."""
    for module, name in ((quality, "PROMPTS"), (quality, "QUICK_PROMPTS"), (quality_report, "QUICK_PROMPTS")):
        monkeypatch.setattr(module, name, TINY_SET)
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    return tmp_path


def test_the_command_records_compares_and_fails(few: Path, toy: Files, capsys: pytest.CaptureFixture[str]) -> None:
    record, name = few / "record.json", "VAE alone 64×64×17"
    assert quality.main(["--gate", "--only", name], toy, record) == 1
    assert "no record" in capsys.readouterr().out
    assert quality.main(["--record", "--save", "--only", f"{name}, images"], toy, record) == 0
    assert quality.main(["--gate", "--only", name], toy, record) == 0
    assert quality.main(["--record", "--only", "images"], toy, record) == 0
    rows = {row["row"]: row for row in json.loads(record.read_text("utf-8"))["rows"]}
    assert list(rows) == ["images", name], "rows that were not measured stay, in the table's order"
    rows[name]["quick"]["obeyed"]["shape"] = TINY_SET
    record.write_text(json.dumps({"rows": list(rows.values())}), encoding="utf-8")
    capsys.readouterr()
    assert quality.main(["--gate", "--only", name], toy, record) == 1
    assert f"{name}: shape fell from 100.0 % to 0.0 % of {TINY_SET} prompts" in capsys.readouterr().out
    (saved,) = few.glob("*-quality.md")
    assert f"| {name} |" in saved.read_text("utf-8")
    assert json.loads(saved.with_suffix(".json").read_text("utf-8"))["rows"]


def test_unknown_rows_and_short_records_are_refused(few: Path, toy: Files) -> None:
    with pytest.raises(SystemExit, match="no row 'VAE'"):
        quality.main(["--only", "VAE"], toy)
    with pytest.raises(SystemExit):
        quality.main(["--record", "--prompts", "1"], toy)
