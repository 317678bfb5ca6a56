"""Prompts to conditioning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError, PromptError
from hyvideo_core.memory import Placement, streamed, transfers_for
from hyvideo_core.text import IMAGE, VIDEO, Template, TextEncoders, VisionEncoder, custom
from hyvideo_core.text.cache import EncoderFile, EncodingCache, EncodingKey
from hyvideo_core.types import Conditioning
from hyvideo_core.weights import load_clip, load_mllm, load_vision, parameter_count, size_on_disk_bytes

from . import host, memory
from .adapt import HostConditioning, to_host_conditioning
from .handles import CATEGORY, FileVersion, HyvTextEncoders, TextEncodersHandle

logger = logging.getLogger(__name__)

#: Room for the activations of a 350-token prompt in an 8B language model.
TEXT_ACTIVATION_BYTES = 512 * 2**20
#: What remembered prompts may take on disk; one takes 2 MB.
REMEMBERED_BYTES = 2**30
#: Of CLIP ViT-L/14-336 and the projector into an 8B language model.
VISION_PARAMETERS = 330_000_000


class HyvEncodePrompt(io.ComfyNode):
    """Positive and negative prompt in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvEncodePrompt",
            display_name="HyVideo Encode Prompt",
            category=f"{CATEGORY}/text",
            description="Encodes the prompt exactly as the original does: inside its template, through the language "
            "model and CLIP-L.",
            search_aliases=["hunyuan prompt", "clip text encode", "negative prompt", "HyVideoTextEncode"],
            inputs=[
                HyvTextEncoders.Input("text_encoders", tooltip="From HyVideo Load Text Encoders."),
                *prompt_inputs(
                    "What the video shows. Describe subject, motion, scene, light and camera; up to 255 tokens (some "
                    "190 words) with template video, 314 (some 230 words) with image."
                ),
                _template_input(),
                *_advanced_inputs(),
                remember_input(),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="The encoded prompt, for HyVideo Sampler."),
                io.Conditioning.Output("negative", tooltip="The encoded negative prompt."),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None, *, template: object = None) -> bool | str:
        # The host passes every dynamic input, asked for or not, and blames each positional parameter for what is
        # returned. ``template`` is keyword-only so that it is accepted and never blamed.
        if prompt is not None and not prompt.strip():
            return "prompt is empty, but there must be something to show. Write what the video shows."
        return True

    @classmethod
    def execute(
        cls,
        text_encoders: TextEncodersHandle,
        prompt: str,
        negative: str,
        template: dict[str, Any] | None = None,
        weights: bool = False,
        cut: bool = False,
        remember: bool = False,
    ) -> io.NodeOutput:
        require_prompt(prompt)
        chosen = _template(template)
        found = []
        with on_demand(text_encoders) as encoders:
            for field, text in (("prompt", prompt), ("negative", negative)):
                key = key_of(text_encoders, text, chosen, weighted=weights, truncate=cut)
                encode = partial(_encode, encoders, text, chosen, cut, weights)
                found.append(encoded(field, encode, key if remember else None))
        return io.NodeOutput(*found)


def prompt_inputs(tooltip: str) -> list[io.Input]:
    """The prompt, with this tooltip, and the negative one."""
    return [
        io.String.Input(
            "prompt",
            multiline=True,
            dynamic_prompts=True,
            default="A cat walks on the grass, realistic style.",
            tooltip=tooltip,
        ),
        io.String.Input(
            "negative",
            multiline=True,
            dynamic_prompts=True,
            default="",
            tooltip="What to avoid. Has an effect only if cfg is above 1 in the sampler; may be empty.",
        ),
    ]


def _template_input() -> io.Input:
    own = [
        io.String.Input(
            "text",
            multiline=True,
            default=VIDEO.text,
            tooltip="The language model's whole input; {} marks the place of the prompt.",
        ),
        io.Int.Input(
            "crop_start",
            default=-1,
            min=-1,
            max=350,
            tooltip="How many leading tokens to drop from the result; −1 drops all before the prompt.",
        ),
    ]
    return io.DynamicCombo.Input(
        "template",
        options=[
            io.DynamicCombo.Option("video", []),
            io.DynamicCombo.Option("image", []),
            io.DynamicCombo.Option("custom", own),
        ],
        tooltip="What the language model is asked to do with the prompt: describe a video, describe an image (for one "
        "frame), or your own instruction.",
    )


