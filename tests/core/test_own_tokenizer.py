"""Small text encoders whose tokenizer travels in their file: read, held to what the pipeline needs, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from text_data import CLIP_CONFIG, LLAMA_CONFIG, Weights, clip_weights, llama_weights
from tokenizers import Tokenizer

from hyvideo_core.cli import tokenizers as command_line
from hyvideo_core.errors import CheckpointError, TokenizerError
from hyvideo_core.text import IMAGE, VIDEO, Template, custom
from hyvideo_core.text.tokenizers import CLIP_ENDS, LLAMA_BEGIN, LLAMA_SPECIAL, CLIPTokenizer, LlamaTokenizer
from hyvideo_core.text.vocabulary import OwnVocabulary
from hyvideo_core.weights import describe_clip, describe_mllm, holds_tokenizer, load_clip, load_mllm
from tools.demo_model.tokenizers import clip_tokenizer, llama_tokenizer

#: Of words that are one token each for the official tokenizers too.
CAPTIONS = ("a red circle moving left on a white background", "The cat and the dog", "two blue boxes")
ROWS = 600
LLAMA_JSON, CLIP_JSON = llama_tokenizer(CAPTIONS, ROWS), clip_tokenizer(CAPTIONS, ROWS)
KINDS: dict[type, str] = {LlamaTokenizer: LLAMA_JSON, CLIPTokenizer: CLIP_JSON}
EMBEDDINGS = {"llama": "embed_tokens.weight", "clip": "text_model.embeddings.token_embedding.weight"}
#: Anything UTF-8 can hold, without the words that are signs of their own.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: "<" not in text)
Json = dict[str, Any]


def own(kind: type, text: str | None = None, rows: int = ROWS) -> Any:
    return kind(OwnVocabulary(KINDS[kind] if text is None else text, "small.safetensors", rows))


LLAMA, CLIP = own(LlamaTokenizer), own(CLIPTokenizer)


def saved(file: Path, weights: Weights, config: Json, tokenizer: str | None) -> Path:
    metadata = {"config": json.dumps(config)} | ({} if tokenizer is None else {"tokenizer": tokenizer})
    save_file(weights, file, metadata)
    return file


def with_rows(weights: Weights, name: str, rows: dict[int, torch.Tensor]) -> Weights:
    """The weights with an embedding of ``ROWS`` rows, those given and ones."""
    table = torch.ones(ROWS, weights[name].shape[1])
    for number, row in rows.items():
        table[number] = row
    return {**weights, name: table}


def llama_file(folder: Path, tokenizer: str | None = LLAMA_JSON, **rows: dict[int, torch.Tensor]) -> Path:
    weights = with_rows(llama_weights(), EMBEDDINGS["llama"], rows.get("rows", {}))
    return saved(folder / "small_llama.safetensors", weights, LLAMA_CONFIG, tokenizer)


def clip_file(folder: Path, tokenizer: str | None = CLIP_JSON, **rows: dict[int, torch.Tensor]) -> Path:
    weights = with_rows(clip_weights(), EMBEDDINGS["clip"], rows.get("rows", {}))
    return saved(folder / "small_clip.safetensors", weights, CLIP_CONFIG, tokenizer)


@pytest.mark.parametrize("template", [VIDEO, IMAGE, custom("Describe {}<|eot_id|>")], ids=lambda t: t.name)
def test_a_language_model_reads_a_prompt_as_it_does_with_the_official_tokenizer(
    tmp_path: Path, llama_tokenizer: Path, template: Template
) -> None:
    """With the official embedding's rows at its own ids, the numbers are the same to the bit."""
    table = torch.randn(LLAMA_CONFIG["vocab_size"], 32, generator=torch.Generator().manual_seed(1))
    large = saved(
        tmp_path / "large.safetensors", {**llama_weights(), EMBEDDINGS["llama"]: table}, LLAMA_CONFIG, tokenizer=None
    )
    official = load_mllm(large, tokenizer=llama_tokenizer, dtype=torch.float32)
    filled = template.fill(CAPTIONS[0])
    ids = zip(LLAMA.encode(filled), official.tokenizer.encode(filled), strict=True)
    small = llama_file(tmp_path, rows={ours: table[theirs] for ours, theirs in ids})
    hidden, mask = load_mllm(small, dtype=torch.float32).encode([CAPTIONS[0]], template)
    expected, expected_mask = official.encode([CAPTIONS[0]], template)
    assert torch.equal(hidden, expected)
    assert torch.equal(mask, expected_mask)


def test_clip_reads_a_prompt_as_it_does_with_the_official_tokenizer(tmp_path: Path, clip_tokenizer: Path) -> None:
    table = torch.randn(CLIP_CONFIG["vocab_size"], 32, generator=torch.Generator().manual_seed(1))
    large = saved(
        tmp_path / "large.safetensors", {**clip_weights(), EMBEDDINGS["clip"]: table}, CLIP_CONFIG, tokenizer=None
    )
    official = load_clip(large, tokenizer=clip_tokenizer, dtype=torch.float32)
    ids = zip(CLIP.encode(CAPTIONS[0]), official.tokenizer.encode(CAPTIONS[0]), strict=True)
    small = load_clip(clip_file(tmp_path, rows={ours: table[theirs] for ours, theirs in ids}), dtype=torch.float32)
    expected = official.encode([CAPTIONS[0]])
    assert torch.equal(small.encode([CAPTIONS[0]]), expected)
    assert torch.equal(small.encode([CAPTIONS[0].upper()]), expected)
    # What follows the first end token is not read.
    assert torch.equal(small.encode([CAPTIONS[0] + "<|endoftext|> and more"]), expected)


