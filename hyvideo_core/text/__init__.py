"""Prompts to what the transformer reads: templates, tokenizers, the language model and CLIP-L."""

from hyvideo_core.text.blends import PromptSchedule, Turn, blended
from hyvideo_core.text.clip import CLIPEncoder
from hyvideo_core.text.encoders import TextEncoders
from hyvideo_core.text.image_prompt import (
    IMAGE_TO_VIDEO,
    INTERLEAVE_CONCAT,
    INTERLEAVE_REPLACE,
    encode_image_to_video,
    encode_with_images,
)
from hyvideo_core.text.mllm import MLLMEncoder
from hyvideo_core.text.selection import TokenSelection
from hyvideo_core.text.templates import IMAGE, VIDEO, Template, custom
from hyvideo_core.text.vision import VisionEncoder

__all__ = [
    "IMAGE",
    "IMAGE_TO_VIDEO",
    "INTERLEAVE_CONCAT",
    "INTERLEAVE_REPLACE",
    "VIDEO",
    "CLIPEncoder",
    "MLLMEncoder",
    "PromptSchedule",
    "Template",
    "TextEncoders",
    "TokenSelection",
    "Turn",
    "VisionEncoder",
    "blended",
    "custom",
    "encode_image_to_video",
    "encode_with_images",
]
