"""The shipped workflows, each described once: nodes with their settings and links, by readable names.

``tools/workflows.py`` turns them into the API format and the UI format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tools.demo_model import files as demo

PROMPT = "A cat walks on the grass, realistic style."
#: What ``HOSTS_PICTURE`` shows, and what happens there.
MOTION = "A child's drawing of a girl in a pink dress on a green hill. She waves both arms, clouds drift by."
#: What the small model of the pack is asked for.
DEMO_PROMPT = "a red circle moving left on a white background"
DEMO_IMAGE_PROMPT = "a red circle on a white background"
DEMO_MOTION = "a red square moving left on a white background"
HUB = "https://huggingface.co/Comfy-Org/HunyuanVideo_repackaged/resolve/main/split_files"


@dataclass(frozen=True)
class Link:
    """Output ``slot`` of the node called ``node``."""

    node: str
    slot: int = 0


@dataclass(frozen=True)
class Node:
    """A node: its class, its inputs (values or links), the column it stands in, its height and its title."""

    kind: str
    inputs: dict[str, Any]
    column: int
    height_px: int
    title: str | None = None


@dataclass(frozen=True)
class Download:
    """A file of the hub: the folder inside ``models`` that it belongs in, where it is, and its size."""

    folder: str
    url: str
    size: str

    @property
    def file(self) -> str:
        """Its name."""
        return self.url.rsplit("/", 1)[1]

    @property
    def line(self) -> str:
        """Its line in a note."""
        return f"- **models/{self.folder}**: [{self.file}]({self.url}), {self.size}"


@dataclass(frozen=True)
class Files:
    """Model files of a workflow, where to download them, and the note beside the graph.

    ``kind`` is what the transformer is for, where its file does not tell.
    """

    model: str
    vae: str
    llm: str
    clip: str
    note_title: str
    note: str
    downloads: tuple[Download, ...] = ()
    kind: str = "auto"

    def download(self, file: Any) -> Download | None:
        """Where a file is to be had, if it is none of the pack's own."""
        return next((each for each in self.downloads if each.file == file), None)

    def explained(self, text: str) -> Files:
        """The same with a paragraph about the workflow in front of the note."""
        return replace(self, note=f"{text}\n\n{self.note}")


def _of_hub(folder: str, file: str, size: str) -> Download:
    return Download(folder, f"{HUB}/{folder}/{file}", size)


LLM = _of_hub("text_encoders", "llava_llama3_fp16.safetensors", "16.1 GB")
CLIP_L = _of_hub("text_encoders", "clip_l.safetensors", "246 MB")
VISION = _of_hub("clip_vision", "llava_llama3_vision.safetensors", "649 MB")
VAE = _of_hub("vae", "hunyuan_video_vae_bf16.safetensors", "493 MB")
KEYFRAME_LORA = Download(
    "loras", "https://huggingface.co/dashtoon/hunyuan-video-keyframe-control-lora/resolve/main/i2v.sft", "1.15 GB"
)


def _real_files(model: str, *others: Download, kind: str = "auto") -> Files:
    downloads = (_of_hub("diffusion_models", model, "25.6 GB"), LLM, CLIP_L, VAE, *others)
    lines = [each.line for each in downloads]
    note = "\n".join(["Download each file into its folder, then press **R** to refresh the lists.", "", *lines])
    return Files(model, VAE.file, LLM.file, CLIP_L.file, "Model files", note, downloads, kind)


TOKEN_REPLACE = "image-to-video (token_replace)"
T2V = "hunyuan_video_t2v_720p_bf16.safetensors"
I2V = "hunyuan_video_v2_replace_image_to_video_720p_bf16.safetensors"
REAL = _real_files(T2V)
REAL_VISION = _real_files(T2V, VISION)
REAL_KEYFRAMES = _real_files(T2V, KEYFRAME_LORA)
REAL_I2V = _real_files(I2V, kind=TOKEN_REPLACE)
REAL_I2V_VISION = _real_files(I2V, VISION, kind=TOKEN_REPLACE)
DEMO = Files(
    demo.T2V.name,
    demo.VAE.name,
    demo.LLAMA.name,
    demo.CLIP.name,
    "Demo",
    "A very small HunyuanVideo that comes with the pack: **nothing to download**, and it runs on any machine. It knows "
    "one or two circles, squares, triangles and crosses; red, orange, yellow, green, cyan, blue, purple, white and "
    "black; that they move in any direction, stay, grow or shrink, slowly or fast; and the background. Sizes are 96×48 "
    "and 64×64, with 17 frames or 1.\n\n"
    "For real videos open the template **hyvideo_t2v**.",
)
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
        "encoders": Node("HyvLoadTextEncoders", {"llm": files.llm, "clip": files.clip, "dtype": "auto"}, 0, 150),
        "vae": Node("HyvLoadVAE", {"vae": files.vae, "dtype": "auto"}, 0, 120),
        "prompt": Node(
            "HyvEncodePrompt",
            {
                "text_encoders": Link("encoders"),
                "prompt": prompt,
                "negative": "",
                "template": "image" if is_image else "video",
            },
            1,
            270,
            "Prompt",
        ),
        "size": _empty_latent(scale),
        "sampler": _sampler(scale, Link("model"), Link("prompt"), Link("prompt", 1)),
        "decode": Node("HyvDecode", {"vae": Link("vae"), "latent": Link("sampler"), "tiling": "auto"}, 2, 260),
        "save": _save_image(name) if is_image else _save_video(name),
    }


