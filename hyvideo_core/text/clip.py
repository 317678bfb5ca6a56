"""CLIP-L: one summary vector of the raw prompt.

Source: HunyuanVideo ``hyvideo/text_encoder/__init__.py`` (text_encoder_2): the stripped prompt without a template, the
final norm's output at the first end token, not projected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hyvideo_core.text.templates import require_prompts
from hyvideo_core.text.tokenizers import CLIPTokenizer


class CLIPEncoder(nn.Module):
    """CLIP's text model and its tokenizer."""

    def __init__(self, clip: nn.Module, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Pooled vectors [B, D]; prompts beyond 77 tokens are cut, as in the original.

        Raises ``PromptError`` for no prompts.
        """
        require_prompts(prompts)
        device = next(self.clip.parameters()).device
        pooled = []
        for prompt in prompts:
            ids = self.tokenizer.encode(prompt.strip())
            # Attention is causal: what follows the first end token cannot reach it.
            ids = ids[: ids.index(self.tokenizer.end) + 1]
            hidden = self.clip(input_ids=torch.tensor([ids], device=device)).last_hidden_state
            pooled.append(hidden[0, -1])
        return torch.stack(pooled)
