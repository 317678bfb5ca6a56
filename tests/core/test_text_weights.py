"""Weights of words: the grammar of brackets, and which rows move how far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_data import encoders, same

from hyvideo_core.errors import PromptError
from hyvideo_core.text import IMAGE, VIDEO, Template, custom
from hyvideo_core.text.tokenizers import LlamaTokenizer
from hyvideo_core.text.weights import HEAVIEST, WeightedPrompt, parse_weights

ENCODERS = encoders()
TEMPLATES = [VIDEO, IMAGE, custom("Paint {} now<|eot_id|>")]


def pieces(prompt: str) -> list[tuple[str, float]]:
    """The text in runs of one weight."""
    parsed = parse_weights(prompt)
    found: list[tuple[str, float]] = []
    for character, weight in zip(parsed.text, parsed.weights, strict=True):
        if found and found[-1][1] == weight:
            found[-1] = (found[-1][0] + character, weight)
        else:
            found.append((character, weight))
    return found


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (cat) walks", [("a ", 1), ("cat", 1.1), (" walks", 1)]),
        ("a (cat:1.5) walks", [("a ", 1), ("cat", 1.5), (" walks", 1)]),
        ("a ( cat : 0.5 )!", [("a ", 1), (" cat ", 0.5), ("!", 1)]),
        ("((cat))", [("cat", 1.1 * 1.1)]),
        ("((cat):1.5)", [("cat", 1.5 * 1.1)]),
        ("(a (cat:1.5) walks)", [("a ", 1.1), ("cat", 1.5), (" walks", 1.1)]),  # a number stands for itself
        ("(a (cat) walks:2)", [("a ", 2), ("cat", 2 * 1.1), (" walks", 2)]),
        ("(time 10:30:1.2)", [("time 10:30", 1.2)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:)", [("a:", 1.1)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("(a:1,2)", [("a:1,2", 1.1)]),
        ("(a:.5)(b:1.)", [("a", 0.5), ("b", 1)]),
        ("(a:+2)", [("a", 2)]),
        ("(a:0)", [("a", 0)]),
        (r"a \(cat\) walks", [("a (cat) walks", 1)]),
        (r"(\(:1.2)", [("(", 1.2)]),
        (r"(cat \(black\):1.2)", [("cat (black)", 1.2)]),
        (r"C:\dir \n", [(r"C:\dir \n", 1)]),
        ("[cat] {dog}", [("[cat] {dog}", 1)]),
        ("()", []),
        ("", []),
        (" \n(cat:2) \t", [("cat", 2)]),
        ("  ( cat )  ", [("cat", 1.1)]),
        ("(🐾猫:2)x", [("🐾猫", 2), ("x", 1)]),
    ],
)
def test_brackets_are_read_as_comfyui_reads_them(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert pieces(prompt) == expected


@dataclass(frozen=True)
class Group:
    """Something in brackets."""

    inside: tuple[Any, ...]
    number: float | None

    def written(self) -> str:
        inside = "".join(each if isinstance(each, str) else each.written() for each in self.inside)
        return f"({inside})" if self.number is None else f"({inside}:{self.number})"

    def weighed(self, around: float) -> list[tuple[str, float]]:
        weight = around * 1.1 if self.number is None else self.number
        return weighed(self.inside, weight)


def weighed(parts: tuple[Any, ...], weight: float) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for each in parts:
        out += [(c, weight) for c in each] if isinstance(each, str) else each.weighed(weight)
    return out


WORDS = st.text("ab:🐾 ", min_size=1, max_size=6)
NUMBERS = st.none() | st.integers(0, 30).map(lambda tenths: tenths / 10)
TREES = st.recursive(
    WORDS,
    lambda inner: st.builds(Group, st.lists(inner, min_size=1, max_size=4).map(tuple), NUMBERS),
    max_leaves=12,
)


@given(parts=st.lists(TREES, max_size=4).map(tuple))
@settings(max_examples=150)
def test_any_nesting_gives_each_character_the_weight_of_its_innermost_number(parts: tuple[Any, ...]) -> None:
    prompt = "x" + "".join(each if isinstance(each, str) else each.written() for each in parts) + "x"
    expected = [("x", 1.0), *weighed(parts, 1.0), ("x", 1.0)]
    found = parse_weights(prompt)
    assert found.text == "".join(character for character, _ in expected)
    assert found.weights == pytest.approx([weight for _, weight in expected])


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\"), max_size=40))
@settings(max_examples=100)
def test_a_text_whose_brackets_are_escaped_comes_back_as_it_was(text: str) -> None:
    found = parse_weights(text.replace("(", "\\(").replace(")", "\\)"))
    assert found == WeightedPrompt(text.strip(), (1.0,) * len(text.strip()))


@pytest.mark.parametrize(
    ("prompt", "place"),
    [("a (cat", 3), ("a cat)", 6), ("(a (cat) b", 1), (")(", 1), ("cat:1.2)", 8), (r"(cat\)", 1), ("(a))", 4)],
)
def test_a_bracket_without_its_partner_is_refused_with_its_place(prompt: str, place: int) -> None:
    with pytest.raises(PromptError, match=rf"character {place}, in .* Add the other one, or write \\[()]"):
        parse_weights(prompt)


@pytest.mark.parametrize(("number", "shown"), [("-1", "-1"), ("10.5", "10.5"), ("99999999", r"1e\+08")])
def test_weights_outside_the_range_are_refused(number: str, shown: str) -> None:
    with pytest.raises(PromptError, match=rf"is {shown}, but must be 0 to 10; 0\.5 to 1\.5 is usual"):
        parse_weights(f"a (cat:{number})")
    assert parse_weights("(a:10)").weights == (HEAVIEST,)


def test_deep_nesting_is_an_error_like_any_other_and_takes_no_time() -> None:
    with pytest.raises(PromptError, match="must be 0 to 10"):
        parse_weights("(" * 50_000 + "a" + ")" * 50_000)
    assert len(parse_weights("(a:1) " * 20_000).weights) == 39_999


def rows_of(prompt: str, template: Template) -> np.ndarray[Any, Any]:
    return ENCODERS.encode([prompt], template).text[0].double().numpy()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
@pytest.mark.parametrize(
    ("prompt", "plain", "words"),
    [
        # Which tokens of the plain prompt, counted from 0, have which weight.
        ("a (red:1.5) circle", "a red circle", {1: 1.5}),
        ("(a:0.5) red (circle:0)", "a red circle", {0: 0.5, 2: 0}),
        ("(a red circle:1.3)", "a red circle", {0: 1.3, 1: 1.3, 2: 1.3}),
        ("a( red:1.5) circle", "a red circle", {1: 1.5}),
        ("a (red :1.5)circle", "a red circle", {1: 1.5}),
        ("a r(ed:2.5) circle", "a red circle", {1: 2.0}),  # two of its three letters
        ("  (a:2) red", "a red", {0: 2}),
    ],
)
def test_a_words_rows_move_from_the_mean_of_the_prompts_rows_by_its_weight(
    template: Template, prompt: str, plain: str, words: dict[int, float]
) -> None:
    expected = rows_of(plain, template)
    # "Paint a red circle now": the template's own words follow, and count neither for the mean nor for the weights.
    own = expected[: len(plain.split())]
    mean = own.mean(axis=0)
    for row, weight in words.items():
        expected[row] = mean + weight * (own[row].copy() - mean)
    found = ENCODERS.encode([prompt], template, weighted=True)
    assert np.abs(found.text[0].numpy() - expected).max() < 1e-5
    assert torch.equal(found.pooled, ENCODERS.encode([plain], template).pooled)


def test_every_token_of_a_character_has_its_weight() -> None:
    parsed = parse_weights("a (🐾:2) b")
    weights = {True: [], False: []}  # of the character's own tokens, and of all others
    for first, end in ENCODERS.mllm.tokenizer.places(parsed.text)[1:]:
        weights[parsed.text[first:end] == "🐾"].append(parsed.weight(first, end))
    assert weights[True] == [2] * 4
    assert set(weights[False]) == {1}


def test_rows_of_other_weights_stay_to_the_last_bit() -> None:
    plain = ENCODERS.encode(["a red circle"], VIDEO).text[0]
    found = ENCODERS.encode(["a (red:1.5) circle"], VIDEO, weighted=True).text[0]
    assert [torch.equal(one, other) for one, other in zip(found, plain, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize("prompt", ["a red circle", "(a red:1) circle", "", r"a \(red\) circle", "()"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_without_a_weight_but_one_nothing_changes(prompt: str, dtype: torch.dtype) -> None:
    both = encoders(dtype)
    assert same(both.encode([prompt], VIDEO, weighted=True), both.encode([parse_weights(prompt).text], VIDEO))


def test_brackets_are_text_unless_weights_are_asked_for() -> None:
    plain = ENCODERS.encode(["a (red:1.5) circle"], VIDEO)
    weighted = ENCODERS.encode(["a (red:1.5) circle"], VIDEO, weighted=True)
    assert plain.text.shape[1] > weighted.text.shape[1]
    assert not torch.equal(plain.pooled, weighted.pooled)


def test_prompts_of_a_batch_are_weighed_one_by_one() -> None:
    prompts = ["a (red:1.5) circle", "two blue boxes", "(cat:0.5) and the (dog)"]
    batch = ENCODERS.encode(prompts, VIDEO, weighted=True)
    assert batch.text_mask is not None
    for row, prompt in enumerate(prompts):
        alone = ENCODERS.encode([prompt], VIDEO, weighted=True)
        assert torch.equal(batch.text[row][batch.text_mask[row].bool()], alone.text[0])
        assert torch.equal(batch.pooled[row], alone.pooled[0])


def test_a_prompt_that_is_cut_keeps_the_weights_of_what_is_left() -> None:
    long = " cat" * 300
    found = ENCODERS.encode([f"a (red:1.5){long}"], VIDEO, truncate=True, weighted=True)
    plain = ENCODERS.encode([f"a red{long}"], VIDEO, truncate=True)
    assert found.text.shape == plain.text.shape == (1, 256, found.text.shape[2])
    mean = plain.text[0].mean(dim=0)
    assert torch.allclose(found.text[0, 1], mean + 1.5 * (plain.text[0, 1] - mean), atol=1e-5)
    with pytest.raises(PromptError, match="has room for 255"):
        ENCODERS.encode([f"a (red:1.5){long}"], VIDEO, weighted=True)


def test_a_heavy_weight_in_half_precision_stays_a_number() -> None:
    both = encoders(torch.float16)
    found = both.encode(["a (red:10) circle"], VIDEO, weighted=True)
    assert found.text.dtype == torch.float16
    assert found.text.isfinite().all()


def test_a_lone_string_is_refused_as_without_weights() -> None:
    with pytest.raises(PromptError, match="must be a list of one prompt or more"):
        ENCODERS.encode("a cat", VIDEO, weighted=True)  # type: ignore[arg-type]


def test_llama_3s_own_tokenizer_tells_the_places_too(llama_tokenizer: Path) -> None:
    tokenizer = LlamaTokenizer(llama_tokenizer)
    parsed = parse_weights("a (tabby cat:1.5), (猫:2) 🐾")
    places = tokenizer.places(VIDEO.fill(parsed.text))
    start = len(VIDEO.before)
    weights = [parsed.weight(first - start, end - start) for first, end in places]
    kept = weights[95:]
    assert weights[:95] == [None] * 95
    assert kept[-1] is None  # <|eot_id|>
    assert kept[0] == 1
    assert {1.5, 2, 1} == set(kept[:-1])
    assert len(tokenizer.encode(VIDEO.fill(parsed.text))) == len(places)
