"""Text encoders that bring their tokenizer in their file, as a user of the nodes meets them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jobs
import pytest
import torch
from safetensors.torch import save

from tools.demo_model.tokenizers import clip_tokenizer, llama_tokenizer
from tools.toy_model import build

CAPTIONS = ("a red circle moving left on a white background", "two blue boxes")
ROWS = 600
LLAMA, CLIP = "small_llama.safetensors", "small_clip.safetensors"
Place = Callable[[str, bytes | Mapping[str, torch.Tensor]], Path]


def llama(tokenizer: str) -> bytes:
    """A language model of ``ROWS`` tokens whose width the toy transformer takes."""
    from transformers import LlamaConfig, LlamaModel

    config = {**build.LLAMA_CONFIG, "vocab_size": ROWS}
    known = {name: value for name, value in config.items() if not name.endswith("_token_id")}
    tensors = build.tensors(LlamaModel(LlamaConfig(**known, pad_token_id=None)), torch.bfloat16, prefix="model.")
    return save(tensors, {"config": json.dumps(known), "tokenizer": tokenizer})


def clip(tokenizer: str) -> bytes:
    """CLIP's text model of ``ROWS`` tokens whose width the toy transformer takes."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = {**build.CLIP_CONFIG, "vocab_size": ROWS}
    known = {name: value for name, value in config.items() if not name.endswith("_token_id")}
    model = CLIPTextModel(CLIPTextConfig(**known, bos_token_id=None, eos_token_id=1, pad_token_id=None))
    tensors = build.tensors(model, torch.bfloat16, prefix="text_model.")
    return save(tensors, {"config": json.dumps(known), "tokenizer": tokenizer})


@pytest.fixture
def small(place: Place) -> dict[str, str]:
    """What makes a job use small text encoders with tokenizers of their own."""
    place(f"text_encoders/{LLAMA}", llama(llama_tokenizer(CAPTIONS, ROWS)))
    place(f"text_encoders/{CLIP}", clip(clip_tokenizer(CAPTIONS, ROWS)))
    return {"encoders.llm": LLAMA, "encoders.clip": CLIP}


def test_small_text_encoders_read_the_prompt(studio, small) -> None:
    red = studio.latent({**small, "prompt.prompt": CAPTIONS[0]})
    blue = studio.latent({**small, "prompt.prompt": CAPTIONS[1]})
    assert torch.isfinite(red).all()
    assert not torch.equal(red, blue)
    assert torch.equal(red, studio.latent({**small, "prompt.prompt": f" {CAPTIONS[0]}\n"}))


def test_a_prompt_of_words_that_no_caption_has_is_read_too(studio, small) -> None:
    latent = studio.latent({**small, "prompt.prompt": "Ein Würfel 🎲 你好 <|endoftext|> spins"})
    assert torch.isfinite(latent).all()


@pytest.mark.parametrize(
    ("field", "name", "make", "tokenizer", "told"),
    [
        ("llm", LLAMA, llama, "{", "cannot be read as tokenizer.json"),
        ("clip", CLIP, clip, "{", "cannot be read as tokenizer.json"),
        ("llm", LLAMA, llama, clip_tokenizer(CAPTIONS, ROWS), "lacks the special tokens <|begin_of_text|>"),
        ("clip", CLIP, clip, llama_tokenizer(CAPTIONS, ROWS), "lacks the special tokens <|startoftext|>"),
        ("llm", LLAMA, llama, llama_tokenizer([f"x{'yz' * n}" for n in range(300)], 2000), "tokens beyond the 600"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told_and_the_server_goes_on(
    studio, place, field: str, name: str, make: Callable[[str], bytes], tokenizer: str, told: str
) -> None:
    place(f"text_encoders/{name}", make(tokenizer))
    message = studio.failure(jobs.text_to_latent({f"encoders.{field}": name}))
    assert f"The tokenizer inside {name} " in message
    assert told in message
