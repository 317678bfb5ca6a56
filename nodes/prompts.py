"""What may be done with prompts beside encoding them: images in them, mixing, changing over a run, files, rewriting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from hyvideo_core.errors import PromptError
from hyvideo_core.extensions import ScheduledPrompts
from hyvideo_core.text import (
    IMAGE_TO_VIDEO,
    INTERLEAVE_CONCAT,
    INTERLEAVE_REPLACE,
    VIDEO,
    PromptSchedule,
    Template,
    TextEncoders,
    TokenSelection,
    Turn,
    blended,
    encode_image_to_video,
    encode_with_images,
)
from hyvideo_core.text.cache import image_digest
from hyvideo_core.text.embeddings_file import SUFFIX, Provenance, load_conditioning, save_conditioning
from hyvideo_core.text.rewrite import MAX_NEW_TOKENS, MODES, rewrite, rewrite_prompt
from hyvideo_core.types import Conditioning

from . import host, memory, models
from .adapt import HostConditioning, from_host_conditioning, to_host_conditioning
from .handles import CATEGORY, FileVersion, HyvModel, HyvTextEncoders, ModelHandle, TextEncodersHandle
from .text import encoded, held_bytes, key_of, on_demand, prompt_inputs, remember_input, require_prompt, vision_encoder
from .video import Place

logger = logging.getLogger(__name__)

MOST_IMAGES = 16
#: What images are given for: for image-to-video, with the interleave of its checkpoints, or as parts of the prompt.
INTERLEAVES = {
    "image-to-video v2 (token_replace)": INTERLEAVE_REPLACE,
    "image-to-video v1 (latent_concat)": INTERLEAVE_CONCAT,
}
IN_PROMPT = "images in the prompt"
#: Where saved prompts are, in the output folder and in the input folder.
PROMPTS = "prompts"
OF_OUTPUT = " [output]"
#: The choice of no language model: the request is handed out instead.
NO_MODEL = "none"
#: Room for what a rewriting model computes.
REWRITE_ACTIVATION_BYTES = 2**30


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
        see = cache(lambda: {field: _seen(text_encoders, each) for field, each in pictures.items()})
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
    seen = see()
    if reading.selection is not None:
        return encode_with_images(encoders(), prompt, seen, selection=reading.selection)
    rows = [encode_image_to_video(encoders(), prompt, image, reading.interleave) for image in seen]
    return Conditioning(torch.cat([row.text for row in rows]), torch.cat([row.pooled for row in rows]))


def _seen(handle: TextEncodersHandle, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Embeddings [L, D] of images [H, W, C], on the CPU."""
    if not images:
        return []
    vision = vision_encoder(handle)
    found = []
    for image in images:
        host.check_interrupt()
        found.append(vision.encode(image[None])[0].cpu())
    return found


