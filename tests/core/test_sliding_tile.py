"""Sliding-tile attention: who sees whom, two ways to compute it, and the laws of extensions."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, prod
from typing import Any, ClassVar

import pytest
import torch
from dit_data import prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

from golden_data import rel_l2
from hyvideo_core.attention import AttentionKernel, kernels, tile_blocks
from hyvideo_core.attention.sliding_tile import Tiling, Triple, attend_by_window
from hyvideo_core.attention.tile_blocks import (
    SELF_TEST,
    SELF_TEST_TEXT,
    attend_in_blocks,
    tile_order,
    why_not_in_blocks,
)
from hyvideo_core.extensions import ImageToVideo, sliding_tile
from hyvideo_core.extensions.sliding_tile import SlidingTileAttention
from hyvideo_core.model import DiT
from hyvideo_core.sample import SOLVERS, Guidance, flow_sigmas, sample
from hyvideo_core.sample.seams import Evaluation, Extension, Predict
from hyvideo_core.types import Conditioning, Interval

ROUNDING = 1e-5
CPU = torch.device("cpu")

DIT = random_dit()
#: 5 × 4 × 6 tokens: none of the tiles' sizes divides the frames.
NOISE = randn(1, 4, 5, 8, 12, seed=3)
STEPS = 4
TEXT = 5
ALWAYS = Interval()
TILED = SlidingTileAttention(when=ALWAYS, tile=(2, 2, 2), window=(1, 1, 3))
SPANNING = replace(TILED, window=(3, 2, 3))


def run(*extensions: Extension, x: torch.Tensor = NOISE, dit: DiT = DIT, **options: Any) -> Iterator[Any]:
    given_options = {"positive": prompt(), "sigmas": flow_sigmas(STEPS, 7.0), **options}
    return sample(dit, x, extensions=extensions, **given_options)


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return list(run(*extensions, **options))[-1].x


# --- who sees whom ------------------------------------------------------------------------------------------

triples = partial(st.tuples, st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))
tilings = st.builds(
    Tiling,
    grid=triples(),
    tile=st.tuples(*[st.integers(1, 4)] * 3),
    window=st.tuples(*[st.integers(1, 4)] * 3),
)


def seen_from(tile: int, tiles: int, window: int) -> set[int]:
    """By definition: as many tiles as the window has, the tile in their middle or as near to it as the borders let."""
    window = min(window, tiles)
    starts = range(tiles - window + 1)
    start = min(starts, key=lambda start: abs(start + window // 2 - tile))
    return set(range(start, start + window))


def naive_mask(tiling: Tiling, text: int) -> torch.Tensor:
    """Token by token, [L, L]: video sees its window and all text, text sees everything."""
    tokens = [*itertools.product(*map(range, tiling.grid)), *[None] * text]
    tiles = [ceil(size / tile) for size, tile in zip(tiling.grid, tiling.tile, strict=True)]

    def sees(query: Triple | None, key: Triple | None) -> bool:
        if query is None or key is None:
            return True
        return all(
            k // tile in seen_from(q // tile, count, window)
            for q, k, tile, count, window in zip(query, key, tiling.tile, tiles, tiling.window, strict=True)
        )

    return torch.tensor([[sees(query, key) for key in tokens] for query in tokens])


small_tilings = tilings.filter(lambda tiling: tiling.video_tokens <= 60)


@given(tilings)
@settings(max_examples=40, deadline=None)
def test_the_boxes_of_queries_cover_the_grid_each_token_once_and_so_do_the_tiles(tiling: Tiling) -> None:
    for boxes in (tiling.boxes(), (queries for queries, _ in tiling.views())):
        covered = torch.zeros(tiling.grid, dtype=torch.int)
        for box in boxes:
            covered[box] += 1
        assert (covered == 1).all()


@given(tilings)
@settings(max_examples=40, deadline=None)
def test_every_tile_sees_equally_many_tiles_itself_among_them_and_all_text(tiling: Tiling) -> None:
    tiles = [ceil(size / tile) for size, tile in zip(tiling.grid, tiling.tile, strict=True)]
    sees = tiling.sees()
    assert sees.shape == (prod(tiles) + 1,) * 2
    expected = prod(min(window, count) for window, count in zip(tiling.window, tiles, strict=True)) + 1
    assert (sees[:-1].sum(dim=1) == expected).all()
    assert sees.diagonal().all()
    assert sees[-1].all()
    assert sees[:, -1].all()
    assert tiling.is_dense == bool(sees.all())


@given(small_tilings)
@settings(max_examples=30, deadline=None)
def test_the_share_is_what_the_mask_leaves_of_the_video(tiling: Tiling) -> None:
    assert tiling.share == pytest.approx(naive_mask(tiling, 0).float().mean().item())


@pytest.mark.parametrize(("window", "share"), [((3, 3, 3), 27 / 300), ((5, 5, 5), 125 / 300), ((5, 6, 10), 1.0)])
def test_the_authors_own_size_has_300_whole_tiles(window: Triple, share: float) -> None:
    tiling = Tiling((30, 48, 80), (6, 8, 8), window)
    assert len(list(tiling.boxes())) == 300
    assert tiling.share == pytest.approx(share)
    assert tiling.is_dense == (share == 1)


@given(st.tuples(*[st.integers(3, 6)] * 3), st.tuples(*[st.sampled_from([1, 3])] * 3))
@settings(max_examples=20, deadline=None)
def test_odd_windows_are_those_of_fastvideos_reference(tiles: Triple, window: Triple) -> None:
    """The centre is clamped half a window inside of the borders, and what is within half a window of it is seen."""
    axes = []
    for count, width in zip(tiles, window, strict=True):
        at = torch.arange(count)
        centre = at.clamp(width // 2, count - 1 - width // 2)
        axes.append((centre[:, None] - at).abs() <= width // 2)
    expected = torch.einsum("ad,be,cf->abcdef", *(axis.int() for axis in axes)).reshape(prod(tiles), -1)
    assert torch.equal(Tiling(tiles, (1, 1, 1), window).sees()[:-1, :-1], expected.bool())


# --- window by window ---------------------------------------------------------------------------------------


def noise(tiling: Tiling, text: int, *, batch: int = 1, heads: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """q, k, v [B, L, N, D] beside each other in memory, as a projection may leave them."""
    return randn(batch, tiling.video_tokens + text, 3, heads, 8, seed=seed).unbind(2)


def definition(qkv: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    q, k, v = (part.double() for part in qkv)
    scores = torch.einsum("blnd,bmnd->bnlm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bnlm,bmnd->blnd", scores.masked_fill(~mask, -torch.inf).softmax(-1), v)


@given(small_tilings, st.integers(1, 5), st.integers(1, 2), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_window_by_window_is_attention_under_the_mask(tiling: Tiling, text: int, batch: int, seed: int) -> None:
    qkv = noise(tiling, text, batch=batch, seed=seed)
    out = attend_by_window(kernels.sdpa, qkv, tiling)
    assert rel_l2(out, definition(qkv, naive_mask(tiling, text))) <= ROUNDING


@given(small_tilings, st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_window_over_everything_is_dense_attention(tiling: Tiling, seed: int) -> None:
    qkv = noise(tiling, TEXT, seed=seed)
    out = attend_by_window(kernels.sdpa, qkv, replace(tiling, window=(7, 7, 7)))
    assert rel_l2(out, kernels.sdpa(*qkv)) <= ROUNDING


def test_no_call_of_the_kernel_sees_more_than_a_window_and_tiles_that_see_the_same_share_one() -> None:
    tiling = Tiling((5, 4, 6), (2, 2, 2), (1, 1, 2))
    calls: list[tuple[int, int]] = []

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        calls.append((q.shape[1], k.shape[1]))
        return kernels.sdpa(q, k, v)

    attend_by_window(spy, noise(tiling, TEXT), tiling)
    *video, text = calls
    # Along the width tiles 0 and 1 see 0 and 1, tile 2 sees 1 and 2; the last of three tiles in time is half a tile.
    assert video == [(16, 16 + TEXT), (8, 16 + TEXT)] * 4 + [(8, 8 + TEXT), (4, 8 + TEXT)] * 2
    assert text == (TEXT, tiling.video_tokens + TEXT)


# --- in blocks ----------------------------------------------------------------------------------------------


@given(tilings, st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_the_order_of_tiles_holds_every_token_once_in_its_tiles_own_blocks(
    tiling: Tiling, text: int, block: int
) -> None:
    order = tile_order(tiling, text, block=block)
    tokens = tiling.video_tokens + text
    assert torch.equal(order.source[order.place], torch.arange(tokens))
    assert order.place.unique().numel() == tokens
    assert order.is_token.sum() == tokens
    assert order.is_token[order.place].all()
    number = torch.empty(tiling.grid, dtype=torch.long)
    for i, box in enumerate(tiling.boxes()):
        number[box] = i
    tile_of = torch.cat((number.flatten(), torch.full((text,), int(number.max()) + 1)))[order.source]
    blocks = tile_of.view(-1, block)
    assert (blocks == blocks[:, :1]).all()
    # The fillers of a tile are fewer than a block.
    assert order.is_token.view(-1, block).any(dim=1).all()


@given(tilings, st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_blocks_are_listed_as_whole_only_if_everything_in_them_is_seen_and_left_out_only_if_nothing_is(
    tiling: Tiling, text: int, block: int
) -> None:
    order = tile_order(tiling, text, block=block)
    places, mask = torch.arange(len(order.source)), order.mask
    pairs = mask.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places)
    blocks = pairs.unflatten(1, (-1, block)).unflatten(0, (-1, block)).transpose(1, 2).flatten(2)
    assert torch.equal(listed(mask.full_kv_num_blocks, mask.full_kv_indices), blocks.all(dim=2))
    assert torch.equal(listed(mask.kv_num_blocks, mask.kv_indices), blocks.any(dim=2) & ~blocks.all(dim=2))
    # No row, not even a filler's, is without a key: it would be NaN.
    assert pairs.any(dim=1).all()


def listed(counts: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A list of blocks as a table, [blocks, blocks]."""
    table = torch.zeros(numbers.shape[-2:], dtype=torch.bool)
    for row, (count, order) in enumerate(zip(counts[0, 0].tolist(), numbers[0, 0].tolist(), strict=True)):
        table[row, order[:count]] = True
    return table