def _advanced_inputs() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "weights",
            default=False,
            optional=True,
            tooltip="On: (word:1.3) gives words more weight, (word:0.7) less, and (word) is 1.1; 0.5 to 1.5 is usual. "
            "Write \\( and \\) for brackets that belong to the text. Off, as in the original: brackets are text.",
        ),
        io.Boolean.Input(
            "cut",
            default=False,
            advanced=True,
            optional=True,
            tooltip="On: prompts that are too long are cut, as the original does without telling. Off: they are "
            "refused.",
        ),
    ]


def remember_input() -> io.Boolean.Input:
    """Whether encoded prompts are kept on disk."""
    return io.Boolean.Input(
        "remember",
        default=False,
        advanced=True,
        optional=True,
        tooltip="On: encoded prompts are kept in ComfyUI's user folder, at most 1 GB of them, and known ones need no "
        "text encoder any more. These files hold the prompts in plain text. Where a text encoder's file changes, "
        "prompts are encoded anew.",
    )


def require_prompt(prompt: str) -> None:
    """Raise ``PromptError`` for one that is empty."""
    if not prompt.strip():
        raise PromptError("prompt is empty, but there must be something to show. Write what the video shows.")


def encoded(field: str, encode: Callable[[], Conditioning], key: EncodingKey | None) -> HostConditioning:
    """One prompt, from disk where ``key`` is known there; the field's name before whatever is wrong with it."""
    host.check_interrupt()
    try:
        return to_host_conditioning(encode() if key is None else _remembered().get(key, encode))
    except PromptError as error:
        raise PromptError(f"{field}: {error}") from error


def key_of(
    handle: TextEncodersHandle,
    prompt: str,
    template: Template,
    *,
    weighted: bool = False,
    truncate: bool = False,
    images: Sequence[str] = (),
    reading: str = "",
) -> EncodingKey:
    """What one prompt's encoding depends on; arguments as in ``EncodingKey``."""
    tokenizers = [FileVersion.of(host.host_tokenizer(name)) for name in ("llama", "clip")]
    vision = [handle.vision] if images and handle.vision is not None else []
    files = [
        EncoderFile(file.path.name, file.size_bytes, file.modified_ns)
        for file in (handle.llm, handle.clip, *tokenizers, *vision)
    ]
    dtype = str(_dtype(handle))
    return EncodingKey(prompt, template, tuple(files), dtype, weighted, truncate, tuple(images), reading)


def _remembered() -> EncodingCache:
    # The temporary folder is emptied at every start, and public ones can be read over HTTP.
    folder = folder_paths.get_system_user_directory("hyvideo_studio")
    return EncodingCache(Path(folder) / "encoded_prompts", REMEMBERED_BYTES)


def _encode(
    encoders: Callable[[], TextEncoders], prompt: str, template: Template, truncate: bool, weighted: bool
) -> Conditioning:
    return encoders().encode([prompt], template, truncate=truncate, weighted=weighted)


