"""Enhance-A-Video: the paper's formula place by place, one sample at a time, neutral at −1, the laws of extensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from dit_data import prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from golden_data import rel_l2
from hyvideo_core.attention import AttentionKernel
from hyvideo_core.extensions import ImageToVideo, enhance_a_video
from hyvideo_core.extensions.context_windows import ContextWindows
from hyvideo_core.extensions.enhance_a_video import EnhanceAVideo, across_frames
from hyvideo_core.model import DiT
from hyvideo_core.model.blocks import Attention, Projection, Stream, attention
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.flow import joined
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import Interval

DIT = random_dit()
FRAMES, HEIGHT, WIDTH, HEADS = 3, 2, 3, 2
PLACES = HEIGHT * WIDTH
VIDEO = FRAMES * PLACES
NOISE = randn(1, 4, FRAMES, 2 * HEIGHT, 2 * WIDTH, seed=3)
ENHANCED = EnhanceAVideo()
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3)}
ROUNDING = 1e-5


def run(*extensions: Extension, x: torch.Tensor = NOISE, dit: DiT = DIT, **options: Any) -> list[Step]:
    options = {"positive": prompt(), "sigmas": flow_sigmas(3, 7.0), **options}
    return list(sample(dit, x, extensions=extensions, **options))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


def naive_sum(q: torch.Tensor, k: torch.Tensor, frames: int) -> float:
    """What all tokens attend to their place in other frames, one map after the other; q, k [L, N, D]."""
    places, found = len(q) // frames, 0.0
    for head in range(q.shape[1]):
        for place in range(places):
            at = [frame * places + place for frame in range(frames)]
            weights = (q[at, head].double() @ k[at, head].double().T / q.shape[-1] ** 0.5).softmax(dim=-1)
            found += (weights.sum() - weights.trace()).item()
    return found


@dataclass(frozen=True)
class Naive(Extension):
    """The formula as the paper writes it, for one sample and all heads at once."""

    weight: float = 4.0

    def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            out = inner(q, k, v).clone()
            pairs = HEADS * PLACES * FRAMES * (FRAMES - 1)
            intensity = naive_sum(q[0, :VIDEO], k[0, :VIDEO], FRAMES) / pairs
            out[:, :VIDEO] *= max(1.0, (FRAMES + self.weight) * intensity)
            return out

        return attend


@dataclass(frozen=True)
class Attended(Extension):
    """Keeps what every block's attention gives, as the block sees it."""

    rank: ClassVar[int] = -1
    seen: list[torch.Tensor] = field(default_factory=list)

    def wrap_attention(self, inner: Attention, state: Any) -> Attention:
        def keep(stream: Stream, heads: int, projections: Sequence[Projection]) -> torch.Tensor:
            out = inner(stream, heads, projections)
            self.seen.append(out.clone())
            return out

        return keep


def attended(*extensions: Extension, **options: Any) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    run(*extensions, Attended(seen=seen), sigmas=flow_sigmas(1, 7.0), **options)
    return seen


# --- the formula --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("head_groups", [1, 2])
def test_every_block_equals_the_formula_taken_place_by_place(weight: float, head_groups: int) -> None:
    expected = final(Naive(weight=weight))
    found = final(EnhanceAVideo(weight=weight), dit=random_dit(head_groups=head_groups))
    assert rel_l2(found, expected) <= ROUNDING
    if weight:
        assert rel_l2(expected, final()) > 1e-2


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_the_sums_equal_those_taken_map_by_map(batch: int, frames: int, places: int, heads: int, seed: int) -> None:
    q, k = randn(2, batch, frames * places, heads, 8, seed=seed)
    expected = [naive_sum(*each, frames) for each in zip(q, k, strict=True)]
    assert across_frames(q, k, frames).tolist() == pytest.approx(expected, rel=1e-5)


def test_frames_that_ignore_each_other_add_nothing() -> None:
    q = torch.eye(4)[:, None].expand(4, 2, 4).reshape(1, 8, 1, 4) * 40
    assert across_frames(q, q, 4).item() == pytest.approx(0, abs=1e-6)


def test_all_blocks_scale_the_video_by_one_factor_and_no_text() -> None:
    plain, enhanced = attended(), attended(ENHANCED)
    assert len(enhanced) == 4
    first, before = enhanced[0], plain[0]
    assert torch.equal(first[:, VIDEO:], before[:, VIDEO:])
    ratio = first[:, :VIDEO] / before[:, :VIDEO]
    assert ratio.min() > 1
    assert ratio.max() - ratio.min() < 1e-5
    for now, naive in zip(enhanced, attended(Naive()), strict=True):
        assert rel_l2(now, naive) <= ROUNDING


def test_it_measures_what_the_block_made_whatever_is_done_to_the_kernel() -> None:
    @dataclass(frozen=True)
    class Doubled(Extension):
        rank: ClassVar[int] = -5

        def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
            return lambda q, k, v: inner(2 * q, k, v)

    plain, enhanced = attended(Doubled())[0], attended(Doubled(), ENHANCED)[0]
    alone = attended(ENHANCED)[0] / attended()[0]
    assert torch.allclose((enhanced / plain)[:, :VIDEO], alone[:, :VIDEO], rtol=1e-4)


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 4096])
def test_chunks_of_places_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = final(ENHANCED)
    monkeypatch.setattr(enhance_a_video, "CHUNK_BYTES", limit)
    assert rel_l2(final(ENHANCED), expected) <= ROUNDING