def image_to_video(graph: Graph, picture: Graph) -> Graph:
    """A graph of ``own_nodes`` whose video begins with what the node ``picture`` of the other graph gives."""
    inputs = {"model": Link("model"), "vae": Link("vae"), "image": Link("picture"), "latent": Link("size")}
    changed: Graph = {}
    for name, node in graph.items():
        if name == "sampler":
            changed |= {**picture, "first": Node("HyvImageToVideo", {**inputs, "stability": True}, 2, 140)}
            node = replace(node, inputs={**node.inputs, "model": Link("first")})
        changed[name] = node
    return changed


#: A picture that every ComfyUI brings.
HOSTS_PICTURE: Graph = {"picture": Node("LoadImage", {"image": "example.png"}, 1, 330, "Image")}


def red_square(side: int = 22, left: int = 52, frames: int = 1) -> Graph:
    """A picture for the demo, or a clip in which nothing moves, drawn by nodes: no file is needed."""
    width, height = SMALL_SIZE["resolution.width"], SMALL_SIZE["resolution.height"]
    paper = {"width": width, "height": height, "batch_size": frames, "color": 0xF7F7F7}
    ink = {"width": side, "height": side, "batch_size": 1, "color": 0xD91A1A}
    place = {"x": left, "y": (height - side) // 2, "resize_source": False}
    return {
        "background": Node("EmptyImage", paper, 1, 130, "Background"),
        "square": Node("EmptyImage", ink, 1, 130, "Square"),
        "picture": Node(
            "ImageCompositeMasked",
            {"destination": Link("background"), "source": Link("square"), **place},
            1,
            150,
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
            0,
            150,
        ),
        "vae": Node("VAELoader", {"vae_name": files.vae}, 0, 120),
        "prompt": Node("CLIPTextEncode", {"clip": Link("encoders"), "text": PROMPT}, 1, 250, "Prompt"),
        "guidance": Node("FluxGuidance", {"conditioning": Link("prompt"), "guidance": 6.0}, 1, 80),
        "size": _empty_latent(scale),
        "sampler": _sampler(scale, Link("model"), Link("guidance"), None),
        "decode": Node("VAEDecodeTiled", {"samples": Link("sampler"), "vae": Link("vae"), **tiling}, 2, 260),
        **({"save": _save_image(name)} if scale.frames == 1 else _save_video_natively(name)),
    }


def _load_model(files: Files) -> Node:
    inputs = {"model": files.model, "dtype": "auto", "attention": "auto"}
    if files.kind == "auto":
        return Node("HyvLoadModel", inputs, 0, 190)
    return Node("HyvLoadModel", inputs | {"kind": files.kind}, 0, 190)


def _empty_latent(scale: Scale) -> Node:
    inputs = {**scale.resolution, "frames": scale.frames, "batch_size": 1}
    return Node("HyvEmptyLatent", inputs, 1, 200, "Size and length")


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
    return Node("HyvSampler", inputs, 2, 460)


def _save_video(name: str) -> Node:
    inputs = {"images": Link("decode"), "fps": 24.0, "crf": 16, "filename_prefix": f"video/{name}"}
    return Node("HyvSaveVideo", inputs, 3, 724)


def _save_video_natively(name: str) -> Graph:
    saved = {"video": Link("video"), "filename_prefix": f"video/{name}", "format": "auto", "codec": "auto"}
    return {
        "video": Node("CreateVideo", {"images": Link("decode"), "fps": 24.0, "bit_depth": 8}, 3, 110),
        "save": Node("SaveVideo", saved, 3, 560),
    }


def _save_image(name: str) -> Node:
    return Node("SaveImage", {"images": Link("decode"), "filename_prefix": f"image/{name}"}, 3, 724)
