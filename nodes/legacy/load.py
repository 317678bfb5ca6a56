"""Old loaders: of the transformer, the VAE and the text encoders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.attention import resolve
from hyvideo_core.errors import HyVideoError
from hyvideo_core.ops import fp8
from hyvideo_core.weights import Lora, describe_clip, describe_mllm, describe_vision, inspect_dit, kind_of
from hyvideo_core.weights.dit import E4M3, KINDS, TransformerFile

from .. import host, models
from ..handles import FileVersion, ModelHandle, TextEncodersHandle, VAEHandle
from . import settings, sockets
from .sockets import CATEGORY, OldTextEncoders, result, unused

logger = logging.getLogger(__name__)

TEXT_TO_VIDEO, TOKEN_REPLACE, *_ = KINDS
PLACES = ["main_device", "offload_device"]
#: Parts of the names of files, the likeliest first.
LLAVA = ("llava-llama-3-8b", "llava_llama3", "llava")
CLIP_L = ("clip-vit-large-patch14", "clip_l", "clip-l", "vit-l-14")
VISION = ("llava_llama3_vision", "llava-llama-3-8b-v1_1-transformers")


class HyVideoModelLoader(io.ComfyNode):
    """Now HyVideo Load Model, with HyVideo LoRA and HyVideo Memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoModelLoader",
            display_name="HunyuanVideo Model Loader",
            category=CATEGORY,
            description="Old: use HyVideo Load Model, with HyVideo LoRA and HyVideo Memory after it.",
            is_deprecated=True,
            inputs=[
                io.Combo.Input("model", options=models.transformers(), tooltip="A file from models/diffusion_models."),
                io.Combo.Input(
                    "base_precision", options=["fp32", "bf16"], default="bf16", tooltip="Precision of computation."
                ),
                io.Combo.Input(
                    "quantization", options=list(settings.STORAGES), default="disabled", tooltip="How weights are held."
                ),
                unused(io.Combo, "load_device", options=PLACES, default=PLACES[0]),
                io.Combo.Input(
                    "attention_mode",
                    options=["sdpa", "flash_attn_varlen", "sageattn", "sageattn_varlen", "comfy"],
                    default="sdpa",
                    optional=True,
                    tooltip="Attention kernel; if it cannot be used here another one is.",
                ),
                sockets.Compile.Input("compile_args", optional=True, tooltip="Compiles blocks."),
                sockets.Swap.Input("block_swap_args", optional=True, tooltip="Blocks that wait in memory."),
                sockets.Lora.Input("lora", optional=True, tooltip="LoRAs."),
                unused(io.Boolean, "auto_cpu_offload", default=False, optional=True),
                unused(io.Boolean, "upcast_rope", default=True, optional=True),
            ],
            outputs=[sockets.Model.Output("model")],
        )

    @classmethod
    def validate_inputs(cls, quantization: str, attention_mode: str = "sdpa") -> bool:
        # Named, so that the host does not refuse what earlier versions offered; ``execute`` says what becomes of it.
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str, **_: Any) -> str:
        return str(FileVersion.of(models.transformer(model)))

    @classmethod
    def execute(
        cls,
        model: str,
        base_precision: str,
        quantization: str,
        attention_mode: str = "sdpa",
        compile_args: settings.Compile | None = None,
        block_swap_args: settings.Swap | None = None,
        lora: tuple[Lora, ...] | None = None,
        **_: Any,
    ) -> io.NodeOutput:
        path = models.transformer(model)
        found = inspect_dit(path)
        kind = kind_of(found.config, _kind(model, found.config.in_channels))
        dtype = settings.DTYPES[base_precision]
        (storage, products), held = _storage(quantization, found)
        attention, seen = _attention(attention_mode, host.DTYPES[dtype], found.config.head_dim)
        handle = ModelHandle(
            FileVersion.of(path),
            dtype,
            attention,
            storage,
            products,
            kind,
            loras=lora or (),
            resident_blocks=None if block_swap_args is None else block_swap_args.resident_blocks(found.config),
            compile_blocks=compile_args is not None and compile_args.blocks,
        )
        return result(handle, remarks=(*held, *seen))


