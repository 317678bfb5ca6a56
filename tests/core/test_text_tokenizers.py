"""Both tokenizers give the original's ids for whatever people type, or refuse to load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from hyvideo_core.errors import PromptError, TokenizerError
from hyvideo_core.text.tokenizers import CLIP_BOS, CLIP_EOS, CLIPTokenizer, LlamaTokenizer

#: Ids by transformers 4.50's PreTrainedTokenizerFast.
LLAMA_IDS = {
    "": [128000],
    " ": [128000, 220],
    "x  y": [128000, 87, 220, 379],
    "tab\tnew\n\nline": [128000, 6323, 8808, 271, 1074],
    "12345 3.14 ½ ²": [128000, 4513, 1774, 220, 18, 13, 975, 220, 27154, 220, 30556],
    "{}{0}": [128000, 6390, 90, 15, 92],
    "x&amp;y": [128000, 87, 28165, 71963],
    "你好世界 cat": [128000, 57668, 53901, 102616, 8415],
    "日本語テキスト 한국어": [128000, 102433, 102158, 57933, 62903, 71634, 104008, 32179],
    "🐾": [128000, 9468, 238, 122],
    "naïve café Ω ß": [128000, 3458, 38672, 588, 53050, 117336, 1717, 253],
    "a\x00b\x07c": [128000, 64, 188, 65, 195, 66],
    "a <|eot_id|> b": [128000, 64, 220, 128009, 293],
    "<image>": [128000, 128257],
    "<pad>x": [128000, 128258, 87],
    "<|begin_of_text|>": [128000, 128000],
    "<|ENDOFTEXT|>": [128000, 27, 91, 4794, 12766, 12998, 91, 29],
}
#: Ids between begin and end token, by transformers 4.50's CLIPTokenizer without ftfy.
CLIP_IDS = {
    "": [],
    "don't can't WE'RE": [847, 713, 753, 713, 649, 982],
    "(neon:1.2) {curly} <tag>  double  space": [
        263, 13919, 281, 272, 269, 273, 264, 346, 20795, 348, 283, 3640, 285, 3200, 2138,
    ],
    "<|endoftext|> x <|startoftext|>y": [49407, 343, 49406, 344],
    "<|ENDOFTEXT|>": [49407],
    "你好世界 cat": [47466, 510, 29290, 377, 19759, 500, 163, 243, 490, 2368],
    "日本語テキスト 한국어": [
        37156, 19277, 361, 34002, 508, 2429, 228, 47121, 32421, 486, 15197, 250, 31871, 255, 31625, 368,
    ],
    "🐾🐾 👩\u200d👩\u200d👧": [42202, 18800, 18800, 964, 356],
    "été ÉTÉ e\u0301": [3459, 39694, 3459, 39694, 4166],
    "a\x00b\x07c": [5334],
}  # fmt: skip
#: Anything UTF-8 can hold, without the words that both tokenizers treat as signs of their own.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: "<" not in text)


@pytest.fixture(scope="module")
def llama(llama_tokenizer: Path) -> LlamaTokenizer:
    return LlamaTokenizer(llama_tokenizer)


@pytest.fixture(scope="module")
def clip(clip_tokenizer: Path) -> CLIPTokenizer:
    return CLIPTokenizer(clip_tokenizer)


@pytest.fixture(scope="module")
def llama_json(llama_tokenizer: Path) -> str:
    return (llama_tokenizer / "tokenizer.json").read_text("utf-8")


@pytest.mark.parametrize("text", LLAMA_IDS)
def test_llama_ids_are_the_originals(llama: LlamaTokenizer, text: str) -> None:
    assert llama.encode(text) == LLAMA_IDS[text]


@pytest.mark.parametrize("text", CLIP_IDS)
def test_clip_ids_are_the_originals(clip: CLIPTokenizer, text: str) -> None:
    assert clip.encode(text) == [CLIP_BOS, *CLIP_IDS[text], CLIP_EOS]


def test_clip_cuts_long_prompts_to_77_tokens(clip: CLIPTokenizer) -> None:
    ids = clip.encode("cat " * 1000)
    assert ids == [CLIP_BOS, *[2368] * 75, CLIP_EOS]


@given(text=TEXT)
@settings(max_examples=200, deadline=None)
def test_llama_ids_decode_to_the_text(llama: LlamaTokenizer, raw: Tokenizer, text: str) -> None:
    assert raw.decode(llama.encode(text)[1:], skip_special_tokens=False) == text


@given(text=TEXT)
@settings(max_examples=200, deadline=None)
def test_clip_ids_have_two_ends_and_ignore_case(clip: CLIPTokenizer, text: str) -> None:
    ids = clip.encode(text)
    assert ids[0] == CLIP_BOS
    assert ids[-1] == CLIP_EOS
    assert len(ids) <= 77
    assert set(ids[1:-1]).isdisjoint({CLIP_BOS, CLIP_EOS})
    assert clip.encode(text.lower()) == ids


@pytest.fixture(scope="module")
def raw(llama_tokenizer: Path) -> Tokenizer:
    return Tokenizer.from_file(str(llama_tokenizer / "tokenizer.json"))


def test_half_a_character_is_a_prompt_error(llama: LlamaTokenizer, clip: CLIPTokenizer) -> None:
    for encode in (llama.encode, clip.encode):
        with pytest.raises(PromptError, match=r"'\\ud83d', half of a character.*retype"):
            encode("a cat \ud83d")


def test_clip_reads_the_same_words_from_tokenizer_json(tmp_path: Path, clip_tokenizer: Path) -> None:
    vocabulary, merges = clip_tokenizer / "vocab.json", clip_tokenizer / "merges.txt"
    words = BPE.from_file(str(vocabulary), str(merges), end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        found = CLIPTokenizer(path)
        assert all(found.encode(text)[1:-1] == ids for text, ids in CLIP_IDS.items())


def test_a_llama_tokenizer_may_be_named_by_its_file(llama_tokenizer: Path) -> None:
    assert LlamaTokenizer(llama_tokenizer / "tokenizer.json").encode("\n\n") == [128000, 271]


def test_truncation_and_padding_stored_in_the_file_are_ignored(tmp_path: Path, llama_json: str) -> None:
    content = json.loads(llama_json)
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 128258, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    found = LlamaTokenizer(tmp_path)
    assert all(found.encode(text) == ids for text, ids in LLAMA_IDS.items())


def without_begin(content: dict[str, Any]) -> None:
    content["post_processor"] = None


def without_spaces(content: dict[str, Any]) -> None:
    content["pre_tokenizer"] = {"type": "Whitespace"}


def without_added_tokens(content: dict[str, Any]) -> None:
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < 128256]


@pytest.mark.parametrize("damage", [without_begin, without_spaces, without_added_tokens])
def test_a_tokenizer_with_other_ids_is_refused(
    tmp_path: Path, llama_json: str, damage: Callable[[dict[str, Any]], None]
) -> None:
    content = json.loads(llama_json)
    damage(content)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json turns .* into .*trained with \[128000.*llama_tokenizer"):
        LlamaTokenizer(file)


def test_another_models_tokenizer_is_refused(tmp_path: Path, llama_tokenizer: Path, clip_tokenizer: Path) -> None:
    with pytest.raises(TokenizerError, match=r"cannot be read as a tokenizer.*llama_tokenizer"):
        LlamaTokenizer(clip_tokenizer)
    with pytest.raises(TokenizerError, match=r"sd1_tokenizer"):
        CLIPTokenizer(llama_tokenizer)
    words = json.loads((clip_tokenizer / "vocab.json").read_text("utf-8"))
    swapped = {**words, "cat</w>": words["dog</w>"], "dog</w>": words["cat</w>"]}
    (tmp_path / "vocab.json").write_text(json.dumps(swapped))
    (tmp_path / "merges.txt").write_bytes((clip_tokenizer / "merges.txt").read_bytes())
    with pytest.raises(TokenizerError, match=r"turns 'A cat walks.*into \[49406, 320, 1929.*trained with.*2368"):
        CLIPTokenizer(tmp_path)


@pytest.mark.parametrize("content", [None, "", "<html>", "{}"])
@pytest.mark.parametrize("kind", [LlamaTokenizer, CLIPTokenizer])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, kind: type, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=rf"{tmp_path.name}.* cannot be read as a tokenizer.*ComfyUI ships it"):
        kind(tmp_path)
