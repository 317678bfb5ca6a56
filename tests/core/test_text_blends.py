"""Prompts mixed by weight, and schedules of prompts: what stands where, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dit_data import prompt, randn
from hypothesis import given
from hypothesis import strategies as st
from prompt_data import encoders, same

from hyvideo_core.text import VIDEO
from hyvideo_core.text.blends import PromptSchedule, Turn, blended
from hyvideo_core.types import Conditioning

Part = tuple[Conditioning, float]
LONG, SHORT, OTHER = prompt(length=7, seed=1), prompt(length=3, seed=20), prompt(length=5, seed=40)
THIRDS = [(LONG, 1.0), (SHORT, 2.0)]


def naive(parts: list[Part]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Text and pooled text of the first clip, in plain loops."""
    total = sum(weight for _, weight in parts)
    rows = [[row.double().numpy() for row in part.text[0]] for part, weight in parts if weight]
    weights = [weight / total for _, weight in parts if weight]
    text = [
        sum(weight * own[min(place, len(own) - 1)] for own, weight in zip(rows, weights, strict=True))
        for place in range(max(map(len, rows)))
    ]
    return np.array(text), sum(weight / total * part.pooled[0].double().numpy() for part, weight in parts)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    data=st.data(),
)
def test_a_blend_is_the_weighted_mean_place_by_place_the_shorter_going_on_with_its_last_row(
    lengths: list[int], data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.integers(0, 20), min_size=len(lengths), max_size=len(lengths)).filter(any))
    parts = [
        (prompt(length=length, seed=5 * seed), weight / 4)
        for seed, (length, weight) in enumerate(zip(lengths, weights, strict=True))
    ]
    found = blended(parts)
    text, pooled = naive(parts)
    assert found.text_mask is None
    assert found.text.shape[1] == len(text)
    assert np.abs(found.text[0].numpy() - text).max() < 1e-5
    assert np.abs(found.pooled[0].numpy() - pooled).max() < 1e-5


@pytest.mark.parametrize("weight", [0.1, 1, 7])
def test_one_prompt_alone_or_with_others_of_weight_0_is_itself_to_the_last_bit(weight: float) -> None:
    masked = replace(LONG, text_mask=torch.tensor([[1, 1, 1, 0, 0, 0, 0]]))
    for alone in (SHORT, masked):
        assert same(blended([(alone, weight)]), alone)
        assert same(blended([(LONG, 0), (alone, weight), (OTHER, 0)]), alone)


def test_the_order_of_the_parts_is_irrelevant() -> None:
    one, other = blended([(LONG, 1), (SHORT, 2)]), blended([(SHORT, 2), (LONG, 1)])
    assert torch.allclose(one.text, other.text, atol=1e-6)
    assert torch.allclose(one.pooled, other.pooled, atol=1e-6)


