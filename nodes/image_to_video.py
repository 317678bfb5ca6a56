"""A model that begins its videos with a given image."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.decoding_plan import whole_or_tiled
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import ImageToVideo
from hyvideo_core.types import SPATIAL_COMPRESSION
from hyvideo_core.vae.images import covering

from . import host, memory, transformer
from .adapt import latent_samples
from .decode import encoded
from .handles import CATEGORY, HyvModel, HyvVAE, ModelHandle, VAEHandle


class HyvImageToVideo(io.ComfyNode):
    """The image that a video begins with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvImageToVideo",
            display_name="HyVideo Image to Video",
            category=f"{CATEGORY}/model",
            description="Makes an image the first frame of the video. For image-to-video v2 (token_replace) models.",
            search_aliases=["i2v", "first frame", "start image", "animate", "HunyuanImageToVideo"],
            inputs=[
                HyvModel.Input(
                    "model",
                    tooltip="From HyVideo Load Model, with kind 'image-to-video (token_replace)'.",
                ),
                HyvVAE.Input("vae", tooltip="From HyVideo Load VAE."),
                io.Image.Input(
                    "image",
                    tooltip="The first frame, of any size: its middle is taken in the video's shape and scaled to the "
                    "video's size. One image serves a batch; several are one for each clip.",
                ),
                io.Latent.Input("latent", tooltip="The size and the batch: the same that goes into HyVideo Sampler."),
                io.Boolean.Input(
                    "stability",
                    default=True,
                    optional=True,
                    tooltip="On: calm motion close to the image, for shift 7. Off: livelier, for shift 17.",
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: ModelHandle, vae: VAEHandle, image: torch.Tensor, latent: dict[str, Any], stability: bool = True
    ) -> io.NodeOutput:
        samples = latent_samples(latent, "latent")
        if any(isinstance(extension, ImageToVideo) for extension in model.extensions):
            raise HyVideoError(
                "model was given an image already, by another HyVideo Image to Video. Use one, and connect several "
                "images to it if there are several clips."
            )
        # What cannot work is said before anything is encoded.
        blank = ImageToVideo(image=samples.new_zeros(len(image), *samples[0, :, :1].shape), stability=stability)
        transformer.check_kind(_with(model, blank))
        blank.check_latent(samples)
        height, width = (size * SPATIAL_COMPRESSION for size in samples.shape[-2:])
        latents = _encoded(vae, covering(image, height, width), cls.hidden.unique_id)
        given = host.offer(latents) * HUNYUAN_VIDEO_VAE.scaling_factor
        return io.NodeOutput(_with(model, dataclasses.replace(blank, image=given)))


def _with(model: ModelHandle, extension: ImageToVideo) -> ModelHandle:
    return dataclasses.replace(model, extensions=(*model.extensions, extension))


def _encoded(vae: VAEHandle, clips: torch.Tensor, node_id: str | None) -> torch.Tensor:
    """Latents in VAE space, of whole images as the original encodes them; in tiles only where memory is short."""
    whole, tiled = (partial(encoded, vae, clips, {"tiling": tiling}, node_id) for tiling in ("whole", "auto"))
    return whole_or_tiled(whole, tiled, memory.empty_cache)
