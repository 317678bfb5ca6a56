"""Prompts that the language model reads together with images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.errors import PromptError
from hyvideo_core.text import (
    IMAGE_TO_VIDEO,
    INTERLEAVE_CONCAT,
    INTERLEAVE_REPLACE,
    VIDEO,
    Template,
    TextEncoders,
    TokenSelection,
    encode_image_to_video,
    encode_with_images,
)
from hyvideo_core.text.cache import image_digest
from hyvideo_core.types import Conditioning

from . import host
from .handles import CATEGORY, HyvTextEncoders, TextEncodersHandle
from .text import encoded, key_of, on_demand, prompt_inputs, remember_input, require_prompt, vision_encoder

MOST_IMAGES = 16
#: What images are given for: for image-to-video, with the interleave of its checkpoints, or as parts of the prompt.
INTERLEAVES = {
    "image-to-video v2 (token_replace)": INTERLEAVE_REPLACE,
    "image-to-video v1 (latent_concat)": INTERLEAVE_CONCAT,
}
IN_PROMPT = "images in the prompt"


class HyvEncodeImagePrompt(io.ComfyNode):
    """A prompt that a language model reads together with images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvEncodeImagePrompt",
            display_name="HyVideo Encode Prompt with Images",
            category=f"{CATEGORY}/text",
            description="Encodes a prompt that the language model reads with images before its eyes: as image-to-video "
            "checkpoints were trained, or with images in the middle of a prompt (IP2V).",
            search_aliases=[
                "TextEncodeHunyuanVideo_ImageToVideo",
                "HyVideoTextImageEncode",
                "HyVideoI2VEncode",
                "ip2v",
                "image prompt",
            ],
            inputs=[
                HyvTextEncoders.Input(
                    "text_encoders", tooltip="From HyVideo Load Text Encoders, with a vision tower chosen there."
                ),
                *prompt_inputs(
                    "What the video shows. For images in the prompt, write <image> where each of them belongs, in "
                    "order, such as: a man in the style of <image> walks."
                ),
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("image", tooltip="An image of any size; its middle square is seen."),
                        prefix="image",
                        min=1,
                        max=MOST_IMAGES,
                    ),
                    tooltip="For image-to-video the first frame, or one for each clip of a batch; for images in the "
                    "prompt one for each <image>.",
                ),
                _use_input(),
                remember_input(),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="The encoded prompt, for HyVideo Sampler."),
                io.Conditioning.Output(
                    "negative",
                    tooltip="The encoded negative prompt; image-to-video's has a black image, as in the original.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        text_encoders: TextEncodersHandle,
        prompt: str,
        negative: str,
        images: Mapping[str, torch.Tensor] | None = None,
        use: dict[str, Any] | None = None,
        remember: bool = False,
    ) -> io.NodeOutput:
        require_prompt(prompt)
        reading = _Reading.of(use)
        shown = [image for batch in (images or {}).values() for image in batch]
        if not shown:
            raise PromptError("images holds none, but there must be one at least. Connect an image.")
        pictures = {"prompt": shown, "negative": reading.negative_images}
        # All at once, before the language model is loaded: it and the vision tower may not fit side by side.
        see = cache(lambda: {field: seen(text_encoders, each) for field, each in pictures.items()})
        found = []
        with on_demand(text_encoders) as encoders:
            for field, text in (("prompt", prompt), ("negative", negative)):
                key = key_of(
                    text_encoders,
                    text,
                    reading.template,
                    images=[image_digest(picture) for picture in pictures[field]],
                    reading=str(reading),
                )
                encode = partial(_encoded_with, lambda field=field: see()[field], encoders, reading, text)
                found.append(encoded(field, encode, key if remember else None))
        return io.NodeOutput(*found)


def _use_input() -> io.Input:
    options = [
        io.DynamicCombo.Option(
            name,
            [
                io.Int.Input(
                    "interleave",
                    default=interleave,
                    min=1,
                    max=576,
                    tooltip="Every which of an image's 576 places is kept. More follows the prompt more closely, less "
                    f"the image; the checkpoints were trained with {interleave}.",
                )
            ],
        )
        for name, interleave in INTERLEAVES.items()
    ]
    selection = io.String.Input(
        "selection",
        default="::4",
        tooltip="Which of an image's 576 places are kept, as Python writes slices: ::4 is every fourth, :128 the first "
        "128; several separated by commas. Fewer leave more to the words.",
    )
    return io.DynamicCombo.Input(
        "use",
        options=[*options, io.DynamicCombo.Option(IN_PROMPT, [selection])],
        tooltip="What the images are for: the kind of image-to-video checkpoint, or parts of the prompt for any "
        "checkpoint.",
    )


@dataclass(frozen=True)
class _Reading:
    """How images are read with a prompt: by ``interleave`` for image-to-video, or by ``selection``."""

    interleave: int = 0
    selection: TokenSelection | None = None

    @classmethod
    def of(cls, use: dict[str, Any] | None) -> _Reading:
        """The choice of the input ``use``."""
        if use is None:  # the host passes nothing for a choice it does not know
            raise PromptError(f"use is missing or unknown, but must be one of {', '.join((*INTERLEAVES, IN_PROMPT))}.")
        if use["use"] == IN_PROMPT:
            return cls(selection=TokenSelection(use.get("selection", "::4")))
        return cls(interleave=int(use.get("interleave", INTERLEAVES[use["use"]])))

    @property
    def template(self) -> Template:
        return IMAGE_TO_VIDEO if self.selection is None else VIDEO

    @property
    def negative_images(self) -> list[torch.Tensor]:
        """What a negative prompt is read with: for image-to-video a black image, whose size plays no part."""
        return [torch.zeros(16, 16, 3)] if self.selection is None else []

    def __str__(self) -> str:
        return f"interleave {self.interleave}" if self.selection is None else f"selection {self.selection.text}"


def _encoded_with(
    see: Callable[[], list[torch.Tensor]], encoders: Callable[[], TextEncoders], reading: _Reading, prompt: str
) -> Conditioning:
    images = see()
    if reading.selection is not None:
        return encode_with_images(encoders(), prompt, images, selection=reading.selection)
    rows = [encode_image_to_video(encoders(), prompt, image, reading.interleave) for image in images]
    return Conditioning(torch.cat([row.text for row in rows]), torch.cat([row.pooled for row in rows]))


def seen(handle: TextEncodersHandle, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Embeddings [L, D] of images [H, W, C], on the CPU."""
    if not images:
        return []
    vision = vision_encoder(handle)
    found = []
    for image in images:
        host.check_interrupt()
        found.append(vision.encode(image[None])[0].cpu())
    return found
