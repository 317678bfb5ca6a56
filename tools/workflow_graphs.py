"""The shipped workflows, each described once: nodes with their settings and links, by readable names.

``tools/workflows.py`` turns them into the API format and the UI format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PROMPT = "A cat walks on the grass, realistic style."
HUB = "https://huggingface.co/Comfy-Org/HunyuanVideo_repackaged/resolve/main/split_files"


@dataclass(frozen=True)
class Link:
    """Output ``slot`` of the node called ``node``."""

    node: str
    slot: int = 0


@dataclass(frozen=True)
class Node:
    """A node: its class, its inputs (values or links), where it stands (column, row in px), and its title."""

    kind: str
    inputs: dict[str, Any]
    position: tuple[int, int]
    title: str | None = None
    size: tuple[int, int] = (380, 160)


@dataclass(frozen=True)
class Files:
    """Model files of a workflow."""

    model: str
    vae: str
    llm: str
    clip: str
    urls: dict[str, str] = field(default_factory=dict)


REAL = Files(
    "hunyuan_video_t2v_720p_bf16.safetensors",
    "hunyuan_video_vae_bf16.safetensors",
    "llava_llama3_fp16.safetensors",
    "clip_l.safetensors",
    {
        "hunyuan_video_t2v_720p_bf16.safetensors": f"{HUB}/diffusion_models/hunyuan_video_t2v_720p_bf16.safetensors",
        "hunyuan_video_vae_bf16.safetensors": f"{HUB}/vae/hunyuan_video_vae_bf16.safetensors",
        "llava_llama3_fp16.safetensors": f"{HUB}/text_encoders/llava_llama3_fp16.safetensors",
        "clip_l.safetensors": f"{HUB}/text_encoders/clip_l.safetensors",
    },
)
DEMO = Files(
    "hyvideo_demo_t2v.safetensors",
    "hyvideo_demo_vae.safetensors",
    "hyvideo_demo_llama.safetensors",
    "hyvideo_demo_clip.safetensors",
)


@dataclass(frozen=True)
class Scale:
    """How large and how long a workflow's result is."""

    resolution: dict[str, Any]
    frames: int
    steps: int
    tiling: dict[str, Any]


TILED = {"tiling": "tiled", "tiling.tile_size": 256, "tiling.tile_frames": 64, "tiling.overlap": 0.25}
SMALL_SIZE = {"resolution": "custom", "resolution.width": 96, "resolution.height": 64}
VIDEO_540P = Scale({"resolution": "540p 16:9 · 960×544"}, 129, 30, TILED)
IMAGE_720P = Scale({"resolution": "720p 16:9 · 1280×720"}, 1, 30, TILED)
DEMO_VIDEO = Scale(SMALL_SIZE, 17, 6, TILED)
DEMO_IMAGE = Scale(SMALL_SIZE, 1, 6, TILED)

Graph = dict[str, Node]


def own_nodes(files: Files, scale: Scale, name: str) -> Graph:
    """Everything with this pack's nodes: one frame is saved as an image, more as a video."""
    is_image = scale.frames == 1
    return {
        "model": Node("HyvLoadModel", {"model": files.model, "dtype": "auto", "attention": "auto"}, (0, 0)),
        "encoders": Node(
            "HyvLoadTextEncoders", {"llm": files.llm, "clip": files.clip, "dtype": "auto"}, (0, 200), size=(380, 140)
        ),
        "vae": Node("HyvLoadVAE", {"vae": files.vae, "dtype": "auto"}, (0, 390), size=(380, 110)),
        "prompt": Node(
            "HyvEncodePrompt",
            {
                "text_encoders": Link("encoders"),
                "prompt": PROMPT,
                "negative": "",
                "template": "image" if is_image else "video",
            },
            (430, 0),
            "Prompt",
            (420, 300),
        ),
        "size": _empty_latent(scale),
        "sampler": _sampler(scale, Link("model"), Link("prompt"), Link("prompt", 1)),
        "decode": Node(
            "HyvDecode", {"vae": Link("vae"), "latent": Link("sampler"), **scale.tiling}, (1310, 0), size=(340, 180)
        ),
        "save": _save_image(name) if is_image else _save_video(name),
    }


