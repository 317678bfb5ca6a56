"""Loaders: choose a file, learn from its header what it is, hand on a light handle."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from hyvideo_core.attention.registry import KERNELS
from hyvideo_core.configs import HUNYUAN_VIDEO
from hyvideo_core.errors import CheckpointError
from hyvideo_core.weights import describe_clip, describe_dit, describe_mllm, describe_vae, detect_dit

from .handles import (
    CATEGORY,
    FileVersion,
    HyvModel,
    HyvTextEncoders,
    HyvVAE,
    ModelHandle,
    TextEncodersHandle,
    VAEHandle,
)

logger = logging.getLogger(__name__)

#: Folders under ``models`` in which language models are found, as single files or as folders with a config.json.
TEXT_FOLDERS = ("text_encoders", "LLM", "clip")


def _text_choices() -> list[str]:
    """Single files and model folders, each named by its path inside its models folder."""
    choices = set(folder_paths.get_filename_list("text_encoders"))
    for root in _text_roots():
        choices |= {str(found.parent.relative_to(root)) for found in root.glob("*/config.json")}
    return sorted(choices)


def _text_roots() -> list[Path]:
    roots = [Path(folder_paths.models_dir) / name for name in TEXT_FOLDERS]
    roots += [Path(path) for path in folder_paths.get_folder_paths("text_encoders")]
    return [root for root in dict.fromkeys(roots) if root.is_dir()]


def _text_path(choice: str) -> Path:
    for root in _text_roots():
        if (root / choice).is_dir() and (root / choice).resolve().is_relative_to(root.resolve()):
            return root / choice
    return Path(folder_paths.get_full_path_or_raise("text_encoders", choice))


class HyvLoadModel(io.ComfyNode):
    """The diffusion transformer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvLoadModel",
            display_name="HyVideo Load Model",
            category=f"{CATEGORY}/load",
            description="Chooses the HunyuanVideo transformer. Only the header is read here; weights are loaded "
            "when the sampler needs them.",
            search_aliases=["hunyuan video model loader", "load diffusion model", "unet loader", "HyVideoModelLoader"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="A file from models/diffusion_models, such as hunyuan_video_t2v_720p_bf16.safetensors. "
                    "Original and ComfyUI names are both read.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", "bfloat16", "float32"],
                    default="auto",
                    tooltip="Precision of weights and computation; auto is bfloat16. float16 is not offered: "
                    "this model overflows in it.",
                ),
                io.Combo.Input(
                    "attention",
                    options=["auto", *KERNELS],
                    default="auto",
                    tooltip="Attention kernel; auto picks the fastest exact one for the device.",
                    advanced=True,
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str, attention: str) -> str:
        return str(FileVersion.of(folder_paths.get_full_path_or_raise("diffusion_models", model)))

    @classmethod
    def execute(cls, model: str, dtype: str, attention: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("diffusion_models", model)
        channels = detect_dit(path).in_channels
        if channels != HUNYUAN_VIDEO.in_channels:
            raise CheckpointError(
                f"{model} takes {channels} input channels, so it is an image-to-video model, but only text-to-video "
                f"ones ({HUNYUAN_VIDEO.in_channels} channels) are supported yet. Choose "
                "hunyuan_video_t2v_720p_bf16.safetensors."
            )
        logger.info("%s: %s", model, describe_dit(path))
        return io.NodeOutput(ModelHandle(FileVersion.of(path), dtype, attention))


class HyvLoadTextEncoders(io.ComfyNode):
    """The language model and CLIP-L."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = _text_choices()
        return io.Schema(
            node_id="HyvLoadTextEncoders",
            display_name="HyVideo Load Text Encoders",
            category=f"{CATEGORY}/load",
            description="Chooses the two text encoders: the LLaVA-Llama-3 language model, which reads the prompt, "
            "and CLIP-L, which gives one summary vector.",
            search_aliases=[
                "llava llama3",
                "hunyuan text encoder",
                "dual clip loader",
                "DownloadAndLoadHyVideoTextEncoder",
            ],
            inputs=[
                io.Combo.Input(
                    "llm",
                    options=choices,
                    tooltip="llava_llama3_fp16.safetensors from models/text_encoders, or a folder with config.json "
                    "and its shards from models/LLM or models/text_encoders.",
                ),
                io.Combo.Input(
                    "clip",
                    options=choices,
                    tooltip="clip_l.safetensors from models/text_encoders, or the folder clip-vit-large-patch14.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", "float16", "bfloat16", "float32"],
                    default="auto",
                    tooltip="Precision of both; auto is float16 on a GPU, as in the original, and bfloat16 on a CPU.",
                    advanced=True,
                ),
            ],
            outputs=[HyvTextEncoders.Output("text_encoders", tooltip="For HyVideo Encode Prompt.")],
        )

    @classmethod
    def fingerprint_inputs(cls, llm: str, clip: str, dtype: str) -> str:
        return f"{FileVersion.of(_text_path(llm))} {FileVersion.of(_text_path(clip))}"

    @classmethod
    def execute(cls, llm: str, clip: str, dtype: str) -> io.NodeOutput:
        llm_path, clip_path = _text_path(llm), _text_path(clip)
        logger.info("%s: %s; %s: %s", llm, describe_mllm(llm_path), clip, describe_clip(clip_path))
        return io.NodeOutput(TextEncodersHandle(FileVersion.of(llm_path), FileVersion.of(clip_path), dtype))


class HyvLoadVAE(io.ComfyNode):
    """The causal 3D VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvLoadVAE",
            display_name="HyVideo Load VAE",
            category=f"{CATEGORY}/load",
            description="Chooses the video VAE, which turns pixels into latents and back. Both layouts that share "
            "the name hunyuan_video_vae_bf16.safetensors are read.",
            search_aliases=["hunyuan vae loader", "HyVideoVAELoader"],
            inputs=[
                io.Combo.Input(
                    "vae",
                    options=folder_paths.get_filename_list("vae"),
                    tooltip="hunyuan_video_vae_bf16.safetensors from models/vae.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", "float16", "bfloat16", "float32"],
                    default="auto",
                    tooltip="Precision; auto is float16 on a GPU, as in the original, and float32 on a CPU.",
                    advanced=True,
                ),
            ],
            outputs=[HyvVAE.Output("vae", tooltip="For HyVideo Decode and HyVideo Encode.")],
        )

    @classmethod
    def fingerprint_inputs(cls, vae: str, dtype: str) -> str:
        return str(FileVersion.of(folder_paths.get_full_path_or_raise("vae", vae)))

    @classmethod
    def execute(cls, vae: str, dtype: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("vae", vae)
        logger.info("%s: %s", vae, describe_vae(path))
        return io.NodeOutput(VAEHandle(FileVersion.of(path), dtype))
