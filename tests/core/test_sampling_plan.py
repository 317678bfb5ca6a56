"""The plan of sampling: its predictions against traced allocations, its choices, and what it does when memory ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import traced_peak_bytes

from hyvideo_core import sampling_plan
from hyvideo_core.attention import registry
from hyvideo_core.attention.registry import KERNELS, PLAIN, Kernel
from hyvideo_core.configs import HUNYUAN_VIDEO, DiTConfig
from hyvideo_core.errors import DoesNotFitError
from hyvideo_core.extensions import (
    ContextWindows,
    FirstBlockCache,
    SkipGuidance,
    SlidingTileAttention,
    TeaCache,
    TeaCacheCalibration,
)
from hyvideo_core.extensions.reserved import reserved_bytes
from hyvideo_core.extensions.skip_guidance import ISOLATING_BYTES, NegativeSkip
from hyvideo_core.model import DiT
from hyvideo_core.sampling_plan import (
    MARGIN,
    WORKSPACE_BYTES,
    HeldWeights,
    SamplingPlan,
    activation_bytes,
    held_weights,
    plan_sampling,
    retrying,
)
from hyvideo_core.types import Geometry

pytestmark = pytest.mark.usefixtures("one_thread")

#: MODEL.md: numbers of a double and of a single block, and of everything else.
DOUBLE, SINGLE = 340_000_000, 141_600_000
ELEMENTS = [DOUBLE] * 20 + [SINGLE] * 40
OTHER = 12_821_012_544 - sum(ELEMENTS)
BF16 = held_weights([2 * n for n in ELEMENTS], ELEMENTS, OTHER, HUNYUAN_VIDEO, 2)
FP8 = held_weights(ELEMENTS, ELEMENTS, OTHER, HUNYUAN_VIDEO, 2)
HD = (1, 16, *Geometry(1280, 720, 129).latent_shape)
SD = (1, 16, *Geometry(960, 544, 129).latent_shape)
IMAGE = (1, 16, *Geometry(1280, 720, 1).latent_shape)
GB = 10**9


def planned(weights: HeldWeights, shape: tuple[int, ...], free_gb: float, **options: Any) -> SamplingPlan:
    return plan_sampling(HUNYUAN_VIDEO, weights, shape, 2, int(free_gb * GB), **options)


# --- the prediction -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("latent", [(1, 16, 5, 32, 32), (2, 16, 3, 32, 32)])
def test_the_predicted_peak_is_the_traced_one_and_a_little_more(latent: tuple[int, ...], groups: int) -> None:
    config = DiTConfig(hidden_size=512, heads=4, double_blocks=1, single_blocks=1, text_dim=64, pooled_dim=32)
    dit = DiT(config, head_groups=groups).eval().requires_grad_(False)
    batch = latent[0]
    text, pooled = torch.randn(batch, 256, 64), torch.randn(batch, 32)
    inputs = (torch.randn(latent), torch.full((batch,), 500.0), text, None, pooled, torch.full((batch,), 6000.0))
    traced = traced_peak_bytes(lambda: dit(*inputs))
    predicted = activation_bytes(config, latent, 4, groups) - WORKSPACE_BYTES
    assert traced <= predicted <= 1.07 * MARGIN * traced


def traced_and_predicted(kernel: str, latent: tuple[int, ...], groups: int, lengths: tuple[int, ...]) -> list[float]:
    """The peaks beside the weights of a model whose prompts have these lengths, with chunks so small, as beside long
    videos, that attention takes most.
    """
    config = DiTConfig(hidden_size=512, heads=4, double_blocks=1, single_blocks=1, text_dim=64, pooled_dim=32)
    dit = DiT(config, attention=kernel, head_groups=groups, chunk_tokens=64).eval().requires_grad_(False)
    batch = latent[0]
    mask = torch.stack([(torch.arange(256) < length).long() for length in lengths])
    text, pooled = torch.randn(batch, 256, 64), torch.randn(batch, 32)
    inputs = (torch.randn(latent), torch.full((batch,), 500.0), text, mask, pooled, torch.full((batch,), 6000.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_plan, "CHUNK_TOKENS", 64)
        predicted = activation_bytes(config, latent, 4, groups, attention=kernel) - WORKSPACE_BYTES
    return [traced_peak_bytes(lambda: dit(*inputs)), predicted]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("batch", [2, 3])
def test_prompts_of_different_lengths_take_no_more_than_predicted(batch: int, groups: int) -> None:
    traced, predicted = traced_and_predicted("sdpa", (batch, 16, 9, 32, 32), groups, (256, 100, 60)[:batch])
    assert traced <= predicted <= 1.15 * traced


def copying(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Holds what Sage does beside its output: k without its mean, v in another dtype, q and k in less."""
    held = [k - k.mean(dim=1, keepdim=True), v.clone(), torch.cat((q[..., ::2], k[..., ::2]), dim=-1)]
    out = KERNELS[PLAIN].load()(q, held[0], held[1])
    del held
    return out


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_what_a_kernel_copies_is_predicted(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = KERNELS["sage1"].copies
    monkeypatch.setitem(registry.KERNELS, "copying", Kernel("copying", lambda: copying, copies=copies))
    # A CPU kernel works in half a MB of its own, so the tokens must take much more.
    traced, predicted = traced_and_predicted("copying", (1, 16, 9, 32, 32), groups, (256,))
    assert traced <= predicted <= 1.07 * MARGIN * traced


@pytest.mark.parametrize("batch", [1, 2])
def test_the_scores_of_chunked_attention_are_predicted(batch: int) -> None:
    """As many tokens as it takes to fill a chunk of scores."""
    traced, predicted = traced_and_predicted("chunked", (batch, 16, 9, 40, 40), 1, (256,) * batch)
    assert KERNELS["chunked"].working_bytes < traced <= predicted <= 1.1 * traced


def test_sage_takes_what_its_copies_take_and_auto_nothing_that_would_have_to_be_tried() -> None:
    u_bytes = 119_056 * 3072 * 2
    plain = activation_bytes(HUNYUAN_VIDEO, HD, 2)
    for groups in (1, 2, 4):
        sage, exact = (activation_bytes(HUNYUAN_VIDEO, HD, 2, groups, attention=name) for name in ("sage1", "auto"))
        assert sage - exact == pytest.approx(3 * u_bytes / groups * MARGIN, rel=0.01)
    for capability in [(major, 0) for major in range(7, 13)]:
        for name in registry.preferred("cuda", capability):
            assert activation_bytes(HUNYUAN_VIDEO, HD, 2, attention=name) <= plain


def test_loras_take_their_room_and_are_told() -> None:
    plain, with_loras = planned(BF16, HD, 8), planned(BF16, HD, 8, lora_bytes=GB)
    assert with_loras.resident_blocks < plain.resident_blocks
    same = replace(plain, lora_bytes=GB)
    assert same.peak_bytes == plain.peak_bytes + GB
    assert same.activation_bytes == plain.activation_bytes + GB
    assert "LoRAs 1.00" in same.describe()
    assert "LoRAs" not in plain.describe()


def test_features_take_their_room_and_are_told() -> None:
    plain, with_features = planned(BF16, HD, 8), planned(BF16, HD, 8, feature_bytes=GB)
    assert with_features.resident_blocks < plain.resident_blocks
    same = replace(plain, feature_bytes=GB)
    assert same.peak_bytes == plain.peak_bytes + GB
    assert same.describe() == plain.describe().replace(
        "predicted peak " + f"{plain.peak_bytes / 1e9:.2f}", "predicted peak " + f"{same.peak_bytes / 1e9:.2f}"
    ).replace(", activations", ", features 1.00, activations")


def test_the_room_of_features_is_that_of_caches_and_of_changed_attention() -> None:
    residual = 33 * 45 * 80 * 3072 * 2
    disturbed = SkipGuidance(disturbance="attention")
    window = 11 * 45 * 80 * 3072 * 2
    for extensions, expected in (
        ([], 0),
        ([TeaCache()], residual),
        ([TeaCache(threshold=0)], 0),
        ([TeaCache(device="cpu")], 0),
        ([TeaCache(), SkipGuidance(), SkipGuidance(scale=0)], 2 * residual),
        ([TeaCache(), NegativeSkip()], residual),
        ([FirstBlockCache()], 3 * residual),
        ([TeaCacheCalibration()], residual),
        ([disturbed, replace(disturbed, scale=0)], ISOLATING_BYTES),
        ([replace(disturbed, scale=0)], 0),
        ([SlidingTileAttention()], 4 * residual),
        # 33 latent frames in four windows of 11 that share some: both prompts, all but the evaluation that runs.
        ([TeaCache(), ContextWindows(window_frames=41, overlap_frames=12)], 7 * window),
    ):
        assert reserved_bytes(extensions, HUNYUAN_VIDEO, HD, 2) == expected, extensions
    assert reserved_bytes([TeaCache()], HUNYUAN_VIDEO, HD, 2, prompts=1) == 0


def test_the_goals_of_the_full_model_are_met_on_paper() -> None:
    u_bytes = 119_056 * 3072 * 2
    # 5U, and what the table of rotations and the margin add.
    assert activation_bytes(HUNYUAN_VIDEO, HD, 2, 1) < 5.5 * u_bytes
    assert activation_bytes(HUNYUAN_VIDEO, HD, 2, 4) < 3.6 * u_bytes
    for free_gb in (24, 16, 12, 8):
        plan = planned(BF16, HD, 0.95 * free_gb)
        assert plan.transfer_s < 0.02 * plan.compute_s
    assert planned(BF16, SD, 5.7).peak_bytes < 6 * GB


# --- the choice -----------------------------------------------------------------------------------------------


def test_with_room_for_all_nothing_streams() -> None:
    plan = planned(BF16, HD, 40)
    assert (plan.resident_blocks, plan.head_groups, plan.streamed_bytes) == (60, 1, 0)
    assert plan.weights_bytes == BF16.total_bytes
    assert "all 60 blocks on the device" in plan.describe()


def test_all_memory_of_a_machine_is_not_called_free() -> None:
    assert "of 40.00 GB free: weights" in planned(BF16, HD, 40).describe()
    assert "of 40.00 GB memory in all: weights" in planned(BF16, HD, 40, is_all_memory=True).describe()
    with pytest.raises(DoesNotFitError, match=r"but 1\.00 GB are all there is\."):
        planned(BF16, HD, 1, is_all_memory=True)


def test_streaming_is_told_to_show_for_an_image_and_not_for_a_long_video() -> None:
    assert "will show in the time of a step" in planned(BF16, IMAGE, 8).describe()
    assert "behind the computation" in planned(BF16, HD, 8).describe()


def test_an_image_takes_all_the_residents_that_fit() -> None:
    """Streaming is never free there, so not one block more than needed."""
    plan = planned(BF16, IMAGE, 12)
    more = replace(plan, resident_blocks=plan.resident_blocks + 1)
    assert plan.peak_bytes <= 12 * GB < more.peak_bytes


def test_fewer_groups_of_heads_until_memory_asks_for_more() -> None:
    assert planned(BF16, HD, 8).head_groups == 1
    assert planned(BF16, HD, 5.5).head_groups > 1


@given(
    free_gb=st.floats(3, 60),
    frames=st.sampled_from([1, 5, 33, 129]),
    size=st.sampled_from([(512, 320), (960, 544), (1280, 720)]),
    packed=st.booleans(),
)
@settings(max_examples=40)
def test_a_plan_never_exceeds_what_is_free_and_more_memory_is_never_slower(
    free_gb: float, frames: int, size: tuple[int, int], packed: bool
) -> None:
    shape = (1, 16, *Geometry(*size, frames).latent_shape)
    weights = FP8 if packed else BF16
    least = SamplingPlan(HUNYUAN_VIDEO, weights, shape, 2, 0, resident_blocks=0, head_groups=4).peak_bytes
    if least > free_gb * GB:
        with pytest.raises(DoesNotFitError, match="takes at least"):
            planned(weights, shape, free_gb)
        return
    plan = planned(weights, shape, free_gb)
    assert plan.peak_bytes <= free_gb * GB
    richer = planned(weights, shape, free_gb + 4)
    assert max(richer.compute_s, richer.transfer_s) <= max(plan.compute_s, plan.transfer_s)


def test_what_does_not_fit_says_how_much_would() -> None:
    with pytest.raises(DoesNotFitError, match=r"at least (\d+\.\d+) GB, but 2\.00 GB are free.*fewer frames") as caught:
        planned(BF16, HD, 2)
    needed = float(str(caught.value).split("at least ")[1].split(" GB")[0])
    assert planned(BF16, HD, needed + 0.01).resident_blocks == 0
    assert caught.value.needed_bytes is not None
    assert f"{caught.value.needed_bytes / 1e9:.2f}" == f"{needed:.2f}"


def test_streaming_shows_where_copying_takes_longer_than_computing() -> None:
    image, video = planned(BF16, IMAGE, 5), planned(BF16, HD, 8)
    assert image.streaming_shows
    assert "will show" in image.describe()
    assert not video.streaming_shows
    assert "behind the computation" in video.describe()


def test_operations_grow_faster_than_the_length_and_as_the_clips() -> None:
    half, whole = planned(BF16, (1, 16, 17, 90, 160), 60), planned(BF16, HD, 60)
    assert 2 < whole.flops / half.flops < 4
    assert planned(BF16, (2, *HD[1:]), 60).flops == 2 * whole.flops


def test_residents_by_hand_are_kept() -> None:
    assert planned(BF16, HD, 40, resident_blocks=7).resident_blocks == 7
    with pytest.raises(DoesNotFitError, match="with 60 blocks on the device"):
        planned(BF16, HD, 8, resident_blocks=60)
    with pytest.raises(ValueError, match="resident blocks are 61"):
        planned(BF16, HD, 40, resident_blocks=61)


def test_packed_weights_need_room_to_unpack() -> None:
    assert BF16.unpacked_bytes == 0
    # linear1 and linear2 of a single block: 3072·21504 + 15360·3072 numbers.
    assert FP8.unpacked_bytes == 2 * (3072 * 21504 + 15360 * 3072)


# --- when the device runs out of memory all the same --------------------------------------------------------------


def full(times: int) -> Any:
    seen: list[SamplingPlan] = []

    def attempt(plan: SamplingPlan) -> int:
        seen.append(plan)
        if len(seen) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plan.resident_blocks

    return attempt, seen


@pytest.mark.parametrize("times", [1, 2, 5])
def test_each_retry_takes_less_and_is_said_aloud(times: int) -> None:
    attempt, seen = full(times)
    said: list[str] = []
    assert retrying(planned(BF16, HD, 40), attempt, said.append) == seen[-1].resident_blocks
    peaks = [plan.peak_bytes for plan in seen]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks[:3])) == min(3, len(peaks))
    assert len(said) == times
    assert all("ran out of memory; trying again with" in text for text in said)


def test_the_last_notch_fails_with_the_devices_words() -> None:
    attempt, seen = full(10**6)
    with pytest.raises(DoesNotFitError, match=r"Tried to allocate 2\.00 GiB.*fewer frames"):
        retrying(planned(BF16, HD, 40), attempt, lambda text: None)
    assert (seen[-1].resident_blocks, seen[-1].head_groups) == (0, 4)


def test_the_failed_attempts_tensors_are_gone_when_it_is_retried() -> None:
    import weakref

    held: list[weakref.ref[torch.Tensor]] = []

    def attempt(plan: SamplingPlan) -> bool:
        if not held:
            big = torch.zeros(3)
            held.append(weakref.ref(big))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return held[0]() is None

    assert retrying(planned(BF16, HD, 40), attempt, lambda text: None)


def test_other_errors_are_not_retried() -> None:
    def attempt(plan: SamplingPlan) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        retrying(planned(BF16, HD, 40), attempt, lambda text: None)
