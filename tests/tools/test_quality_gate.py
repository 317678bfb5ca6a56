"""The gate that holds networks to what is recorded of the table of quality."""

from __future__ import annotations

from dataclasses import replace

import pytest
import quality_report
from hypothesis import given
from hypothesis import strategies as st
from quality_bench import COLUMNS, Judged, Outcome
from quality_data import outcome, table
from quality_report import MAY_FALL, PROMPTS, QUICK_PROMPTS, falls, result
from quality_rows import ROWS


@given(
    st.sampled_from(COLUMNS),
    st.integers(0, QUICK_PROMPTS),
    st.integers(0, QUICK_PROMPTS),
)
def test_the_gate_fails_where_a_column_falls_by_more_than_3_points(column: str, before: int, now: int) -> None:
    found = falls(table(**{column: before}), table(**{column: now}))
    if 100 * (before - now) / QUICK_PROMPTS > MAY_FALL and before - now > 1:
        assert len(found) == 1
        assert ROWS[0].name in found[0]
        assert (
            f" {column} fell from {100 * before / QUICK_PROMPTS:.1f} % to {100 * now / QUICK_PROMPTS:.1f} %" in found[0]
        )
    else:
        assert found == []


@pytest.mark.parametrize("prompts", [16, 24, 33, QUICK_PROMPTS])
def test_one_prompt_is_within_what_rounding_may_do_and_two_are_not(prompts: int) -> None:
    before, one, two = ([result(ROWS[0], outcome({"all": prompts - fall}, prompts))] for fall in range(3))
    assert falls(before, one) == []
    assert len(falls(before, two)) == 1


def test_a_mean_in_db_may_not_fall_far() -> None:
    row, quick = replace(ROWS[0], goals={}), QUICK_PROMPTS
    before, near, far = (
        [result(row, Outcome(tuple(Judged(i, {"all": True}, {"psnr_db": db}) for i in range(quick)), 1.0))]
        for db in (34.0, 32.5, 31.5)
    )
    assert falls(before, near) == []
    assert len(falls(before, far)) == 1
    assert "psnr_db fell from 34.0 to 31.5" in falls(before, far)[0]


def test_the_gate_compares_the_first_prompts_of_a_longer_record() -> None:
    # In the record all the disobedient prompts come after the first ones.
    recorded = [result(ROWS[0], outcome({"all": QUICK_PROMPTS}, PROMPTS))]
    assert recorded[0]["obeyed"]["all"] == recorded[0]["quick"]["obeyed"]["all"] == QUICK_PROMPTS
    assert falls(recorded, table()) == []
    assert len(falls(recorded, table(all=QUICK_PROMPTS - 2))) == 1


def test_the_gate_fails_for_rows_that_do_not_run_are_not_recorded_or_are_no_longer_exact() -> None:
    row = replace(ROWS[0], is_exact=True)
    exact = [result(row, outcome({}, is_identical=True))]
    assert falls(exact, exact) == []
    for worse, words in (
        ([quality_report.not_run(row, "no such kernel")], "did not run, but was recorded: no such kernel"),
        ([result(row, outcome({}))], "bit by bit"),
        ([result(replace(row, name="new"), outcome({}))], "no record"),
        ([result(row, outcome({}, QUICK_PROMPTS - 1, is_identical=True))], "record it anew"),
    ):
        (found,) = falls(exact, worse)
        assert words in found
    assert falls([quality_report.not_run(row, "no such kernel")], exact) == []
