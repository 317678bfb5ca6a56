"""Both text encoders together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hyvideo_core.text.clip import CLIPEncoder
from hyvideo_core.text.mllm import MLLMEncoder
from hyvideo_core.text.templates import Template
from hyvideo_core.types import Conditioning


class TextEncoders(nn.Module):
    """Prompts to conditioning."""

    def __init__(self, mllm: MLLMEncoder, clip: CLIPEncoder) -> None:
        super().__init__()
        self.mllm = mllm
        self.clip = clip

    def encode(self, prompts: Sequence[str], template: Template, truncate: bool = False) -> Conditioning:
        """One row for each prompt. Raises ``PromptError`` for prompts that are too long, unless ``truncate``."""
        text, mask = self.mllm.encode(prompts, template, truncate)
        return Conditioning(text, self.clip.encode(prompts), mask)