def test_a_tokenizer_in_the_file_wins_and_no_other_is_asked_for(tmp_path: Path) -> None:
    for load, file in ((load_mllm, llama_file(tmp_path)), (load_clip, clip_file(tmp_path))):
        assert holds_tokenizer(file)
        assert load(file).tokenizer.encode("red") == load(file, tokenizer=tmp_path / "missing").tokenizer.encode("red")
    assert "600 tokens" in describe_mllm(tmp_path / "small_llama.safetensors")
    assert "CLIP text model" in describe_clip(tmp_path / "small_clip.safetensors")


def test_the_command_line_asks_for_none_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command_line.COMFYUI, raising=False)
    assert command_line.find(command_line.LLM, None, llama_file(tmp_path)) is None
    assert command_line.find(command_line.CLIP, tmp_path / "named", clip_file(tmp_path)) is None
    with pytest.raises(TokenizerError, match=r"no tokenizer for the language model.*--llm-tokenizer"):
        command_line.find(command_line.LLM, None, llama_file(tmp_path, tokenizer=None))


def test_a_small_vocabulary_without_its_tokenizer_is_another_model(
    tmp_path: Path, llama_tokenizer: Path, clip_tokenizer: Path
) -> None:
    llama, clip = llama_file(tmp_path, tokenizer=None), clip_file(tmp_path, tokenizer=None)
    with pytest.raises(CheckpointError, match=r"small_llama\.safetensors knows 600 tokens, too few"):
        load_mllm(llama, tokenizer=llama_tokenizer)
    with pytest.raises(CheckpointError, match=r"small_clip\.safetensors is a CLIP text model with 600 tokens"):
        load_clip(clip, tokenizer=clip_tokenizer)
    for load, file in ((load_mllm, llama), (load_clip, clip)):
        with pytest.raises(TokenizerError, match=rf"{file.name} holds no tokenizer of its own, and none was named"):
            load(file)


@given(text=TEXT)
@settings(max_examples=200)
def test_ids_are_those_of_the_file(text: str) -> None:
    """Though the way of splitting is not read from it."""
    assert LLAMA.encode(text) == Tokenizer.from_str(LLAMA_JSON).encode(text).ids
    assert CLIP.encode(text) == Tokenizer.from_str(CLIP_JSON).encode(text.lower()).ids


@given(text=TEXT)
@settings(max_examples=200)
def test_llama_ids_begin_once_and_decode_to_the_text(text: str) -> None:
    raw = Tokenizer.from_str(LLAMA_JSON)
    begin, *ids = LLAMA.encode(text)
    assert begin == raw.token_to_id(LLAMA_BEGIN)
    assert begin not in ids
    assert raw.decode(ids) == text


def test_ascii_and_chinese_come_back() -> None:
    text = "".join(map(chr, range(128))) + "你好"
    assert Tokenizer.from_str(LLAMA_JSON).decode(LLAMA.encode(text)[1:], skip_special_tokens=False) == text


@pytest.mark.parametrize("token", LLAMA_SPECIAL)
def test_special_tokens_of_llama_are_one_token_each_wherever_they_are(token: str) -> None:
    number = Tokenizer.from_str(LLAMA_JSON).token_to_id(token)
    around = LLAMA.encode("a") + LLAMA.encode("b")[1:]
    assert LLAMA.encode(f"a{token}b") == [*around[:2], number, *around[2:]]


@given(text=TEXT)
@settings(max_examples=200)
def test_clip_ids_have_two_ends_and_ignore_case(text: str) -> None:
    begin, end = map(Tokenizer.from_str(CLIP_JSON).token_to_id, CLIP_ENDS)
    ids = CLIP.encode(text)
    assert (ids[0], ids[-1], CLIP.end) == (begin, end, end)
    assert {begin, end}.isdisjoint(ids[1:-1])
    assert len(ids) <= 77
    assert CLIP.encode(text.lower()) == ids


def test_clip_cuts_long_prompts_to_77_tokens() -> None:
    red = CLIP.encode("red")[1]
    assert CLIP.encode("red " * 1000) == [CLIP.encode("")[0], *[red] * 75, CLIP.end]


def without_a_byte(content: Json) -> None:
    del content["model"]["vocab"]["a"]
    content["model"]["merges"] = []


def with_a_shared_id(content: Json) -> None:
    content["model"]["vocab"]["a"] = content["model"]["vocab"]["b"]


def with_a_negative_id(content: Json) -> None:
    content["model"]["vocab"]["red"] = -1


def with_ids_that_are_none(content: Json) -> None:
    content["model"]["vocab"]["red"] = "7"


