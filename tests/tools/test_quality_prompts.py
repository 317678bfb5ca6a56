"""The prompts of the table of quality: what they ask for, and that no network was trained on them."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quality_prompts import SIZES, batches, by_day, images, recoloured, stressed, unasked, uncoloured, videos
from quality_report import PROMPTS, QUICK_PROMPTS

from hyvideo_core.text.weights import parse_weights
from tools.demo_model import captions, train_lora
from tools.demo_model.world import DIRECTIONS, random_scene


def test_no_prompt_was_trained_on() -> None:
    for prompt in videos(PROMPTS):
        text = prompt.text.lower()
        assert prompt.caption.frame in captions.HELD_OUT_FRAMES
        for thing in prompt.caption.things:
            assert thing.is_held_out
            if thing.motion in DIRECTIONS:
                kept = [pair for pair in captions.pairs(thing.motion) if captions.is_kept(*pair)]
                assert any(f"{verb} {way}" in text for verb, way in kept)


def test_no_training_caption_is_phrased_as_a_prompt() -> None:
    ways = [pair for motion in DIRECTIONS for pair in captions.pairs(motion) if captions.is_kept(*pair)]
    kept = re.compile("|".join(rf"\b{verb} {way}\b" for verb, way in ways))
    rng = random.Random(5)
    for _ in range(3000):
        caption = captions.describe(rng, random_scene(rng, 64, 64), partial=rng.random() < 0.3)
        assert caption.frame not in captions.HELD_OUT_FRAMES
        assert not kept.search(caption.text.lower()), caption.text
        assert not re.search("we see how| there is ", caption.text.lower()), caption.text


def test_prompts_ask_for_all_that_their_scenes_show() -> None:
    prompts = videos(PROMPTS)
    for prompt in prompts:
        assert prompt.caption.background == prompt.scene.background
        asked, shown = ([(t.color, t.shape, t.motion) for t in part.things] for part in (prompt.caption, prompt.scene))
        assert sorted(asked) == sorted(shown)
    assert {len(prompt.scene.things) for prompt in prompts} == {1, 2}
    assert len({prompt.text for prompt in prompts}) == len(prompts) >= 200
    for some in (prompts, prompts[:QUICK_PROMPTS]):
        assert {prompt.size for prompt in some} == set(SIZES)


@pytest.mark.parametrize("kind", [videos, images, by_day, uncoloured, recoloured, stressed])
def test_a_prompt_and_its_noise_are_the_same_in_every_set(kind: Any) -> None:
    few, many = kind(12), kind(40)
    assert [prompt for prompt in many if prompt.index < 12] == few == kind(12)
    for prompt in few:
        assert torch.equal(prompt.noise(17), kind(40)[many.index(prompt)].noise(17))
    assert not torch.equal(few[0].noise(17), few[1].noise(17))


def test_the_other_sets_ask_for_what_their_rows_are_about() -> None:
    for prompt in by_day(PROMPTS):
        assert prompt.caption.background == train_lora.NIGHT
        assert train_lora.NIGHT not in [thing.color for thing in prompt.scene.things]
    for prompt in images(PROMPTS):
        assert not [thing for thing in prompt.caption.things if thing.motion]
    for prompt in uncoloured(PROMPTS):
        words = [word for words in captions.COLOR_WORDS.values() for word in words]
        assert sum(f" {word} " in f" {prompt.text.rstrip('.')} ".replace(".", " ") for word in set(words)) == 1
        assert [thing.color for thing in prompt.caption.things] == [""]


def test_a_recolored_prompt_differs_from_the_scene_in_the_color_of_its_thing_alone() -> None:
    before = {prompt.index: prompt for prompt in videos(PROMPTS)}
    for prompt in recoloured(PROMPTS):
        (old,), (new,) = before[prompt.index].scene.things, prompt.scene.things
        assert new.color not in (old.color, prompt.scene.background)
        assert replace(new, color=old.color) == old
        assert replace(prompt.scene, things=(old,)) == before[prompt.index].scene
        assert prompt.caption.things[0].color == new.color


def test_stressed_prompts_say_the_same_with_each_color_weighed() -> None:
    for plain, prompt in zip(videos(PROMPTS), stressed(PROMPTS), strict=True):
        parsed = parse_weights(prompt.text)
        assert parsed.text == plain.text
        assert prompt.text.count(":1.5)") == 1 + len(plain.scene.things)
        assert prompt.caption.things == plain.caption.things


def test_a_negative_prompt_names_nothing_that_is_asked_for() -> None:
    for prompt in videos(PROMPTS):
        text = unasked(prompt)
        assert " a orange" not in f" {text}"
        assert not [
            color for color in (prompt.scene.background, *(t.color for t in prompt.scene.things)) if color in text
        ]


@given(st.integers(1, 40), st.integers(1, 9))
def test_batches_hold_every_prompt_once_and_one_size_each(count: int, size: int) -> None:
    prompts = videos(count)
    found = batches(prompts, size)
    assert sorted(prompt.index for batch in found for prompt in batch) == list(range(count))
    assert all(1 <= len(batch) <= size and len({prompt.size for prompt in batch}) == 1 for batch in found)
