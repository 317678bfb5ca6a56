"""Tokenizers that are right on every version of transformers, and prove it when they are loaded.

Both are run by the ``tokenizers`` library alone, since transformers' classes changed their ids between versions:
version 5 reads Llama-3's as "acatwalks" for "a cat walks", and CLIP's other than before where Chinese characters,
emoji or invisible characters touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, BertNormalizer
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing

from hyvideo_core.errors import PromptError, TokenizerError
from hyvideo_core.text.templates import BEGIN, IMAGE, VIDEO
from hyvideo_core.text.vocabulary import OwnVocabulary

LLAMA_BOS, LLAMA_IMAGE, LLAMA_PAD = 128000, 128257, 128258
CLIP_BOS, CLIP_EOS = 49406, 49407
CLIP_MAX_LENGTH = 77

#: Text → ids. Source: the official tokenizers, run by transformers 4.50.
LLAMA_SELF_TEST: dict[str, list[int]] = {
    "": [LLAMA_BOS],
    "\n\n": [LLAMA_BOS, 271],
    "a cat walks on grass": [LLAMA_BOS, 64, 8415, 23291, 389, 16763],
    "<|start_header_id|><|end_header_id|><|eot_id|><image><pad>": [
        LLAMA_BOS, 128006, 128007, 128009, LLAMA_IMAGE, LLAMA_PAD,
    ],
}  # fmt: skip
CLIP_SELF_TEST: dict[str, list[int]] = {
    "": [CLIP_BOS, CLIP_EOS],
    "A cat walks on the GRASS, realistic style.": [
        CLIP_BOS, 320, 2368, 8192, 525, 518, 5922, 267, 16157, 1844, 269, CLIP_EOS,
    ],
    "你好": [CLIP_BOS, 47466, 510, 29290, 377, CLIP_EOS],
}  # fmt: skip

#: The token before every text, and with it those of Llama-3 and LLaVA that a text may hold.
LLAMA_BEGIN = BEGIN
LLAMA_SPECIAL = (
    LLAMA_BEGIN, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>", "<pad>",
)  # fmt: skip
#: What Llama-3 takes for one word. Source: its tokenizer.json.
LLAMA_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: The tokens around every text.
CLIP_ENDS = ("<|startoftext|>", "<|endoftext|>")
#: What CLIP takes for one word: a contraction's end, letters, one digit, or a run of other signs.
CLIP_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


LLAMA_REMEDY = (
    "Take tokenizer.json of the llava-llama-3-8b text encoder; ComfyUI ships it in comfy/text_encoders/llama_tokenizer."
)
CLIP_REMEDY = (
    "Take the tokenizer of clip-vit-large-patch14, a folder with vocab.json and merges.txt; ComfyUI ships it in "
    "comfy/sd1_tokenizer."
)


class LlamaTokenizer:
    """Llama-3's tokenizer with the tokens LLaVA adds, or the like over a small model's own vocabulary."""

    def __init__(self, source: str | Path | OwnVocabulary) -> None:
        """Read ``tokenizer.json`` (a file, or the folder that holds it) or a model's own vocabulary, and test it.

        Raises ``TokenizerError``.
        """
        if isinstance(source, OwnVocabulary):
            self._tokenizer = llama_pipeline(source.words(LLAMA_SPECIAL))
            _check_crops(source, self.encode)
            return
        path = Path(source)
        file = path / "tokenizer.json" if path.is_dir() else path
        self._tokenizer = _read(lambda: Tokenizer.from_file(str(file)), file, LLAMA_REMEDY)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        _self_test(file, self.encode, LLAMA_SELF_TEST, LLAMA_REMEDY)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, beginning with <|begin_of_text|>. Raises ``PromptError`` for text that is not Unicode."""
        ids: list[int] = self._tokenizer.encode(_unicode(text)).ids
        return ids

    def tokens_within(self, text: str, length: int) -> int:
        """How many leading tokens of ``text`` lie wholly within its first ``length`` characters.

        Counted in the whole text, since a word takes the space before it into its own token.
        """
        return sum(end <= length for _, end in self.places(text))

    def places(self, text: str) -> list[tuple[int, int]]:
        """The characters of each token of ``text``, first and end; none for <|begin_of_text|>.

        A character that takes several tokens, such as an emoji, belongs to each of them.
        """
        found: list[tuple[int, int]] = self._tokenizer.encode(_unicode(text)).offsets
        return found