def native_nodes(files: Files, scale: Scale, name: str) -> Graph:
    """This pack's transformer and sampler between ComfyUI's own text encoders, guidance, VAE and video nodes."""
    return {
        "model": Node("HyvLoadModel", {"model": files.model, "dtype": "auto", "attention": "auto"}, (0, 0)),
        "encoders": Node(
            "DualCLIPLoader",
            {"clip_name1": files.clip, "clip_name2": files.llm, "type": "hunyuan_video", "device": "default"},
            (0, 200),
        ),
        "vae": Node("VAELoader", {"vae_name": files.vae, "device": "default"}, (0, 410), size=(380, 90)),
        "prompt": Node("CLIPTextEncode", {"clip": Link("encoders"), "text": PROMPT}, (430, 0), "Prompt", (420, 180)),
        "guidance": Node("FluxGuidance", {"conditioning": Link("prompt"), "guidance": 6.0}, (430, 230), size=(420, 70)),
        "size": _empty_latent(scale),
        "sampler": _sampler(scale, Link("model"), Link("guidance"), None),
        "decode": Node(
            "VAEDecodeTiled",
            {
                "samples": Link("sampler"),
                "vae": Link("vae"),
                "tile_size": 256,
                "overlap": 64,
                "temporal_size": 64,
                "temporal_overlap": 8,
            },
            (1310, 0),
            size=(340, 160),
        ),
        "video": Node("CreateVideo", {"images": Link("decode"), "fps": 24.0}, (1310, 210), size=(340, 90)),
        "save": Node(
            "SaveVideo",
            {"video": Link("video"), "filename_prefix": f"video/{name}", "format": "auto", "codec": "auto"},
            (1700, 0),
            size=(520, 460),
        ),
    }


def _empty_latent(scale: Scale) -> Node:
    inputs = {**scale.resolution, "frames": scale.frames, "batch_size": 1}
    return Node("HyvEmptyLatent", inputs, (430, 360), "Size and length", (420, 150))


def _sampler(scale: Scale, model: Link, positive: Link, negative: Link | None) -> Node:
    inputs: dict[str, Any] = {
        "model": model,
        "positive": positive,
        "latent": Link("size"),
        "steps": scale.steps,
        "shift": 7.0,
        "guidance": 6.0,
        "cfg": 1.0,
        "seed": 42,
        "denoise": 1.0,
        "cfg_start": 0.0,
        "cfg_end": 1.0,
        "guidance_rescale": 0.0,
    }
    if negative is not None:
        inputs["negative"] = negative
    return Node("HyvSampler", inputs, (900, 0), size=(360, 400))


def _save_video(name: str) -> Node:
    inputs = {"images": Link("decode"), "fps": 24.0, "crf": 16, "filename_prefix": f"video/{name}"}
    return Node("HyvSaveVideo", inputs, (1700, 0), size=(520, 460))


def _save_image(name: str) -> Node:
    return Node("SaveImage", {"images": Link("decode"), "filename_prefix": f"image/{name}"}, (1700, 0), size=(520, 460))


#: Every shipped workflow by its file name.
WORKFLOWS: dict[str, tuple[Graph, Files]] = {
    "hyvideo_t2v": (own_nodes(REAL, VIDEO_540P, "hyvideo"), REAL),
    "hyvideo_image": (own_nodes(REAL, IMAGE_720P, "hyvideo"), REAL),
    "hyvideo_t2v_native_nodes": (native_nodes(REAL, VIDEO_540P, "hyvideo_native"), REAL),
    "hyvideo_demo_t2v": (own_nodes(DEMO, DEMO_VIDEO, "hyvideo_demo"), DEMO),
    "hyvideo_demo_image": (own_nodes(DEMO, DEMO_IMAGE, "hyvideo_demo"), DEMO),
    "hyvideo_demo_t2v_native_nodes": (native_nodes(DEMO, DEMO_VIDEO, "hyvideo_demo_native"), DEMO),
}