class HyvBlendPrompts(io.ComfyNode):
    """Two prompts as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvBlendPrompts",
            display_name="HyVideo Blend Prompts",
            category=f"{CATEGORY}/text",
            description="Mixes two encoded prompts into one that lies between them; chain it for more.",
            search_aliases=["conditioning average", "ConditioningAverage", "prompt mix", "prompt interpolation"],
            inputs=[
                io.Conditioning.Input("prompt_1", tooltip="An encoded prompt."),
                io.Conditioning.Input("prompt_2", tooltip="Another one, of the same text encoders."),
                io.Float.Input(
                    "share_2",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the mixture is prompt_2: 0 is prompt_1 alone, 1 prompt_2 alone.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("prompt", tooltip="The mixture; its guidance is that of the larger share.")
            ],
        )

    @classmethod
    def execute(cls, prompt_1: HostConditioning, prompt_2: HostConditioning, share_2: float) -> io.NodeOutput:
        first, guidance_1 = from_host_conditioning(prompt_1, "prompt_1")
        second, guidance_2 = from_host_conditioning(prompt_2, "prompt_2")
        mixture = to_host_conditioning(blended([(first, 1 - share_2), (second, share_2)]))
        guidance = guidance_1 if share_2 <= 0.5 else guidance_2
        if guidance is not None:
            mixture[0][1]["guidance"] = guidance
        return io.NodeOutput(mixture)


class HyvPromptSchedule(io.ComfyNode):
    """Another prompt from some part of the run on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvPromptSchedule",
            display_name="HyVideo Prompt Schedule",
            category=f"{CATEGORY}/text",
            description="Has another prompt take over while the video is made; chain it for several. Early steps "
            "decide on layout and motion, late ones on details.",
            search_aliases=[
                "prompt scheduling",
                "prompt travel",
                "BatchPromptSchedule",
                "ConditioningSetTimestepRange",
            ],
            inputs=[
                HyvModel.Input("model", tooltip="From HyVideo Load Model or another HyVideo Prompt Schedule."),
                io.Conditioning.Input(
                    "prompt", tooltip="The prompt that takes over, from the encoders of the sampler's own."
                ),
                io.Float.Input(
                    "start",
                    default=0.5,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="The part of the steps after which it is in force; before, the sampler's own prompt is, or "
                    "that of another HyVideo Prompt Schedule.",
                ),
                io.Float.Input(
                    "fade",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The part of the steps in which it gradually takes over; 0 switches from one step to the "
                    "next. Must be over when the next prompt begins.",
                ),
                io.Combo.Input(
                    "replaces",
                    options=["positive", "negative"],
                    default="positive",
                    tooltip="Which of the sampler's prompts it takes over from; negative needs cfg above 1.",
                    optional=True,
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler or another HyVideo Prompt Schedule.")],
        )

    @classmethod
    def execute(
        cls, model: ModelHandle, prompt: HostConditioning, start: float, fade: float, replaces: str = "positive"
    ) -> io.NodeOutput:
        said, own_guidance = from_host_conditioning(prompt, "prompt")
        if own_guidance is not None:
            logger.info("guidance %.2f of the scheduled prompt is left out: a run has one guidance", own_guidance)
        turn = Turn(start, said, fade)
        earlier = next((each for each in model.extensions if isinstance(each, ScheduledPrompts)), ScheduledPrompts())
        others = tuple(each for each in model.extensions if each is not earlier)
        turns = sorted((*getattr(earlier, replaces).turns, turn), key=lambda each: each.start)
        try:
            schedule = replace(earlier, **{replaces: PromptSchedule(tuple(turns))})
        except ValueError as error:
            raise PromptError(f"start, fade or prompt does not go with those before it: {error}") from error
        return io.NodeOutput(replace(model, extensions=(*others, schedule)))


class HyvSavePrompt(io.ComfyNode):
    """An encoded prompt as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSavePrompt",
            display_name="HyVideo Save Prompt",
            category=f"{CATEGORY}/text",
            description="Saves an encoded prompt as safetensors in output/prompts: HyVideo Load Prompt brings it back "
            "without any text encoder, on this machine or another.",
            search_aliases=["save conditioning", "save embeddings", "HyVideoTextEmbedsSave"],
            inputs=[
                io.Conditioning.Input(
                    "prompt",
                    tooltip="The encoded prompt. Guidance that FluxGuidance put there is not saved; set it after "
                    "loading.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="HyVideo",
                    tooltip="Name, and folder inside output/prompts. A number is appended; nothing is overwritten.",
                ),
                io.String.Input(
                    "note",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Saved in the file: best the prompt's own words, since an encoded prompt cannot be read.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, prompt: HostConditioning, filename_prefix: str, note: str = "") -> io.NodeOutput:
        conditioning, _ = from_host_conditioning(prompt, "prompt")
        place = Place.find(f"{PROMPTS}/{filename_prefix}", 0, 0)
        paths = (place.folder / f"{place.name}_{number:05}_{SUFFIX}" for number in count(place.counter))
        path = next(path for path in paths if not path.exists())
        save_conditioning(path, conditioning, Provenance(prompt=note))
        logger.info("saved the encoded prompt as %s", path.name)
        saved = ui.SavedResult(path.name, place.subfolder, io.FolderType.output)
        return io.NodeOutput(ui={"prompts": [saved]})


class HyvLoadPrompt(io.ComfyNode):
    """An encoded prompt from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvLoadPrompt",
            display_name="HyVideo Load Prompt",
            category=f"{CATEGORY}/text",
            description="Loads an encoded prompt that HyVideo Save Prompt saved; no text encoder is needed.",
            search_aliases=["load conditioning", "load embeddings", "HyVideoTextEmbedsLoad"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_saved_prompts(),
                    tooltip="A file of output/prompts, or one from elsewhere that was put into the input folder.",
                )
            ],
            outputs=[
                io.Conditioning.Output("prompt", tooltip="The encoded prompt, for HyVideo Sampler."),
                io.String.Output("note", tooltip="The note that was saved with it."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return str(FileVersion.of(folder_paths.get_annotated_filepath(file)))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        conditioning, provenance = load_conditioning(folder_paths.get_annotated_filepath(file))
        return io.NodeOutput(to_host_conditioning(conditioning), provenance.prompt)


def _saved_prompts() -> list[str]:
    """Files that may be saved prompts, as the host names files of its input and output folders."""
    given, made = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
    found = [*given.glob(f"*{SUFFIX}"), *(given / PROMPTS).rglob(f"*{SUFFIX}")]
    names = sorted(path.relative_to(given).as_posix() for path in found)
    saved = sorted(path.relative_to(made).as_posix() for path in (made / PROMPTS).rglob(f"*{SUFFIX}"))
    return [*(name + OF_OUTPUT for name in saved), *names]


class HyvRewritePrompt(io.ComfyNode):
    """A short prompt as a long one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvRewritePrompt",
            display_name="HyVideo Rewrite Prompt",
            category=f"{CATEGORY}/text",
            description="Has a language model write the prompt as the video model was trained on them: long and plain. "
            "Without a model it gives the whole request as text, for a chat of yours.",
            search_aliases=["prompt rewrite", "prompt enhancer", "prompt upsampling", "Hunyuan-Large", "llm prompt"],
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="A cat walks on the grass.",
                    tooltip="What the video shows, in a few words and any language.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="normal keeps to what you wrote and says it clearly; master composes a richer shot with "
                    "light and camera, and may lose some of it.",
                ),
                io.Combo.Input(
                    "llm",
                    options=[NO_MODEL, *models.language_models()],
                    default=NO_MODEL,
                    tooltip="A folder in models/LLM with an instruction-following language model as Hugging Face has "
                    "them, such as Qwen3-4B-Instruct-2507. none: copy the request into any chat.",
                ),
                io.Int.Input(
                    "wording",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    tooltip="0 takes the likeliest words; each other number gives another wording, always the same.",
                    optional=True,
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=MAX_NEW_TOKENS,
                    min=1,
                    max=8192,
                    tooltip="Where the model is stopped. 256 is enough; models that think first need some thousands.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompt", tooltip="The rewritten prompt, for HyVideo Encode Prompt; without a model, the prompt."
                ),
                io.String.Output("request", tooltip="The whole text that a language model is asked with."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, llm: str, **_: Any) -> str:
        return NO_MODEL if llm == NO_MODEL else str(FileVersion.of(models.text_encoder(llm)))

    @classmethod
    def execute(
        cls, prompt: str, mode: str, llm: str, wording: int = 0, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> io.NodeOutput:
        request = rewrite_prompt(prompt, mode)
        if llm == NO_MODEL:
            return io.NodeOutput(prompt, request, ui=ui.PreviewText(request))
        path, dtype = models.text_encoder(llm), torch.bfloat16
        device = _rewriting_device(path, dtype)
        found = rewrite(
            prompt, mode, path, device, dtype, max_new_tokens, seed=wording or None, check=host.check_interrupt
        )
        return io.NodeOutput(found, request, ui=ui.PreviewText(found))


def _rewriting_device(folder: Path, dtype: torch.dtype) -> torch.device:
    """Where the language model runs: with the text encoders, room made for it, or on the CPU if there is none."""
    device, needed = host.text_device(), held_bytes(folder, dtype) + REWRITE_ACTIVATION_BYTES
    if device.type == "cpu":
        return device
    if needed > memory.available_bytes(device):
        logger.warning("%s needs %.1f GB, which %s has not free: it runs on the CPU", folder.name, needed / 1e9, device)
        return torch.device("cpu")
    memory.make_room(needed, device)
    return device
