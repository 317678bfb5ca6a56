"""FreSca: the authors' square of low frequencies, every frame by itself, and nothing where nothing is scaled."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dit_data import prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.extensions.fresca import FreSca
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.seams import Conditional, Evaluation, Extension, Run
from hyvideo_core.types import Interval

DIT = random_dit()
NOISE = randn(1, 4, 2, 6, 8, seed=3)
STEPS = 4
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=4)}
SHARP = FreSca(low=0.5, high=1.5, cutoff=2)
#: Transforms in float32, there and back.
ROUNDING = 1e-5


def run(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> list[Step]:
    return list(sample(DIT, x, prompt(), **{"sigmas": flow_sigmas(STEPS, 7.0), **options}, extensions=extensions))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


def filtered(difference: torch.Tensor, extension: FreSca = SHARP, name: str = "negative") -> torch.Tensor:
    """What ``extension`` makes of a difference."""
    evaluation = Evaluation(torch.zeros_like(difference), 0.5, 1, STEPS, prompt(), "positive")
    with ExitStack() as stack:
        state = extension.start(Run(DIT, flow_sigmas(STEPS, 7.0), stack, tuple(difference.shape)))
        return extension.difference(difference, name, Conditional(evaluation, difference), state)


def by_hand(difference: torch.Tensor, low: float, high: float, cutoff: int) -> torch.Tensor:
    """The authors' recipe step by step, frame by frame, in float64."""
    out = np.empty(difference.shape)
    height, width = difference.shape[-2:]
    cutoff = min(cutoff, height // 2, width // 2)
    for i in np.ndindex(*difference.shape[:-2]):
        spectrum = np.fft.fftshift(np.fft.fft2(difference[i].double().numpy()))
        for y in range(height):
            for x in range(width):
                is_low = abs(y - height // 2 + 0.5) < cutoff and abs(x - width // 2 + 0.5) < cutoff
                spectrum[y, x] *= low if is_low else high
        out[i] = np.fft.ifft2(np.fft.ifftshift(spectrum)).real
    return torch.from_numpy(out)


# --- the filter ---------------------------------------------------------------------------------------------


@given(height=st.integers(2, 9), width=st.integers(2, 9), cutoff=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_it_is_the_authors_filter_at_every_size(height: int, width: int, cutoff: int, seed: int) -> None:
    difference = randn(2, 2, 2, height, width, seed=seed)
    expected = by_hand(difference, 0.3, 1.7, cutoff)
    assert rel_l2(filtered(difference, FreSca(low=0.3, high=1.7, cutoff=cutoff)), expected) <= ROUNDING


def test_flat_is_low_and_a_chequerboard_is_high() -> None:
    flat = torch.ones(1, 1, 1, 6, 8)
    board = flat * (-1.0) ** (torch.arange(6)[:, None] + torch.arange(8))
    assert torch.allclose(filtered(flat), 0.5 * flat, atol=1e-6)
    assert torch.allclose(filtered(board), 1.5 * board, atol=1e-6)


def test_a_wave_is_low_below_the_cutoff_and_high_above_it() -> None:
    angle = 2 * torch.pi * torch.arange(16) / 16
    for waves, factor in ((1, 0.5), (2, 0.5), (3, 1.0), (4, 1.5), (5, 1.5)):
        wave = torch.cos(waves * angle).expand(1, 1, 1, 16, 16)
        # At the edge itself one of the two halves of a wave is low, the other high.
        assert torch.allclose(filtered(wave, replace(SHARP, cutoff=3)), factor * wave, atol=1e-5)


def test_a_cutoff_beyond_the_finest_waves_leaves_nothing_high() -> None:
    difference = randn(1, 2, 2, 6, 6, seed=8)
    assert rel_l2(filtered(difference, replace(SHARP, cutoff=100)), 0.5 * difference) <= ROUNDING


def test_frames_and_channels_do_not_mix() -> None:
    difference = torch.zeros(2, 3, 4, 6, 8)
    difference[1, 2, 3] = randn(6, 8)
    found = filtered(difference)
    assert torch.equal(found[1, 2, 3], filtered(difference[1:, 2:, 3:])[0, 0, 0])
    found[1, 2, 3] = 0
    assert torch.equal(found, torch.zeros_like(found))


@given(seed=st.integers(0, 99), low=st.floats(0, 3), high=st.floats(0, 3))
@settings(max_examples=20, deadline=None)
def test_low_and_high_parts_add_up(seed: int, low: float, high: float) -> None:
    difference = randn(1, 2, 1, 5, 6, seed=seed)
    parts = [filtered(difference, FreSca(low=a, high=b, cutoff=2)) for a, b in ((1, 0), (0, 1))]
    assert rel_l2(parts[0] + parts[1], difference) <= ROUNDING
    whole = filtered(difference, FreSca(low=low, high=high, cutoff=2))
    assert torch.allclose(whole, low * parts[0] + high * parts[1], atol=1e-4)


def test_it_is_computed_in_float32() -> None:
    difference = randn(1, 2, 1, 6, 8).bfloat16()
    assert torch.equal(filtered(difference), filtered(difference.float()))


def test_only_the_negative_branch_is_filtered() -> None:
    assert filtered(NOISE, name="skip double 2") is NOISE


# --- in a run -----------------------------------------------------------------------------------------------


def test_a_step_adds_the_filtered_difference() -> None:
    x, sigmas = NOISE, flow_sigmas(1, 7.0)
    v_c = x - run(sigmas=sigmas)[0].x
    v_n = x - next(iter(sample(DIT, x, CFG["negative"], sigmas=sigmas))).x
    expected = x - (v_c + (CFG["guidance"].cfg - 1) * by_hand(v_c - v_n, 0.5, 1.5, 2))
    assert rel_l2(final(SHARP, sigmas=sigmas, **CFG), expected) <= ROUNDING


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("batched", [False, True])
def test_at_one_it_is_bit_identical_to_none(solver: str, batched: bool) -> None:
    options = {**CFG, "guidance": Guidance(cfg=4, rescale=0.5, batched=batched), "solver": SOLVERS[solver]}
    assert torch.equal(final(FreSca(low=1, high=1), **options), final(**options))
    assert torch.equal(final(replace(SHARP, when=Interval(0.5, 0.5)), **options), final(**options))


def test_every_option_changes_the_output() -> None:
    variants = [
        SHARP,
        replace(SHARP, low=1.0),
        replace(SHARP, high=1.0),
        replace(SHARP, cutoff=1),
        replace(SHARP, when=Interval(0.5, 1)),
        FreSca(low=1, high=1),
    ]
    results = [final(extension, **CFG) for extension in variants]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert rel_l2(one, other) > 1e-3


def test_a_batch_equals_its_clips_alone() -> None:
    x = randn(2, 4, 2, 6, 8, seed=6)
    together = final(SHARP, x=x, **CFG)
    for i in range(2):
        assert rel_l2(together[i : i + 1], final(SHARP, x=x[i : i + 1], **CFG)) <= ROUNDING


def test_runs_of_different_sizes_do_not_meet() -> None:
    small = randn(1, 4, 2, 4, 4, seed=7)
    starts = [
        sample(DIT, x, prompt(), sigmas=flow_sigmas(STEPS, 7.0), extensions=[SHARP], **CFG) for x in (NOISE, small)
    ]
    pairs = list(zip(*starts, strict=True))
    assert torch.equal(pairs[-1][0].x, final(SHARP, **CFG))
    assert torch.equal(pairs[-1][1].x, final(SHARP, x=small, **CFG))


def test_without_guidance_it_says_that_it_did_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hyvideo_core.sample"):
        assert torch.equal(final(SHARP), final())
        assert caplog.messages == [
            "FreSca had nothing to act on: in the steps just made cfg was 1 wherever it is active."
        ]
        caplog.clear()
        run(SHARP, **CFG)
        run(FreSca(low=1, high=1), **CFG)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"low": -0.1}, r"low is -0\.1, but must be 0 or more"),
        ({"high": float("nan")}, "high is nan, but must be 0 or more"),
        ({"high": float("inf")}, "high is inf, but must be 0 or more"),
        ({"cutoff": 0}, "cutoff is 0, but must be 1 or more"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        FreSca(**changes)
