"""Steps of sampling at the true size: resident and streamed, in every precision, with every kernel; diffusers beside.

Random weights are made on the device tensor by tensor and kept on the host, as a loaded file would be; a row then
places them by its plan. Where blocks stream, their host copies are page-locked, as the nodes do it. Other files measure
features with the same model and the same steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from card import CONTEXT_BYTES, Card, available_host_bytes
from scale import GOAL_SIZE, Scale
from torch import nn

from hyvideo_core.attention import resolve
from hyvideo_core.configs import DiTConfig
from hyvideo_core.extensions import BlockSwap
from hyvideo_core.extensions.reserved import reserved_bytes
from hyvideo_core.memory import Placement
from hyvideo_core.model import DiT
from hyvideo_core.ops import Linear, fp8
from hyvideo_core.sample import Step, flow_sigmas, sample
from hyvideo_core.sample.seams import Extension
from hyvideo_core.sampling_plan import (
    HeldWeights,
    SamplingPlan,
    activation_bytes,
    held_weights,
    plan_sampling,
    retrying,
)
from hyvideo_core.types import Conditioning
from hyvideo_core.weights import set_fast_products

STORAGES = ("bf16", "fp8", "fp8 fast")
BF16_BYTES = 2
#: Share of the free host memory that may be page-locked.
LOCKED_SHARE = 0.5
#: Of steps longer than this one is measured.
LONG_STEP_S = 8.0
#: Slowdown allowed against all resident at 720×1280×129, in percent, by the limit in GB; of activations, in GB.
SLOWDOWN_GOALS = {24: 2, 16: 2, 12: 5, 8: 10}
STEP_GOAL_S, ACTIVATIONS_GOAL_GB, PREDICTION_GOAL_PERCENT = 20.0, 3.7, 7.0
#: Of a rehearsal's weights, what a limit of so many GB leaves room for: all, most, some, not even the activations.
REHEARSED_SHARES = {24: 1.5, 16: 0.9, 12: 0.65, 8: -50.0, 6: 0.6}

Result = dict[str, Any]


@dataclass(frozen=True)
class Held:
    """A transformer on the host, and what carries it to the device."""

    dit: DiT
    placement: Placement
    weights: HeldWeights


class Sampling:
    """Makes and keeps the models that rows ask for, one of ours and one of the peer's on the device at a time."""

    def __init__(self, card: Card, scale: Scale) -> None:
        self._card, self._scale = card, scale
        self._held: dict[str, Held] = {}
        self._peer: Any = None
        #: Seconds of a step with everything resident, by (storage, size).
        self._resident_s: dict[tuple[str, str], float] = {}
        #: Seconds of one call of attention, by (kernel, size).
        self._kernel_s: dict[tuple[str, str], float] = {}

    def step(
        self,
        size: str,
        storage: str,
        cap_gb: int | None = None,
        *,
        attention: str = "auto",
        head_groups: int | None = None,
        compile_blocks: bool = False,
    ) -> Result:
        """One row: a step of sampling as planned for a limit, or with everything resident."""
        held = self._prepared(storage, attention, compile_blocks)
        shape = self._latent_shape(size)
        free_bytes = self._card.total_bytes if cap_gb is None else self._limit_bytes(held, shape, cap_gb)
        blocks = len(held.weights.block_bytes)
        plan = plan_sampling(
            self._scale.dit,
            held.weights,
            shape,
            BF16_BYTES,
            free_bytes,
            resident_blocks=blocks if cap_gb is None else None,
            attention=attention,
        )
        if head_groups is not None:
            plan = replace(plan, head_groups=head_groups)
        lowered: list[str] = []
        with self._card.limited(free_bytes if cap_gb is not None else None):
            used, seconds = retrying(plan, lambda tried: (tried, self._run(held, tried)), lowered.append)
        result = self.result(used, seconds, lowered)
        is_baseline = cap_gb is None and attention == "auto" and head_groups is None and not compile_blocks
        if is_baseline:
            self._resident_s[storage, size] = result["seconds"]
        elif (storage, size) in self._resident_s:
            result["slowdown_percent"] = round(100 * (result["seconds"] / self._resident_s[storage, size] - 1), 1)
        return result | {"goals": goals(size, storage, cap_gb, is_baseline, result)}

    def resident(self, size: str, *extensions: Extension) -> tuple[Held, SamplingPlan]:
        """The bf16 model on the device, set up for a size, and its plan with these features; peaks count anew."""
        held = self._prepared("bf16", "auto", compile_blocks=False)
        shape = self._latent_shape(size)
        plan = plan_sampling(
            self._scale.dit,
            held.weights,
            shape,
            BF16_BYTES,
            self._card.total_bytes,
            resident_blocks=len(held.weights.block_bytes),
            feature_bytes=reserved_bytes(extensions, self._scale.dit, shape, BF16_BYTES, prompts=1),
        )
        self._place(held, plan)
        return held, plan

    def begun(
        self, held: Held, plan: SamplingPlan, steps: int, extensions: Sequence[Extension] = ()
    ) -> Generator[Step, None, None]:
        """A run of so many steps, to be closed."""
        x, prompt = self._inputs_of(plan.latent_shape)
        swap = BlockSwap(waiting=held.placement.waiting)
        run = sample(held.dit, x, prompt, sigmas=flow_sigmas(steps, 7.0), extensions=[swap, *extensions])
        assert isinstance(run, Generator)
        return run

    def steps(self, held: Held, plan: SamplingPlan, extensions: Sequence[Extension] = ()) -> list[float]:
        """Seconds of a step to warm up and of each measured one."""
        # One more than are made: features may have no use for the result of a run's last step.
        with closing(self.begun(held, plan, 2 + self._scale.steps, extensions)) as run:
            seconds = [self._card.seconds(lambda: next(run)) for _ in range(2)]
            rounds = 1 if seconds[1] > LONG_STEP_S else self._scale.steps
            return seconds + [self._card.seconds(lambda: next(run)) for _ in range(1, rounds)]

    def kernel(self, size: str, name: str) -> Result:
        """One row: a single attention call of the true size; a step makes as many as there are blocks."""
        self.release()
        config = self._scale.dit
        attend = resolve(name, self._card.device, torch.bfloat16, config.head_dim)
        qkv = self.qkv(size)
        with torch.inference_mode():
            attend(*qkv)
            self._card.reset_peak()
            seconds = statistics.median(self._card.seconds(lambda: attend(*qkv)) for _ in range(self._scale.steps))
        self._kernel_s[name, size] = seconds
        flops = 4 * qkv[0].shape[1] ** 2 * config.hidden_size
        return {"seconds": round(seconds, 4), "tflop_per_s": round(flops / seconds / 1e12, 1)} | self.peaks()

    def kernel_seconds(self, size: str, name: str) -> float:
        """Of one call: as this run measured it, or measured now. Raises ``ValueError`` where it cannot be used."""
        if (name, size) not in self._kernel_s:
            self.kernel(size, name)
        return self._kernel_s[name, size]

    def qkv(self, size: str) -> tuple[torch.Tensor, ...]:
        """Noise for one attention call."""
        config = self._scale.dit
        tokens = self._scale.sizes[size].tokens + self._scale.text_tokens
        shape = (3, 1, tokens, config.heads, config.head_dim)
        return torch.randn(shape, device=self._card.device, dtype=torch.bfloat16).unbind(0)

    def peer(self, size: str, backend: str) -> Result:
        """One row: diffusers' transformer, resident, with one of its attention backends."""
        self.release()
        if self._peer is None:
            self._peer = diffusers_transformer(self._scale.dit, self._card.device)
        self._peer.set_attention_backend(backend)
        x, prompt = self._inputs(size)
        arguments = (
            x.bfloat16(),
            torch.tensor([900.0], device=x.device),
            prompt.text,
            torch.ones(prompt.text.shape[:2], dtype=torch.bool, device=x.device),
            prompt.pooled,
            torch.tensor([6016.0], device=x.device, dtype=torch.bfloat16),
        )
        with torch.inference_mode():
            first = self._card.seconds(lambda: self._peer(*arguments, return_dict=False))
            self._card.reset_peak()
            rounds = 1 if first > LONG_STEP_S else self._scale.steps
            measured = [self._card.seconds(lambda: self._peer(*arguments, return_dict=False)) for _ in range(rounds)]
        result = {"seconds": round(statistics.median(measured), 3), "rounds": rounds} | self.peaks()
        if ("bf16", size) in self._resident_s:
            result["times_ours"] = round(result["seconds"] / self._resident_s["bf16", size], 2)
        return result

    def release(self) -> None:
        """Have nothing of ours on the device."""
        for held in self._held.values():
            held.placement.release()
        self._card.empty()

    def release_everything(self) -> None:
        """Have nothing on the device."""
        self._peer = None
        self.release()

    def _prepared(self, storage: str, attention: str, compile_blocks: bool) -> Held:
        """The model on the host with its options set; no peer's beside it."""
        self._peer = None
        held = self._model("fp8" if storage.startswith("fp8") else storage)
        set_fast_products(held.dit, False)
        if storage == "fp8 fast":
            if reason := fp8.why_not_fast(self._card.device):
                raise ValueError(reason)
            set_fast_products(held.dit, True)
        held.dit.attention, held.dit.compile_blocks = attention, compile_blocks
        return held

    def _model(self, storage: str) -> Held:
        for other, held in self._held.items():
            if other != storage:
                held.placement.release()
        if storage not in self._held:
            # Both precisions stay on the host only where it has room for them and for page-locked copies.
            needed = 3 * sum(held.placement.total_bytes for held in self._held.values())
            if available_host_bytes() < needed:
                self._held.clear()
            self._held[storage] = random_transformer(self._scale.dit, self._card.device, storage)
        self._card.empty()
        return self._held[storage]

    def _run(self, held: Held, plan: SamplingPlan) -> list[float]:
        """Seconds of each measured step."""
        self._place(held, plan)
        return self.steps(held, plan)[1:]

    def _place(self, held: Held, plan: SamplingPlan) -> None:
        """Have weights where the plan wants them, and count peaks from here on."""
        held.placement.put(plan.resident_blocks)
        self._card.empty()
        if held.placement.waiting():
            held.placement.lock(int(available_host_bytes() * LOCKED_SHARE))
        held.dit.head_groups = plan.head_groups
        self._card.reset_peak()

    def result(self, plan: SamplingPlan, seconds: Sequence[float], lowered: Sequence[str] = ()) -> Result:
        """Times and peaks of a row beside the plan's."""
        measured = self.peaks()
        peak = measured["peak_gb"]
        return {
            "seconds": round(statistics.median(seconds), 3),
            "rounds": len(seconds),
            **measured,
            "predicted_gb": round(plan.peak_bytes / 1e9, 2),
            "difference_percent": round(100 * (plan.peak_bytes / 1e9 / peak - 1), 1),
            "activations_gb": round(peak - plan.weights_bytes / 1e9, 2),
            "resident_blocks": f"{plan.resident_blocks} of {plan.blocks}",
            "streamed_gb": round(plan.streamed_bytes / 1e9, 2),
            "head_groups": plan.head_groups,
            **({"lowered": list(lowered)} if lowered else {}),
        }

    def peaks(self) -> Result:
        """Most bytes at once since peaks were reset."""
        return {
            "peak_gb": round(self._card.peak_bytes() / 1e9, 3),
            "reserved_gb": round(self._card.reserved_bytes() / 1e9, 3),
        }

    def _limit_bytes(self, held: Held, shape: tuple[int, ...], cap_gb: int) -> int:
        if self._scale.is_true:
            return cap_gb * 10**9 - CONTEXT_BYTES
        room = activation_bytes(self._scale.dit, shape, BF16_BYTES, 4, held.weights.unpacked_bytes)
        return room + int(held.weights.other_bytes + sum(held.weights.block_bytes) * REHEARSED_SHARES[cap_gb])

    def _latent_shape(self, size: str) -> tuple[int, ...]:
        return (1, self._scale.dit.in_channels, *self._scale.sizes[size].latent_shape)

    def _inputs(self, size: str) -> tuple[torch.Tensor, Conditioning]:
        return self._inputs_of(self._latent_shape(size))

    def _inputs_of(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, Conditioning]:
        config, device = self._scale.dit, self._card.device
        text = torch.randn(1, self._scale.text_tokens, config.text_dim, device=device, dtype=torch.bfloat16)
        pooled = torch.randn(1, config.pooled_dim, device=device, dtype=torch.bfloat16)
        return torch.randn(shape, device=device), Conditioning(text, pooled)


