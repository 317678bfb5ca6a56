"""The table of quality as it is written."""

from __future__ import annotations

from dataclasses import replace

import quality_report
from quality_bench import Judged, Outcome
from quality_data import outcome
from quality_report import HEADER, line, markdown, result
from quality_rows import ROWS


def test_every_line_of_the_table_has_every_cell() -> None:
    row = replace(ROWS[0], goals={"all": 90.0, "psnr_db": 32.0})
    picture = Outcome(tuple(Judged(i, {"color": True, "all": False}, {}) for i in range(4)), 0.5)
    found = [
        result(row, outcome({"all": 38})),
        result(row, outcome({}, is_identical=True, note="red in 4 %")),
        result(replace(row, goals={}), picture),
        quality_report.not_run(row, "a | b\nc"),
    ]
    report = {"date": "2026-01-01", "machine": {"device": "x"}, "rows": found}
    lines = markdown(report).splitlines()
    assert {text.count("|") for text in lines[2:]} == {len(HEADER) + 1}
    plain, equal, without, absent = lines[4:]
    assert " 95.0 | 95.0 |  | 30.0 | 30.0 | 0.9000 | 1.00 |  | ✓ all ≥ 90 %; ✗ psnr_db ≥ 32 |" in plain
    assert " ∞ | ∞ | 1 |" in equal
    assert "red in 4 %" in equal
    assert "| 4 | 100.0 |  |  |  |  | 0.0 | 0.0 |  |  |  |  | 0.50 |" in without
    assert "not run: a / b c" in absent


def test_prompts_for_one_thing_and_for_two_are_counted_apart() -> None:
    judged = [Judged(i, {"all": i in (0, 1, 5)}, {}, things=1 if i < 3 else 2) for i in range(7)]
    found = result(replace(ROWS[0], goals={}), Outcome(tuple(judged), 1.0))
    assert found["by_things"] == {"1": (2, 3), "2": (1, 4)}
    cells = dict(zip(HEADER, (cell.strip() for cell in line(found).strip("|").split("|")), strict=True))
    assert (cells["all"], cells["of one"], cells["of two"]) == ("42.9", "66.7", "25.0")
