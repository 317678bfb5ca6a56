"""Old text nodes: prompts, with images or without, and those of ComfyUI's own encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError
from hyvideo_core.text import (
    VIDEO,
    Template,
    TextEncoders,
    TokenSelection,
    encode_image_to_video,
    encode_with_images,
)
from hyvideo_core.types import Conditioning

from .. import host
from ..adapt import HostConditioning, from_host_conditioning, offered
from ..image_prompt import seen
from ..text import on_demand
from . import features, settings, sockets
from .load import text_encoders as found_encoders
from .sockets import CATEGORY, OldEmbeds, OldTextEncoders, percent_inputs, result, unused

TEMPLATES = ["video", "image", "custom", "disabled"]
#: Encodes a prompt; the second argument tells the positive one from the negative one.
Encode = Callable[[TextEncoders, str, bool], Conditioning]


def _encoder_input() -> io.Input:
    return sockets.TextEncoder.Input("text_encoders", tooltip="From (Down)Load HunyuanVideo TextEncoder.")


def _prompt_input() -> io.Input:
    return io.String.Input("prompt", default="", multiline=True, tooltip="What the video shows.")


def _template_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "prompt_template", options=TEMPLATES, default="video", optional=True, tooltip="What surrounds the prompt."
        ),
        sockets.PromptTemplate.Input(
            "custom_prompt_template", optional=True, tooltip="Needed if prompt_template is custom."
        ),
    ]


def _clip_input() -> io.Input:
    return io.Clip.Input("clip_l", optional=True, tooltip="ComfyUI's CLIP-L, in place of the loader's.")


def _cfg_input() -> io.Input:
    return sockets.Cfg.Input("hyvid_cfg", optional=True, tooltip="The negative prompt, and how strongly it acts.")


def _offload_input() -> io.Input:
    return sockets.Model.Input(
        "model_to_offload", optional=True, tooltip="Without effect: memory is managed by the plan."
    )


class HyVideoTextEncode(io.ComfyNode):
    """Now HyVideo Encode Prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoTextEncode",
            display_name="HunyuanVideo TextEncode",
            category=CATEGORY,
            description="Old: use HyVideo Encode Prompt.",
            is_deprecated=True,
            inputs=[
                _encoder_input(),
                _prompt_input(),
                unused(io.Boolean, "force_offload", default=True, optional=True),
                *_template_inputs(),
                _clip_input(),
                _cfg_input(),
                _offload_input(),
            ],
            outputs=[sockets.Embeds.Output("hyvid_embeds")],
        )

    @classmethod
    def execute(
        cls,
        text_encoders: OldTextEncoders,
        prompt: str,
        prompt_template: str = "video",
        custom_prompt_template: Template | None = None,
        clip_l: Any = None,
        hyvid_cfg: features.Cfg | None = None,
        **_: Any,
    ) -> io.NodeOutput:
        template = settings.template(prompt_template, custom_prompt_template)
        return _embeds(text_encoders, _plain(template), prompt, hyvid_cfg, clip_l)


class HyVideoTextImageEncode(io.ComfyNode):
    """Now HyVideo Encode Prompt with Images, for images in the prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoTextImageEncode",
            display_name="HunyuanVideo TextImageEncode (IP2V)",
            category=CATEGORY,
            description="Old: use HyVideo Encode Prompt with Images.",
            is_deprecated=True,
            inputs=[
                _encoder_input(),
                _prompt_input(),
                io.String.Input(
                    "image_token_selection_expr", default="::4", tooltip="Which of an image's places are kept."
                ),
                unused(io.Boolean, "force_offload", default=True, optional=True),
                *_template_inputs(),
                _clip_input(),
                io.Image.Input("image1", optional=True, tooltip="The image at the first <image> in the prompt."),
                io.Image.Input("image2", optional=True, tooltip="The image at the second <image> in the prompt."),
                io.String.Input(
                    "clip_text_override", default="", multiline=True, optional=True, tooltip="What CLIP reads instead."
                ),
                _cfg_input(),
                _offload_input(),
            ],
            outputs=[sockets.Embeds.Output("hyvid_embeds")],
        )

    @classmethod
    def execute(
        cls,
        text_encoders: OldTextEncoders,
        prompt: str,
        image_token_selection_expr: str,
        prompt_template: str = "video",
        custom_prompt_template: Template | None = None,
        clip_l: Any = None,
        image1: torch.Tensor | None = None,
        image2: torch.Tensor | None = None,
        clip_text_override: str = "",
        hyvid_cfg: features.Cfg | None = None,
        **_: Any,
    ) -> io.NodeOutput:
        template = settings.template(prompt_template, custom_prompt_template)
        # Nothing at all selected all of an image.
        selection = TokenSelection(image_token_selection_expr.strip() or ":")
        images = seen(text_encoders.handle, [image[0] for image in (image1, image2) if image is not None])
        plain = _plain(template)

        def encode(encoders: TextEncoders, text: str, is_positive: bool) -> Conditioning:
            if not (is_positive and images):
                return plain(encoders, text, is_positive)
            return encode_with_images(encoders, text, images, template, selection, truncate=True)

        return _embeds(text_encoders, encode, prompt, hyvid_cfg, clip_l, clip_text_override)


class HyVideoI2VEncode(io.ComfyNode):
    """Now HyVideo Encode Prompt with Images, for image-to-video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoI2VEncode",
            display_name="HyVideo I2V Encode",
            category=CATEGORY,
            description="Old: use HyVideo Encode Prompt with Images.",
            is_deprecated=True,
            inputs=[
                _encoder_input(),
                _prompt_input(),
                unused(io.Boolean, "force_offload", default=True, optional=True),
                io.Combo.Input(
                    "prompt_template",
                    options=["I2V_video", "I2V_image", "disabled"],
                    default="I2V_video",
                    optional=True,
                    tooltip="Only I2V_video is possible.",
                ),
                _clip_input(),
                io.Image.Input("image", optional=True, tooltip="The first frame."),
                _cfg_input(),
                io.Int.Input(
                    "image_embed_interleave", default=2, optional=True, tooltip="Every which of its places is kept."
                ),
                _offload_input(),
            ],
            outputs=[sockets.Embeds.Output("hyvid_embeds")],
        )

    @classmethod
    def execute(
        cls,
        text_encoders: OldTextEncoders,
        prompt: str,
        prompt_template: str = "I2V_video",
        clip_l: Any = None,
        image: torch.Tensor | None = None,
        hyvid_cfg: features.Cfg | None = None,
        image_embed_interleave: int = 2,
        **_: Any,
    ) -> io.NodeOutput:
        if prompt_template != "I2V_video" or image is None:
            raise HyVideoError(
                f"prompt_template is {prompt_template} and image is {'missing' if image is None else 'there'}, but "
                "only I2V_video with an image has a counterpart. Choose it and connect the first frame, or use "
                "HunyuanVideo TextEncode for a prompt alone."
            )
        # The original's negative prompt has a black image, whose size plays no part.
        pictures = [image[0]] if hyvid_cfg is None else [image[0], torch.zeros(16, 16, 3)]
        images = dict(zip((True, False), seen(text_encoders.handle, pictures), strict=False))

        def encode(encoders: TextEncoders, text: str, is_positive: bool) -> Conditioning:
            return encode_image_to_video(encoders, text, images[is_positive], image_embed_interleave, truncate=True)

        return _embeds(text_encoders, encode, prompt, hyvid_cfg, clip_l)


