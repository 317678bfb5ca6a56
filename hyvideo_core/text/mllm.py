"""The language model: hidden states of a prompt inside its template.

Source: HunyuanVideo ``hyvideo/text_encoder/__init__.py``: hidden_states[-3] (two layers skipped), no final norm,
the template's tokens dropped; ``hyvideo/inference.py``: the prompt is stripped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hyvideo_core.errors import PromptError
from hyvideo_core.text.templates import Template, require_prompts
from hyvideo_core.text.tokenizers import LlamaTokenizer
from hyvideo_core.text.weights import WeightedPrompt, reweighted

#: Layers at the end whose output the transformer never sees; they are not even loaded.
SKIPPED_LAYERS = 2


class MLLMEncoder(nn.Module):
    """A Llama without its last two layers and final norm, and its tokenizer."""

    def __init__(self, llama: nn.Module, tokenizer: LlamaTokenizer) -> None:
        super().__init__()
        self.llama = llama
        self.tokenizer = tokenizer

    def tokenize(self, prompt: str, template: Template, truncate: bool = False) -> tuple[list[int], int]:
        """Ids of the template filled with the stripped prompt, and how many of them are dropped from the result.

        Raises ``PromptError`` for a prompt beyond the template's limit, unless ``truncate`` cuts it there as the
        original silently does.
        """
        filled = template.fill(prompt.strip())
        ids = self.tokenizer.encode(filled)
        crop = template.crop_start
        if crop is None:
            # The last token always stays: an empty negative prompt is a prompt too.
            crop = min(self.tokenizer.tokens_within(filled, len(template.before)), len(ids) - 1)
        if len(ids) > template.max_length and not truncate:
            room = template.max_length - len(self.tokenizer.encode(template.fill("")))
            excess = len(ids) - template.max_length
            raise PromptError(
                f"The prompt has {room + excess} tokens, but template '{template.name}' has room for {max(room, 0)}. "
                f"Shorten it by about {max(1, excess * 3 // 4)} words."
            )
        ids = ids[: template.max_length]
        if len(ids) <= crop:
            raise PromptError(
                f"Template '{template.name}' drops {crop} tokens, but the whole input has only {len(ids)}. "
                "Lower crop_start or shorten the template."
            )
        return ids, crop

    @torch.inference_mode()
    def encode(
        self, prompts: Sequence[str | WeightedPrompt], template: Template, truncate: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [B, L, D] and mask [B, L], L the longest prompt's valid tokens; padded rows are zero.

        Prompts run one by one: padding costs time and, being masked, changes nothing. Raises ``PromptError`` for no
        prompts, and as ``tokenize``.
        """
        require_prompts(prompts)
        rows = []
        for prompt in prompts:
            text = prompt.text if isinstance(prompt, WeightedPrompt) else prompt
            ids, crop = self.tokenize(text, template, truncate)
            batch = torch.tensor([ids], device=next(self.llama.parameters()).device)
            found = self.llama(input_ids=batch, use_cache=False).last_hidden_state[0, crop:]
            if isinstance(prompt, WeightedPrompt):
                places = self.tokenizer.places(template.fill(text))[crop : len(ids)]
                found = reweighted(found, prompt, places, len(template.before))
            rows.append(found)
        hidden = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=hidden.device)
        mask = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
        return hidden, mask.long()
