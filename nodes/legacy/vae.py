"""Old nodes around the VAE: frames to latents and back, keyframes, a look at a latent, sizes."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import GeometryError
from hyvideo_core.preview.latent_rgb import FACTORS, rgb_of, stretched
from hyvideo_core.vae.buckets import nearest_bucket
from hyvideo_core.vae.images import evenly_bright, keyframe_clip, with_noise

from .. import host
from ..adapt import host_latent, images_to_video, latent_samples
from ..decode import Clips, decoded, encoded
from . import settings
from .sockets import CATEGORY, our_vae, result, unused

#: Said where a sample was asked for.
MODE = "latent_dist sample has no counterpart: the mode is used, which differs from it by next to nothing."


def _vae_input() -> io.Input:
    return io.Vae.Input("vae", tooltip="From HunyuanVideo VAE Loader.")


def _tiling_inputs() -> list[io.Input]:
    return [
        io.Boolean.Input("enable_vae_tiling", default=True, tooltip="Off: no seams, but far more memory."),
        io.Int.Input("temporal_tiling_sample_size", default=64, min=4, max=256, tooltip="Frames of a tile."),
        io.Int.Input(
            "spatial_tile_sample_min_size", default=256, min=32, max=2048, step=32, tooltip="Pixels of a tile's side."
        ),
        io.Boolean.Input(
            "auto_tile_size", default=True, tooltip="The original's tiles, or smaller where memory is short."
        ),
    ]


def _encoding_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "noise_aug_strength",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.001,
            optional=True,
            tooltip="Noise that is added to the image.",
        ),
        io.Float.Input(
            "latent_strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.001,
            optional=True,
            tooltip="Factor for the latent.",
        ),
        io.Combo.Input(
            "latent_dist",
            options=["sample", "mode"],
            default="sample",
            optional=True,
            tooltip="Without effect: it is always the mode, which differs from a sample by next to nothing.",
        ),
    ]


class HyVideoDecode(io.ComfyNode):
    """Now HyVideo Decode."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoDecode",
            display_name="HunyuanVideo Decode",
            category=CATEGORY,
            description="Old: use HyVideo Decode.",
            is_deprecated=True,
            inputs=[
                _vae_input(),
                io.Latent.Input("samples", tooltip="A latent, of the old nodes or of any other."),
                *_tiling_inputs(),
                io.Int.Input(
                    "skip_latents",
                    default=0,
                    min=0,
                    max=1000,
                    step=1,
                    optional=True,
                    tooltip="Latent frames to leave out at the beginning.",
                ),
                io.Boolean.Input(
                    "balance_brightness", default=False, optional=True, tooltip="All frames about equally bright."
                ),
            ],
            outputs=[io.Image.Output("images")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        samples: dict[str, Any],
        enable_vae_tiling: bool,
        temporal_tiling_sample_size: int,
        spatial_tile_sample_min_size: int,
        auto_tile_size: bool,
        skip_latents: int = 0,
        balance_brightness: bool = False,
    ) -> io.NodeOutput:
        latents = latent_samples(samples, "samples")
        if skip_latents >= latents.shape[2]:
            raise GeometryError(
                f"skip_latents is {skip_latents}, but there are {latents.shape[2]} latent frames. Lower it."
            )
        tiles = settings.tiling(
            enable_vae_tiling, temporal_tiling_sample_size, spatial_tile_sample_min_size, auto_tile_size
        )
        images = decoded(our_vae(vae), Clips(latents[:, :, skip_latents:]), tiles, cls.hidden.unique_id)
        return result(evenly_bright(images) if balance_brightness else images)