class CLIPTokenizer:
    """CLIP's tokenizer, with the text preparation of the class that the original was run with.

    Source: transformers 4.46 ``CLIPTokenizer`` without ftfy: invisible characters go, each Chinese character is a word.
    """

    def __init__(self, source: str | Path | OwnVocabulary) -> None:
        """Read ``vocab.json`` and ``merges.txt``, ``tokenizer.json``, or a model's own vocabulary, and test it.

        ``source`` may be the folder that holds them, or the file ``tokenizer.json``. Raises ``TokenizerError``.
        """
        if isinstance(source, OwnVocabulary):
            self._tokenizer = clip_pipeline(source.words(CLIP_ENDS))
        else:
            path = Path(source)
            self._tokenizer = _read(lambda: clip_pipeline(_clip_words(path)), path, CLIP_REMEDY)
            _self_test(path, self.encode, CLIP_SELF_TEST, CLIP_REMEDY)
        #: The id that ends every text, where its summary is read.
        self.end = self.encode("")[-1]

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` from begin to end token, cut to 77 as the original does. Errors as ``LlamaTokenizer``."""
        # Lower case by Python, which knows the Greek final sigma; the library's own goes letter by letter.
        ids: list[int] = self._tokenizer.encode(_unicode(text).lower()).ids
        return ids


def _clip_words(path: Path) -> BPE:
    if path.is_dir() and (path / "vocab.json").is_file():
        vocabulary, merges = str(path / "vocab.json"), str(path / "merges.txt")
        return BPE.from_file(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    return Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path)).model


def llama_pipeline(words: BPE) -> Tokenizer:
    """Llama-3's way from text to ids and back over the vocabulary of ``words``."""
    tokenizer = Tokenizer(words)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in LLAMA_SPECIAL])
    tokenizer.pre_tokenizer = PreTokenizers(
        [Split(Regex(LLAMA_WORD), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.post_processor = _surrounded(tokenizer, f"{LLAMA_BEGIN} $A", [LLAMA_BEGIN])
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def clip_pipeline(words: BPE) -> Tokenizer:
    """CLIP's way from lower-case text to at most 77 ids over the vocabulary of ``words``."""
    tokenizer = Tokenizer(words)
    tokenizer.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in CLIP_ENDS])
    tokenizer.normalizer = Normalizers(
        [BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False), NFC()]
    )
    tokenizer.pre_tokenizer = PreTokenizers(
        [Split(Regex(CLIP_WORD), "removed", invert=True), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.post_processor = _surrounded(tokenizer, f"{CLIP_ENDS[0]} $A {CLIP_ENDS[1]}", CLIP_ENDS)
    tokenizer.enable_truncation(CLIP_MAX_LENGTH)
    return tokenizer


def _surrounded(tokenizer: Tokenizer, template: str, ends: Sequence[str]) -> TemplateProcessing:
    return TemplateProcessing(single=template, special_tokens=[(end, tokenizer.token_to_id(end)) for end in ends])


def _read(read: Callable[[], Tokenizer], path: Path, remedy: str) -> Tokenizer:
    try:
        return read()
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{path} cannot be read as a tokenizer ({error}). {remedy}") from error


def _self_test(path: Path, encode: Callable[[str], list[int]], expected: dict[str, list[int]], remedy: str) -> None:
    for text, ids in expected.items():
        found = encode(text)
        if found != ids:
            raise TokenizerError(
                f"{path} turns {text!r} into {found}, but the model was trained with {ids}. It is another model's "
                f"tokenizer, or the installed tokenizers package reads it wrongly. {remedy}"
            )


def _check_crops(own: OwnVocabulary, encode: Callable[[str], list[int]]) -> None:
    """The templates drop a fixed number of tokens: all before the prompt and none of it, whatever the vocabulary."""
    for template in (VIDEO, IMAGE):
        before, filled = encode(template.before), encode(template.fill("a"))
        if len(before) != template.crop_start or filled[: len(before)] != before:
            raise own.error(
                f"takes {len(before)} tokens for what template '{template.name}' has before the prompt, but "
                f"{template.crop_start} were expected, a token for each word"
            )


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"The prompt holds {text[error.start]!r}, half of a character and so not valid Unicode. Delete or retype "
            "that character, often an emoji."
        ) from error
    return text
