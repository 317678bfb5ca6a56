"""Models that begin their videos with a given image, or end with one too; and images made fit for them."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.decoding_plan import whole_or_tiled
from hyvideo_core.errors import GeometryError
from hyvideo_core.extensions import FirstFrame, ImageConcat, ImageToVideo, Keyframes
from hyvideo_core.types import SPATIAL_COMPRESSION, Geometry
from hyvideo_core.vae.buckets import RESOLUTIONS, nearest_bucket
from hyvideo_core.vae.images import covering, fitted, keyframe_clip
from hyvideo_core.vae.tiling import video_frames

from . import host, memory, transformer
from .adapt import host_latent, latent_samples
from .decode import encoded
from .handles import CATEGORY, HyvModel, HyvVAE, ModelHandle, VAEHandle
from .latent import OFFICIAL_FRAMES

BY_MODEL, LEAPFUSION = "by the model", "Leapfusion LoRA"


class HyvImageToVideo(io.ComfyNode):
    """The image that a video begins with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvImageToVideo",
            display_name="HyVideo Image to Video",
            category=f"{CATEGORY}/model",
            description="Makes an image the first frame of the video, in the way the model was trained for: "
            "image-to-video v2 (token_replace), v1 (latent_concat), SkyReels, or text-to-video with a Leapfusion LoRA.",
            search_aliases=[
                "i2v",
                "first frame",
                "start image",
                "animate",
                "HunyuanImageToVideo",
                "HyVideoI2VEncode",
                "SkyReels",
                "leapfusion",
            ],
            inputs=[
                HyvModel.Input(
                    "model",
                    tooltip="From HyVideo Load Model. Choose kind 'image-to-video (token_replace)' there for v2; "
                    "v1 and SkyReels are known by themselves.",
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
                    tooltip="On: calm motion close to the image, for shift 7. Off: livelier, for shift 17. v1 was made "
                    "with it on; SkyReels and Leapfusion never have it.",
                ),
                io.Combo.Input(
                    "method",
                    options=[BY_MODEL, LEAPFUSION],
                    default=BY_MODEL,
                    advanced=True,
                    optional=True,
                    tooltip="Leapfusion LoRA: for a text-to-video model with that LoRA. Then take the first latent "
                    "frame away before decoding (Trim Video Latent, 1): it looks unlike the others.",
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        vae: VAEHandle,
        image: torch.Tensor,
        latent: dict[str, Any],
        stability: bool = True,
        method: str = BY_MODEL,
    ) -> io.NodeOutput:
        samples = latent_samples(latent, "latent")
        # What cannot work is said before anything is encoded.
        blank = _first_frame(
            model, samples.new_zeros(len(image), *samples[0, :, :1].shape), stability, method == LEAPFUSION
        )
        transformer.check_kind(model.extended(blank))
        blank.check_latent(samples)
        height, width = _size_px(samples)
        latents = _encoded(vae, covering(image, height, width), cls.hidden.unique_id)
        return io.NodeOutput(model.extended(dataclasses.replace(blank, image=_scaled(latents))))


def _first_frame(
    model: ModelHandle, image: torch.Tensor, stability: bool, is_leapfusion: bool
) -> FirstFrame | ImageConcat:
    """What gives a model of this kind its image."""
    if is_leapfusion:
        return FirstFrame(image=image)
    if model.kind == transformer.LATENT_CONCAT:
        return ImageConcat(image=image, stability=stability)
    if model.kind == transformer.SKYREELS:
        return ImageConcat(image=image, marked=False, stability=False)
    return ImageToVideo(image=image, stability=stability)


class HyvKeyframes(io.ComfyNode):
    """The images that a video begins and ends with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvKeyframes",
            display_name="HyVideo Keyframes",
            category=f"{CATEGORY}/model",
            description="Gives a video its first and its last frame, for a text-to-video model with a keyframe control "
            "LoRA (dashtoon).",
            search_aliases=["first last frame", "flf2v", "keyframe lora", "start end image", "dashtoon"],
            inputs=[
                HyvModel.Input(
                    "model", tooltip="A text-to-video model with the keyframe LoRA, from HyVideo Load Model and LoRA."
                ),
                HyvVAE.Input("vae", tooltip="From HyVideo Load VAE."),
                io.Image.Input(
                    "first",
                    tooltip="The first frame, of any size; its middle is taken in the video's shape. One image serves "
                    "a batch; several are one for each clip.",
                ),
                io.Image.Input("last", tooltip="The last frame, as the first."),
                io.Latent.Input(
                    "latent",
                    tooltip="The size, length and batch: the same that goes into HyVideo Sampler. 5 frames or more.",
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        vae: VAEHandle,
        first: torch.Tensor,
        last: torch.Tensor,
        latent: dict[str, Any],
    ) -> io.NodeOutput:
        samples = latent_samples(latent, "latent")
        number = max(len(first), len(last))
        if {len(first), len(last)} - {1, number}:
            raise GeometryError(
                f"There are {len(first)} images for the first frame and {len(last)} for the last. Give one of each, or "
                "one for each clip."
            )
        blank = Keyframes(clip=samples.new_zeros(number, *samples.shape[1:]))
        transformer.check_kind(model.extended(blank))
        blank.check_latent(samples)
        size = _size_px(samples)
        ends = [covering(image, *size).expand(number, -1, -1, -1, -1) for image in (first, last)]
        clip = keyframe_clip(*ends, video_frames(samples.shape[2]))
        # In tiles, as the authors encode it: a whole clip takes far more memory than an image.
        latents = encoded(vae, clip, {"tiling": "auto"}, cls.hidden.unique_id)
        return io.NodeOutput(model.extended(dataclasses.replace(blank, clip=_scaled(latents))))


class HyvFitImage(io.ComfyNode):
    """An image, and the latent of a video, in the official size that is nearest to the image's shape."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvFitImage",
            display_name="HyVideo Fit Image",
            category=f"{CATEGORY}/latent",
            description="Brings an image of any size to the nearest size that image-to-video was trained on, and makes "
            "the empty latent of a video of that size.",
            search_aliases=[
                "resize to bucket",
                "closest bucket",
                "HyVideoGetClosestBucketSize",
                "image resize",
                "crop",
            ],
            inputs=[
                io.Image.Input("image", tooltip="One image, or several of one size."),
                io.Combo.Input(
                    "resolution",
                    options=list(RESOLUTIONS),
                    default="720p",
                    tooltip="How large the video is: about as many pixels as 960×960 (720p), 720×720 (540p) or "
                    "480×480 (360p), in the image's shape. Lower takes less time and memory.",
                ),
                io.Int.Input(
                    "frames",
                    default=OFFICIAL_FRAMES,
                    min=1,
                    max=1025,
                    step=4,
                    tooltip="Frames of the latent, 4n+1: 129 is what the model was trained on; 133 for image-to-video "
                    "v1, whose first four are left out.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many clips to make at once."),
            ],
            outputs=[
                io.Image.Output(
                    "image", tooltip="The largest part of that shape, from the middle, scaled to the size."
                ),
                io.Latent.Output("latent", tooltip="For HyVideo Image to Video and HyVideo Sampler."),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, resolution: str, frames: int, batch_size: int) -> io.NodeOutput:
        height, width = nearest_bucket(*image.shape[1:3], resolution)
        shape = (batch_size, HUNYUAN_VIDEO_VAE.latent_channels, *Geometry(width, height, frames).latent_shape)
        return io.NodeOutput(host.offer(fitted(image, height, width)), host_latent(torch.zeros(shape)))


def _size_px(samples: torch.Tensor) -> tuple[int, int]:
    """Height and width of what a latent stands for."""
    height, width = (size * SPATIAL_COMPRESSION for size in samples.shape[-2:])
    return height, width


def _scaled(latents: torch.Tensor) -> torch.Tensor:
    """Latents of VAE space in model space, where the host keeps results."""
    return host.offer(latents) * HUNYUAN_VIDEO_VAE.scaling_factor


def _encoded(vae: VAEHandle, clips: torch.Tensor, node_id: str | None) -> torch.Tensor:
    """Latents in VAE space, of whole images as the original encodes them; in tiles only where memory is short."""
    whole, tiled = (partial(encoded, vae, clips, {"tiling": tiling}, node_id) for tiling in ("whole", "auto"))
    return whole_or_tiled(whole, tiled, memory.empty_cache)