def with_a_merge_of_nothing(content: Json) -> None:
    content["model"]["merges"].append(["never", "seen"])


def with_half_a_merge(content: Json) -> None:
    content["model"]["merges"].append(["r"])


def without_merges(content: Json) -> None:
    content["model"]["merges"] = 7


def with_half_a_character(content: Json) -> None:
    content["model"]["vocab"]["\ud800"] = ROWS - 1


def without_special_tokens(content: Json) -> None:
    content["added_tokens"] = []


def with_nameless_tokens(content: Json) -> None:
    content["added_tokens"].append({"id": 5, "content": {}})


DAMAGES: dict[Callable[[Json], None], str] = {
    without_a_byte: "has no token for 1 of 256 bytes",
    with_a_shared_id: r"has \d+ tokens, but only \d+ ids",
    with_a_negative_id: r"has 1 tokens beyond the 600 that the model knows, such as 'red' with id -1",
    with_ids_that_are_none: r"has 1 tokens beyond .* such as 'red' with id '7'",
    with_a_merge_of_nothing: "cannot be read.*never",
    with_half_a_merge: "cannot be read",
    without_merges: "cannot be read",
    with_half_a_character: "cannot be read",
    without_special_tokens: r"lacks the special tokens <\|",
    with_nameless_tokens: "cannot be read",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_tokenizer_is_named_with_its_file(kind: type, damage: Callable[[Json], None]) -> None:
    content = json.loads(KINDS[kind])
    damage(content)
    with pytest.raises(TokenizerError, match=rf"(?s)inside small\.safetensors {DAMAGES[damage]}.*Download the file"):
        own(kind, json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", "{}", '{"model": []}', "[" * 100000, "<html>"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_tokenizer_is_named_with_its_file(kind: type, text: str) -> None:
    with pytest.raises(TokenizerError, match=r"inside small\.safetensors cannot be read as tokenizer\.json"):
        own(kind, text)


@pytest.mark.parametrize("token", LLAMA_SPECIAL)
def test_a_missing_special_token_is_named(token: str) -> None:
    content = json.loads(LLAMA_JSON)
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] != token]
    with pytest.raises(TokenizerError) as caught:
        own(LlamaTokenizer, json.dumps(content))
    assert f"lacks the special tokens {token}." in str(caught.value)


@pytest.mark.parametrize(
    ("word", "template"),
    [("Ġthe", VIDEO), ("Ġatmosphere", VIDEO), ("ĊĊ", VIDEO), ("user", VIDEO), ("Ġimage", IMAGE)],
)
def test_a_vocabulary_that_moves_a_templates_crop_is_refused(word: str, template: Template) -> None:
    content = json.loads(LLAMA_JSON)
    del content["model"]["vocab"][word]
    content["model"]["merges"] = []
    wanted = rf"takes \d+ tokens for what template '{template.name}' .* but {template.crop_start} were expected"
    with pytest.raises(TokenizerError, match=wanted):
        own(LlamaTokenizer, json.dumps(content))


@pytest.mark.parametrize(
    ("load", "file", "text"), [(load_mllm, llama_file, LLAMA_JSON), (load_clip, clip_file, CLIP_JSON)]
)
def test_ids_that_the_embedding_lacks_stop_the_load(
    tmp_path: Path, load: Callable[..., Any], file: Callable[..., Path], text: str
) -> None:
    content = json.loads(text)
    content["model"]["vocab"]["extra"] = ROWS
    path = file(tmp_path, json.dumps(content))
    with pytest.raises(TokenizerError, match=rf"inside {path.name} has 1 tokens beyond the 600 .* 'extra' with id 600"):
        load(path)


def test_the_last_row_of_the_embedding_is_an_id() -> None:
    content = json.loads(CLIP_JSON)
    content["model"]["vocab"]["extra"] = ROWS - 1
    assert own(CLIPTokenizer, json.dumps(content)).encode("extra")[1] == ROWS - 1


#: What would take all memory, never end or bring the library down if it were run.
TRAPS: dict[str, Any] = {
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"} for _ in range(64)
    ]},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    "post_processor": None,
    "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 2**40}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<pad>",
    },
}  # fmt: skip


@pytest.mark.parametrize("part", TRAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_else_the_file_asks_for_is_not_done(kind: type, part: str) -> None:
    text = "a" * 60 + "! A red circle"
    content = {**json.loads(KINDS[kind]), part: TRAPS[part]}
    assert own(kind, json.dumps(content)).encode(text) == own(kind).encode(text)


@pytest.mark.parametrize("content", ["", " ", "\x00", "\u200b", "a", "e\u0301", "x" * 10**6])
@pytest.mark.parametrize("kind", KINDS)
def test_strange_special_tokens_change_no_other_text(kind: type, content: str) -> None:
    tokenizer = json.loads(KINDS[kind])
    entry = {**tokenizer["added_tokens"][0], "content": content, "id": ROWS - 1}
    tokenizer["added_tokens"].append(entry)
    text = "red \x00\u200b circle"
    assert own(kind, json.dumps(tokenizer)).encode(text) == own(kind).encode(text)
