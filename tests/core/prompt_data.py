"""Text encoders as small as they can be: real tokenizers over a small vocabulary, and rows that are easy to compute."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from hyvideo_core.text import CLIPEncoder, MLLMEncoder, TextEncoders
from hyvideo_core.text.tokenizers import CLIPTokenizer, LlamaTokenizer
from hyvideo_core.text.vocabulary import OwnVocabulary
from hyvideo_core.types import Conditioning
from tools.demo_model.tokenizers import clip_tokenizer, llama_tokenizer

CAPTIONS = ("a red circle moving left on a white background", "The cat and the dog", "two blue boxes")
ROWS, WIDTH = 600, 6


class Reader(nn.Module):
    """Reads from left to right, as a language model does: a row is its token's, and a little of all before it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        table = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))
        self.table = nn.Parameter(table, requires_grad=False)
        self.calls = 0

    def forward(self, input_ids: torch.Tensor, use_cache: bool = True) -> SimpleNamespace:
        self.calls += 1
        rows = self.table[input_ids]
        return SimpleNamespace(last_hidden_state=rows + 0.1 * rows.cumsum(dim=1))


def encoders(dtype: torch.dtype = torch.float32) -> TextEncoders:
    """Both, the same each time."""
    llama = LlamaTokenizer(OwnVocabulary(llama_tokenizer(CAPTIONS, ROWS), "small.safetensors", ROWS))
    clip = CLIPTokenizer(OwnVocabulary(clip_tokenizer(CAPTIONS, ROWS), "small.safetensors", ROWS))
    return TextEncoders(MLLMEncoder(Reader(1), llama), CLIPEncoder(Reader(2), clip)).to(dtype)


def same(one: Conditioning, other: Conditioning) -> bool:
    """Whether two conditionings are the same to the last bit."""
    if (one.text_mask is None) != (other.text_mask is None) or one.text.dtype != other.text.dtype:
        return False
    masks = one.text_mask is None or other.text_mask is None or torch.equal(one.text_mask, other.text_mask)
    return masks and torch.equal(one.text, other.text) and torch.equal(one.pooled, other.pooled)