class HyVideoTextEmbedBridge(io.ComfyNode):
    """No longer needed: HyVideo Sampler takes conditioning itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoTextEmbedBridge",
            display_name="HyVideo TextEmbed Bridge",
            category=CATEGORY,
            description="Old: HyVideo Sampler takes ComfyUI's conditioning itself.",
            is_deprecated=True,
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, from ComfyUI's own text encoders."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.01, tooltip="How strongly; 1 is off."),
                *percent_inputs("it"),
                io.Boolean.Input("batched_cfg", default=False, tooltip="Both prompts in one evaluation."),
                io.Boolean.Input("use_cfg_zero_star", default=True, tooltip="The scale of CFG-Zero★."),
                io.Conditioning.Input("negative", optional=True, tooltip="What to avoid."),
            ],
            outputs=[sockets.Embeds.Output("hyvid_embeds")],
        )

    @classmethod
    def execute(
        cls,
        positive: HostConditioning,
        cfg: float,
        start_percent: float,
        end_percent: float,
        batched_cfg: bool,
        use_cfg_zero_star: bool,
        negative: HostConditioning | None = None,
    ) -> io.NodeOutput:
        guidance = features.Cfg("", cfg, start_percent, end_percent, batched_cfg, use_cfg_zero_star)
        against = None if negative is None else from_host_conditioning(negative, "negative")[0]
        return result(OldEmbeds(from_host_conditioning(positive, "positive")[0], against, guidance))


class HyVideoEmptyTextEmbeds(io.ComfyNode):
    """An empty prompt, which the old pack had as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoEmptyTextEmbeds",
            display_name="HunyuanVideo Empty Text Embeds",
            category=CATEGORY,
            description="Old: use an empty negative prompt of HyVideo Encode Prompt. Encodes an empty prompt with the "
            "text encoders that are there.",
            is_deprecated=True,
            inputs=[],
            outputs=[sockets.Embeds.Output("hyvid_embeds")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return _embeds(OldTextEncoders(found_encoders(), False), _plain(VIDEO), "", None, None)


def _embeds(
    encoders: OldTextEncoders, encode: Encode, prompt: str, cfg: features.Cfg | None, clip: Any, clip_text: str = ""
) -> io.NodeOutput:
    """Both prompts; with ``clip``, one of the host's, its summary of them, or of ``clip_text`` for the first one."""
    remarks = []
    if encoders.is_clip_disabled and clip is None:
        remarks.append(
            "clip_model is disabled and clip_l not connected: CLIP-L is used all the same, with which the model was "
            "made."
        )
    texts = [(prompt, True)] if cfg is None else [(prompt, True), (cfg.negative_prompt, False)]
    found: list[Conditioning | None] = []
    with on_demand(encoders.handle) as loaded:
        for text, is_positive in texts:
            host.check_interrupt()
            made = encode(loaded(), text, is_positive)
            summed = clip_text if is_positive and clip_text else text
            if clip is not None:
                made = replace(made, pooled=clip.encode_from_tokens(clip.tokenize(summed), return_pooled=True)[1])
            elif summed != text:
                made = replace(made, pooled=loaded().clip.encode([summed]))
            found.append(offered(made))
    positive, negative = (*found, None)[:2]
    assert positive is not None
    return result(OldEmbeds(positive, negative, cfg or features.Cfg()), remarks=remarks)


def _plain(template: Template) -> Encode:
    """A prompt alone, cut where it is too long, as the old nodes did."""
    return lambda encoders, text, _: encoders.encode([text], template, truncate=True)
