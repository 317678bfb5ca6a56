"""The size of the clip, as an empty latent."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import GeometryError
from hyvideo_core.types import Geometry

from .adapt import host_latent
from .handles import CATEGORY

#: Width and height in pixels of the sizes the model was trained on. Source: HunyuanVideo README, resolution table.
OFFICIAL_SIZES_PX = {
    "720p 16:9 · 1280×720": (1280, 720),
    "720p 9:16 · 720×1280": (720, 1280),
    "720p 4:3 · 1104×832": (1104, 832),
    "720p 3:4 · 832×1104": (832, 1104),
    "720p 1:1 · 960×960": (960, 960),
    "540p 16:9 · 960×544": (960, 544),
    "540p 9:16 · 544×960": (544, 960),
    "540p 4:3 · 832×624": (832, 624),
    "540p 3:4 · 624×832": (624, 832),
    "540p 1:1 · 720×720": (720, 720),
}
OFFICIAL_FRAMES = 129
CUSTOM = "custom"


class HyvEmptyLatent(io.ComfyNode):
    """Resolution, length and batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        free = [
            io.Int.Input("width", default=640, min=16, max=4096, step=16, tooltip="Pixels; a multiple of 16."),
            io.Int.Input("height", default=352, min=16, max=4096, step=16, tooltip="Pixels; a multiple of 16."),
        ]
        official = [io.DynamicCombo.Option(name, []) for name in OFFICIAL_SIZES_PX]
        return io.Schema(
            node_id="HyvEmptyLatent",
            display_name="HyVideo Empty Latent",
            category=f"{CATEGORY}/latent",
            description="Size and length of the clip to make. One frame makes an image.",
            search_aliases=["empty hunyuan latent video", "resolution", "EmptyHunyuanLatentVideo"],
            inputs=[
                io.DynamicCombo.Input(
                    "resolution",
                    options=[*official, io.DynamicCombo.Option(CUSTOM, free)],
                    tooltip="The ten sizes the model was trained on, or your own. 540p takes about a third of the "
                    "time of 720p.",
                ),
                io.Int.Input(
                    "frames",
                    default=OFFICIAL_FRAMES,
                    min=1,
                    max=1025,
                    step=4,
                    tooltip="4n+1: 1 is an image, 129 is 5.4 s at 24 frames a second and what the model was trained "
                    "on. Memory and time grow faster than the length.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many clips to make at once."),
            ],
            outputs=[io.Latent.Output("latent", tooltip="For HyVideo Sampler.")],
        )

    @classmethod
    def execute(cls, frames: int, batch_size: int, resolution: dict[str, Any] | None = None) -> io.NodeOutput:
        geometry = Geometry(*size_px(resolution), frames)
        shape = (batch_size, HUNYUAN_VIDEO_VAE.latent_channels, *geometry.latent_shape)
        return io.NodeOutput(host_latent(torch.zeros(shape)))


def size_px(resolution: dict[str, Any] | None) -> tuple[int, int]:
    """Width and height of a choice. Raises ``GeometryError`` for none."""
    if resolution is None:  # the host passes nothing for a choice it does not know
        raise GeometryError(
            f"resolution is missing or unknown, but must be one of {', '.join(OFFICIAL_SIZES_PX)}, or '{CUSTOM}' "
            "together with resolution.width and resolution.height. Choose one of them."
        )
    if resolution["resolution"] in OFFICIAL_SIZES_PX:
        return OFFICIAL_SIZES_PX[resolution["resolution"]]
    return int(resolution["width"]), int(resolution["height"])
