"""The GPU benchmark's rows of features, with the tiny model on the CPU: they measure what they say."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import gpu_caches
import gpu_tiles
import pytest
import torch
from card import Card
from gpu_caches import CACHES, EVERYTHING, NOTHING, Caches
from gpu_sampling import Sampling
from gpu_tiles import BY_WINDOW, IN_BLOCKS, Tiles
from scale import GOAL_SIZE, IMAGE_SIZE, LARGE_WINDOW, REHEARSAL, SHORT_SIZE, SMALL_WINDOW, TRUE

from cases import Missing
from hyvideo_core.attention import kernels
from hyvideo_core.attention.sliding_tile import Tiling

CARD = Card(torch.device("cpu"))
SAMPLING = Sampling(CARD, REHEARSAL)
CACHED, TILED = Caches(CARD, REHEARSAL, SAMPLING), Tiles(CARD, REHEARSAL, SAMPLING)
BLOCKS = REHEARSAL.dit.double_blocks + REHEARSAL.dit.single_blocks
#: Blocks that run in a step that is skipped.
STILL_RUN = {"TeaCache": 0, "First-Block Cache": 1, "EasyCache": 0}


@dataclass(frozen=True)
class Clock(Card):
    """By it the first work takes a second, and each one more than the one before."""

    ticks: Iterator[int] = field(default_factory=lambda: count(1))

    def seconds(self, work: Callable[[], object]) -> float:
        work()
        return float(next(self.ticks))


def clocked(kind: Callable[[Card, Any, Sampling], Any]) -> Any:
    clock = Clock(CARD.device)
    return kind(clock, REHEARSAL, Sampling(clock, REHEARSAL))


def ran(row: dict[str, Any]) -> int:
    return int(row["blocks_run"].split()[0])


# --- caches -------------------------------------------------------------------------------------------------


def test_every_cache_is_measured_as_it_is_by_default() -> None:
    assert set(CACHES) == set(STILL_RUN)
    assert all(cache == type(cache)() for cache in CACHES.values())


@pytest.mark.parametrize("name", CACHES)
def test_a_step_that_a_cache_watches_is_computed_and_has_one_without_beside_it(name: str) -> None:
    row = clocked(Caches).computed(GOAL_SIZE, name)
    assert row["blocks_run"] == f"{BLOCKS} of {BLOCKS}"
    # A step to warm up and a measured one, with the cache and without.
    assert (row["seconds"], row["plain_s"], row["slowdown_percent"]) == (2, 4, -50)


def test_a_watching_cache_decides_in_the_measured_step_and_keeps_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[int] = []
    kept: list[int] = []
    cache = type(CACHES["TeaCache"])
    may_skip, keeps = cache.may_skip, cache.keeps

    def spy_keeps(self: Any, evaluation: Any) -> bool:
        if keeps(self, evaluation):
            kept.append(evaluation.step)
        return keeps(self, evaluation)

    def spy_may_skip(self: Any, step: int, steps: int) -> bool:
        decided.extend([step] * may_skip(self, step, steps))
        return may_skip(self, step, steps)

    monkeypatch.setattr(cache, "may_skip", spy_may_skip)
    monkeypatch.setattr(cache, "keeps", spy_keeps)
    CACHED.computed(GOAL_SIZE, "TeaCache")
    measured = range(1, 1 + REHEARSAL.steps)
    assert set(measured) <= set(decided) & set(kept)


@pytest.mark.parametrize("name", CACHES)
def test_a_skipped_step_is_one_in_which_the_cache_skipped_what_it_can(name: str) -> None:
    row = clocked(Caches).skipped(GOAL_SIZE, name)
    assert row["blocks_run"] == f"{STILL_RUN[name]} of {BLOCKS}"
    # Two computed steps, then two that are skipped; the second of each kind counts.
    assert (row["computed_s"], row["seconds"], row["computed_percent"]) == (2, 4, 200)
    steps = gpu_caches.COMPUTED_FIRST + 1 + REHEARSAL.steps
    assert row["reported"].startswith(f"{name} skipped {1 + REHEARSAL.steps} of {steps} steps")


@pytest.mark.parametrize(
    ("threshold", "other", "work"),
    [("NOTHING", EVERYTHING, CACHED.computed), ("EVERYTHING", NOTHING, CACHED.skipped)],
    ids=["computed", "skipped"],
)
def test_a_row_that_did_not_measure_what_it_says_has_no_numbers(
    threshold: str, other: float, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_caches, threshold, other)
    with pytest.raises(Missing, match=r"TeaCache skipped .* although its threshold is"):
        work(GOAL_SIZE, "TeaCache")


@pytest.mark.parametrize("name", CACHES)
def test_a_whole_run_has_what_the_cache_reports_and_the_same_run_without(name: str) -> None:
    row = clocked(Caches).run(SHORT_SIZE, name)
    skipped, steps = map(int, re.findall(r"skipped (\d+) of (\d+) steps", row["reported"])[0])
    assert steps == REHEARSAL.run_steps
    assert ran(row) == (steps - skipped) * BLOCKS + skipped * STILL_RUN[name]
    assert (row["plain_s"], row["seconds"], row["times_faster"]) == (1, 2, 0.5)
    assert f"threshold {CACHES[name].threshold:g}" in row["settings"]


@pytest.mark.parametrize("name", CACHES)
def test_a_run_that_skips_all_it_may_computes_the_first_and_last_steps_only(name: str) -> None:
    row = CACHED.run(SHORT_SIZE, name, EVERYTHING)
    computed = CACHES[name].warm_up + CACHES[name].last
    skipped = REHEARSAL.run_steps - computed
    assert skipped > 0
    assert ran(row) == computed * BLOCKS + skipped * STILL_RUN[name]


def test_the_run_without_a_cache_is_measured_once_for_a_size() -> None:
    bench = Caches(CARD, REHEARSAL, SAMPLING)
    rows = [bench.run(SHORT_SIZE, name, EVERYTHING) for name in CACHES]
    assert len({row["plain_s"] for row in rows}) == 1


def test_listening_for_reports_leaves_no_trace() -> None:
    logger = logging.getLogger("hyvideo_core.sample.run")
    before = logger.level, list(logger.handlers)
    with gpu_caches.reports() as told:
        logger.info("%s skipped", "it")
    logger.info("unheard")
    assert told == ["it skipped"]
    assert (logger.level, logger.handlers) == before


def test_the_predicted_peak_has_what_the_feature_takes() -> None:
    _, without = SAMPLING.resident(GOAL_SIZE)
    cache = CACHES["First-Block Cache"]
    _, with_cache = SAMPLING.resident(GOAL_SIZE, cache)
    assert with_cache.peak_bytes - without.peak_bytes == cache.cache_bytes(
        REHEARSAL.dit, without.latent_shape, 2, branches=1
    )


# --- sliding tiles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "left_out"), [(LARGE_WINDOW, 0.5833), (SMALL_WINDOW, 0.91)])
def test_the_windows_leave_out_what_their_authors_state_at_their_size(window: str, left_out: float) -> None:
    tiling = Tiling((30, 48, 80), TRUE.tile, TRUE.windows[window])
    assert 1 - tiling.share == pytest.approx(left_out, abs=5e-5)
    assert window == "×".join(map(str, TRUE.windows[window]))


@pytest.mark.parametrize("window", REHEARSAL.windows)
def test_a_call_by_window_tells_how_many_scores_it_computes(window: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores: list[int] = []

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores.append(q.shape[1] * k.shape[1])
        return kernels.sdpa(q, k, v)

    monkeypatch.setattr(gpu_tiles, "resolve", lambda *arguments: spy)
    row = TILED.kernel(GOAL_SIZE, window, BY_WINDOW)
    calls = 1 + REHEARSAL.steps
    tokens = REHEARSAL.sizes[GOAL_SIZE].tokens + REHEARSAL.text_tokens
    assert row["computed"] == f"{sum(scores) / calls / tokens**2:.1%} of dense attention's scores"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_call_in_blocks_tells_how_many_it_computes_and_stands_beside_dense_ones() -> None:
    row = TILED.kernel(GOAL_SIZE, SMALL_WINDOW, IN_BLOCKS)
    # Four tiles that see themselves and the text, and the text, which sees all: a block each, dense all tokens in one.
    assert row["computed"].startswith("13 blocks where dense attention has 1 ")
    assert re.search(r"as fast as auto.*as fast as sdpa\b", row["beside_dense"])
    assert {"self_test_s", "order_s", "first_more_s"} <= set(row)


def test_a_dense_kernel_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tiles, "DENSE", ("sdpa", "absent"))
    row = TILED.kernel(GOAL_SIZE, SMALL_WINDOW, BY_WINDOW)
    assert "dense absent attention is 'absent', but must be" in row["beside_dense"]


def test_a_step_with_sliding_tiles_stands_beside_the_dense_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tiling] = []
    exact = gpu_tiles.SlidingTileAttention.wrap_attend

    def spy(self: Any, inner: Any, state: Any) -> Any:
        attend = exact(self, inner, state)

        def run(*qkv: torch.Tensor) -> torch.Tensor:
            calls.append(state.tiling)
            return attend(*qkv)

        return run

    monkeypatch.setattr(gpu_tiles.SlidingTileAttention, "wrap_attend", spy)
    row = TILED.step(GOAL_SIZE, SMALL_WINDOW)
    assert len(calls) == BLOCKS * (1 + REHEARSAL.steps)
    assert {tiling.window for tiling in calls} == {REHEARSAL.windows[SMALL_WINDOW]}
    assert row["way"].startswith(BY_WINDOW)


def test_what_the_first_of_a_kind_takes_stands_apart() -> None:
    tiles = clocked(Tiles)
    row = tiles.step(GOAL_SIZE, SMALL_WINDOW)
    # The steps within windows, then the dense ones; each has one to warm up.
    assert (row["seconds"], row["first_more_s"], row["plain_s"]) == (2, 1 - 2, 4)
    assert row["times_faster"] == 2
    # Measured in each row anew.
    again = tiles.step(GOAL_SIZE, SMALL_WINDOW)
    assert (again["seconds"], again["plain_s"]) == (6, 8)
    row = tiles.kernel(GOAL_SIZE, SMALL_WINDOW, BY_WINDOW)
    assert row["first_more_s"] == -1
    assert row["beside_dense"].startswith(f"{9 / row['seconds']:.2f} × as fast as auto, {10 / row['seconds']:.2f} ×")


def test_a_step_says_why_it_is_not_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tiles, "FLEX_DEVICES", ("cpu",))
    monkeypatch.setattr(gpu_tiles, "why_not_in_blocks", functools.cache(lambda *test: "there is no Triton"))
    assert TILED.step(GOAL_SIZE, SMALL_WINDOW)["way"] == "by window: there is no Triton"


def test_a_window_that_spans_the_video_is_not_measured() -> None:
    tiles = Tiles(CARD, replace(REHEARSAL, tile=TRUE.tile), SAMPLING)
    for work in (
        lambda: tiles.step(IMAGE_SIZE, LARGE_WINDOW),
        lambda: tiles.kernel(IMAGE_SIZE, LARGE_WINDOW, IN_BLOCKS),
    ):
        with pytest.raises(Missing, match="spans the video"):
            work()


def test_every_row_starts_with_nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append("once more")
        return graph

    double = torch.compile(lambda x: x * 2, backend=backend)
    for _ in range(2):
        double(torch.ones(3))
    assert len(compiled) == 1
    with gpu_tiles.nothing_compiled():
        for _ in range(2):
            double(torch.ones(3))
    assert len(compiled) == 2