@given(small_tilings, st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_mask_of_places_is_the_mask_of_tokens(tiling: Tiling, text: int) -> None:
    order = tile_order(tiling, text, block=4)
    zero = torch.tensor(0)
    pairs = order.mask.mask_mod(zero, zero, order.place[:, None], order.place)
    assert torch.equal(pairs, naive_mask(tiling, text))
    fillers = (~order.is_token).nonzero().flatten()
    assert not order.mask.mask_mod(zero, zero, order.place[:, None], fillers).any()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("batch", [1, 2])
def test_in_blocks_is_the_same_as_window_by_window(batch: int) -> None:
    tiling = Tiling((3, 4, 5), (2, 2, 4), (1, 2, 1))
    qkv = noise(tiling, TEXT, batch=batch)
    before = [part.clone() for part in qkv]
    out = attend_in_blocks(flex_attention, qkv, tile_order(tiling, TEXT, block=16))
    assert out.shape == qkv[0].shape
    assert rel_l2(out, attend_by_window(kernels.sdpa, qkv, tiling)) <= ROUNDING
    assert all(torch.equal(part, kept) for part, kept in zip(qkv, before, strict=True))


@pytest.fixture
def blocks_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Blocks on the CPU too, by a kernel of the test's; no verdict of another test."""

    def use(flex: Callable[..., torch.Tensor]) -> None:
        monkeypatch.setattr(sliding_tile, "FLEX_DEVICES", ("cpu",))
        for module in (sliding_tile, tile_blocks):
            monkeypatch.setattr(module, "compiled_flex", flex)
        why_not_in_blocks.cache_clear()

    yield use
    why_not_in_blocks.cache_clear()


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_mask: Any) -> torch.Tensor:
    """What ``flex_attention`` computes, by its mask alone."""
    places = torch.arange(q.shape[2])
    seen = block_mask.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def test_runs_in_blocks_give_the_same_video(blocks_here: Callable[..., None]) -> None:
    lengths: list[int] = []

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_mask: Any) -> torch.Tensor:
        lengths.append(q.shape[2])
        return masked(q, k, v, block_mask)

    expected = final(TILED, **CFG)
    blocks_here(spy)
    found = final(TILED, **CFG)
    assert rel_l2(found, expected) <= ROUNDING
    assert len(lengths) == 1 + 2 * STEPS * 4  # once for the self-test
    assert all(length % tile_blocks.BLOCK == 0 for length in lengths)