def goals(size: str, storage: str, cap_gb: int | None, is_baseline: bool, result: Result) -> list[tuple[str, bool]]:
    """What the row shall show, and whether it does."""
    found = [
        (
            f"predicted peak 0 to {PREDICTION_GOAL_PERCENT:.0f} % above measured",
            0 <= result["difference_percent"] <= PREDICTION_GOAL_PERCENT,
        )
    ]
    if size != GOAL_SIZE:
        return found
    if is_baseline and storage == "bf16":
        found.append((f"≤ {STEP_GOAL_S:.0f} s a step on an H200-class card", result["seconds"] <= STEP_GOAL_S))
        enough = result["activations_gb"] <= ACTIVATIONS_GOAL_GB
        found.append((f"activations ≤ {ACTIVATIONS_GOAL_GB} GB", enough))
    if cap_gb is not None and "slowdown_percent" in result:
        allowed = SLOWDOWN_GOALS[cap_gb]
        found.append((f"≤ {allowed} % slower than resident", result["slowdown_percent"] <= allowed))
    return found


def random_transformer(config: DiTConfig, device: torch.device, storage: str) -> Held:
    """Our transformer on the host; block weights quantised as ``load_dit(storage="fp8")`` does where asked for."""
    with torch.device("meta"):
        dit = DiT(config)
    for name, owner in dit.named_modules():
        in_block = name.startswith(("double_blocks.", "single_blocks."))
        dtype = torch.float32 if name.startswith(DiT.FLOAT32_PARAMETERS) else torch.bfloat16
        for key, slot in list(owner.named_parameters(recurse=False)):
            tensor = torch.randn(slot.shape, device=device, dtype=dtype).mul_(0.02)
            if storage == "fp8" and in_block and isinstance(owner, Linear) and key == "weight":
                owner.store(fp8.quantized(tensor.float()).to("cpu"))
            else:
                owner.register_parameter(key, nn.Parameter(tensor.to("cpu"), requires_grad=False))
    dit.eval().requires_grad_(False)
    blocks = [*dit.double_blocks, *dit.single_blocks]
    placement = Placement(dit, blocks, device)
    elements = [sum(p.numel() for p in block.parameters()) for block in blocks]
    others = sum(p.numel() for p in dit.parameters()) - sum(elements)
    return Held(dit, placement, held_weights(placement.block_bytes, elements, others, config, BF16_BYTES))


def diffusers_transformer(config: DiTConfig, device: torch.device) -> Any:
    """diffusers' transformer of the same shapes, random, in bfloat16 on the device."""
    from diffusers import HunyuanVideoTransformer3DModel

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            made = HunyuanVideoTransformer3DModel(
                num_attention_heads=config.heads,
                attention_head_dim=config.head_dim,
                num_layers=config.double_blocks,
                num_single_layers=config.single_blocks,
                rope_axes_dim=config.rope_dims,
            )
    finally:
        torch.set_default_dtype(usual)
    return made.eval().requires_grad_(False)
