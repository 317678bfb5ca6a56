"""Workflows of the features: those of ``workflow_graphs`` with nodes between, or in place of, theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tools.workflow_graphs import Graph, Link, Node


def with_features(graph: Graph, *features: tuple[str, Node]) -> Graph:
    """A graph of ``own_nodes`` whose model goes through these nodes on its way to the sampler, in this order."""
    changed: Graph = {}
    for name, node in graph.items():
        if name == "sampler":
            model = node.inputs["model"]
            for added, feature in features:
                changed[added] = replace(feature, inputs={"model": model, **feature.inputs})
                model = Link(added)
            node = replace(node, inputs={**node.inputs, "model": model})
        changed[name] = node
    return changed


def with_inputs(node: Node, **inputs: Any) -> Node:
    """A node with other inputs."""
    return replace(node, inputs={**node.inputs, **inputs})


def after(graph: Graph, name: str, **nodes: Node) -> Graph:
    """A graph with nodes behind the one of this name, in this order; those it has already are replaced."""
    items = [(key, nodes.pop(key, node)) for key, node in graph.items()]
    place = [key for key, _ in items].index(name) + 1
    return dict([*items[:place], *nodes.items(), *items[place:]])


def guided(graph: Graph, stg_blocks: str) -> Graph:
    """With better guidance."""
    interval = {"start": 0.0, "end": 1.0}
    return with_features(
        graph,
        ("zero", Node("HyvCfgZeroStar", {"optimized_scale": True, "zero_steps": 1, **interval})),
        (
            "stg",
            Node("HyvSTG", {"scale": 0.5, "blocks": stg_blocks, "mode": "residual (STG-R)", **interval}),
        ),
    )


def cached(graph: Graph) -> Graph:
    """With steps skipped."""
    return with_features(graph, ("cache", Node("HyvFirstBlockCache", {"threshold": 0.06})))


def windowed(graph: Graph, window_frames: int, overlap_frames: int) -> Graph:
    """In windows of time, and steadier."""
    windows: dict[str, Any] = {"window_frames": window_frames, "overlap_frames": overlap_frames, "schedule": "static"}
    return with_features(
        graph,
        ("windows", Node("HyvContextWindows", {**windows, "blend": "pyramid", "freenoise": True})),
        ("enhance", Node("HyvEnhanceAVideo", {"weight": 4.0, "start": 0.0, "end": 1.0})),
    )


def looping(graph: Graph, shift_latent_frames: int) -> Graph:
    """Without an end."""
    changed = with_features(graph, ("loop", Node("HyvSeamlessLoop", {"shift_latent_frames": shift_latent_frames})))
    decode = changed["decode"]
    return {**changed, "decode": replace(decode, inputs={**decode.inputs, "loop": True})}


def sparse(graph: Graph) -> Graph:
    """With attention to what is near alone."""
    windows = {f"window_{axis}": 5 for axis in ("frames", "height", "width")}
    return with_features(graph, ("tiles", Node("HyvSlidingTileAttention", {**windows, "start": 0.3, "end": 1.0})))


def solved(graph: Graph, solver: str, steps: int) -> Graph:
    """With another solver, and the noise levels of a node of its own."""
    levels = Node("HyvSchedule", {"steps": steps, "shift": 7.0, "denoise": 1.0})
    return {
        **after(graph, "size", schedule=levels),
        "sampler": with_inputs(graph["sampler"], solver=solver, sigmas=Link("schedule")),
    }


def scheduled(graph: Graph, later: str) -> Graph:
    """With another prompt in the later part of the run."""
    turn = Node("HyvPromptSchedule", {"prompt": Link("later"), "start": 0.4, "fade": 0.2, "replaces": "positive"})
    second = replace(with_inputs(graph["prompt"], prompt=later), title="Later prompt")
    return after(with_features(graph, ("turn", turn)), "prompt", later=second)


def blended(graph: Graph, first: str, second: str, name: str) -> Graph:
    """With the mixture of two prompts of weighted words, which is saved for runs without text encoders."""
    prompts = {
        key: replace(with_inputs(graph["prompt"], prompt=text, weights=True), title=title)
        for key, text, title in (("prompt", first, "First prompt"), ("second", second, "Second prompt"))
    }
    mixture = {"prompt_1": Link("prompt"), "prompt_2": Link("second"), "share_2": 0.5}
    saved = {"prompt": Link("blend"), "filename_prefix": name, "note": f"Half each: {first} {second}"}
    changed = after(
        graph,
        "prompt",
        **prompts,
        blend=Node("HyvBlendPrompts", mixture),
        keep=Node("HyvSavePrompt", saved),
    )
    return {**changed, "sampler": with_inputs(graph["sampler"], positive=Link("blend"))}


def batched(graph: Graph, second: str, checkpoint_every: int, name: str) -> Graph:
    """With two clips at once, each of its own prompt and saved by itself, and checkpoints on the way."""
    batch = {"prompts.prompt0": Link("prompt"), "prompts.prompt1": Link("second")}
    changed = after(
        graph,
        "prompt",
        second=replace(with_inputs(graph["prompt"], prompt=second), title="Prompt of the second clip"),
        batch=Node("HyvBatchPrompts", batch),
    )
    changed["size"] = with_inputs(graph["size"], batch_size=2)
    changed["sampler"] = with_inputs(graph["sampler"], positive=Link("batch"), checkpoint_every=checkpoint_every)
    rest = {key: node for key, node in changed.items() if key not in ("decode", "save")}
    return {**rest, **_clip(0, "First clip", name), **_clip(1, "Second clip", name)}


def _clip(place: int, title: str, name: str) -> Graph:
    """One of the sampler's clips as an mp4, without its frames held in memory."""
    saved = {"fps": 24.0, "crf": 16, "filename_prefix": f"video/{name}_{place + 1}"}
    return {
        f"clip_{place}": Node("LatentFromBatch", {"samples": Link("sampler"), "batch_index": place, "length": 1}),
        f"save_{place}": Node(
            "HyvDecodeVideo",
            {"vae": Link("vae"), "latent": Link(f"clip_{place}"), "tiling": "auto", **saved},
            title,
        ),
    }
