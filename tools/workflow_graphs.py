"""The shipped workflows, each described once: nodes with their settings and links, by readable names.

``tools/workflows.py`` turns them into the API format and the UI format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tools.demo_model import files as demo
from tools.downloads import CLIP_L, I2V, KEYFRAME_LORA, LLM, T2V, VAE, VISION, Download

PROMPT = "A cat walks on the grass, realistic style."
#: What ``HOSTS_PICTURE`` shows, and what happens there.
MOTION = "A child's drawing of a girl in a pink dress on a green hill. She waves both arms, clouds drift by."
#: What the small model of the pack is asked for.
DEMO_PROMPT = "a red circle moving left on a white background"
DEMO_IMAGE_PROMPT = "a red circle on a white background"
DEMO_MOTION = "a red square moving left on a white background"


@dataclass(frozen=True)
class Link:
    """Output ``slot`` of the node called ``node``."""

    node: str
    slot: int = 0


@dataclass(frozen=True)
class Node:
    """A node: its class, its inputs (values or links), and its title where that is not the class's."""

    kind: str
    inputs: dict[str, Any]
    title: str | None = None


@dataclass(frozen=True)
class Files:
    """Model files of a workflow by their names, and the ``downloads`` among them: none where all come with the pack.

    ``kind`` is what the transformer is for, where its file does not tell.
    """

    model: str
    vae: str
    llm: str
    clip: str
    downloads: tuple[Download, ...] = ()
    kind: str = "auto"

    def download(self, file: Any) -> Download | None:
        """Where a file is to be had, if it is none of the pack's own."""
        return next((each for each in self.downloads if each.file == file), None)


def _real_files(model: Download, *others: Download, kind: str = "auto") -> Files:
    downloads = (model, LLM, CLIP_L, VAE, *others)
    return Files(model.file, VAE.file, LLM.file, CLIP_L.file, downloads, kind)


TOKEN_REPLACE = "image-to-video (token_replace)"
REAL = _real_files(T2V)
REAL_VISION = _real_files(T2V, VISION)
REAL_KEYFRAMES = _real_files(T2V, KEYFRAME_LORA)
REAL_I2V = _real_files(I2V, kind=TOKEN_REPLACE)
REAL_I2V_VISION = _real_files(I2V, VISION, kind=TOKEN_REPLACE)
DEMO = Files(demo.T2V.name, demo.VAE.name, demo.LLAMA.name, demo.CLIP.name)
#: Not distilled: it is guided by ``cfg``.
DEMO_I2V = replace(DEMO, model=demo.I2V.name, kind=TOKEN_REPLACE)


@dataclass(frozen=True)
class Scale:
    """How large and how long a workflow's result is, and what its sampler takes for it."""

    resolution: dict[str, Any]
    frames: int
    steps: int
    cfg: float = 1.0


SMALL_SIZE: dict[str, Any] = {"resolution": "custom", "resolution.width": 96, "resolution.height": 48}
VIDEO_540P = Scale({"resolution": "540p 16:9 · 960×544"}, 129, 30)
VIDEO_720P = Scale({"resolution": "720p 16:9 · 1280×720"}, 129, 30)
IMAGE_720P = Scale({"resolution": "720p 16:9 · 1280×720"}, 1, 30)
DEMO_VIDEO = Scale(SMALL_SIZE, 17, 20)
DEMO_IMAGE = Scale(SMALL_SIZE, 1, 20)

Graph = dict[str, Node]


def own_nodes(files: Files, scale: Scale, name: str, prompt: str = PROMPT) -> Graph:
    """Everything with this pack's nodes: one frame is saved as an image, more as a video."""
    is_image = scale.frames == 1
    return {
        "model": _load_model(files),
        "encoders": Node("HyvLoadTextEncoders", {"llm": files.llm, "clip": files.clip, "dtype": "auto"}),
        "vae": Node("HyvLoadVAE", {"vae": files.vae, "dtype": "auto"}),
        "prompt": Node(
            "HyvEncodePrompt",
            {
                "text_encoders": Link("encoders"),
                "prompt": prompt,
                "negative": "",
                "template": "image" if is_image else "video",
            },
            "Prompt",
        ),
        "size": _empty_latent(scale),
        "sampler": _sampler(scale, Link("model"), Link("prompt"), Link("prompt", 1)),
        "decode": Node("HyvDecode", {"vae": Link("vae"), "latent": Link("sampler"), "tiling": "auto"}),
        "save": _save_image(name) if is_image else _save_video(name),
    }


