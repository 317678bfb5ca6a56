"""Videos get names that any file system takes and that tell one from another."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from hyvideo_core.cli import naming


def named(prompt: str) -> list[str]:
    candidates = naming.paths(Path("folder"), datetime(2026, 1, 2, 3, 4, 5), 7, prompt)
    return [next(candidates).name for _ in range(3)]


@given(st.text())
@example("a" * 500)
@example("猫" * 500)
@example("👩‍👩‍👧‍👦" * 100)
@example('<>:"/\\|?*\0\n\t\x7f')
@example("../../etc/passwd")
@example("dots ... ")
@example("\ud800")
@example("a\u202egnp.exe")
def test_any_prompt_gives_a_name_for_any_file_system(prompt: str) -> None:
    names = named(prompt)
    assert len(set(names)) == 3
    for name in names:
        assert name.startswith("2026-01-02-03-04-05_seed7_")
        assert name.endswith(".mp4")
        assert len(name.encode()) <= 255
        assert not set(name) & set('<>:"/\\|?*')
        assert name.isprintable()


def test_names_say_the_beginning_of_the_prompt() -> None:
    assert named("Eine  Katze\nläuft 猫 " + "x" * 100)[0] == (
        "2026-01-02-03-04-05_seed7_Eine Katze läuft 猫 " + "x" * 81 + ".mp4"
    )
