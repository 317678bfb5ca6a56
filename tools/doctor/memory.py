"""How videos of several sizes would be made in the memory that is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tools.doctor.devices import free_gpu_bytes, ram_bytes
from tools.doctor.lines import BAD, GB, GOOD, INFO, say
from tools.model_files import Found

if TYPE_CHECKING:
    from hyvideo_core.sampling_plan import SamplingPlan
    from hyvideo_core.weights import TransformerFile

#: Width, height and frames: the model's own sizes, a small video, an image.
SIZES = ((1280, 720, 129), (960, 544, 129), (512, 320, 61), (1280, 720, 1))
#: The first video that the README leads to.
FIRST_VIDEO = (960, 544, 129)
#: Bytes of the dtypes in which the nodes compute on a GPU: bfloat16 in the transformer, float16 in the VAE.
DTYPE_BYTES = 2


def report_memory(found: Sequence[Found]) -> bool:
    """How each size would be made in the memory that is free now; True if the first video fits, decoding included."""
    free, ram = free_gpu_bytes(), ram_bytes()
    if free is None:
        say(BAD, "there is no GPU, and a CPU is far too slow for the real model")
        say(INFO, "what a GPU would need: from streaming all blocks to holding them")
    else:
        say(INFO, f"{free / GB:.1f} GB of GPU 0 are free now, besides what ComfyUI reserves; predicted peaks:")
    fits = False
    for name, file in transformers(found).items():
        fits |= report_sampling(name, file, free, ram and ram[0])
    return report_decoding(free) and fits


def transformers(found: Sequence[Found]) -> Mapping[str, TransformerFile]:
    """The largest and the smallest transformer by what they take; of none, what is published in bf16 and fp8."""
    from hyvideo_core.weights import inspect_dit

    files = {file.path.name: inspect_dit(file.path) for file in found if file.kind == "transformer" and file.usable}
    if not files:
        return {"published bf16 file": published("bfloat16", 2), "published fp8 file": published("float8_e4m3fn", 1)}
    by_size = sorted(files, key=lambda name: sum(files[name].block_bytes))
    return {name: files[name] for name in dict.fromkeys((by_size[-1], by_size[0]))}


def published(stored: str, bytes_each: int) -> TransformerFile:
    """The official model as a file that holds its blocks so."""
    import torch

    from hyvideo_core.configs import HUNYUAN_VIDEO
    from hyvideo_core.model import DiT
    from hyvideo_core.weights import TransformerFile

    with torch.device("meta"):
        dit = DiT(HUNYUAN_VIDEO)
    blocks = tuple(sum(p.numel() for p in block.parameters()) for block in (*dit.double_blocks, *dit.single_blocks))
    others = sum(p.numel() for p in dit.parameters()) - sum(blocks)
    return TransformerFile(HUNYUAN_VIDEO, stored, tuple(bytes_each * count for count in blocks), blocks, others)


def report_sampling(name: str, file: TransformerFile, free: int | None, ram: int | None) -> bool:
    """The plan for each size; True if the first video fits."""
    from hyvideo_core.errors import DoesNotFitError
    from hyvideo_core.sampling_plan import plan_sampling, weights_of

    weights = weights_of(file, "auto", DTYPE_BYTES)
    say(INFO, f"sampling with {name}, {weights.total_bytes / GB:.1f} GB of weights:")
    fitting, streams = [], False
    for size in SIZES:
        shape = (1, file.config.out_channels, *latent_size(size))
        # Without a limit everything is on the GPU; from there down to the least.
        most = least = plan_sampling(file.config, weights, shape, DTYPE_BYTES, 2**62)
        while (lower := least.lowered()) is not None:
            least = lower
        if free is None:
            say_size(INFO, size, f"{least.peak_bytes / GB:.1f} to {most.peak_bytes / GB:.1f} GB")
            continue
        try:
            plan = plan_sampling(file.config, weights, shape, DTYPE_BYTES, free)
        except DoesNotFitError:
            say_size(BAD, size, f"does not fit: needs {least.peak_bytes / GB:.1f} GB")
            continue
        say_size(GOOD, size, f"{plan.peak_bytes / GB:.1f} GB, {placement(plan)}")
        fitting.append(size)
        streams |= plan.streamed_bytes > 0
    if streams and ram is not None and ram < weights.total_bytes:
        say(BAD, f"RAM has {ram / GB:.1f} GB, less than the weights: they would come from disk in each step")
    return FIRST_VIDEO in fitting


def placement(plan: SamplingPlan) -> str:
    """Where a plan has the blocks, and whether that costs time."""
    if plan.resident_blocks == plan.blocks:
        return f"all {plan.blocks} blocks on the GPU"
    effect = "slowing it down" if plan.transfer_s > plan.compute_s else "unnoticed"
    return f"{plan.resident_blocks} of {plan.blocks} blocks on the GPU, rest streams {effect}"


def report_decoding(free: int | None) -> bool:
    """The tiles for each size, or all that might be chosen without a GPU; True if the first video fits."""
    from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
    from hyvideo_core.decoding_plan import choose_tiling, tilings, vae_activation_bytes
    from hyvideo_core.errors import GeometryError

    weights = vae_weights_bytes()
    say(INFO, f"decoding, {weights / GB:.1f} GB of weights:")
    fitting = []
    for size in SIZES:
        latent = latent_size(size)
        needs = {
            tiling: weights + vae_activation_bytes(latent, tiling.tile_size_px, tiling.tile_frames, DTYPE_BYTES)
            for tiling in tilings(HUNYUAN_VIDEO_VAE)
        }
        if free is None:
            say_size(INFO, size, f"{min(needs.values()) / GB:.1f} to {max(needs.values()) / GB:.1f} GB")
            continue
        try:
            tiling = choose_tiling(HUNYUAN_VIDEO_VAE, latent, DTYPE_BYTES, free - weights)
        except GeometryError:
            say_size(BAD, size, f"does not fit: needs {min(needs.values()) / GB:.1f} GB")
            continue
        tiles = f"tiles of {tiling.tile_size_px} px and {tiling.tile_frames} frames"
        say_size(GOOD, size, f"{needs[tiling] / GB:.1f} GB, {tiles}")
        fitting.append(size)
    return FIRST_VIDEO in fitting


def vae_weights_bytes() -> int:
    """What the VAE's weights take."""
    import torch

    from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
    from hyvideo_core.vae import VAE

    with torch.device("meta"):
        vae = VAE(HUNYUAN_VIDEO_VAE)
    return sum(p.numel() for p in vae.parameters()) * DTYPE_BYTES


def say_size(sign: str, size: tuple[int, int, int], text: str) -> None:
    """One row of a table by sizes."""
    say(" ", f"{sign} {'×'.join(map(str, size)):<13}{text}")


def latent_size(size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Frames, height and width of the latent."""
    from hyvideo_core.types import Geometry

    return Geometry(*size).latent_shape
