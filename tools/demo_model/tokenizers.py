"""Small tokenizers for the trained demo models: Llama-3's and CLIP's own ways to split, over a few hundred tokens.

Every byte is a token, so any text has ids; every word of the captions is one token; what room is left takes pieces of
words, found by byte-pair training. Words are in the vocabulary without the merges that would lead to them, since
``ignore_merges``, as Llama-3 has it, takes a whole word first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer
from tokenizers.trainers import BpeTrainer

from hyvideo_core.text.templates import IMAGE, VIDEO
from hyvideo_core.text.tokenizers import CLIP_ENDS, LLAMA_SPECIAL, clip_pipeline, llama_pipeline

#: In how many words a piece must occur to become a token.
LEAST_WORDS = 2


def llama_tokenizer(captions: Iterable[str], vocabulary: int = 1024) -> str:
    """The ``tokenizer.json`` of a Llama-3 tokenizer of at most ``vocabulary`` tokens, the special ones last.

    The same captions, in any order, give the same text. Raises ``ValueError`` where their words do not fit.
    """
    splits = llama_pipeline(BPE())
    words = _words(splits, _template_texts())
    for word in _words(splits, captions):
        words |= {word, *_forms(word)}
    return llama_pipeline(_model(words, vocabulary - len(LLAMA_SPECIAL))).to_str()


def clip_tokenizer(captions: Iterable[str], vocabulary: int = 768) -> str:
    """The ``tokenizer.json`` of a CLIP tokenizer. Arguments, order and errors as ``llama_tokenizer``."""
    words = _words(clip_pipeline(BPE()), (caption.lower() for caption in captions))
    tokenizer = clip_pipeline(_model(words, vocabulary - len(CLIP_ENDS)))
    tokenizer.normalizer = Normalizers([tokenizer.normalizer, Lowercase()])
    return tokenizer.to_str()


def _template_texts() -> Iterator[str]:
    """The texts between the templates' special tokens."""
    for template in (VIDEO, IMAGE):
        yield from filter(None, re.split("|".join(map(re.escape, LLAMA_SPECIAL)), template.fill("")))


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> set[str]:
    """What the texts are split into, bytes written as the byte-level alphabet has them."""
    split: PreTokenizer = tokenizer.pre_tokenizer
    return {word for text in set(texts) for word, _ in split.pre_tokenize_str(text)}


def _forms(word: str) -> Iterator[str]:
    """A word inside a sentence, at the beginning of a text, and capitalised there."""
    bare = word.removeprefix("Ġ")
    if bare.isalpha() and bare.isascii():
        lower = bare.lower()
        yield from ("Ġ" + lower, lower, lower.capitalize())


def _model(words: set[str], size: int) -> BPE:
    """A model of at most ``size`` tokens: bytes, words, then pieces with the merges that lead to them."""
    tokens = dict.fromkeys(sorted(ByteLevel.alphabet()) + sorted(words))
    if len(tokens) > size:
        raise ValueError(
            f"The captions have {len(words)} words in all forms, which with the bytes and special tokens take "
            f"{len(tokens) - size} tokens more than the vocabulary has. Raise vocabulary, or use fewer words."
        )
    merges = []
    for left, right in _merges(words, size):
        if left + right not in tokens and len(tokens) == size:
            break
        tokens[left + right] = None
        merges.append((left, right))
    return BPE({token: number for number, token in enumerate(tokens)}, merges, ignore_merges=True)


def _merges(words: set[str], size: int) -> list[tuple[str, str]]:
    """What byte-pair training merges in the words, each counted once, most frequent pairs first."""
    trained = Tokenizer(BPE())
    trainer = BpeTrainer(
        vocab_size=size, min_frequency=LEAST_WORDS, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(sorted(words), trainer)
    return [(left, right) for left, right in json.loads(trained.to_str())["model"]["merges"]]
