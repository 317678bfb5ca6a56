"""Tokenizers that are right on every version of transformers, and prove it when they are loaded.

transformers 5 builds a Llama-3 tokenizer from its class wrongly ("a cat walks" becomes "acatwalks"), so the
language model's is read from ``tokenizer.json`` by the ``tokenizers`` library itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from hyvideo_core.errors import TokenizerError

LLAMA_PAD = 128258
CLIP_BOS, CLIP_EOS = 49406, 49407
CLIP_MAX_LENGTH = 77

#: Text → ids without special tokens at the ends. Source: the official tokenizers.
LLAMA_SELF_TEST: dict[str, list[int]] = {
    "\n\n": [271],
    "a cat walks on grass": [64, 8415, 23291, 389, 16763],
    "<|start_header_id|><|end_header_id|><|eot_id|><image><pad>": [128006, 128007, 128009, 128257, LLAMA_PAD],
}
CLIP_SELF_TEST: dict[str, list[int]] = {
    "A cat walks on the GRASS, realistic style.": [320, 2368, 8192, 525, 518, 5922, 267, 16157, 1844, 269],
}


class LlamaTokenizer:
    """Llama-3's tokenizer with the two tokens HunyuanVideo's version adds."""

    def __init__(self, path: str | Path) -> None:
        """Read ``tokenizer.json`` (a file, or the folder that holds it) and test it. Raises ``TokenizerError``."""
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(
                f"{file} cannot be read as a tokenizer ({error}). Take tokenizer.json of the "
                "llava-llama-3-8b text encoder; ComfyUI ships it in comfy/text_encoders/llama_tokenizer."
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        _self_test(file, lambda text: self._tokenizer.encode(text, add_special_tokens=False).ids, LLAMA_SELF_TEST)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, beginning with <|begin_of_text|>."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


class CLIPTokenizer:
    """CLIP's tokenizer, read from a folder with ``vocab.json`` and ``merges.txt`` or ``tokenizer.json``."""

    def __init__(self, path: str | Path) -> None:
        """Read and test it. Raises ``TokenizerError``."""
        # Imported here: transformers takes seconds, and a host lists nodes without ever encoding.
        from transformers import CLIPTokenizer as HFTokenizer

        path = Path(path)
        try:
            self._tokenizer = HFTokenizer.from_pretrained(str(path), local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise TokenizerError(
                f"{path} cannot be read as CLIP's tokenizer ({error}). It must be a folder with vocab.json and "
                "merges.txt; ComfyUI ships it in comfy/sd1_tokenizer."
            ) from error
        _self_test(path, lambda text: self.encode(text)[1:-1], CLIP_SELF_TEST)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` from begin to end token, cut to 77 as the original does."""
        ids: list[int] = self._tokenizer(text, truncation=True, max_length=CLIP_MAX_LENGTH).input_ids
        return ids


def _self_test(path: Path, encode: Callable[[str], Sequence[int]], expected: dict[str, list[int]]) -> None:
    for text, ids in expected.items():
        found = list(encode(text))
        if found != ids:
            raise TokenizerError(
                f"{path} turns {text!r} into {found}, but the model was trained with {ids}. It is another model's "
                "tokenizer, or the installed tokenizers or transformers package reads it wrongly; use the one that "
                "ComfyUI ships, or update the package."
            )