class HyVideoEncode(io.ComfyNode):
    """Now HyVideo Encode."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoEncode",
            display_name="HunyuanVideo Encode",
            category=CATEGORY,
            description="Old: use HyVideo Encode.",
            is_deprecated=True,
            inputs=[
                _vae_input(),
                io.Image.Input("image", tooltip="One image, or the frames of one video."),
                *_tiling_inputs(),
                *_encoding_inputs(),
            ],
            outputs=[io.Latent.Output("samples")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae: Any, image: torch.Tensor, noise_aug_strength: float = 0.0, **choices: Any) -> io.NodeOutput:
        clip = with_noise(images_to_video(image), noise_aug_strength)
        return _encoded(vae, clip, cls.hidden.unique_id, **choices)


class HyVideoEncodeKeyframes(io.ComfyNode):
    """Now HyVideo Keyframes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoEncodeKeyframes",
            display_name="HyVideo Encode Keyframes",
            category=CATEGORY,
            description="Old: use HyVideo Keyframes.",
            is_deprecated=True,
            inputs=[
                _vae_input(),
                io.Image.Input("start_image", tooltip="The first frame, of the video's size."),
                io.Image.Input("end_image", tooltip="The last frame, of the same size."),
                io.Int.Input("num_frames", default=49, min=1, max=1024, step=4, tooltip="Frames of the video, 4n+1."),
                *_tiling_inputs(),
                *_encoding_inputs(),
            ],
            outputs=[io.Latent.Output("samples")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        start_image: torch.Tensor,
        end_image: torch.Tensor,
        num_frames: int,
        noise_aug_strength: float = 0.0,
        **choices: Any,
    ) -> io.NodeOutput:
        # The noise was added to pixels of 0 to 1: in those of −1 to 1 it counts twice as much, and black has it too.
        ends = [
            with_noise(images_to_video(image[:1]), 2 * noise_aug_strength, spares_black=False)
            for image in (start_image, end_image)
        ]
        return _encoded(vae, keyframe_clip(*ends, num_frames), cls.hidden.unique_id, **choices)


def _encoded(
    vae: Any,
    clip: torch.Tensor,
    node_id: str | None,
    enable_vae_tiling: bool,
    temporal_tiling_sample_size: int,
    spatial_tile_sample_min_size: int,
    auto_tile_size: bool,
    latent_strength: float = 1.0,
    latent_dist: str = "sample",
) -> io.NodeOutput:
    """The latent of a clip [1, 3, F, H, W] in −1…1; the other arguments are what both encoders ask for."""
    tiles = settings.tiling(
        enable_vae_tiling, temporal_tiling_sample_size, spatial_tile_sample_min_size, auto_tile_size
    )
    latent = encoded(our_vae(vae), clip, tiles, node_id) * latent_strength
    return result(host_latent(latent), remarks=[MODE] if latent_dist == "sample" else [])


class HyVideoLatentPreview(io.ComfyNode):
    """A latent in rough colours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        ends = {"min_val": (-0.15, -1.0, 0.0), "max_val": (0.15, 0.0, 1.0)}
        return io.Schema(
            node_id="HyVideoLatentPreview",
            display_name="HunyuanVideo Latent Preview",
            category=CATEGORY,
            description="Old: shows a latent in rough colours, without the VAE.",
            is_deprecated=True,
            inputs=[
                io.Latent.Input("samples", tooltip="A latent."),
                unused(io.Int, "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF),
                *(
                    unused(io.Float, name, default=usual, min=least, max=most, step=0.001)
                    for name, (usual, least, most) in ends.items()
                ),
                *(
                    io.Float.Input(
                        f"{name}_bias", default=0.0, min=-1.0, max=1.0, step=0.001, tooltip="Added to this colour."
                    )
                    for name in "rgb"
                ),
            ],
            outputs=[io.Image.Output("images"), io.String.Output("latent_rgb_factors")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], r_bias: float, g_bias: float, b_bias: float, **_: float) -> io.NodeOutput:
        latents = latent_samples(samples, "samples")[:1] * HUNYUAN_VIDEO_VAE.scaling_factor
        (colours,) = rgb_of(latents, (*FACTORS, (r_bias, g_bias, b_bias)))
        return result(host.offer(stretched(colours)), str([list(row) for row in FACTORS]))


class HyVideoGetClosestBucketSize(io.ComfyNode):
    """Now HyVideo Fit Image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoGetClosestBucketSize",
            display_name="HunyuanVideo Get Closest Bucket Size",
            category=CATEGORY,
            description="Old: use HyVideo Fit Image.",
            is_deprecated=True,
            inputs=[
                io.Image.Input("image", tooltip="An image of any size."),
                io.Combo.Input("base_size", options=["360", "540", "720"], default="540", tooltip="How large."),
            ],
            outputs=[io.Int.Output("width"), io.Int.Output("height")],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, base_size: str) -> io.NodeOutput:
        height, width = nearest_bucket(*image.shape[1:3], f"{base_size}p")
        return result(width, height)
