"""Latents to pictures and back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.decoding_plan import choose_tiling, decoding_with, vae_activation_bytes, with_smaller_tiles
from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.extensions.seamless_loop import LEAD_FRAMES, for_decoding
from hyvideo_core.vae import VAE, Tiling
from hyvideo_core.vae.images import decoded_images
from hyvideo_core.vae.tiling import video_frames, video_size
from hyvideo_core.weights import load_vae, parameter_count

from . import host, memory
from .adapt import host_latent, images_to_video, latent_samples
from .handles import CATEGORY, HyvVAE, VAEHandle
from .progress import Progress
from .video import Place, format_inputs, saved_output, saving_inputs, video_of

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


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
        options=[
            io.DynamicCombo.Option("auto", []),
            io.DynamicCombo.Option("tiled", tiles),
            io.DynamicCombo.Option("whole", []),
        ],
        tooltip="Auto: the original's tiles, or smaller ones where memory is short. Tiled: tiles of your own. Whole: "
        "no seams, but far more memory.",
    )


def _loop_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "loop",
        default=False,
        optional=True,
        tooltip="On for a video that went through HyVideo Seamless Loop: its first frame is decoded as the one after "
        "its last. A loop has four frames for every latent frame, three more than the video would have.",
    )


def _skip_input() -> io.Int.Input:
    return io.Int.Input(
        "skip_frames",
        default=0,
        min=0,
        max=1000,
        advanced=True,
        optional=True,
        tooltip="Frames to leave out at the beginning of each clip, once the whole is decoded. 4 for image-to-video v1 "
        "(latent_concat), whose first four are not meant to be seen: sample 133 frames to get 129. Else 0.",
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
                _loop_input(),
                _skip_input(),
            ],
            outputs=[io.Image.Output("images", tooltip="The frames; clips of a batch follow one another.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        vae: VAEHandle,
        latent: dict[str, Any],
        tiling: dict[str, Any] | None = None,
        loop: bool = False,
        skip_frames: int = 0,
    ) -> io.NodeOutput:
        return io.NodeOutput(decoded(vae, Clips.of(latent, loop, skip_frames), tiling, cls.hidden.unique_id))


class HyvDecodeVideo(io.ComfyNode):
    """A latent to a video file, without the frames between."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvDecodeVideo",
            display_name="HyVideo Decode to Video",
            category=f"{CATEGORY}/vae",
            description="Decodes a latent straight into a video: the same file as HyVideo Decode and HyVideo Save "
            "Video give, but frames are written as they are finished and never all held in memory.",
            search_aliases=["vae decode to mp4", "stream decode", "low memory decode", "export video"],
            inputs=[
                HyvVAE.Input("vae", tooltip="From HyVideo Load VAE."),
                io.Latent.Input("latent", tooltip="From HyVideo Sampler, or any HunyuanVideo latent."),
                _tiling_input(),
                *saving_inputs(),
                _loop_input(),
                _skip_input(),
                *format_inputs(),
            ],
            outputs=[saved_output()],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        vae: VAEHandle,
        latent: dict[str, Any],
        fps: float,
        crf: int,
        filename_prefix: str,
        tiling: dict[str, Any] | None = None,
        loop: bool = False,
        skip_frames: int = 0,
        format: dict[str, Any] | None = None,
        audio: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        clips = Clips.of(latent, loop, skip_frames)
        _, height, width, _ = clips.images_shape
        place = Place.find(filename_prefix, width, height)
        video = video_of(cls.hidden, fps, crf, format, audio)

        def save(module: VAE, tiles: Tiling | None) -> io.NodeOutput:
            return place.saved(clips.decoded(module, tiles, cls.hidden.unique_id), video)

        return _with_tiles(vae, clips.latent_shape, tiling, save)


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
        latent = encoded(vae, images_to_video(images), tiling, cls.hidden.unique_id)
        return io.NodeOutput(host_latent(latent))


