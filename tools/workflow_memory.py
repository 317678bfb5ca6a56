"""What the workflows for the real files take of a card, by the arithmetic of the plan: nothing is measured here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.decoding_plan import tilings, vae_activation_bytes
from hyvideo_core.extensions import ContextWindows, FirstBlockCache, SlidingTileAttention
from hyvideo_core.extensions.context_windows import evaluated_shape
from hyvideo_core.extensions.reserved import reserved_bytes
from hyvideo_core.sample.seams import Extension
from hyvideo_core.sampling_plan import SamplingPlan, plan_sampling, weights_of
from hyvideo_core.types import Geometry
from tools.doctor.lines import GB
from tools.doctor.memory import DTYPE_BYTES, published, vae_weights_bytes
from tools.workflow_graphs import VIDEO_540P, Graph

#: Features that take memory of their own, or spare some, by the nodes that add them.
FEATURES: dict[str, Callable[[dict[str, Any]], Extension]] = {
    "HyvFirstBlockCache": lambda inputs: FirstBlockCache(threshold=inputs["threshold"]),
    "HyvContextWindows": lambda inputs: ContextWindows(
        window_frames=inputs["window_frames"],
        overlap_frames=inputs["overlap_frames"],
        schedule=inputs["schedule"],
    ),
    "HyvSlidingTileAttention": lambda inputs: SlidingTileAttention(),
}
#: What a card may have free.
CARDS_GB = (24, 12)
UNLIMITED = 2**62


def told(graph: Graph) -> str:
    """Markdown for a note on what sampling and decoding take, and how many blocks stay on cards."""
    geometry, batch, _ = size(graph)
    plan_for = _planner(graph, geometry, batch)
    most = least = plan_for(UNLIMITED)
    while (lower := least.lowered()) is not None:
        least = lower
    decoding = [
        vae_weights_bytes()
        + vae_activation_bytes(geometry.latent_shape, tile.tile_size_px, tile.tile_frames, DTYPE_BYTES)
        for tile in tilings(HUNYUAN_VIDEO_VAE)
    ]
    stay = ", ".join(f"{plan_for(free * GB).resident_blocks} with {free} GB free" for free in CARDS_GB)
    return "\n".join(
        (
            f"**Memory of the card**, predicted for {_subject(graph)}:",
            "",
            f"- sampling: {_gb(most.peak_bytes)} with all of the bf16 file there; {_gb(least.peak_bytes)} with all its "
            f"{most.blocks} blocks streamed from the computer's memory, which then holds "
            f"{_gb(most.weights.total_bytes)}. Blocks that stay there: {stay}.",
            f"- decoding: {_gb(min(decoding))} to {_gb(max(decoding))}.",
            "",
            "For your card see *HyVideo Plan*, or run **python tools/dev.py doctor** in the pack's folder.",
        )
    )


def _subject(graph: Graph) -> str:
    """What the numbers are of."""
    geometry, batch, is_own_clip = size(graph)
    asked = f"{geometry.width}×{geometry.height}, {geometry.frames} frame{'s' * (geometry.frames > 1)}"
    clips = f", {batch} clips at once" if batch > 1 else ""
    without = ", the LoRA not counted" if any(node.kind == "HyvLora" for node in graph.values()) else ""
    return f"{'a clip of ' * is_own_clip}{asked}{clips}{without}"


def size(graph: Graph) -> tuple[Geometry, int, bool]:
    """Size and number of clips that a graph makes, and whether they are those of the user's own clip, here assumed."""
    inputs = next((node.inputs for node in graph.values() if node.kind == "HyvEmptyLatent"), None)
    asked = {**VIDEO_540P.resolution, "frames": VIDEO_540P.frames, "batch_size": 1} if inputs is None else inputs
    width, height = map(int, re.findall(r"\d+", asked["resolution"].split("·")[1]))
    return Geometry(width, height, asked["frames"]), asked["batch_size"], inputs is None


def _planner(graph: Graph, geometry: Geometry, batch: int) -> Callable[[int], SamplingPlan]:
    """The plan of the graph's sampling by the bytes that are free."""
    file = _bf16()
    extensions: Sequence[Extension] = [
        FEATURES[node.kind](node.inputs) for node in graph.values() if node.kind in FEATURES
    ]
    latent = (batch, file.config.out_channels, *geometry.latent_shape)
    weights = weights_of(file, "auto", DTYPE_BYTES)
    shape = evaluated_shape(extensions, latent)
    reserved = reserved_bytes(extensions, file.config, latent, DTYPE_BYTES)
    return lambda free: plan_sampling(file.config, weights, shape, DTYPE_BYTES, free, feature_bytes=reserved)


@cache
def _bf16() -> Any:
    return published("bfloat16", DTYPE_BYTES)


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / GB:.1f} GB"