def test_weights_count_as_shares_of_their_sum() -> None:
    assert same(blended([(LONG, 1), (SHORT, 3)]), blended([(LONG, 0.25), (SHORT, 0.75)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_mixed_in_full(dtype: torch.dtype) -> None:
    halved = [(Conditioning(each.text.to(dtype), each.pooled.to(dtype)), weight) for each, weight in THIRDS]
    found = blended(halved)
    expected = blended([(Conditioning(each.text.float(), each.pooled.float()), weight) for each, weight in halved])
    assert found.text.dtype == found.pooled.dtype == dtype
    assert torch.equal(found.text, expected.text.to(dtype))
    assert torch.equal(found.pooled, expected.pooled.to(dtype))


def test_padding_plays_no_part() -> None:
    padded = Conditioning(torch.cat((SHORT.text, torch.full((1, 4, 16), 99.0)), dim=1), SHORT.pooled)
    padded = replace(padded, text_mask=torch.tensor([[1, 1, 1, 0, 0, 0, 0]]))
    assert same(blended([(padded, 1), (OTHER, 2)]), blended([(SHORT, 1), (OTHER, 2)]))


def test_a_batch_is_mixed_clip_by_clip() -> None:
    ragged = encoders().encode(["a red circle moving left", "dog"], VIDEO)
    lone = encoders().encode(["two blue boxes"], VIDEO)
    found = blended([(ragged, 1), (lone, 1)])
    assert ragged.text_mask is not None
    assert found.text_mask is not None
    assert found.text_mask.sum(1).tolist() == [6, 4]
    for clip in range(2):
        valid = ragged.text_mask[clip].bool()
        alone = Conditioning(ragged.text[clip : clip + 1, valid], ragged.pooled[clip : clip + 1])
        expected = blended([(alone, 1), (lone, 1)])
        assert torch.equal(found.text[clip][found.text_mask[clip].bool()], expected.text[0])
        assert torch.equal(found.pooled[clip], expected.pooled[0])


@pytest.mark.parametrize("weights", [[], [0.0], [0, 0], [1, -0.5], [1, torch.nan], [torch.inf, 1]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^weights are \[.*\], but each must be 0 or more, and one of them above 0"):
        blended([(SHORT, weight) for weight in weights])


def test_prompts_that_do_not_belong_together_are_refused() -> None:
    wide = Conditioning(randn(1, 3, 20), randn(1, 8))
    with pytest.raises(ValueError, match=r"are \[\(16, 8\), \(20, 8\)\] wide .*Encode all with the same encoders"):
        blended([(SHORT, 1), (wide, 1)])
    with pytest.raises(ValueError, match=r"for batches of \[2, 3\], but must be for one batch"):
        blended([(prompt(batch=2), 1), (prompt(batch=3), 1)])
    with pytest.raises(ValueError, match="wide"):
        PromptSchedule((Turn(0.0, SHORT), Turn(0.5, wide)))


OWN = prompt(seed=70)


def test_before_the_first_start_and_without_any_the_runs_own_prompt_stands() -> None:
    assert PromptSchedule().at(0.5, OWN) is OWN
    assert PromptSchedule((Turn(0.5, SHORT),)).at(0.49, OWN) is OWN


def test_without_a_fade_each_prompt_stands_from_its_start_to_the_next() -> None:
    schedule = PromptSchedule((Turn(0.25, SHORT), Turn(0.5, LONG)))
    found = [schedule.at(step / 8, OWN) for step in range(8)]
    assert found == [OWN, OWN, SHORT, SHORT, LONG, LONG, LONG, LONG]


def test_with_a_fade_one_prompt_replaces_the_other_in_equal_parts() -> None:
    schedule = PromptSchedule((Turn(0.25, SHORT, 0.25), Turn(0.625, LONG, 0.25)))
    found = [schedule.at(step / 8, OWN) for step in range(8)]
    assert [found[step] for step in (0, 1, 2, 4, 5, 7)] == [OWN, OWN, OWN, SHORT, SHORT, LONG]
    assert same(found[3], blended([(OWN, 0.5), (SHORT, 0.5)]))
    assert same(found[6], blended([(SHORT, 0.5), (LONG, 0.5)]))


def test_a_fade_over_the_whole_run_moves_a_little_in_every_step() -> None:
    schedule = PromptSchedule((Turn(0.0, LONG, 1.0),))
    for step in range(1, 10):
        expected = blended([(OWN, 1 - step / 10), (LONG, step / 10)])
        assert torch.allclose(schedule.at(step / 10, OWN).text, expected.text)


@given(starts=st.lists(st.integers(0, 19), min_size=1, max_size=5, unique=True).map(sorted), step=st.integers(0, 19))
def test_the_prompt_in_force_is_the_last_that_has_begun(starts: list[int], step: int) -> None:
    prompts = [prompt(length=1, seed=seed) for seed in range(len(starts))]
    schedule = PromptSchedule(tuple(Turn(start / 20, each) for start, each in zip(starts, prompts, strict=True)))
    expected = OWN
    for start, each in zip(starts, prompts, strict=True):
        expected = each if start <= step else expected
    assert schedule.at(step / 20, OWN) is expected


@pytest.mark.parametrize("starts", [(-0.1,), (1.0,), (0.5, 0.5), (0.5, 0.2), (float("nan"),)])
def test_starts_outside_the_run_or_out_of_order_are_refused(starts: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^prompts begin at \[.*\], but must begin one after the other"):
        PromptSchedule(tuple(Turn(start, SHORT) for start in starts))


def test_each_prompt_may_have_a_fade_of_its_own() -> None:
    schedule = PromptSchedule((Turn(0.25, SHORT), Turn(0.5, LONG, 0.5)))
    found = [schedule.at(step / 8, OWN) for step in (1, 2, 3, 6)]
    assert found[:3] == [OWN, SHORT, SHORT]
    assert same(found[3], blended([(SHORT, 0.5), (LONG, 0.5)]))


@pytest.mark.parametrize("fade", [-0.1, 0.31, float("nan")])
def test_a_fade_longer_than_the_time_until_the_next_prompt_is_refused(fade: float) -> None:
    with pytest.raises(ValueError, match=rf"^fade of the prompt that begins at 0.4 is {fade:g}, but must be 0 to 0.3"):
        PromptSchedule((Turn(0.4, SHORT, fade), Turn(0.7, LONG)))
    PromptSchedule((Turn(0.4, SHORT, 0.3), Turn(0.7, LONG, 1.0)))
    with pytest.raises(ValueError, match=r"begins at 0\.7 is 1\.1, but must be 0 to 1,"):
        PromptSchedule((Turn(0.7, LONG, 1.1),))
