"""Prompts to conditioning."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.errors import PromptError
from hyvideo_core.memory import Placement, streamed, transfers_for
from hyvideo_core.text import IMAGE, VIDEO, Template, TextEncoders, custom
from hyvideo_core.weights import load_clip, load_mllm, parameter_count, size_on_disk_bytes

from . import host, memory
from .adapt import HostConditioning, to_host_conditioning
from .handles import CATEGORY, HyvTextEncoders, TextEncodersHandle

logger = logging.getLogger(__name__)

#: Room for the activations of a 350-token prompt in an 8B language model.
TEXT_ACTIVATION_BYTES = 512 * 2**20


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
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="A cat walks on the grass, realistic style.",
                    tooltip="What the video shows. Describe subject, motion, scene, light and camera; up to 255 "
                    "tokens (some 190 words) with template video, 314 (some 230 words) with image.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What to avoid. Has an effect only if cfg is above 1 in the sampler; may be empty.",
                ),
                io.DynamicCombo.Input(
                    "template",
                    options=[
                        io.DynamicCombo.Option("video", []),
                        io.DynamicCombo.Option("image", []),
                        io.DynamicCombo.Option(
                            "custom",
                            [
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
                                    tooltip="How many leading tokens to drop from the result; −1 drops all "
                                    "before the prompt.",
                                ),
                            ],
                        ),
                    ],
                    tooltip="What the language model is asked to do with the prompt: describe a video, describe an "
                    "image (for one frame), or your own instruction.",
                ),
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
        cls, text_encoders: TextEncodersHandle, prompt: str, negative: str, template: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        if not prompt.strip():
            raise PromptError("prompt is empty, but there must be something to show. Write what the video shows.")
        chosen = _template(template)
        with _encoders(text_encoders) as encoders:
            return io.NodeOutput(
                _encoded(encoders, chosen, "prompt", prompt), _encoded(encoders, chosen, "negative", negative)
            )


def _encoded(encoders: TextEncoders, template: Template, field: str, prompt: str) -> HostConditioning:
    """One prompt, with the field's name before whatever is wrong with it."""
    host.check_interrupt()
    try:
        return to_host_conditioning(encoders.encode([prompt], template))
    except PromptError as error:
        raise PromptError(f"{field}: {error}") from error


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
    device = host.text_device()
    dtype = host.dtype_of(handle.dtype, device, on_gpu="float16", on_cpu="bfloat16")
    hosted = memory.loaded_blocks(
        "text encoders",
        (handle.llm, handle.clip, dtype),
        partial(_read, handle, dtype),
        device=device,
        size_bytes=sum(_held_bytes(file.path, dtype) for file in (handle.llm, handle.clip)),
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
    dtype = host.dtype_of(handle.dtype, device, on_gpu="float16", on_cpu="bfloat16")
    held = sum(_held_bytes(file.path, dtype) for file in (handle.llm, handle.clip))
    fits = held + TEXT_ACTIVATION_BYTES <= free_bytes
    where = f"whole on the {device.type} device" if fits else f"layers stream to the {device.type} device as they run"
    return f"text encoders: {held / 1e9:.2f} GB of weights, {where}; they leave before sampling if it needs the room"


def _held_bytes(path: Path, dtype: torch.dtype) -> int:
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
