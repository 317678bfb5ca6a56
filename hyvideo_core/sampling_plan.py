"""What sampling will take of a device, and how to make it fit: plain arithmetic on shapes, no tensor is made.

The peak follows from what is alive at once; tests hold it against traced allocations. The times only decide between
ways to fit. They assume a mid-range card, so that a plan errs towards keeping weights on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from hyvideo_core.attention.registry import KERNELS, PLAIN
from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import DoesNotFitError, is_out_of_memory
from hyvideo_core.memory.placement import spread
from hyvideo_core.memory.streaming import BUFFERS
from hyvideo_core.model.dit import CHUNK_PART, CHUNK_TOKENS
from hyvideo_core.weights import TransformerFile

Result = TypeVar("Result")

#: Text tokens a prompt may add.
TEXT_TOKENS = 256
#: Room beside the sum: the caching allocator's rounding, cuBLAS's workspace, tensors too small to count.
MARGIN, WORKSPACE_BYTES = 1.03, 150 * 2**20
#: Hidden widths alive for each token of a chunk while a block ends: norm, wide layer, what it is joined to, result,
#: and the copies that kernels make of them.
CHUNK_WIDTHS = 14
#: What decides between plans: bf16 products and copies from page-locked memory, as a mid-range card does them.
ASSUMED_FLOPS, ASSUMED_BYTES_PER_S = 150e12, 20e9
#: Each doubling of the groups of heads makes products narrower. An assumption, not a measurement on a card.
GROUP_COST = 0.01


@dataclass(frozen=True)
class HeldWeights:
    """A transformer's weights as they are held: bytes of each block in order of execution, and of everything else.

    ``unpacked_bytes`` is the most that exists unpacked at a time, 0 for plain weights.
    """

    block_bytes: tuple[int, ...]
    other_bytes: int
    unpacked_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(self.block_bytes) + self.other_bytes


@dataclass(frozen=True)
class SamplingPlan:
    """How one model samples one size: what is on the device, and what that takes at most.

    ``resident_blocks`` stay on the device, the others stream ``streamed_bytes`` in every evaluation. ``attention``
    names the kernel; ``lora_bytes`` are the terms of LoRAs beside the weights (``weights.lora_bytes``), and
    ``feature_bytes`` what features hold while the model runs (``extensions.reserved``). With ``is_all_memory``,
    ``free_bytes`` is all the memory of the machine, whatever else holds it now.
    """

    config: DiTConfig
    weights: HeldWeights
    latent_shape: tuple[int, ...]
    dtype_bytes: int
    free_bytes: int
    resident_blocks: int
    head_groups: int = 1
    attention: str = "auto"
    lora_bytes: int = 0
    feature_bytes: int = 0
    is_all_memory: bool = False

    @property
    def blocks(self) -> int:
        """Blocks of the model."""
        return len(self.weights.block_bytes)

    @property
    def weights_bytes(self) -> int:
        """Weights on the device, the buffers of the streaming blocks among them."""
        waiting = self._waiting()
        buffers = min(BUFFERS, len(waiting)) * max(waiting, default=0)
        return self.weights.total_bytes - sum(waiting) + buffers

    @property
    def streamed_bytes(self) -> int:
        """Bytes copied from the host in every evaluation."""
        waiting = self._waiting()
        return sum(waiting) if len(waiting) > BUFFERS else 0

    @property
    def activation_bytes(self) -> int:
        """Peak beside the weights, LoRAs and features among it."""
        peak = activation_bytes(
            self.config,
            self.latent_shape,
            self.dtype_bytes,
            self.head_groups,
            self.weights.unpacked_bytes,
            self.attention,
        )
        return peak + self.lora_bytes + self.feature_bytes

    @property
    def peak_bytes(self) -> int:
        """Most bytes on the device at once."""
        return self.weights_bytes + self.activation_bytes

    @property
    def flops(self) -> int:
        """Operations of one evaluation, by every token attending to every other."""
        tokens = _tokens(self.latent_shape) + TEXT_TOKENS
        hidden = self.config.hidden_size
        # MODEL.md: 24·D²·N for the products and 4·N²·D for attention, in each block.
        return self.blocks * self.latent_shape[0] * (24 * hidden**2 * tokens + 4 * tokens**2 * hidden)

    @property
    def compute_s(self) -> float:
        """Seconds of one evaluation on the assumed card, were all weights there."""
        return self.flops / ASSUMED_FLOPS * (1 + GROUP_COST * math.log2(self.head_groups))

    @property
    def transfer_s(self) -> float:
        """Seconds of copying in one evaluation on the assumed card."""
        return self.streamed_bytes / ASSUMED_BYTES_PER_S

    @property
    def streaming_shows(self) -> bool:
        """Whether copying takes longer than computing on the assumed card, so that a step would wait for it."""
        return self.transfer_s > self.compute_s

    def lowered(self) -> SamplingPlan | None:
        """A plan that takes noticeably less, for when the device turned out to be fuller; None if there is none."""
        if self.resident_blocks:
            return replace(self, resident_blocks=self.resident_blocks * 3 // 4)
        wider = [groups for groups in head_groups(self.config) if groups > self.head_groups]
        return replace(self, head_groups=wider[0]) if wider else None

    def describe(self) -> str:
        """Two lines for a person."""
        waiting = self.blocks - self.resident_blocks
        weights = f"all {self.blocks} blocks on the device"
        if waiting:
            effect = "and that will show in the time of a step" if self.streaming_shows else "behind the computation"
            weights = (
                f"{self.resident_blocks} of {self.blocks} blocks on the device, {waiting} streamed from memory "
                f"({self.streamed_bytes / 1e9:.1f} GB an evaluation, {effect})"
            )
        groups = "" if self.head_groups == 1 else f", attention in {self.head_groups} groups of heads"
        beside = {"LoRAs": self.lora_bytes, "features": self.feature_bytes}
        told = "".join(f", {name} {size / 1e9:.2f}" for name, size in beside.items() if size)
        activations = self.activation_bytes - sum(beside.values())
        return (
            f"{weights}{groups}\n"
            f"predicted peak {self.peak_bytes / 1e9:.2f} GB of {self.free_bytes / 1e9:.2f} GB "
            f"{'memory in all' if self.is_all_memory else 'free'}: weights "
            f"{self.weights_bytes / 1e9:.2f}{told}, activations {activations / 1e9:.2f}"
        )

    def _waiting(self) -> list[int]:
        here = spread(self.resident_blocks, self.blocks)
        return [size for size, resident in zip(self.weights.block_bytes, here, strict=True) if not resident]


def plan_sampling(
    config: DiTConfig,
    weights: HeldWeights,
    latent_shape: tuple[int, ...],
    dtype_bytes: int,
    free_bytes: int,
    *,
    resident_blocks: int | None = None,
    attention: str = "auto",
    lora_bytes: int = 0,
    feature_bytes: int = 0,
    is_all_memory: bool = False,
) -> SamplingPlan:
    """The fastest way to sample a latent [B, C, T, H, W] within ``free_bytes``; ``resident_blocks`` may be given.

    ``attention``, ``lora_bytes``, ``feature_bytes`` and ``is_all_memory`` as in ``SamplingPlan``. Raises
    ``DoesNotFitError`` with the least that is needed if nothing fits.
    """
    plan = partial(SamplingPlan, config, weights, latent_shape, dtype_bytes, free_bytes)
    plans = [
        plan(resident, groups, attention, lora_bytes, feature_bytes, is_all_memory)
        for groups in head_groups(config)
        for resident in (range(len(weights.block_bytes) + 1) if resident_blocks is None else [resident_blocks])
    ]
    fitting = [plan for plan in plans if plan.peak_bytes <= free_bytes]
    if not fitting:
        least = min(plan.peak_bytes for plan in plans)
        held = "" if resident_blocks is None else f" with {resident_blocks} blocks on the device"
        raise DoesNotFitError(
            f"Sampling this size takes at least {least / 1e9:.2f} GB{held}, but {free_bytes / 1e9:.2f} GB are "
            f"{'all there is' if is_all_memory else 'free'}. "
            "Choose fewer frames, a smaller size or batch 1, or free memory that other programs hold.",
            needed_bytes=least,
        )
    # Of equally fast ones, the one that streams least: buses and memories differ more than this arithmetic knows.
    return min(fitting, key=_merit)


def _merit(plan: SamplingPlan) -> tuple[float, int, int]:
    return max(plan.compute_s, plan.transfer_s), plan.streamed_bytes, -plan.resident_blocks


def head_groups(config: DiTConfig) -> list[int]:
    """The numbers of groups worth trying, fewest first."""
    return [groups for groups in (1, 2, 4) if config.heads % groups == 0]


def activation_bytes(
    config: DiTConfig,
    latent_shape: tuple[int, ...],
    dtype_bytes: int,
    groups: int = 1,
    unpacked_bytes: int = 0,
    attention: str = "auto",
) -> int:
    """Peak bytes of one forward beside the weights, for a latent [B, C, T, H, W]."""
    # ``auto`` chooses among kernels that take no more than the plain one, so that nothing need be tried to plan.
    kernel = KERNELS[PLAIN if attention == "auto" else attention]
    batch, video = latent_shape[0], _tokens(latent_shape)
    tokens = video + TEXT_TOKENS
    width_bytes = config.hidden_size * dtype_bytes
    chunk = max(1, min(CHUNK_TOKENS, video // CHUNK_PART))
    stream, chunked = batch * tokens * width_bytes, batch * chunk * width_bytes
    rope = tokens * config.head_dim * 4
    own_output = int(groups > 1)
    # Prompts of different lengths are attended to one by one, into a buffer of their own (``model.ragged``).
    one_by_one = 1 / batch if batch > 1 and not own_output else 0
    # The stream; q, k, v and the kernel's output and copies for one group; what outputs are gathered in; log-sum-exps.
    attending = stream * (1 + (4 + kernel.copies) / groups + own_output + one_by_one)
    attending += batch * tokens * config.heads // groups * 4 + kernel.working_bytes
    # For each token of a chunk: its norm; q, k, v and what normalising and rotating makes of them, in float32.
    projected = 6 if dtype_bytes == 4 else 8
    projecting = stream * (1 + 3 / groups + own_output) + chunked * (1 + projected / groups) + unpacked_bytes
    ending = 2 * stream + CHUNK_WIDTHS * chunked + unpacked_bytes
    return math.ceil((max(attending, projecting, ending) + rope) * MARGIN) + WORKSPACE_BYTES


def retrying(plan: SamplingPlan, attempt: Callable[[SamplingPlan], Result], report: Callable[[str], None]) -> Result:
    """What ``attempt`` gives with the plan, or with a lower one each time the device runs out of memory.

    ``report`` hears of each retry. The last plan's error is raised.
    """
    while True:
        # Retried outside of the except block: the exception holds the tensors of the failed attempt.
        failure = None
        try:
            return attempt(plan)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error)
        lower = plan.lowered()
        if lower is None:
            raise DoesNotFitError(
                f"The device ran out of memory even with no block of the model on it ({failure}). Choose fewer frames, "
                "a smaller size or batch 1, or free memory that other programs hold."
            )
        report(f"The device ran out of memory; trying again with {lower.describe().splitlines()[0]}.")
        plan = lower


def held_weights(
    block_bytes: Sequence[int], block_elements: Sequence[int], other_elements: int, config: DiTConfig, dtype_bytes: int
) -> HeldWeights:
    """Weights as a loader holds them: blocks as stored, everything else plain in the dtype of computation."""
    hidden, wide = config.hidden_size, config.mlp_dim
    is_packed = sum(block_bytes) < 1.5 * sum(block_elements)
    # A single block's two layers, unpacked together at its end.
    largest = hidden * (3 * hidden + wide) + (hidden + wide) * hidden
    return HeldWeights(tuple(block_bytes), other_elements * dtype_bytes, largest * dtype_bytes if is_packed else 0)


def weights_of(found: TransformerFile, storage: str, dtype_bytes: int) -> HeldWeights:
    """What the weights of a file take once ``load_dit`` has loaded them with this ``storage``."""
    if storage == "plain" or (storage == "auto" and not found.is_packed):
        block_bytes: Sequence[int] = [count * dtype_bytes for count in found.block_elements]
    else:
        block_bytes = found.block_bytes if storage == "auto" else found.block_elements
    return held_weights(block_bytes, found.block_elements, found.other_elements, found.config, dtype_bytes)


def _tokens(latent_shape: Sequence[int]) -> int:
    """Video tokens of a latent [B, C, T, H, W]."""
    frames, height, width = latent_shape[2:]
    return frames * math.ceil(height / 2) * math.ceil(width / 2)