def fails(*args: Any, **options: Any) -> torch.Tensor:
    raise RuntimeError("no Triton")


def by_lists(mask: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each pair of places, whether its block is seen in part, and whether it is seen whole."""
    lists = ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices))
    part, whole = (
        listed(*each).repeat_interleave(tile_blocks.BLOCK, 0).repeat_interleave(tile_blocks.BLOCK, 1) for each in lists
    )
    return part, whole


def test_the_self_test_passes_a_kernel_that_is_right(blocks_here: Callable[..., None]) -> None:
    blocks_here(masked)
    for dtype in (torch.float32, torch.bfloat16):
        assert why_not_in_blocks(CPU, dtype, 128) == ""


@pytest.mark.parametrize("fault", ["takes in skipped blocks", "takes in fillers", "skips parts", "skips wholes"])
def test_the_self_test_finds_a_kernel_that(fault: str, blocks_here: Callable[..., None]) -> None:
    def faulty(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_mask: Any) -> torch.Tensor:
        part, whole = by_lists(block_mask)
        places = torch.arange(q.shape[2])
        exact = block_mask.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places)
        seen = {
            "takes in skipped blocks": exact | ~(part | whole),
            "takes in fillers": part | whole,
            "skips parts": whole,
            "skips wholes": exact & part,
        }[fault]
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    blocks_here(faulty)
    assert "off" in why_not_in_blocks(CPU, torch.bfloat16, 128)


@pytest.mark.parametrize(
    ("flex", "why"),
    [(fails, "fails on cpu in torch.float32.*no Triton"), (lambda *a, **o: 1.1 * masked(*a, **o), "10.0% off")],
    ids=["fails", "is wrong"],
)
def test_where_blocks_do_not_work_the_reason_is_logged_once_and_windows_are_used(
    flex: Callable[..., torch.Tensor], why: str, blocks_here: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    expected = final(TILED)
    blocks_here(flex)
    with caplog.at_level(logging.WARNING, "hyvideo_core"):
        assert torch.equal(final(TILED), expected)
        assert torch.equal(final(TILED), expected)
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "window by window" in message
    assert re.search(why, message)


def test_no_verdict_is_remembered_of_a_device_that_is_full(blocks_here: Callable[..., None]) -> None:
    def full(*args: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    blocks_here(full)
    with pytest.raises(torch.OutOfMemoryError):
        why_not_in_blocks(CPU, torch.float32, 24)
    blocks_here(masked)
    assert why_not_in_blocks(CPU, torch.float32, 24) == ""


def test_more_lengths_than_torch_allows_are_compiled_and_too_many_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as for a compiler and then run as it is, which takes less time.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    tile_blocks._compiled.cache_clear()
    tiling = Tiling((1, 4, 6), (1, 4, 2), (1, 1, 1))

    def attend(text: int) -> torch.Tensor:
        order = tile_order(tiling, text, block=4)
        return attend_in_blocks(tile_blocks.compiled_flex, noise(tiling, text), order)

    with torch._dynamo.config.patch(recompile_limit=1):
        for text in (4, 8):
            assert rel_l2(attend(text), attend_by_window(kernels.sdpa, noise(tiling, text), tiling)) <= ROUNDING
        monkeypatch.setattr(tile_blocks, "MOST_GRAPHS", 2)
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            attend(12)
    torch.compiler.reset()
    tile_blocks._compiled.cache_clear()


@pytest.mark.slow
def test_compiled_it_gives_the_same_from_one_graph_for_each_length() -> None:
    """The true kernel path: on a CPU with a compiler, ``flex_attention`` reads the lists of blocks as on a card."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    tile_blocks._compiled.cache_clear()
    counters.clear()
    for tiling in (SELF_TEST, replace(SELF_TEST, window=(2, 1, 1))):
        for text in (SELF_TEST_TEXT, 3):
            qkv = noise(tiling, text)
            with torch.inference_mode():
                out = attend_in_blocks(tile_blocks.compiled_flex, qkv, tile_order(tiling, text))
            assert rel_l2(out, attend_by_window(kernels.sdpa, qkv, tiling)) <= ROUNDING
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()
    tile_blocks._compiled.cache_clear()


# --- laws of extensions -------------------------------------------------------------------------------------

CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3)}


