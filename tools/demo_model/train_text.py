"""Trains the text encoders on captions: ``python -m tools.demo_model.train_text``.

The Llama predicts the next token, as language models do, and from the hidden state that the transformer will read, at
the prompt's last token, what the caption says. CLIP predicts the same from its pooled vector. The predicting heads
are thrown away.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

from hyvideo_core.text.mllm import SKIPPED_LAYERS
from hyvideo_core.text.templates import IMAGE, VIDEO
from tools.demo_model.captions import Caption, describe
from tools.demo_model.features import padded
from tools.demo_model.tokenizers import clip_tokenizer, llama_tokenizer
from tools.demo_model.training import DEVICE, TRAINING, Draw, Recipe, Training
from tools.demo_model.world import COLORS, MOTIONS, SHAPES, TRAVEL_PX, random_scene

BATCH = 48
RECIPE = Recipe(steps=2400, rate=2e-3, weight_decay=0.01, average=0.995)
LLAMA_RECIPE = replace(RECIPE, steps=3000)
NEXT_TOKEN_WEIGHT = 0.3
#: How often a caption leaves something unsaid.
PARTIAL_CAPTION = 0.3
LLAMA: dict[str, Any] = {
    "vocab_size": 832,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2 + SKIPPED_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
CLIP: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 64,
}

#: What is to be read from a caption, for each of two things and for the background; the first choice is "unsaid".
ASPECTS: dict[str, tuple[str, ...]] = {
    "color": ("", *COLORS),
    "shape": ("", *SHAPES),
    "motion": ("", *MOTIONS),
    "speed": ("", *TRAVEL_PX),
}
THINGS = 2
BACKGROUNDS = ("", *COLORS)


class Reader(nn.Module):
    """A linear layer that reads what a caption says from one vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(choices) for choices in ASPECTS.values()] * THINGS + [len(BACKGROUNDS), THINGS]
        self.linear = nn.Linear(width, sum(self.sizes))

    def loss(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over aspects; vectors [B, width], labels [B, aspects]."""
        logits = self.linear(vectors.float()).split(self.sizes, dim=-1)
        return torch.stack([F.cross_entropy(row, label) for row, label in zip(logits, labels.T, strict=True)]).mean()


def labels_of(caption: Caption) -> list[int]:
    """The indices of what a caption says, in the order of ``Reader``; a thing that is not there says nothing."""
    said = [
        choices.index(getattr(caption.things[i], aspect)) if i < len(caption.things) else 0
        for i in range(THINGS)
        for aspect, choices in ASPECTS.items()
    ]
    return [*said, BACKGROUNDS.index(caption.background), len(caption.things) - 1]


def captions(draw: Draw, count: int, *, image: bool = False, held_out: bool = False) -> list[Caption]:
    """Captions of random scenes, some with parts unsaid."""
    sizes = ((64, 64), (96, 48))
    scenes = [random_scene(draw.rng, *draw.rng.choice(sizes), held_out=held_out) for _ in range(count)]
    return [
        describe(draw.rng, scene, image=image, partial=draw.rng.random() < PARTIAL_CAPTION, held_out=held_out)
        for scene in scenes
    ]


def corpus(count: int = 5000) -> list[str]:
    """Texts for the tokenizers, with the phrases that are kept for tests, since a tokenizer must know every word."""
    draw = Draw.of("corpus", 0)
    kinds = itertools.product((False, True), repeat=2)
    return [found.text for image, held_out in kinds for found in captions(draw, count, image=image, held_out=held_out)]


def tokenizers() -> tuple[str, str]:
    """The Llama's and CLIP's tokenizer.json: made once, then kept beside the checkpoints that were trained on them."""
    kept = [TRAINING / f"{name}_tokenizer.json" for name in ("llama", "clip")]
    if not all(path.is_file() for path in kept):
        TRAINING.mkdir(parents=True, exist_ok=True)
        for path, text in zip(kept, made_tokenizers(), strict=True):
            path.write_text(text, encoding="utf-8")
    for_llama, for_clip = (path.read_text("utf-8") for path in kept)
    return for_llama, for_clip


def made_tokenizers() -> tuple[str, str]:
    """Both, from the captions."""
    texts = corpus()
    return llama_tokenizer(texts, vocabulary=LLAMA["vocab_size"]), clip_tokenizer(texts, vocabulary=CLIP["vocab_size"])


class LlamaReader(nn.Module):
    """The language model with both of its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.llama = LlamaModel(LlamaConfig(**LLAMA, pad_token_id=None))
        self.reader = Reader(LLAMA["hidden_size"])

    def losses(self, ids: Tensor, lengths: Tensor, crop: int, labels: Tensor) -> dict[str, Tensor]:
        """ids [B, L] padded at the end to ``lengths`` [B]; the loss of the next token starts at the prompt."""
        states = self.llama(input_ids=ids, output_hidden_states=True, use_cache=False)
        last = states.hidden_states[-1 - SKIPPED_LAYERS][torch.arange(len(ids)), lengths - 1]
        logits = F.linear(states.last_hidden_state[:, crop - 1 : -1], self.llama.embed_tokens.weight)
        targets = ids[:, crop:].clone()
        targets[torch.arange(crop, ids.shape[1], device=ids.device) >= lengths[:, None]] = -100
        next_token = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return {"read": self.reader.loss(last, labels), "next": NEXT_TOKEN_WEIGHT * next_token}


class ClipReader(nn.Module):
    """CLIP's text model with its task."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = CLIPTextModel(CLIPTextConfig(**CLIP))
        self.reader = Reader(CLIP["hidden_size"])

    def losses(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """ids [B, L] padded at the end to ``lengths`` [B]; the pooled vector stands at the last of them."""
        states = self.clip(input_ids=ids).last_hidden_state
        return {"read": self.reader.loss(states[torch.arange(len(ids)), lengths - 1], labels)}


def main() -> None:
    """Train both to the end of the recipe."""
    for_llama, for_clip = (Tokenizer.from_str(text) for text in tokenizers())
    torch.manual_seed(0)
    llama, clip = LlamaReader().to(DEVICE), ClipReader().to(DEVICE)

    def llama_losses(draw: Draw, _step: int) -> dict[str, Tensor]:
        image = draw.rng.random() < 0.2
        template = IMAGE if image else VIDEO
        found = captions(draw, BATCH, image=image)
        ids, lengths = padded([for_llama.encode(template.fill(caption.text)).ids for caption in found])
        assert template.crop_start is not None
        return llama.losses(ids, lengths, template.crop_start, labels(found))

    def clip_losses(draw: Draw, _step: int) -> dict[str, Tensor]:
        found = captions(draw, BATCH, image=draw.rng.random() < 0.2)
        ids, lengths = padded([for_clip.encode(caption.text.lower()).ids for caption in found])
        return clip.losses(ids, lengths, labels(found))

    Training("llama", llama, LLAMA_RECIPE).run(llama_losses)
    Training("clip", clip, RECIPE).run(clip_losses)


def labels(found: list[Caption]) -> Tensor:
    """[B, aspects]."""
    return torch.tensor([labels_of(caption) for caption in found], device=DEVICE)


if __name__ == "__main__":
    main()