def _kind(model: str, channels: int) -> str:
    """The kind that a file of 16 channels is by its name, as the old loader saw it. Raises ``HyVideoError``."""
    if channels != KINDS[TEXT_TO_VIDEO]:
        return "auto"
    if "i2v" in model.lower():
        return TOKEN_REPLACE
    if "custom" in model.lower():
        raise HyVideoError(
            f"{model} is HunyuanCustom by its name, which has no counterpart in this pack. Choose another "
            "checkpoint, or rename the file if it is one for text-to-video."
        )
    return TEXT_TO_VIDEO


def _storage(quantization: str, found: TransformerFile) -> tuple[tuple[str, str], list[str]]:
    """How weights are held and multiplied, and what to remark. What the file holds packed stays as it is."""
    remarks = []
    storage, products = settings.STORAGES.get(quantization, ("fp8", "auto"))
    if found.is_packed and (products != "fast" or E4M3 in found.stored):
        storage = "auto"
    if quantization not in settings.STORAGES:
        remarks.append(
            f"quantization '{quantization}' has no counterpart: weights are held as {_held(storage, found)}."
        )
    if quantization == "fp8_e5m2" and storage != "auto":
        remarks.append(f"quantization fp8_e5m2 has no counterpart: weights are held as {_held(storage, found)}.")
    if products == "fast" and (reason := fp8.why_not_fast(host.transformer_device())):
        products = "exact"
        remarks.append(f"quantization fp8_e4m3fn_fast cannot be fast here: {reason}. The products are exact.")
    return (storage, products), remarks


def _held(storage: str, found: TransformerFile) -> str:
    return found.stored if storage == "auto" else f"{E4M3} with scales"


def _attention(mode: str, dtype: torch.dtype, head_dim: int) -> tuple[str, list[str]]:
    """The kernel, or auto where it cannot be used, and what to remark."""
    if mode not in settings.ATTENTIONS:
        return "auto", [f"attention_mode '{mode}' has no counterpart: auto is used."]
    name = settings.ATTENTIONS[mode]
    try:
        resolve(name, host.transformer_device(), dtype, head_dim)
    except ValueError as error:
        return "auto", [f"attention_mode {mode}: {error} auto is used."]
    return name, []


