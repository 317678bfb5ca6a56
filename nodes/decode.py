"""Latents to pictures and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.plan import vae_activation_bytes
from hyvideo_core.vae import VAE, Tiling
from hyvideo_core.weights import load_vae, size_on_disk_bytes

from . import host
from .adapt import host_latent, images_to_video, latent_samples, video_to_images
from .handles import CATEGORY, HyvVAE, VAEHandle


def _tiling_input() -> io.DynamicCombo.Input:
    tiles = [
        io.Int.Input("tile_size", default=256, min=64, max=2048, step=32, tooltip="Pixels of a tile's side."),
        io.Int.Input("tile_frames", default=64, min=8, max=1024, step=4, tooltip="Frames of a tile."),
        io.Float.Input(
            "overlap",
            default=0.25,
            min=0.0,
            max=0.5,
            step=0.05,
            tooltip="Share of a tile that is blended with the next.",
        ),
    ]
    return io.DynamicCombo.Input(
        "tiling",
        options=[io.DynamicCombo.Option("tiled", tiles), io.DynamicCombo.Option("whole", [])],
        tooltip="Tiled is what the original does and fits any card; whole has no seams but takes far more memory.",
    )


class HyvDecode(io.ComfyNode):
    """A latent to frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvDecode",
            display_name="HyVideo Decode",
            category=f"{CATEGORY}/vae",
            description="Turns a latent into frames, exactly as the original decodes.",
            search_aliases=["vae decode tiled", "hunyuan decode", "HyVideoDecode"],
            inputs=[
                HyvVAE.Input("vae", tooltip="From HyVideo Load VAE."),
                io.Latent.Input("latent", tooltip="From HyVideo Sampler, or any HunyuanVideo latent."),
                _tiling_input(),
            ],
            outputs=[io.Image.Output("images", tooltip="The frames; clips of a batch follow one another.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae: VAEHandle, latent: dict[str, Any], tiling: dict[str, Any] | None = None) -> io.NodeOutput:
        samples = latent_samples(latent, "latent")
        plan = _tiling(tiling)
        module = _vae(vae, tuple(samples.shape[2:]), plan)
        report = _Report(cls.hidden.unique_id)
        # One clip at a time: the VAE's memory grows with the batch, its speed does not.
        video = torch.cat([module.decode(sample[None], plan, report) for sample in samples])
        if not bool(torch.isfinite(video).all()):
            raise NumericsError(
                f"The VAE returned NaN or infinity ({video.dtype}). Choose dtype bfloat16 or float32 in HyVideo "
                "Load VAE; if it stays, the latent is already damaged."
            )
        return io.NodeOutput(video_to_images(video))


class HyvEncode(io.ComfyNode):
    """An image or video to a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvEncode",
            display_name="HyVideo Encode",
            category=f"{CATEGORY}/vae",
            description="Turns an image, or the frames of one video, into a latent.",
            search_aliases=["vae encode", "hunyuan encode", "video to latent", "HyVideoEncode"],
            inputs=[
                HyvVAE.Input("vae", tooltip="From HyVideo Load VAE."),
                io.Image.Input(
                    "images",
                    tooltip="One image, or the frames of one video (best 4n+1 of them). Sides are cropped to "
                    "multiples of 16 px.",
                ),
                _tiling_input(),
            ],
            outputs=[io.Latent.Output("latent", tooltip="For HyVideo Sampler with denoise below 1.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae: VAEHandle, images: torch.Tensor, tiling: dict[str, Any] | None = None) -> io.NodeOutput:
        video = images_to_video(images)
        plan = _tiling(tiling)
        t, h, w = video.shape[2:]
        module = _vae(vae, ((t + 3) // 4, h // 8, w // 8), plan)
        posterior = module.encode(video, plan, _Report(cls.hidden.unique_id))
        return io.NodeOutput(host_latent(posterior.mode()))


class _Report:
    """Progress of a VAE pass, whose number of units is known only once it runs."""

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._progress: host.Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = host.Progress(total, "part", self._node_id)
        self._progress.update(done)


def _tiling(choice: dict[str, Any] | None) -> Tiling | None:
    if choice is None:  # the host passes nothing for a choice it does not know
        raise GeometryError("tiling is missing or unknown, but must be tiled or whole. Choose one of them.")
    if choice["tiling"] == "whole":
        return None
    return Tiling(choice["tile_size"], choice["tile_frames"], choice["overlap"])


def _vae(handle: VAEHandle, latent_shape: tuple[int, int, int], tiling: Tiling | None) -> VAE:
    device = host.vae_device()
    dtype = host.dtype_of(handle.dtype, device, on_gpu="float16", on_cpu="float32")
    tile = (None, None) if tiling is None else (tiling.tile_size_px, tiling.tile_frames)
    module = host.loaded(
        "vae",
        handle,
        partial(_read, handle, dtype),
        device=device,
        size_bytes=size_on_disk_bytes(handle.file.path),
        activation_bytes=vae_activation_bytes(latent_shape, *tile, dtype.itemsize),
    )
    assert isinstance(module, VAE)
    return module


def _read(handle: VAEHandle, dtype: torch.dtype, device: torch.device) -> VAE:
    return load_vae(handle.file.path, dtype=dtype, device=device)