@contextmanager
def on_demand(handle: TextEncodersHandle) -> Iterator[Callable[[], TextEncoders]]:
    """What gives both encoders, loading them when it is first called."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(_encoders(handle)))


def _template(choice: dict[str, Any] | None) -> Template:
    if choice is None:  # the host passes nothing for a choice it does not know
        raise PromptError("template is missing or unknown, but must be video, image or custom. Choose one of them.")
    kind = choice["template"]
    if kind == "custom":
        crop = int(choice.get("crop_start", -1))
        return custom(choice.get("text", ""), crop_start=None if crop < 0 else crop)
    return {"video": VIDEO, "image": IMAGE}[kind]


@dataclass(frozen=True)
class _Residents:
    """The plan of a language model: how many of its layers stay on the device."""

    resident_blocks: int

    def lowered(self) -> _Residents | None:
        """Half of them."""
        return _Residents(self.resident_blocks // 2) if self.resident_blocks else None


@contextmanager
def _encoders(handle: TextEncodersHandle) -> Iterator[TextEncoders]:
    """Both encoders, loaded together since each prompt needs both; layers that do not fit the device stream to it."""
    device, dtype = host.text_device(), _dtype(handle)
    hosted = memory.loaded_blocks(
        "text encoders",
        (handle.llm, handle.clip, dtype),
        partial(_read, handle, dtype),
        device=device,
        size_bytes=sum(held_bytes(file.path, dtype) for file in (handle.llm, handle.clip)),
        activation_bytes=TEXT_ACTIVATION_BYTES,
        blocks_of=_layers,
        decide=_residents,
        # A prompt is encoded once or twice: locking pages would take longer than streaming from the file.
        lock=False,
    )
    module, waiting = hosted.module, hosted.waiting()
    assert isinstance(module, TextEncoders)
    if waiting:
        logger.info("%d of %d layers of the language model stream to the device", len(waiting), len(_layers(module)))
    with streamed(waiting, device, transfers_for(device)):
        yield module


def placement(handle: TextEncodersHandle, free_bytes: int) -> str:
    """Where the encoders would be with so much memory free on their device, in words; from headers alone."""
    device = host.text_device()
    dtype = _dtype(handle)
    held = sum(held_bytes(file.path, dtype) for file in (handle.llm, handle.clip))
    fits = held + TEXT_ACTIVATION_BYTES <= free_bytes
    where = f"whole on the {device.type} device" if fits else f"layers stream to the {device.type} device as they run"
    return f"text encoders: {held / 1e9:.2f} GB of weights, {where}; they leave before sampling if it needs the room"


def vision_encoder(handle: TextEncodersHandle) -> VisionEncoder:
    """What sees images for the language model. Raises ``HyVideoError`` where none was chosen."""
    if handle.vision is None:
        raise HyVideoError(
            "text_encoders has no vision tower, but there are images to read. Choose one as vision in HyVideo Load "
            "Text Encoders, such as llava_llama3_vision.safetensors."
        )
    path, dtype = handle.vision.path, _dtype(handle)
    module = memory.loaded(
        "vision tower",
        (handle.vision, dtype),
        lambda device: load_vision(path, dtype=dtype, device=device),
        device=host.text_device(),
        # A folder may hold a whole LLaVA.
        size_bytes=min(held_bytes(path, dtype), VISION_PARAMETERS * dtype.itemsize),
        activation_bytes=TEXT_ACTIVATION_BYTES,
    )
    assert isinstance(module, VisionEncoder)
    return module


def _dtype(handle: TextEncodersHandle) -> torch.dtype:
    return host.dtype_of(handle.dtype, host.text_device(), on_gpu="float16", on_cpu="bfloat16")


def held_bytes(path: Path, dtype: torch.dtype) -> int:
    """What a model takes once loaded: packed weights stay as small as they are on disk."""
    return min(parameter_count(path) * dtype.itemsize, size_on_disk_bytes(path))


def _layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    return list(module.get_submodule("mllm.llama.layers").children())


def _residents(free_bytes: int, placement: Placement | None) -> _Residents | None:
    return None if placement is None else _Residents(placement.fitting(free_bytes - TEXT_ACTIVATION_BYTES))


def _read(handle: TextEncodersHandle, dtype: torch.dtype, device: torch.device) -> TextEncoders:
    own = handle.llm.path / "tokenizer.json"
    llm_tokenizer = own if own.is_file() else host.host_tokenizer("llama")
    return TextEncoders(
        load_mllm(handle.llm.path, tokenizer=llm_tokenizer, dtype=dtype, device=device),
        load_clip(handle.clip.path, tokenizer=host.host_tokenizer("clip"), dtype=dtype, device=device),
    )
