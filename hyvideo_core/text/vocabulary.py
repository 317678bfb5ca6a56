"""The vocabulary that travels in a small model's own file, as a Hugging Face ``tokenizer.json``.

Its ids are no other model's, so they cannot be held against known ones; whether the model can live with them can be
told. Only tokens and merges are read: how text is split, prepared and surrounded is part of the pipeline, not of a
file that anybody may have written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from hyvideo_core.errors import TokenizerError


@dataclass(frozen=True)
class OwnVocabulary:
    """The text of a ``tokenizer.json``, the name of the model's file that holds it, and the rows of its embedding."""

    text: str
    file: str
    rows: int

    def words(self, special: Sequence[str]) -> BPE:
        """The byte-pair model, in which the ``special`` tokens have their ids too.

        Raises ``TokenizerError`` for text that is no such model, for ids that the embedding does not have, several
        tokens with one id, bytes without a token, and special tokens that are missing.
        """
        try:
            content = json.loads(self.text)
            model = content["model"]
            added = {token["content"]: token["id"] for token in content["added_tokens"]}
            ids: dict[str, Any] = {**model["vocab"], **added}
            suffix = model.get("end_of_word_suffix")
            self._check(ids, [token for token in special if token not in added], suffix or "")
            options = {} if suffix is None else {"end_of_word_suffix": suffix}
            return BPE(ids, _merges(model["merges"]), ignore_merges=model.get("ignore_merges", False), **options)
        except TokenizerError:
            raise
        except Exception as error:  # the library raises plain Exception
            reason = f"{type(error).__name__}: {error!s:.200}"
            raise self.error(f"cannot be read as tokenizer.json with a byte-level BPE ({reason})") from error

    def error(self, fault: str) -> TokenizerError:
        """What is wrong with this tokenizer, with its file's name and what to do."""
        return TokenizerError(
            f"The tokenizer inside {self.file} {fault}. Download the file again, or choose another text encoder."
        )

    def _check(self, ids: Mapping[str, Any], missing: Sequence[str], suffix: str) -> None:
        if missing:
            raise self.error(f"lacks the special tokens {', '.join(missing)}")
        if beyond := [token for token, number in ids.items() if number not in range(self.rows)]:
            raise self.error(
                f"has {len(beyond):,} tokens beyond the {self.rows:,} that the model knows, such as "
                f"{beyond[0]!r:.60} with id {ids[beyond[0]]!r:.60}"
            )
        if len(set(ids.values())) < len(ids):
            raise self.error(f"has {len(ids):,} tokens, but only {len(set(ids.values())):,} ids, one for each expected")
        alphabet = {byte + end for byte in ByteLevel.alphabet() for end in ("", suffix)}
        if lacking := alphabet - ids.keys():
            raise self.error(f"has no token for {len(lacking)} of {len(alphabet)} bytes, so it cannot write every text")


def _merges(stored: Sequence[Any]) -> list[tuple[str, str]]:
    """Pairs, from pairs or from the older "left right"."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in stored)
    return [(left, right) for left, right in pairs]
