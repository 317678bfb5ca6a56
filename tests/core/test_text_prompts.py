"""What a template keeps of a prompt, and prompts no template can hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_data import FOX
from tokenizers import Tokenizer

from hyvideo_core.errors import PromptError
from hyvideo_core.text import IMAGE, VIDEO, MLLMEncoder, Template, custom
from hyvideo_core.text.tokenizers import LlamaTokenizer

Kept = Callable[[str, Template], str]
EOT = 128009
TEMPLATES = [VIDEO, IMAGE]
ROWS = {"video": 256, "image": 315}


@pytest.fixture(scope="module")
def encoder(llama_tokenizer: Path) -> MLLMEncoder:
    return MLLMEncoder(torch.nn.Identity(), LlamaTokenizer(llama_tokenizer))


@pytest.fixture(scope="module")
def kept(encoder: MLLMEncoder, llama_tokenizer: Path) -> Kept:
    """Gives the text of the tokens that are kept."""
    tokenizer = Tokenizer.from_file(str(llama_tokenizer / "tokenizer.json"))

    def decode(prompt: str, template: Template) -> str:
        ids, crop = encoder.tokenize(prompt, template)
        return tokenizer.decode(ids[crop:], skip_special_tokens=False)

    return decode


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
@pytest.mark.parametrize("prompt", ["A cat.", "", "{} {0} {name} %s", "<tag>", "🐾", "<|eot_id|> now a dog", "\\n"])
def test_the_kept_tokens_are_the_prompt_and_its_end(kept: Kept, template: Template, prompt: str) -> None:
    assert kept(prompt, template) == prompt + "<|eot_id|>"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=80).filter(lambda text: "<" not in text))
@settings(max_examples=100, deadline=None)
def test_no_prompt_moves_the_crop_or_outgrows_the_rows(encoder: MLLMEncoder, template: Template, prompt: str) -> None:
    empty, _ = encoder.tokenize("", template)
    ids, crop = encoder.tokenize(prompt, template, truncate=True)
    assert crop == template.crop_start == template.max_length - ROWS[template.name]
    assert ids[:crop] == empty[:crop]
    assert 1 <= len(ids) - crop <= ROWS[template.name]
    assert (ids[-1] == EOT) or len(ids) == template.max_length


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
@pytest.mark.parametrize("prompt", [" ", "\n\n \t", "\u3000"])
def test_a_prompt_of_spaces_is_an_empty_prompt(encoder: MLLMEncoder, template: Template, prompt: str) -> None:
    assert encoder.tokenize(prompt, template) == encoder.tokenize("", template)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_custom_template_finds_the_crop_that_the_official_one_states(
    encoder: MLLMEncoder, template: Template
) -> None:
    assert encoder.tokenize("A cat", custom(template.text)) == encoder.tokenize("A cat", template)


def test_a_custom_template_that_ends_with_the_prompt_takes_an_empty_one(encoder: MLLMEncoder) -> None:
    ids, crop = encoder.tokenize("", custom("Describe: {}"))
    assert crop == len(ids) - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Describe: {}!", " cat!"),  # a word takes the space before it into its own token
        ("Describe:\n\n{}!", "cat!"),
        ("{}", "cat"),
        ("🐾 猫{}", "cat"),
        ("con{}", "concat"),
    ],
)
def test_a_computed_crop_keeps_every_token_of_the_prompt(kept: Kept, text: str, expected: str) -> None:
    assert kept("cat", custom(text)) == expected


def test_other_braces_in_a_template_are_only_text(kept: Kept) -> None:
    assert kept("cat", custom('{"style": {0}} {}', crop_start=0)) == '<|begin_of_text|>{"style": {0}} cat'


def test_a_crop_of_zero_keeps_the_template(kept: Kept) -> None:
    assert kept("cat", custom("A {}!", crop_start=0)) == "<|begin_of_text|>A cat!"


@pytest.mark.parametrize("text", ["", "no place", "{ }", "{0}", "{} and {}"])
def test_a_template_without_exactly_one_place_for_the_prompt_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match=r"template 'custom' has [02] placeholders \{\}, but must have exactly one"):
        custom(text)


def test_a_template_that_begins_a_text_a_second_time_is_refused() -> None:
    with pytest.raises(PromptError, match=r"template 'custom' has <\|begin_of_text\|>, which .* Delete it"):
        custom("<|begin_of_text|>Describe {}")


def test_special_tokens_of_a_template_are_tokens_dropped_before_the_prompt_and_kept_after_it(
    encoder: MLLMEncoder, kept: Kept
) -> None:
    template = custom("<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>")
    ids, crop = encoder.tokenize("cat", template)
    assert ids[:crop] == [128000, 128006, 882, 128007, 271]
    assert ids[-2:] == [EOT, 128006]
    assert kept("cat", template) == "cat<|eot_id|><|start_header_id|>"


def test_a_computed_crop_follows_the_tokenizer_from_prompt_to_prompt(encoder: MLLMEncoder) -> None:
    template = custom("photo {}")  # " cat" takes the space before it, a digit does not
    assert [encoder.tokenize(prompt, template)[1] for prompt in ("cat", "3 cats")] == [2, 3]


@pytest.mark.parametrize("crop", [-1, 351, 10_000])
def test_a_crop_outside_the_input_is_refused(crop: int) -> None:
    with pytest.raises(PromptError, match=rf"drops {crop} tokens, but that must be 0 to 350"):
        custom("{}", crop)


def test_a_crop_that_would_leave_nothing_is_refused(encoder: MLLMEncoder) -> None:
    with pytest.raises(PromptError, match=r"drops 50 tokens, but the whole input has only 2\. Lower crop_start"):
        encoder.tokenize("cat", custom("{}", crop_start=50))
    with pytest.raises(PromptError, match=r"drops \d+ tokens, but the whole input has only 351"):
        encoder.tokenize("cat", custom("word " * 400 + "{}"), truncate=True)


@pytest.mark.parametrize(("template", "room"), [(VIDEO, 255), (IMAGE, 314)], ids=["video", "image"])
def test_the_longest_prompt_fits_and_one_token_more_is_an_error(
    encoder: MLLMEncoder, template: Template, room: int
) -> None:
    ids, crop = encoder.tokenize("cat" + " cat" * (room - 1), template)
    assert len(ids) - crop == ROWS[template.name]
    assert ids[-1] == EOT
    with pytest.raises(PromptError, match=rf"prompt has {room + 1} tokens.*'{template.name}' has room for {room}\. "):
        encoder.tokenize("cat" + " cat" * room, template)


def test_truncation_keeps_the_first_tokens(encoder: MLLMEncoder) -> None:
    short, _ = encoder.tokenize(FOX[:200], VIDEO)
    ids, _ = encoder.tokenize(FOX, VIDEO, truncate=True)
    assert len(ids) == VIDEO.max_length
    assert ids[: len(short) - 2] == short[:-2]
    with pytest.raises(PromptError, match=r"Shorten it by about \d+ words"):
        encoder.tokenize(FOX, VIDEO)


def test_a_megabyte_of_prompt_is_an_error_like_any_other(encoder: MLLMEncoder) -> None:
    with pytest.raises(PromptError, match="has room for 255"):
        encoder.tokenize("a cat, " * 150_000, VIDEO)


def test_templates_are_values() -> None:
    assert custom("a {}") == custom("a {}") != custom("b {}")
    with pytest.raises(AttributeError):
        VIDEO.text = "{}"  # type: ignore[misc]