class LargestMade(TorchDispatchMode):
    """The most bytes of any tensor made inside."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.data_ptr() not in {
            each.data_ptr() for each in args if isinstance(each, torch.Tensor)
        }:
            self.bytes = max(self.bytes, out.numel() * out.element_size())
        return out


def test_no_copy_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2**16
    monkeypatch.setattr(enhance_a_video, "CHUNK_BYTES", limit)
    q = randn(1, 5 * 400, 2, 16).bfloat16()
    with LargestMade() as made:
        across_frames(q, q, 5)
    assert limit / 16 < made.bytes <= limit / 3


# --- batches, guidance, solvers -----------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(5, 5), (5, 2), (2, 5)], ids=str)
@pytest.mark.parametrize("head_groups", [1, 2])
def test_a_batch_equals_its_clips_alone(lengths: tuple[int, int], head_groups: int) -> None:
    dit = random_dit(head_groups=head_groups)
    # Clips that differ in how their frames attend to each other.
    noise = torch.cat((randn(1, 4, 1, 4, 6, seed=4).expand(1, 4, 3, 4, 6), randn(1, 4, 3, 4, 6, seed=5)))
    prompts = [prompt(seed=30 + length, length=length) for length in lengths]
    together = final(ENHANCED, x=noise, dit=dit, positive=joined(*prompts))
    for i in range(2):
        alone = final(ENHANCED, x=noise[i : i + 1], dit=dit, positive=prompts[i])
        assert rel_l2(together[i : i + 1], alone) <= ROUNDING


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_both_branches_of_true_cfg_and_every_evaluation_of_a_step_are_scaled(solver: str) -> None:
    options = {**CFG, "solver": SOLVERS[solver]}
    assert rel_l2(final(ENHANCED, **options), final(Naive(), **options)) <= ROUNDING


def test_batched_guidance_gives_the_same() -> None:
    batched = {**CFG, "guidance": Guidance(cfg=3, batched=True)}
    assert rel_l2(final(ENHANCED, **batched), final(ENHANCED, **CFG)) <= ROUNDING


def test_an_image_to_video_run_is_scaled_too() -> None:
    given_image = ImageToVideo(image=randn(1, 4, 1, 4, 6, seed=7), stability=False)
    assert rel_l2(final(ENHANCED, given_image), final(Naive(), given_image)) <= ROUNDING


def test_the_frames_of_a_window_count_where_windows_are_evaluated() -> None:
    whole = NOISE[:, :, [0, 1, 2, 0, 1, 2]]
    windows = ContextWindows(window_frames=9, overlap_frames=0, freenoise=False)
    assert rel_l2(final(ENHANCED, windows, x=whole)[:, :, 3:], final(Naive())) <= ROUNDING


# --- laws of extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "idle",
    [EnhanceAVideo(weight=-1), EnhanceAVideo(weight=-0.9), replace(ENHANCED, when=Interval(0.5, 0.5))],
    ids=["off", "nowhere above 1", "never"],
)
def test_where_nothing_is_scaled_it_is_bit_identical_to_none(idle: EnhanceAVideo, dtype: torch.dtype) -> None:
    dit = random_dit().to(dtype)
    dit.final_layer.linear.float()
    assert torch.equal(final(idle, dit=dit), final(dit=dit))
    assert not torch.equal(final(ENHANCED, dit=dit), final(dit=dit))


def test_off_it_measures_nothing() -> None:
    assert EnhanceAVideo(weight=-1).wrap_attention(attention, PLACES) is attention


def test_an_image_has_no_other_frames() -> None:
    image = NOISE[:, :, :1]
    assert torch.equal(final(ENHANCED, x=image), final(x=image))


@pytest.mark.parametrize("change", [{"weight": 2.0}, {"when": Interval(0, 0.5)}], ids=str)
def test_every_setting_changes_the_video(change: dict[str, Any]) -> None:
    assert rel_l2(final(replace(ENHANCED, **change)), final(ENHANCED)) > 1e-3


def test_the_order_of_extensions_is_irrelevant() -> None:
    @dataclass(frozen=True)
    class Halved(Extension):
        rank: ClassVar[int] = 5

        def wrap_attention(self, inner: Attention, state: Any) -> Attention:
            return lambda *args: inner(*args) / 2

    assert torch.equal(final(Halved(), ENHANCED), final(ENHANCED, Halved()))
    assert rel_l2(final(Halved(), ENHANCED), final(ENHANCED)) > 1e-3


def test_runs_do_not_share_anything_and_the_model_keeps_nothing() -> None:
    before = dict(vars(DIT))
    start = partial(sample, DIT, NOISE, prompt(), sigmas=flow_sigmas(3, 7.0))
    other = EnhanceAVideo(weight=1.0)
    pairs = list(zip(start(extensions=[ENHANCED]), start(extensions=[other]), strict=True))
    assert torch.equal(pairs[-1][0].x, final(ENHANCED))
    assert torch.equal(pairs[-1][1].x, final(other))
    assert vars(DIT) == before


@pytest.mark.parametrize("weight", [-1.5, float("nan"), float("inf")])
def test_weights_out_of_range_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=rf"^weight is {weight}, but must be -1 \(off\) or more"):
        EnhanceAVideo(weight=weight)