class HyVideoVAELoader(io.ComfyNode):
    """Now HyVideo Load VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoVAELoader",
            display_name="HunyuanVideo VAE Loader",
            category=CATEGORY,
            description="Old: use HyVideo Load VAE.",
            is_deprecated=True,
            inputs=[
                io.Combo.Input("model_name", options=models.files("vae"), tooltip="A file from models/vae."),
                io.Combo.Input(
                    "precision", options=["fp16", "fp32", "bf16"], default="bf16", optional=True, tooltip="Precision."
                ),
                sockets.Compile.Input(
                    "compile_args", optional=True, tooltip="Without effect: the VAE is not compiled."
                ),
            ],
            outputs=[io.Vae.Output("vae", tooltip="For the old Decode and Encode nodes only.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: str, **_: Any) -> str:
        return str(FileVersion.of(models.file("vae", model_name)))

    @classmethod
    def execute(cls, model_name: str, precision: str = "bf16", compile_args: Any = None) -> io.NodeOutput:
        path = models.file("vae", model_name)
        remarks = (
            [] if compile_args is None else ["compile_args has no counterpart for the VAE, which is not compiled."]
        )
        return result(VAEHandle(FileVersion.of(path), settings.DTYPES[precision]), remarks=remarks)


class DownloadAndLoadHyVideoTextEncoder(io.ComfyNode):
    """Now HyVideo Load Text Encoders; nothing is downloaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        llms = ["Kijai/llava-llama-3-8b-text-encoder-tokenizer", "xtuner/llava-llama-3-8b-v1_1-transformers"]
        return io.Schema(
            node_id="DownloadAndLoadHyVideoTextEncoder",
            display_name="(Down)Load HunyuanVideo TextEncoder",
            category=CATEGORY,
            description="Old: use HyVideo Load Text Encoders. Takes the encoders that are there; downloads none.",
            is_deprecated=True,
            inputs=[
                io.Combo.Input("llm_model", options=llms, tooltip="Taken from models/LLM or models/text_encoders."),
                io.Combo.Input(
                    "clip_model",
                    options=["disabled", "openai/clip-vit-large-patch14"],
                    tooltip="Taken from models/clip or models/text_encoders; disabled if CLIP comes from elsewhere.",
                ),
                io.Combo.Input("precision", options=["fp16", "fp32", "bf16"], default="bf16", tooltip="Of both."),
                io.Boolean.Input("apply_final_norm", default=False, optional=True, tooltip="Only off is possible."),
                io.Int.Input("hidden_state_skip_layer", default=2, optional=True, tooltip="Only 2 is possible."),
                io.Combo.Input(
                    "quantization",
                    options=["disabled", "bnb_nf4", "fp8_e4m3fn"],
                    default="disabled",
                    optional=True,
                    tooltip="Without effect: layers that do not fit stream to the card.",
                ),
                unused(io.Combo, "load_device", options=PLACES, default=PLACES[1], optional=True),
            ],
            outputs=[sockets.TextEncoder.Output("hyvid_text_encoder")],
        )

    @classmethod
    def fingerprint_inputs(cls, llm_model: str, **_: Any) -> str:
        handle = text_encoders(llm_model)
        return " ".join(str(file) for file in (handle.llm, handle.clip, handle.vision) if file is not None)

    @classmethod
    def execute(
        cls,
        llm_model: str,
        clip_model: str,
        precision: str,
        apply_final_norm: bool = False,
        hidden_state_skip_layer: int = 2,
        quantization: str = "disabled",
        load_device: str = "offload_device",
    ) -> io.NodeOutput:
        if apply_final_norm or hidden_state_skip_layer != 2:
            raise HyVideoError(
                f"apply_final_norm is {apply_final_norm} and hidden_state_skip_layer {hidden_state_skip_layer}, but "
                "only off and 2 have a counterpart, which the model was trained with. Set them so."
            )
        remarks = []
        if quantization != "disabled":
            remarks.append(
                f"quantization {quantization} has no counterpart: the language model is read in {precision}, and "
                "layers that do not fit stream to the card."
            )
        handle = text_encoders(llm_model, settings.DTYPES[precision])
        return result(OldTextEncoders(handle, clip_model == "disabled"), remarks=remarks)


def text_encoders(llm_model: str = "", dtype: str = "auto") -> TextEncodersHandle:
    """The encoders that are there, those of the old names first. Raises ``HyVideoError`` where one is missing."""
    choices = models.text_encoders()
    llm = _fitting(choices, (llm_model.rpartition("/")[2] or LLAVA[0], *LLAVA), models.text_encoder, describe_mllm)
    clip = _fitting(choices, CLIP_L, models.text_encoder, describe_clip)
    missing = {"llava_llama3_fp16.safetensors": llm, "clip_l.safetensors": clip}
    if llm is None or clip is None:
        names = " and ".join(name for name, path in missing.items() if path is None)
        raise HyVideoError(
            f"There is no text encoder of that kind in models/text_encoders, models/LLM or models/clip, and this node "
            f"downloads none. Put {names} into models/text_encoders (huggingface.co/Comfy-Org/"
            "HunyuanVideo_repackaged), or the folders of the old loader where they were."
        )
    vision = _fitting(models.vision_towers(), VISION, models.vision_tower, describe_vision)
    logger.info("text encoders: %s, %s, vision %s", llm.name, clip.name, vision.name if vision else "none")
    return TextEncodersHandle(
        FileVersion.of(llm), FileVersion.of(clip), dtype, None if vision is None else FileVersion.of(vision)
    )


def _fitting(
    choices: Iterable[str], likely: tuple[str, ...], path_of: Callable[[str], Path], describe: Callable[[Path], str]
) -> Path | None:
    """The likeliest of the choices with such a part in their names that is what ``describe`` describes, or None."""
    choices = sorted(choices)
    named = [name for part in likely for name in choices if part.lower() in name.lower()]
    for path in map(path_of, dict.fromkeys(named)):
        try:
            describe(path)
        except (HyVideoError, OSError, ValueError):
            continue
        return path
    return None
