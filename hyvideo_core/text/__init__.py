"""Prompts to what the transformer reads: templates, tokenizers, the language model and CLIP-L."""

from hyvideo_core.text.clip import CLIPEncoder
from hyvideo_core.text.encoders import TextEncoders
from hyvideo_core.text.mllm import MLLMEncoder
from hyvideo_core.text.templates import IMAGE, VIDEO, Template, custom

__all__ = ["IMAGE", "VIDEO", "CLIPEncoder", "MLLMEncoder", "Template", "TextEncoders", "custom"]