def decoded(vae: VAEHandle, clips: Clips, tiling: dict[str, Any] | None, node_id: str | None) -> torch.Tensor:
    """Images [F, H, W, 3] in 0–1 of all clips, one after the other. ``tiling`` is the choice of a tiling input."""

    def decode(module: VAE, tiles: Tiling | None) -> torch.Tensor:
        images = host.offer(torch.empty(clips.images_shape))
        for into, image in zip(images, clips.decoded(module, tiles, node_id), strict=True):
            into.copy_(image)
        return images

    return _with_tiles(vae, clips.latent_shape, tiling, decode)


def encoded(vae: VAEHandle, videos: torch.Tensor, tiling: dict[str, Any] | None, node_id: str | None) -> torch.Tensor:
    """Latents [B, 16, t, h, w] in VAE space of videos [B, 3, T, H, W] in −1…1, one after the other.

    ``tiling`` is the choice of a tiling input. Raises ``NumericsError`` for NaN or infinity.
    """
    t, h, w = videos.shape[2:]

    def encode(module: VAE, tiles: Tiling | None) -> torch.Tensor:
        report = _Report("encoding", node_id, len(videos), device_of(module))
        return torch.cat([module.encode(video, tiles, report).mode() for video in videos.split(1)])

    latent = _with_tiles(vae, ((t + 3) // 4, h // 8, w // 8), tiling, encode)
    if not bool(torch.isfinite(latent).all()):
        raise NumericsError(
            f"The VAE returned NaN or infinity while encoding ({latent.dtype}). Choose dtype bfloat16 or float32 "
            "in HyVideo Load VAE; if it stays, the images themselves hold such values."
        )
    return latent


def device_of(module: VAE) -> torch.device:
    """Where a VAE computes."""
    return module.quant_conv.weight.device


class _Report:
    """Progress of a VAE's passes over ``clips``, whose number of units is known only once they run."""

    def __init__(self, what: str, node_id: str | None, clips: int, device: torch.device) -> None:
        self._what, self._node_id, self._clips, self._device = what, node_id, clips, device
        self._started, self._finished = time.perf_counter(), 0
        self._progress: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if done in (1, total):
            # A part is told of once the device has been told to compute it; these two make the times true.
            host.finish(self._device)
        if self._progress is None:
            self._progress = Progress(total * self._clips, "part", self._node_id, started=self._started)
        self._progress.update(self._finished + done)
        if done == total:
            self._finished += total
            if self._finished == total * self._clips:
                self._progress.close(self._what)


@dataclass(frozen=True)
class Clips:
    """What is decoded: latents [B, C, T, H, W], and how many of the first frames of each clip are left out."""

    samples: torch.Tensor
    dropped: int = 0

    @classmethod
    def of(cls, latent: dict[str, Any], loop: bool, skip_frames: int) -> Clips:
        """The clips of a LATENT; those of a loop with its last frames in front.

        Raises ``GeometryError`` where ``skip_frames`` leaves nothing of them.
        """
        samples = latent_samples(latent, "latent")
        clips = cls(for_decoding(samples), LEAD_FRAMES + skip_frames) if loop else cls(samples, skip_frames)
        shown = video_frames(clips.samples.shape[2]) - clips.dropped
        if shown < 1:
            raise GeometryError(
                f"skip_frames is {skip_frames}, but the latent decodes to {shown + skip_frames} frames. Lower it to "
                f"{shown + skip_frames - 1} or less."
            )
        return clips

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a latent."""
        frames, height, width = self.samples.shape[2:]
        return frames, height, width

    @property
    def images_shape(self) -> tuple[int, int, int, int]:
        """Frames of all clips together, height, width and channels of the images."""
        frames, height, width = self.latent_shape
        shown = len(self.samples) * (video_frames(frames) - self.dropped)
        return shown, video_size(height), video_size(width), 3

    def decoded(self, module: VAE, tiling: Tiling | None, node_id: str | None) -> Iterator[torch.Tensor]:
        """The images, with the node's progress, stopped between any two."""
        frames = video_frames(self.samples.shape[2])
        report = _Report("decoding", node_id, len(self.samples), device_of(module))
        for place, image in enumerate(decoded_images(module, self.samples, tiling, report)):
            host.check_interrupt()
            if place % frames >= self.dropped:
                yield image


def _with_tiles(
    handle: VAEHandle,
    latent_shape: tuple[int, int, int],
    choice: dict[str, Any] | None,
    work: Callable[[VAE, Tiling | None], Result],
) -> Result:
    """``work`` with the loaded VAE and the chosen tiles; ``auto`` plans them, and again smaller if memory runs out."""
    if choice is None:  # the host passes nothing for a choice it does not know
        raise GeometryError("tiling is missing or unknown, but must be auto, tiled or whole. Choose one of them.")
    if choice["tiling"] == "whole":
        return _with_peak(_vae(handle, latent_shape, None), latent_shape, work, None)
    if choice["tiling"] == "tiled":
        tiling = Tiling(choice["tile_size"], choice["tile_frames"], choice["overlap"])
        return _with_peak(_vae(handle, latent_shape, tiling), latent_shape, work, tiling)
    # The host makes room for the original's tiles if it can; what then is free decides.
    module = _vae(handle, latent_shape, Tiling.original(HUNYUAN_VIDEO_VAE))
    weight = module.quant_conv.weight
    tiling = choose_tiling(module.config, latent_shape, weight.dtype.itemsize, memory.unreserved_bytes(weight.device))
    planned = partial(_with_peak, module, latent_shape, work)
    return with_smaller_tiles(planned, module.config, tiling, memory.empty_cache)


def _with_peak(
    module: VAE,
    latent_shape: tuple[int, int, int],
    work: Callable[[VAE, Tiling | None], Result],
    tiling: Tiling | None,
) -> Result:
    """``work`` with its predicted peak in the log before, and the measured one after, where the device counts it."""
    device, dtype = module.quant_conv.weight.device, module.quant_conv.weight.dtype
    weights = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    free = memory.unreserved_bytes(device) + weights
    plan = decoding_with(tiling, latent_shape, weights, dtype.itemsize, free, module.config)
    logger.info("plan: %s", plan.describe())
    foreign = memory.watch_peak(device) - weights
    result = work(module, tiling)
    peak = memory.peak_bytes(device)
    if peak is not None:
        logger.info("VAE: measured peak %.2f GB, predicted %.2f GB", (peak - foreign) / 1e9, plan.peak_bytes / 1e9)
    return result


def _tile(tiling: Tiling | None) -> tuple[int | None, int | None]:
    """Pixels of a side and frames of a tile; None for what is not tiled."""
    return (None, None) if tiling is None else (tiling.tile_size_px, tiling.tile_frames)


def dtype_of(choice: str, device: torch.device) -> torch.dtype:
    """What a VAE computes in on a device, by its loader's ``dtype``."""
    return host.dtype_of(choice, device, on_gpu="float16", on_cpu="float32")


def _vae(handle: VAEHandle, latent_shape: tuple[int, int, int], tiling: Tiling | None) -> VAE:
    device = host.vae_device()
    dtype = dtype_of(handle.dtype, device)
    module = memory.loaded(
        "vae",
        handle,
        partial(_read, handle, dtype),
        device=device,
        size_bytes=parameter_count(handle.file.path) * dtype.itemsize,
        activation_bytes=vae_activation_bytes(latent_shape, *_tile(tiling), dtype.itemsize),
    )
    assert isinstance(module, VAE)
    return module


def _read(handle: VAEHandle, dtype: torch.dtype, device: torch.device) -> VAE:
    return load_vae(handle.file.path, dtype=dtype, device=device)
