"""Selections of an image's places mean what Python's slices mean, and nothing else is ever evaluated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyvideo_core.errors import PromptError
from hyvideo_core.text.selection import TokenSelection

COUNT = 576
BOUNDS = st.none() | st.integers(-700, 700)
STEPS = st.none() | st.integers(-50, 50).filter(bool)
SPACES = st.text(" \t", max_size=2)


@st.composite
def slices(draw: st.DrawFn) -> tuple[str, slice]:
    """A slice as text, with spaces here and there, and as Python has it."""
    start, stop, step = draw(BOUNDS), draw(BOUNDS), draw(STEPS)
    parts = ["" if number is None else str(number) for number in (start, stop, step)]
    if step is None and draw(st.booleans()):
        parts.pop()
    return ":".join(draw(SPACES) + part + draw(SPACES) for part in parts), slice(start, stop, step)


@given(st.lists(slices(), min_size=1, max_size=4), st.integers(1, 600))
def test_slices_select_what_python_selects(chosen: list[tuple[str, slice]], count: int) -> None:
    expected = sorted({place for _, each in chosen for place in range(count)[each]})
    selection = TokenSelection(",".join(text for text, _ in chosen))
    if expected:
        assert selection.places(count) == expected
    else:
        with pytest.raises(PromptError, match=f"selects nothing of an image's {count} places"):
            selection.places(count)


@given(st.integers(-COUNT, COUNT - 1))
def test_a_single_place_is_python_index(place: int) -> None:
    assert TokenSelection(str(place)).places(COUNT) == [range(COUNT)[place]]


@pytest.mark.parametrize("place", [COUNT, -COUNT - 1, 99999])
def test_a_place_that_is_not_there_is_refused(place: int) -> None:
    with pytest.raises(PromptError, match=rf"names place {place} of an image, but there are {COUNT}"):
        TokenSelection(f"::4,{place}").places(COUNT)


@pytest.mark.parametrize(
    ("text", "number", "first"), [("::4", 144, 0), (":128", 128, 0), ("-128:", 128, 448), (":64, -64:", 128, 0)]
)
def test_the_usual_selections(text: str, number: int, first: int) -> None:
    places = TokenSelection(text).places(COUNT)
    assert (len(places), places[0]) == (number, first)
    assert TokenSelection().text == "::4"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "::4,",
        "four",
        "1:2:3:4",
        "0x10",
        "1.5",
        "1_0",
        "[::4]",
        "__import__('os')",
        "1+1",
        "1-1",
        "- 1",
        "::4;:8",
    ],
)
def test_other_texts_are_refused_when_they_are_written(text: str) -> None:
    with pytest.raises(PromptError, match="is no selection of an image's places"):
        TokenSelection(text)


def test_a_step_of_0_is_refused() -> None:
    with pytest.raises(PromptError, match="'1:5:0' has a step of 0"):
        TokenSelection("1:5:0")


@given(st.text(alphabet="0123456789:,- +x", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        places = TokenSelection(text).places(COUNT)
    except PromptError:
        return
    assert places == sorted(set(places))
    assert set(places) <= set(range(COUNT))
