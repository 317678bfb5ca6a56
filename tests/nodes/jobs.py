"""Jobs for the toy checkpoint in the API format, small enough to take a fraction of a second.

Nodes have readable ids, so ``"sampler.cfg"`` names one input of a job and a server's report names its node.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

MODEL = "hyvideo_toy_t2v.safetensors"
#: Not distilled.
IMAGE_MODEL = "hyvideo_toy_i2v.safetensors"
VAE = "hyvideo_toy_vae.safetensors"
LLAMA = "hyvideo_toy_llama.safetensors"
CLIP = "hyvideo_toy_clip.safetensors"
PROMPT = "A cat walks on the grass, realistic style."
WIDTH_PX, HEIGHT_PX, FRAMES = 64, 48, 5
FPS = 24.0
TOKEN_REPLACE = "image-to-video (token_replace)"


def node(kind: str, **inputs: Any) -> Json:
    """One node; a list value [id, slot] is a link."""
    return {"class_type": kind, "inputs": inputs}


def changed(job: Mapping[str, Json], changes: Mapping[str, Any]) -> Json:
    """A copy of ``job`` with inputs set by ``"node.input"``; None takes an input away."""
    result = copy.deepcopy(dict(job))
    for place, value in changes.items():
        name, field = place.split(".", 1)
        result[name]["inputs"][field] = value
        if value is None:
            del result[name]["inputs"][field]
    return result


def text_to_latent(changes: Mapping[str, Any] | None = None) -> Json:
    """A prompt to a latent file."""
    return changed(
        {
            "model": node("HyvLoadModel", model=MODEL, dtype="auto", attention="auto"),
            "encoders": node("HyvLoadTextEncoders", llm=LLAMA, clip=CLIP, dtype="auto"),
            "prompt": node(
                "HyvEncodePrompt", text_encoders=["encoders", 0], prompt=PROMPT, negative="", template="video"
            ),
            "size": node(
                "HyvEmptyLatent",
                resolution="custom",
                **{"resolution.width": WIDTH_PX, "resolution.height": HEIGHT_PX},
                frames=FRAMES,
                batch_size=1,
            ),
            "sampler": node(
                "HyvSampler",
                model=["model", 0],
                positive=["prompt", 0],
                latent=["size", 0],
                steps=3,
                shift=7.0,
                guidance=6.0,
                cfg=1.0,
                seed=1,
                denoise=1.0,
            ),
            "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/test"),
        },
        changes or {},
    )


def decoded(job: Json) -> Json:
    """The job with its latent decoded; nothing saves the images yet."""
    rest = {name: content for name, content in job.items() if name != "save"}
    tiles = {"tiling": "tiled", "tiling.tile_size": 256, "tiling.tile_frames": 64, "tiling.overlap": 0.25}
    return rest | {
        "vae": node("HyvLoadVAE", vae=VAE, dtype="auto"),
        "decode": node("HyvDecode", vae=["vae", 0], latent=["sampler", 0], **tiles),
    }


def text_to_video(changes: Mapping[str, Any] | None = None) -> Json:
    """A prompt to an mp4."""
    save = node("HyvSaveVideo", images=["decode", 0], fps=FPS, crf=16, filename_prefix="video/test")
    return changed(decoded(text_to_latent()) | {"save": save}, changes or {})


def text_to_images(changes: Mapping[str, Any] | None = None) -> Json:
    """A prompt to one lossless PNG a frame."""
    save = node("SaveImage", images=["decode", 0], filename_prefix="image/test")
    return changed(decoded(text_to_latent()) | {"save": save}, changes or {})


def video_to_latent(changes: Mapping[str, Any] | None = None) -> Json:
    """A grey picture, encoded and then changed by the sampler, to a latent file."""
    job = text_to_latent() | {
        "picture": node("EmptyImage", width=WIDTH_PX, height=HEIGHT_PX, batch_size=FRAMES, color=0x4080C0),
        "vae": node("HyvLoadVAE", vae=VAE, dtype="auto"),
        "encode": node("HyvEncode", vae=["vae", 0], images=["picture", 0], tiling="whole"),
    }
    return changed(job, {"sampler.latent": ["encode", 0], **(changes or {})})


def image_to_latent(changes: Mapping[str, Any] | None = None, image: str = "first.png") -> Json:
    """A prompt and a picture of the input folder to a latent file; the text-to-video model plays the other kind."""
    job = text_to_latent({"model.kind": TOKEN_REPLACE}) | {
        "picture": node("LoadImage", image=image),
        "vae": node("HyvLoadVAE", vae=VAE, dtype="auto"),
        "first": node("HyvImageToVideo", model=["model", 0], vae=["vae", 0], image=["picture", 0], latent=["size", 0]),
    }
    return changed(job, {"sampler.model": ["first", 0], **(changes or {})})