def image_to_video(graph: Graph, picture: Graph) -> Graph:
    """A graph of ``own_nodes`` whose video begins with what the node ``picture`` of the other graph gives."""
    inputs = {"model": Link("model"), "vae": Link("vae"), "image": Link("picture"), "latent": Link("size")}
    changed: Graph = {}
    for name, node in graph.items():
        if name == "sampler":
            changed |= {**picture, "first": Node("HyvImageToVideo", {**inputs, "stability": True})}
            node = replace(node, inputs={**node.inputs, "model": Link("first")})
        changed[name] = node
    return changed


#: A picture that every ComfyUI brings.
HOSTS_PICTURE: Graph = {"picture": Node("LoadImage", {"image": "example.png"}, "Image")}


def red_square(side: int = 22, left: int = 52, frames: int = 1) -> Graph:
    """A picture for the demo, or a clip in which nothing moves, drawn by nodes: no file is needed."""
    width, height = SMALL_SIZE["resolution.width"], SMALL_SIZE["resolution.height"]
    paper = {"width": width, "height": height, "batch_size": frames, "color": 0xF7F7F7}
    ink = {"width": side, "height": side, "batch_size": 1, "color": 0xD91A1A}
    place = {"x": left, "y": (height - side) // 2, "resize_source": False}
    return {
        "background": Node("EmptyImage", paper, "Background"),
        "square": Node("EmptyImage", ink, "Square"),
        "picture": Node(
            "ImageCompositeMasked",
            {"destination": Link("background"), "source": Link("square"), **place},
            "Image",
        ),
    }


def native_nodes(files: Files, scale: Scale, name: str) -> Graph:
    """This pack's transformer and sampler between ComfyUI's own text encoders, guidance, VAE and saving nodes."""
    tiling = {"tile_size": 256, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    return {
        "model": _load_model(files),
        "encoders": Node(
            "DualCLIPLoader",
            {"clip_name1": files.clip, "clip_name2": files.llm, "type": "hunyuan_video", "device": "default"},
        ),
        "vae": Node("VAELoader", {"vae_name": files.vae}),
        "prompt": Node("CLIPTextEncode", {"clip": Link("encoders"), "text": PROMPT}, "Prompt"),
        "guidance": Node("FluxGuidance", {"conditioning": Link("prompt"), "guidance": 6.0}),
        "size": _empty_latent(scale),
        "sampler": _sampler(scale, Link("model"), Link("guidance"), None),
        "decode": Node("VAEDecodeTiled", {"samples": Link("sampler"), "vae": Link("vae"), **tiling}),
        **({"save": _save_image(name)} if scale.frames == 1 else _save_video_natively(name)),
    }


def _load_model(files: Files) -> Node:
    inputs = {"model": files.model, "dtype": "auto", "attention": "auto"}
    if files.kind == "auto":
        return Node("HyvLoadModel", inputs)
    return Node("HyvLoadModel", inputs | {"kind": files.kind})


def _empty_latent(scale: Scale) -> Node:
    inputs = {**scale.resolution, "frames": scale.frames, "batch_size": 1}
    return Node("HyvEmptyLatent", inputs, "Size and length")


def _sampler(scale: Scale, model: Link, positive: Link, negative: Link | None) -> Node:
    inputs: dict[str, Any] = {
        "model": model,
        "positive": positive,
        "latent": Link("size"),
        "steps": scale.steps,
        "shift": 7.0,
        "guidance": 6.0,
        "cfg": scale.cfg,
        "seed": 42,
        "denoise": 1.0,
        "cfg_start": 0.0,
        "cfg_end": 1.0,
        "guidance_rescale": 0.0,
    }
    if negative is not None:
        inputs["negative"] = negative
    return Node("HyvSampler", inputs)


def _save_video(name: str) -> Node:
    inputs = {"images": Link("decode"), "fps": 24.0, "crf": 16, "filename_prefix": f"video/{name}"}
    return Node("HyvSaveVideo", inputs)


def _save_video_natively(name: str) -> Graph:
    saved = {"video": Link("video"), "filename_prefix": f"video/{name}", "format": "auto", "codec": "auto"}
    return {
        "video": Node("CreateVideo", {"images": Link("decode"), "fps": 24.0, "bit_depth": 8}),
        "save": Node("SaveVideo", saved),
    }


def _save_image(name: str) -> Node:
    return Node("SaveImage", {"images": Link("decode"), "filename_prefix": f"image/{name}"})