def test_a_window_that_spans_the_video_is_bit_identical_to_none() -> None:
    assert torch.equal(final(SPANNING), final())
    assert torch.equal(final(SlidingTileAttention(when=ALWAYS)), final())
    assert torch.equal(final(replace(TILED, tile=(5, 4, 6))), final())


def test_never_active_it_is_bit_identical_to_none() -> None:
    assert torch.equal(final(replace(TILED, when=Interval(0.5, 0.5))), final())


@pytest.mark.parametrize(
    "changes",
    [
        {"window": (2, 1, 3)}, {"window": (1, 2, 3)}, {"window": (1, 1, 2)},
        {"tile": (1, 2, 2)}, {"tile": (2, 1, 2)}, {"tile": (2, 2, 1)}, {"when": Interval(0.5, 1.0)},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_video(changes: dict[str, Any]) -> None:
    assert rel_l2(final(TILED), final()) > 1e-3
    assert rel_l2(final(replace(TILED, **changes)), final(TILED)) > 1e-4


def test_the_first_three_tenths_of_the_steps_are_dense_unless_told_otherwise() -> None:
    usual = SlidingTileAttention(tile=(2, 2, 2), window=(1, 1, 1))
    found = list(run(usual, sigmas=flow_sigmas(10, 7.0)))
    dense = list(run(sigmas=flow_sigmas(10, 7.0)))
    assert [torch.equal(a.x, b.x) for a, b in zip(found, dense, strict=True)] == [True] * 3 + [False] * 7
    # FastVideo: steps 0 to 14 of 50.
    assert [usual.when.contains(step, 50) for step in (14, 15, 49)] == [False, True, True]


def test_whole_runs_follow_the_definition() -> None:
    @dataclass(frozen=True)
    class Masked(Extension):
        """The mask, token by token, over all of attention at once."""

        def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
            mask = naive_mask(Tiling((5, 4, 6), TILED.tile, TILED.window), TEXT)
            return lambda q, k, v: definition((q, k, v), mask).float()

    assert rel_l2(final(TILED), final(Masked())) <= ROUNDING


@pytest.mark.parametrize("head_groups", [1, 2])
@pytest.mark.parametrize("attention", ["sdpa", "chunked"])
def test_groups_of_heads_and_other_kernels_give_the_same(head_groups: int, attention: str) -> None:
    dit = random_dit(head_groups=head_groups, attention=attention)
    assert rel_l2(final(TILED, dit=dit), final(TILED)) <= ROUNDING


def test_compiled_blocks_and_a_given_image_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as for a compiler and then run as it is, which takes less time.
    monkeypatch.setattr("hyvideo_core.model.blocks.compiled", partial(torch.compile, backend="eager", dynamic=False))
    monkeypatch.setattr("hyvideo_core.model.dit.why_not_compile", lambda device: "")
    image = ImageToVideo(image=randn(1, 4, 1, 8, 12, seed=7))
    plain = final(TILED, image)
    assert rel_l2(final(TILED, image, dit=random_dit(compile_blocks=True)), plain) <= ROUNDING
    assert rel_l2(plain, final(image)) > 1e-3


def test_a_batch_with_prompts_of_different_lengths_equals_its_clips_alone() -> None:
    noises, texts = randn(2, 4, 5, 8, 12, seed=4), prompt(batch=2, length=6)
    mask = torch.tensor([[1] * 6, [1] * 2 + [0] * 4])
    both = final(TILED, x=noises, positive=replace(texts, text_mask=mask))
    for i, length in enumerate((6, 2)):
        alone = Conditioning(texts.text[i : i + 1, :length], texts.pooled[i : i + 1])
        assert rel_l2(both[i : i + 1], final(TILED, x=noises[i : i + 1], positive=alone)) <= ROUNDING


def test_both_branches_of_true_cfg_are_tiled() -> None:
    assert rel_l2(final(TILED, **CFG), final(**CFG)) > 1e-3
    itself = {"negative": prompt(), "guidance": Guidance(cfg=3)}
    assert rel_l2(final(TILED, **itself), final(TILED)) <= ROUNDING
    batched = {**CFG, "guidance": Guidance(cfg=3, batched=True)}
    assert rel_l2(final(TILED, **batched), final(TILED, **CFG)) <= ROUNDING


@dataclass(frozen=True)
class Kernel(Extension):
    """Notes the queries and keys of every call of the kernel itself."""

    rank: ClassVar[int] = 1000
    calls: list[tuple[int, int]] = field(default_factory=list, compare=False)

    def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.calls.append((q.shape[1], k.shape[1]))
            return inner(q, k, v)

        return attend


def test_a_window_that_spans_the_video_leaves_the_kernel_its_one_call() -> None:
    kernel = Kernel()
    final(SPANNING, kernel)
    assert kernel.calls == [(120 + TEXT, 120 + TEXT)] * STEPS * 4


def test_a_solver_that_asks_twice_a_step_is_tiled_both_times() -> None:
    kernel = Kernel()
    final(TILED, kernel, solver=SOLVERS["heun"])
    evaluations, blocks, windows = 2 * STEPS - 1, 4, 6
    assert len(kernel.calls) == evaluations * blocks * (windows + 1)


def test_an_evaluation_of_some_frames_is_tiled_by_the_grid_of_those() -> None:
    @dataclass(frozen=True)
    class Halves(Extension):
        """The first frames and the others apart, as windows over time do."""

        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            def predict(evaluation: Evaluation) -> torch.Tensor:
                parts = evaluation.x.split([3, 2], dim=2)
                return torch.cat([inner(replace(evaluation, x=part)) for part in parts], dim=2)

            return predict

    velocities = []
    for first, frames in ((0, 3), (3, 2)):
        x = NOISE[:, :, first : first + frames]
        velocities.append(next(run(TILED, x=x)).denoised - x)
    together = next(run(TILED, Halves())).denoised - NOISE
    assert rel_l2(together, torch.cat(velocities, dim=2)) <= ROUNDING


def test_the_order_of_extensions_is_irrelevant() -> None:
    @dataclass(frozen=True)
    class Doubled(Extension):
        def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
            return lambda q, k, v: 2 * inner(q, k, v)

    assert torch.equal(final(TILED, Doubled()), final(Doubled(), TILED))
    assert rel_l2(final(TILED, Doubled()), final(TILED)) > 1e-3


def test_what_else_wraps_attention_is_called_once_for_all_windows() -> None:
    @dataclass(frozen=True)
    class FurtherOut(Kernel):
        rank: ClassVar[int] = 500

    outside = FurtherOut()
    final(TILED, outside)
    assert outside.calls == [(120 + TEXT, 120 + TEXT)] * STEPS * 4


def test_state_is_not_shared_between_runs() -> None:
    small = NOISE[:, :, :3]
    pairs = list(zip(run(TILED), run(TILED, x=small), strict=True))
    assert torch.equal(pairs[-1][0].x, final(TILED))
    assert torch.equal(pairs[-1][1].x, final(TILED, x=small))


@pytest.mark.parametrize(
    ("extension", "line"),
    [
        (TILED, "sliding tile attention: with a window of 1 × 1 × 3 tiles a video token attended to 18% of the video"),
        (SPANNING, "sliding tile attention: the window of 3 × 2 × 3 tiles spans the video; nothing changed"),
        (replace(TILED, when=Interval(0.5, 0.5)), None),
    ],
    ids=["part", "all", "never"],
)
def test_a_run_tells_how_much_was_seen(
    extension: Extension, line: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "hyvideo_core.sample"):
        final(extension)
    assert caplog.messages == ([] if line is None else [line])


# --- what cannot work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tile", "window"])
@pytest.mark.parametrize("value", [(0, 8, 8), (6, 8), (6, 8, -1), (3, 3, 3, 3)], ids=str)
def test_a_wrong_setting_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is \(.*\), but must be three numbers.*at least 1"):
        SlidingTileAttention(**{name: value})
