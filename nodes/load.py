"""Loaders: choose a file, learn from its header what it is, hand on a light handle."""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io

from hyvideo_core.attention.registry import KERNELS
from hyvideo_core.weights import (
    KINDS,
    STORAGES,
    describe_clip,
    describe_mllm,
    describe_vae,
    describe_vision,
    kind_of,
)

from . import models, transformer
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

#: The choice of text encoders that see no images.
NO_VISION = "none"


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
            search_aliases=[
                "hunyuan video model loader",
                "load diffusion model",
                "unet loader",
                "gguf loader",
                "HyVideoModelLoader",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=models.transformers(),
                    tooltip="A file or diffusers folder from models/diffusion_models, such as "
                    "hunyuan_video_t2v_720p_bf16.safetensors. Every published layout is read: bf16, fp8, scaled fp8, "
                    "GGUF, original, ComfyUI's and diffusers' names.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", "bfloat16", "float32"],
                    default="auto",
                    tooltip="Precision of computation; auto is bfloat16. float16 is not offered: this model overflows "
                    "in it.",
                ),
                io.Combo.Input(
                    "attention",
                    options=["auto", *KERNELS],
                    default="auto",
                    tooltip="Attention kernel, tested on the spot before its first use. auto picks the fastest exact "
                    "one for the card; flash and sage kernels need their packages, and sage ones change the picture.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "storage",
                    options=list(STORAGES),
                    default="auto",
                    tooltip="How weights are held: auto as the file stores them; plain expanded to dtype; fp8 "
                    "quantised while loading, with a scale for each output channel (fp8_tensor: for each weight), "
                    "which halves the memory of a bf16 file.",
                    advanced=True,
                    optional=True,
                ),
                io.Combo.Input(
                    "fp8_products",
                    options=["auto", "exact", "fast"],
                    default="auto",
                    tooltip="How fp8 weights are multiplied: exact unpacks them first; fast uses the card's fp8 units "
                    "(RTX 40 and newer), which changes the picture a little. auto is exact.",
                    advanced=True,
                    optional=True,
                ),
                io.Combo.Input(
                    "kind",
                    options=["auto", *KINDS],
                    default="auto",
                    tooltip="What the checkpoint is for. auto takes 16 input channels for text-to-video; "
                    "image-to-video v2 (token_replace) has 16 as well and must be chosen.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, **_: str) -> str:
        return str(FileVersion.of(models.transformer(model)))

    @classmethod
    def execute(
        cls,
        model: str,
        dtype: str,
        attention: str,
        storage: str = "auto",
        fp8_products: str = "auto",
        kind: str = "auto",
    ) -> io.NodeOutput:
        handle = model_handle(model, dtype, attention, storage, fp8_products, kind)
        logger.info("%s: %s", model, transformer.inspected(handle.file).describe(handle.kind))
        return io.NodeOutput(handle)


def model_handle(
    model: str,
    dtype: str,
    attention: str = "auto",
    storage: str = "auto",
    fp8_products: str = "auto",
    kind: str = "auto",
) -> ModelHandle:
    """The transformer by the loader's inputs. Raises ``CheckpointError`` for a file or a kind that is not one."""
    file = FileVersion.of(models.transformer(model))
    chosen = kind_of(transformer.inspected(file).config, kind)
    return ModelHandle(file, dtype, attention, storage, fp8_products, chosen)


class HyvLoadTextEncoders(io.ComfyNode):
    """The language model and CLIP-L."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = models.text_encoders()
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
                io.Combo.Input(
                    "vision",
                    options=models.vision_towers(first=(NO_VISION,)),
                    default=NO_VISION,
                    optional=True,
                    tooltip="Needed only by HyVideo Encode Prompt with Images, to see them: "
                    "llava_llama3_vision.safetensors from models/clip_vision, or the folder "
                    "llava-llama-3-8b-v1_1-transformers.",
                ),
            ],
            outputs=[
                HyvTextEncoders.Output(
                    "text_encoders", tooltip="For HyVideo Encode Prompt or HyVideo Encode Prompt with Images."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, llm: str, clip: str, dtype: str, vision: str = NO_VISION) -> str:
        paths = [models.text_encoder(llm), models.text_encoder(clip)]
        if vision != NO_VISION:
            paths.append(models.vision_tower(vision))
        return " ".join(str(FileVersion.of(path)) for path in paths)

    @classmethod
    def execute(cls, llm: str, clip: str, dtype: str, vision: str = NO_VISION) -> io.NodeOutput:
        llm_path, clip_path = models.text_encoder(llm), models.text_encoder(clip)
        logger.info("%s: %s; %s: %s", llm, describe_mllm(llm_path), clip, describe_clip(clip_path))
        handle = TextEncodersHandle(FileVersion.of(llm_path), FileVersion.of(clip_path), dtype)
        if vision != NO_VISION:
            path = models.vision_tower(vision)
            logger.info("%s: %s", vision, describe_vision(path))
            handle = replace(handle, vision=FileVersion.of(path))
        return io.NodeOutput(handle)


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
                    options=models.files("vae"),
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
        return str(FileVersion.of(models.file("vae", vae)))

    @classmethod
    def execute(cls, vae: str, dtype: str) -> io.NodeOutput:
        path = models.file("vae", vae)
        logger.info("%s: %s", vae, describe_vae(path))
        return io.NodeOutput(VAEHandle(FileVersion.of(path), dtype))
