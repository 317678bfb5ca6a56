"""Prompts with images: what image-to-video reads, and images inside a prompt of one's own (IP2V).

In a text, ``<image>`` is one token; the language model reads the image's embeddings in its place.

Source: HunyuanVideo-I2V ``hyvideo/constants.py`` and ``hyvideo/text_encoder/__init__.py``; for IP2V
ComfyUI-HunyuanVideoWrapper ``hyvideo/text_encoder/__init__.py``, which drops the template up to the user's header and
so keeps the blank line after it, and has CLIP read "<image>" as a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyvideo_core.errors import CheckpointError, PromptError
from hyvideo_core.text.encoders import TextEncoders
from hyvideo_core.text.mllm import MLLMEncoder
from hyvideo_core.text.selection import TokenSelection
from hyvideo_core.text.templates import PLACEHOLDER, VIDEO, Template
from hyvideo_core.types import Conditioning

IMAGE_TOKEN = "<image>"
#: The model's turn, at the end of the text; all of it but the last token, a blank line, is dropped from the result.
ANSWER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
#: The crop is the original's 103 tokens.
IMAGE_TO_VIDEO = Template(
    "image-to-video",
    f"<|start_header_id|>system<|end_header_id|>\n\n{IMAGE_TOKEN}\n"
    "Describe the video by detailing the following aspects according to the reference image: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>\n\n"
    f"<|start_header_id|>user<|end_header_id|>\n\n{PLACEHOLDER}{ANSWER}",
    max_length=359,
)
#: Checkpoints of the kind token_replace read every fourth of an image's embeddings, those of latent_concat each second.
INTERLEAVE_REPLACE, INTERLEAVE_CONCAT = 4, 2


def encode_image_to_video(
    encoders: TextEncoders,
    prompt: str,
    image: torch.Tensor,
    interleave: int = INTERLEAVE_REPLACE,
    truncate: bool = False,
) -> Conditioning:
    """A prompt about a video that begins with an image, of which ``image`` [L, D] are the embeddings.

    Rows are every ``interleave``-th of the image's, then the prompt's. The original's negative prompt has a black image
    of the same size. Raises ``PromptError`` for a prompt that is too long, unless ``truncate``, or holds an image of
    its own.
    """
    if interleave < 1:
        raise PromptError(f"interleave is {interleave}, but must be 1 or more: 4 for image-to-video v2, 2 for v1.")
    text = image_to_video_rows(encoders.mllm, prompt, image, interleave, truncate)
    return Conditioning(text[None], encoders.clip.encode([prompt]))


def encode_with_images(
    encoders: TextEncoders,
    prompt: str,
    images: Sequence[torch.Tensor],
    template: Template = VIDEO,
    selection: TokenSelection | None = None,
    truncate: bool = False,
) -> Conditioning:
    """A prompt with ``<image>`` in it for each of ``images``, which are embeddings [L, D], in order (IP2V).

    Of each image the rows of ``selection`` are kept, every fourth by default, at its place in the prompt. CLIP reads
    the prompt without images. Raises ``PromptError`` for another number of ``<image>``, and as ``MLLMEncoder.encode``.
    """
    text = rows_with_images(encoders.mllm, prompt, images, template, selection or TokenSelection(), truncate)
    return Conditioning(text[None], encoders.clip.encode([prompt.replace(IMAGE_TOKEN, "")]))


def image_to_video_rows(
    mllm: MLLMEncoder, prompt: str, image: torch.Tensor, interleave: int, truncate: bool = False
) -> torch.Tensor:
    """The rows [L, D] of ``encode_image_to_video``."""
    ids, crop = mllm.tokenize(prompt, IMAGE_TO_VIDEO, truncate)
    if IMAGE_TOKEN in prompt:
        raise PromptError(
            f"The prompt holds {IMAGE_TOKEN}, but for image-to-video the image has its place before the prompt. Delete "
            "it."
        )
    hidden = hidden_states(mllm, ids, [image])
    first = ids.index(_image_id(mllm))
    text = hidden[crop - 1 + len(image) :]
    answer = mllm.tokenizer.encode(ANSWER)[1:]
    dropped = len(answer) - 1
    # A prompt that was cut has lost its answer, and the original then drops as many of its last tokens.
    is_whole = ids[-len(answer) :] == answer
    end = len(text) - dropped - is_whole
    return torch.cat((hidden[first : first + len(image) : interleave], text[:end], text[end + dropped :]))


def rows_with_images(
    mllm: MLLMEncoder,
    prompt: str,
    images: Sequence[torch.Tensor],
    template: Template,
    selection: TokenSelection,
    truncate: bool = False,
) -> torch.Tensor:
    """The rows [L, D] of ``encode_with_images``."""
    ids, crop = mllm.tokenize(prompt, template, truncate)
    hidden = hidden_states(mllm, ids, images)
    kept: list[int] = []
    row, left = 0, iter(images)
    for place, token in enumerate(ids):
        is_image = token == _image_id(mllm)
        count = len(next(left)) if is_image else 1
        if place >= crop:
            kept += [row + chosen for chosen in selection.places(count)] if is_image else [row]
        row += count
    return hidden[kept]


@torch.inference_mode()
def hidden_states(mllm: MLLMEncoder, ids: Sequence[int], images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Hidden states [L, D] of a text whose image tokens stand for the embeddings [l, D] of ``images``, in order.

    Raises ``PromptError`` for another number of image tokens than of images, ``CheckpointError`` for embeddings that
    were made for another language model.
    """
    image_id = _image_id(mllm)
    if ids.count(image_id) != len(images):
        raise PromptError(
            f"The prompt has {ids.count(image_id)} {IMAGE_TOKEN}, but {len(images)} images are given. Write "
            f"{IMAGE_TOKEN} once for each image, where the prompt speaks of it."
        )
    words = mllm.llama.get_submodule("embed_tokens")
    embedded = words(torch.tensor(ids, device=next(words.parameters()).device))
    width = embedded.shape[1]
    if others := [image.shape[1] for image in images if image.shape[1] != width]:
        raise CheckpointError(
            f"The vision tower makes embeddings of {others[0]} numbers, but the language model reads {width}. Choose "
            "the vision tower and the language model of one LLaVA."
        )
    parts, left = [], iter(images)
    for token, row in zip(ids, embedded, strict=True):
        parts.append(next(left).to(embedded) if token == image_id else row[None])
    hidden: torch.Tensor = mllm.llama(inputs_embeds=torch.cat(parts)[None], use_cache=False).last_hidden_state
    return hidden[0]


def _image_id(mllm: MLLMEncoder) -> int:
    """The token that stands for an image: 128257 for LLaVA-Llama-3."""
    return mllm.tokenizer.encode(IMAGE_TOKEN)[-1]
