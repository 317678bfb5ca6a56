"""Runs and edits with caches of steps that were broken off and go on, and both sides of an edit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_data import prompt
from step_cache_data import Ran
from step_cache_runs import (
    CFG,
    DIT,
    EVERYTHING,
    IMAGE,
    NEGATIVE,
    NOISE,
    SIGMAS,
    STEPS,
    Halves,
    each_cache,
    earliest,
    start,
)

from golden_data import rel_l2
from hyvideo_core.extensions import ImageToVideo
from hyvideo_core.extensions.step_cache import DEVICES, StepCache
from hyvideo_core.extensions.tea_cache import TeaSlot
from hyvideo_core.sample import SOLVERS, Guidance, flow_sigmas
from hyvideo_core.sample.checkpoint import read_checkpoint, write_checkpoint
from hyvideo_core.sample.flow_edit import Extent, Side, flow_edit
from hyvideo_core.sample.seams import Evaluation, Extension
from hyvideo_core.types import Interval


@dataclass(frozen=True)
class Nothing(Extension):
    """Another set of extensions, and nothing else."""


def goes_on(begin: Callable[..., Any], steps: Sequence[int], path: Path) -> None:
    """A run that goes on from its file, after any of these steps, makes the steps of the whole one."""
    files, whole = {}, {}
    for step in begin():
        whole[step.index] = step.x
        if step.index in steps:
            write_checkpoint(path / "run", step.checkpoint(), {})
            files[step.index] = read_checkpoint(path / "run", {})
    for index, made in files.items():
        rest = {step.index: step.x for step in begin(resume=made)}
        assert list(rest) == [each for each in whole if each > index]
        assert all(torch.equal(x, whole[each]) for each, x in rest.items())


GOING_ON: dict[str, tuple[list[Extension], dict[str, Any]]] = {
    "cfg and a solver of two evaluations": ([], {**CFG, "solver": SOLVERS["heun"]}),
    "an image, and others that come and go": ([ImageToVideo(image=IMAGE), Nothing(when=Interval(0.25, 0.75))], {}),
    "parts": ([Halves()], {}),
}


@each_cache
@pytest.mark.parametrize("case", GOING_ON.values(), ids=GOING_ON)
def test_a_run_that_goes_on_is_the_whole_one_to_the_last_bit(
    cached: StepCache, case: tuple[list[Extension], dict[str, Any]], tmp_path: Path
) -> None:
    others, options = case
    # In step 2 the others come, in step 6 they go: after steps 1 and 5 what is kept must be forgotten, after 3 not.
    goes_on(partial(start, cached, *others, sigmas=flow_sigmas(8, 7.0), **options), (1, 3, 5), tmp_path)


@pytest.mark.parametrize("device", DEVICES)
@each_cache
def test_what_a_cache_remembers_is_needed(cached: StepCache, device: str) -> None:
    cached = replace(cached, threshold=EVERYTHING, device=device)
    steps = start(cached)
    made = [next(steps) for _ in range(5)][-1].checkpoint()
    whole = list(steps)[-1].x
    assert torch.equal(list(start(cached, resume=made))[-1].x, whole)
    assert rel_l2(list(start(cached, resume=replace(made, kept={})))[-1].x, whole) > 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_results_that_are_remembered_go_to_where_a_cache_keeps_them(device: str) -> None:
    slot = TeaSlot(Evaluation(NOISE, 0.5, 1, STEPS, prompt(), "positive"), True, NOISE, (NOISE, NOISE), math.nan)
    found = TeaSlot(slot.last)
    found.recall(slot.remembered(), torch.device("meta" if device == "model" else "cpu"))
    assert found.residual is not None
    assert found.modulation is not None
    assert found.residual.device.type == ("meta" if device == "model" else "cpu")
    assert all(torch.equal(each, NOISE) for each in found.modulation)
    assert found.is_filled is True
    assert math.isnan(found.predicted)


@each_cache
def test_off_it_remembers_nothing(cached: StepCache) -> None:
    steps = start(replace(cached, threshold=0.0))
    assert next(steps).checkpoint().kept == {}


def edit(*extensions: Extension, **options: Any) -> Any:
    source, target = Side(prompt()), Side(prompt(seed=40), NEGATIVE, Guidance(cfg=3))
    extent = Extent(n_max=10, n_min=2)
    return flow_edit(DIT, NOISE, source, target, sigmas=SIGMAS, extent=extent, extensions=extensions, **options)


@each_cache
def test_both_sides_of_an_edit_skip_the_same_steps(cached: StepCache, caplog: pytest.LogCaptureFixture) -> None:
    spy = Ran()
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        list(edit(replace(cached, threshold=EVERYTHING), spy))
    first, last = [2, *([3] if earliest(cached) == 2 else [])], [STEPS - 1]
    assert spy.computed("target positive") == spy.computed("target negative") == [*first, *last]
    assert spy.computed("source positive") == first
    told = caplog.messages[-1]
    skipped = 10 - len(first) - 1
    assert f"skipped {skipped} of 10 steps of target positive" in told
    assert f"{skipped - 1} of 8 steps of source positive" in told


@each_cache
def test_an_edit_that_goes_on_is_the_whole_one_to_the_last_bit(cached: StepCache, tmp_path: Path) -> None:
    goes_on(partial(edit, cached, Nothing(when=Interval(0.5, 1))), (4, 5), tmp_path)
