"""Workflows that begin with pictures or with a clip: those of ``workflow_graphs`` with what reads and encodes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tools.downloads import KEYFRAME_LORA, VISION
from tools.workflow_features import after, with_features, with_inputs
from tools.workflow_graphs import HOSTS_PICTURE, Graph, Link, Node

#: The user's clip in the host's input folder.
CLIP = "example.mp4"
USERS_CLIP: Graph = {
    "video": Node("LoadVideo", {"file": CLIP}, "Video"),
    "frames": Node("GetVideoComponents", {"video": Link("video")}),
}
#: What a prompt's images are for.
FIRST_FRAME: dict[str, Any] = {"use": "image-to-video v2 (token_replace)", "use.interleave": 4}
IN_PROMPT: dict[str, Any] = {"use": "images in the prompt", "use.selection": "::4"}


def seen(graph: Graph, use: Mapping[str, Any]) -> Graph:
    """With the graph's picture before the eyes of the language model, which reads the prompt with it."""
    picture = HOSTS_PICTURE if "picture" not in graph else {}
    prompt = graph["prompt"]
    said = {name: prompt.inputs[name] for name in ("text_encoders", "prompt", "negative")}
    changed = after(graph, "prompt", **picture)
    changed["encoders"] = with_inputs(graph["encoders"], vision=VISION.file)
    changed["prompt"] = Node("HyvEncodeImagePrompt", {**said, "images.image0": Link("picture"), **use}, prompt.title)
    return changed


def between(graph: Graph) -> Graph:
    """From one picture to another."""
    ends = {
        name: replace(HOSTS_PICTURE["picture"], title=title)
        for name, title in (("first", "First frame"), ("last", "Last frame"))
    }
    lora = {"lora": KEYFRAME_LORA.file, "strength": 1.0, "blocks": "", "apply": "while running"}
    keys = {"vae": Link("vae"), "first": Link("first"), "last": Link("last"), "latent": Link("size")}
    return with_features(
        after(graph, "size", **ends),
        ("lora", Node("HyvLora", lora)),
        ("keys", Node("HyvKeyframes", keys)),
    )


def of_clip(graph: Graph, clip: Graph) -> Graph:
    """With the frames that the last node of ``clip`` gives, encoded, in place of an empty latent."""
    encode = Node("HyvEncode", {"vae": Link("vae"), "images": Link(list(clip)[-1]), "tiling": "auto"})
    changed = after(graph, "size", **clip, encode=encode)
    del changed["size"]
    return {**changed, "sampler": with_inputs(graph["sampler"], latent=Link("encode"))}


def right_half(width: int, height: int) -> Graph:
    """A mask that is white there, drawn by nodes."""
    place = {"x": width // 2, "y": 0, "operation": "add"}
    return {
        "kept": Node("SolidMask", {"value": 0.0, "width": width, "height": height}, "Black: kept"),
        "anew": Node("SolidMask", {"value": 1.0, "width": width // 2, "height": height}, "White: made anew"),
        "mask": Node("MaskComposite", {"destination": Link("kept"), "source": Link("anew"), **place}, "Mask"),
    }


def inpainted(graph: Graph, clip: Graph, mask: Graph, denoise: float) -> Graph:
    """With a clip of which the white part of ``mask`` is made anew."""
    masked = Node("SetLatentNoiseMask", {"samples": Link("encode"), "mask": Link(list(mask)[-1])})
    changed = after(of_clip(graph, clip), "encode", **mask, masked=masked)
    return {**changed, "sampler": with_inputs(graph["sampler"], latent=Link("masked"), denoise=denoise)}


def inverted(graph: Graph, clip: Graph, gamma: float, eta: float) -> Graph:
    """With a clip that is inverted to noise, from which the run goes back to what the prompt says."""
    sampler = graph["sampler"]
    back = {"steps": sampler.inputs["steps"], "shift": sampler.inputs["shift"]}
    there = {"model": Link("model"), "prompt": Link("prompt", 1), "latent": Link("encode"), **back}
    steer = {"latent": Link("encode"), "eta": eta, "trend": "constant", "start": 0.0, "end": 0.6}
    changed = with_features(of_clip(graph, clip), ("steer", Node("HyvRFInversion", steer)))
    changed = after(
        changed,
        "encode",
        invert=Node("HyvInvert", {**there, "gamma": gamma, "seed": 42, "guidance": 0.0}),
    )
    return {**changed, "sampler": with_inputs(changed["sampler"], latent=Link("invert"), add_noise=False)}


def edited(graph: Graph, target: str, steps: int) -> Graph:
    """With FlowEdit after the sampler, which turns what the prompt says into what ``target`` says."""
    edit = {
        "model": Link("model"),
        "source": Link("prompt"),
        "target": Link("target"),
        "latent": Link("sampler"),
        "steps": steps,
        "shift": 7.0,
        "n_max": round(steps * 26 / 30),
        "n_min": 0,
        "n_avg": 1,
        "source_guidance": 6.0,
        "target_guidance": 12.0,
        "seed": 42,
    }
    shall = replace(with_inputs(graph["prompt"], prompt=target), title="What it shall show")
    changed = after(graph, "prompt", prompt=replace(graph["prompt"], title="What it shows"), target=shall)
    changed = after(changed, "sampler", edit=Node("HyvFlowEdit", edit))
    return {**changed, "decode": with_inputs(graph["decode"], latent=Link("edit"))}


def of_own_clip(graph: Graph) -> Graph:
    """A graph of ``edited`` that changes the user's clip instead of one that it makes itself."""
    changed = of_clip(graph, USERS_CLIP)
    del changed["sampler"]
    return {**changed, "edit": with_inputs(changed["edit"], latent=Link("encode"))}
