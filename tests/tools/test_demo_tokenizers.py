"""The demo models' tokenizers: the real ones' way to split, every word of the captions one token, any text encodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hyvideo_core.text import IMAGE, VIDEO, Template
from hyvideo_core.text.tokenizers import CLIP_ENDS, LLAMA_SPECIAL
from tools import comfyui
from tools.demo_model.tokenizers import clip_tokenizer, llama_tokenizer
from tools.paths import ROOT

CAPTIONS = (
    "a red circle moves left on a white background",
    "The backdrop is turquoise. A crimson box quickly slides up-left, while an orange plus sign stays still.",
    "We see how two blue triangles grow",
)
WORDS = ("red", "circle", "moves", "background", "turquoise", "crimson", "slides", "triangles", "orange")
#: Anything UTF-8 can hold, without the words that are signs of their own.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: "<" not in text)
LLAMA, CLIP = (Tokenizer.from_str(make(CAPTIONS)) for make in (llama_tokenizer, clip_tokenizer))


def real_llama() -> Tokenizer:
    host = comfyui.locate()
    if host is None:
        pytest.fail("There is no ComfyUI with the real tokenizer: run python tools/dev.py test, or set COMFYUI_PATH.")
    return Tokenizer.from_file(str(host / "comfy/text_encoders/llama_tokenizer/tokenizer.json"))


@pytest.mark.parametrize("template", [VIDEO, IMAGE], ids=lambda template: template.name)
def test_the_templates_are_split_as_the_real_tokenizer_does(template: Template) -> None:
    for prompt in ("", CAPTIONS[0]):
        filled = template.fill(prompt)
        assert LLAMA.encode(filled).tokens == real_llama().encode(filled).tokens
    assert len(LLAMA.encode(template.before).ids) == template.crop_start


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_the_captions_is_one_token(word: str) -> None:
    assert LLAMA.encode(f"{word} {word}").tokens[1:] == [word, "Ġ" + word]
    assert LLAMA.encode(word.capitalize()).tokens[1:] == [word.capitalize()]
    assert CLIP.encode(f"{word} {word.upper()}").tokens[1:-1] == [word, word]


def test_special_tokens_are_one_token_each_and_come_last() -> None:
    begin, *found = LLAMA.encode("".join(LLAMA_SPECIAL[1:])).ids
    size = LLAMA.get_vocab_size()
    assert [begin, *found] == list(range(size - len(LLAMA_SPECIAL), size))
    size = CLIP.get_vocab_size()
    assert CLIP.encode("").ids == [size - 2, size - 1]
    assert CLIP.encode("").tokens == list(CLIP_ENDS)


@given(text=TEXT)
@settings(max_examples=200)
def test_any_text_encodes_and_llama_gives_it_back(text: str) -> None:
    ids = LLAMA.encode(text).ids
    assert LLAMA.decode(ids[1:], skip_special_tokens=False) == text
    assert ids[0] == LLAMA.token_to_id(LLAMA_SPECIAL[0])
    ids = CLIP.encode(text).ids
    assert (ids[0], ids[-1]) == tuple(map(CLIP.token_to_id, CLIP_ENDS))
    assert len(ids) <= 77


@pytest.mark.parametrize("make", [llama_tokenizer, clip_tokenizer])
def test_ids_fill_the_vocabulary_without_a_gap_and_stay_within(make: Callable[..., str]) -> None:
    for vocabulary in (450, 460, 2000):
        ids = sorted(Tokenizer.from_str(make(CAPTIONS, vocabulary)).get_vocab().values())
        assert ids == list(range(len(ids)))
        assert len(ids) <= vocabulary


def test_words_that_are_no_captions_take_pieces() -> None:
    tokens = CLIP.encode("grounds backing").tokens[1:-1]
    assert "".join(tokens) == "groundsbacking"
    assert len(tokens) < len("groundsbacking")


@pytest.mark.parametrize("make", [llama_tokenizer, clip_tokenizer])
def test_captions_that_do_not_fit_are_an_error(make: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match=r"take \d+ tokens more than the vocabulary has\. Raise vocabulary"):
        make(CAPTIONS, 270)


@pytest.mark.parametrize("make", [llama_tokenizer, clip_tokenizer])
def test_the_same_captions_give_the_same_text_in_every_process_and_order(make: Callable[..., str]) -> None:
    code = f"from tools.demo_model.tokenizers import {make.__name__} as make; print(make({CAPTIONS!r}), end='')"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert made.stdout.decode() == make(reversed(CAPTIONS))
