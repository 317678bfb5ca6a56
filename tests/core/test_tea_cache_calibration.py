"""Calibration of TeaCache: it changes nothing, finds known relations, and its notes are read again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from dit_data import prompt
from hypothesis import given
from hypothesis import strategies as st
from step_cache_data import NaiveTeaCache
from step_cache_runs import (
    CFG,
    DIT,
    NEGATIVE,
    NOISE,
    SIGMAS,
    SMALL,
    STEPS,
    Watched,
    final,
    ran,
)

from hyvideo_core.errors import CheckpointError, HyVideoError
from hyvideo_core.extensions.tea_cache import HUNYUAN_VIDEO_COEFFICIENTS, TeaCache, polynomial
from hyvideo_core.extensions.tea_cache_calibration import TeaCacheCalibration, fitted, note_pair, noted_pairs
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlocks
from hyvideo_core.sample import flow_sigmas
from hyvideo_core.sample.seams import Extension, Run


@dataclass(frozen=True)
class Synthetic(Extension):
    """Instead of the blocks' result, one whose relative change is ``rate`` times that of the first block's input.

    What changes in the input is added to a constant 1/rate times as large: so large that no sign ever turns.
    """

    rank: ClassVar[int] = 950
    rate: float = 0.25

    def start(self, run: Run) -> dict[str, torch.Tensor]:
        return {}

    def wrap_blocks(self, inner: RunBlocks, state: dict[str, torch.Tensor]) -> RunBlocks:
        def run(stream: Stream) -> None:
            shift, scale = DIT.double_blocks[0].img_mod(stream.vec)[:2]
            tokens = stream.video
            normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift
            then = state.setdefault("input", normed)
            level = state.setdefault("level", normed.abs().mean())
            moved = state.setdefault("result", torch.full_like(normed, level.item() / self.rate))
            state["result"] = moved + (normed - then) * (level / then.abs().mean())
            state["input"] = normed
            tokens.add_(state["result"])

        return run


def test_calibration_changes_nothing() -> None:
    assert torch.equal(final(TeaCacheCalibration(), **CFG), final(**CFG))


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_calibration_finds_a_known_relation(rate: float) -> None:
    pairs: list[tuple[float, float]] = []
    final(TeaCacheCalibration(found=pairs.append), Synthetic(rate=rate))
    assert len(pairs) == STEPS - 1
    slope, offset = fitted(pairs)
    assert (slope, offset) == (pytest.approx(rate, rel=0.05), 0.0)


def test_calibration_measures_what_a_plain_loop_does() -> None:
    found: list[tuple[float, float]] = []
    final(TeaCacheCalibration(found=found.append), **CFG)

    class Measured(NaiveTeaCache):
        def blocks(self, branch: str, stream: Stream, inner: Any) -> None:
            if branch == "positive":
                self.inputs.append(self.modulated(stream))
            tokens = stream.video.clone()
            inner(stream)
            if branch == "positive":
                self.results.append(stream.video - tokens)

    naive = Measured(DIT, {"positive": prompt(), "negative": NEGATIVE}, 3, None, 0.0)
    naive.inputs, naive.results = [], []
    naive.run(NOISE, SIGMAS)
    expected = [
        tuple(((now - then).abs().mean() / then.abs().mean()).item() for then, now in (pair_in, pair_out))
        for pair_in, pair_out in zip(pairwise(naive.inputs), pairwise(naive.results), strict=True)
    ]
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-4)


@given(st.lists(st.tuples(st.floats(1e-3, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_calibrated_estimates_add_up_to_what_was_measured(pairs: list[tuple[float, float]]) -> None:
    estimated = sum(polynomial(fitted(pairs), change) for change, _ in pairs)
    assert estimated == pytest.approx(sum(result for _, result in pairs), rel=1e-6, abs=1e-12)


def test_the_coefficients_are_reported_so_that_a_cache_can_be_given_them(caplog: pytest.LogCaptureFixture) -> None:
    pairs: list[tuple[float, float]] = []
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        final(TeaCacheCalibration(found=pairs.append))
    slope, _ = fitted(pairs)
    assert caplog.messages[-1] == (
        f"TeaCache: the coefficients for this checkpoint are {slope:.6g}, 0 (from 11 changes)."
    )
    own = TeaCache(threshold=0.5, coefficients=fitted(pairs))
    assert ran(own).computed() != ran(replace(own, coefficients=HUNYUAN_VIDEO_COEFFICIENTS)).computed()


def test_what_is_measured_is_noted_and_read_again(tmp_path: Path) -> None:
    path, pairs = tmp_path / "new" / "some.txt", []
    final(TeaCacheCalibration(found=partial(note_pair, path)))
    final(TeaCacheCalibration(found=pairs.append))
    assert noted_pairs(path) == pairs
    # Another run adds to it.
    note_pair(path, (0.5, 0.25))
    assert noted_pairs(path) == [*pairs, (0.5, 0.25)]


def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    with pytest.raises(CheckpointError, match=r"some\.txt is no calibration"):
        noted_pairs(path)
    for line in ("", "0.5", "a b", "0.5 nan", "-1 0.5", "1 2 3", "inf 1"):
        path.write_text(f"0.5 0.25\n{line}\n0.5 0.25\n")
        with pytest.raises(
            CheckpointError, match=r"some\.txt is no calibration of TeaCache: its line 2 is .*two numbers"
        ):
            noted_pairs(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"some\.txt is no calibration"):
        noted_pairs(path)
    with pytest.raises(HyVideoError, match="cannot be written"):
        note_pair(path / "below.txt", (0.5, 0.25))


def test_calibration_holds_what_it_states() -> None:
    stated = TeaCacheCalibration().cache_bytes(SMALL, tuple(NOISE.shape), 4)
    states: list[Any] = []

    class Told(TeaCacheCalibration):
        def start(self, run: Run) -> Any:
            states.append(super().start(run))
            return states[-1]

    watched = Watched(states=states)
    final(Told(), watched, **CFG)
    assert max(watched.seen) == stated


def test_calibration_needs_something_to_measure(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        final(TeaCacheCalibration(), sigmas=flow_sigmas(1, 7.0))
    assert caplog.messages[-1] == "TeaCache: there is nothing to calibrate from. Run two steps or more."
    for nothing in ([], [(0.0, 0.0)]):
        with pytest.raises(ValueError, match="never changed"):
            fitted(nothing)
