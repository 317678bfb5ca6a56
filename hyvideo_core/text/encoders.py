"""Both text encoders together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hyvideo_core.text.clip import CLIPEncoder
from hyvideo_core.text.mllm import MLLMEncoder
from hyvideo_core.text.templates import Template, require_prompts
from hyvideo_core.text.weights import parse_weights
from hyvideo_core.types import Conditioning


class TextEncoders(nn.Module):
    """Prompts to conditioning."""

    def __init__(self, mllm: MLLMEncoder, clip: CLIPEncoder) -> None:
        super().__init__()
        self.mllm = mllm
        self.clip = clip

    def encode(
        self, prompts: Sequence[str], template: Template, truncate: bool = False, weighted: bool = False
    ) -> Conditioning:
        """One row for each prompt. Raises ``PromptError`` for prompts that are too long, unless ``truncate``.

        ``weighted`` reads brackets as weights (``weights.parse_weights``); otherwise they are text, as in the original.
        Weights act on the language model's rows; CLIP reads the prompt without them, which has one row for all words.
        """
        require_prompts(prompts)
        if not weighted:
            text, mask = self.mllm.encode(prompts, template, truncate)
            return Conditioning(text, self.clip.encode(prompts), mask)
        parsed = [parse_weights(prompt) for prompt in prompts]
        text, mask = self.mllm.encode(parsed, template, truncate)
        return Conditioning(text, self.clip.encode([prompt.text for prompt in parsed]), mask)
