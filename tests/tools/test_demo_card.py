"""The model card says what the files, the recipes and the curves say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.demo_model import card, files
from tools.demo_model.__main__ import PARTS, main
from tools.demo_model.training import Recipe
from tools.paths import SHIPPED_MODELS


def test_the_card_lists_every_shipped_file_with_its_size() -> None:
    text = "\n".join(card.sizes())
    for path in files.ALL:
        assert f"`{path.parent.name}/{path.name}`" in text
        assert f" {path.stat().st_size / 1e6:.2f} |" in text


def test_all_files_together_stay_within_16_mb() -> None:
    shipped = [path for path in SHIPPED_MODELS.rglob("*") if path.is_file()]
    assert set(files.ALL) <= set(shipped)
    assert sum(path.stat().st_size for path in shipped) <= 16_000_000


def test_the_card_is_what_its_parts_say_now() -> None:
    assert card.CARD.read_text("utf-8") == "\n".join(card.card()) + "\n", (
        "write it anew: python -m tools.demo_model card"
    )


@pytest.mark.parametrize("entries", [1, 7, 100])
def test_a_curve_is_drawn_from_its_file(tmp_path: Path, entries: int) -> None:
    path = tmp_path / "dit.jsonl"
    path.write_text("".join(json.dumps({"step": 10 * i, "mse": 1 / i}) + "\n" for i in range(1, entries + 1)))
    text = "\n".join(card.curve("dit", Recipe(steps=5000, rate=3e-4), path))
    assert f"{10 * entries:,} steps of: steps 5000, rate 0.0003, muon_rate 0" in text
    drawn = json.loads(text.partition("line ")[2].partition("\n")[0])
    assert len(drawn) <= 2 * card.POINTS
    assert drawn == sorted(drawn, reverse=True)
    assert text.count("```") == 2


def test_every_training_has_its_command_in_the_card() -> None:
    text = "\n".join(card.trainings())
    (command,) = [line for line in text.splitlines() if line.startswith("python -m tools.demo_model text")]
    assert [*command.split()[3:], "card"] == list(PARTS)


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vea"]) == 2
    assert "there are text, vae, i2v, t2v, lora, card" in capsys.readouterr().err


def test_the_scores_are_the_recorded_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "QUALITY", tmp_path / "quality.json")
    assert not list(card.scores())
    (tmp_path / "quality.json").write_text("{}")
    (tmp_path / "quality.md").write_text("| float32 | 97.5 |")
    assert "| float32 | 97.5 |" in "\n".join(card.scores())
