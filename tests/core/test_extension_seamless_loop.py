"""Seamless loops: the ring is turned in every step and turned back, decoding, the laws of extensions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit
from hypothesis import given
from hypothesis import strategies as st
from spies import Spy

from golden_data import rel_l2
from hyvideo_core.errors import GeometryError, HyVideoError
from hyvideo_core.extensions import FirstFrame, ImageConcat, ImageToVideo, Keyframes
from hyvideo_core.extensions.context_windows import ContextWindows
from hyvideo_core.extensions.seamless_loop import (
    LEAD_FRAMES,
    LEAD_LATENT_FRAMES,
    SeamlessLoop,
    for_decoding,
)
from hyvideo_core.model.dit import Rope
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import Interval

DIT = random_dit()
FRAMES, STEPS = 5, 4
NOISE = randn(1, 4, FRAMES, 4, 4, seed=3)
LOOP = SeamlessLoop(shift_latent_frames=2)
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3)}
ROUNDING = 1e-5


def run(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> list[Step]:
    options = {"sigmas": flow_sigmas(STEPS, 7.0), **options}
    return list(sample(DIT, x, prompt(), extensions=extensions, **options))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


@dataclass(frozen=True)
class Standing(Extension):
    """The same position for every token: a transformer that knows no first frame."""

    rank: ClassVar[int] = 5

    def wrap_rope(self, inner: Rope, state: Any) -> Rope:
        return lambda *args: torch.ones_like(inner(*args))


# --- the ring -----------------------------------------------------------------------------------------------


def test_a_run_equals_one_in_which_the_latent_is_turned_and_turned_back_by_hand() -> None:
    x, sigmas = NOISE, flow_sigmas(STEPS, 7.0)
    for step, shift in enumerate([0, 2, 4, 1]):
        turned = torch.cat((x[:, :, shift:], x[:, :, :shift]), dim=2)
        turned = run(x=turned, sigmas=sigmas[step : step + 2])[0].x
        x = torch.cat((turned[:, :, FRAMES - shift :], turned[:, :, : FRAMES - shift]), dim=2)
    assert rel_l2(final(LOOP), x) <= ROUNDING


def test_every_evaluation_says_which_frames_it_is_of() -> None:
    spy = Spy()
    final(LOOP, spy, **CFG, solver=SOLVERS["heun"])
    # Two evaluations a step but for the last, each of both prompts: all of a step begin at the same frame.
    assert [evaluation.part[0] for evaluation in spy.seen] == [0] * 4 + [2] * 4 + [4] * 4 + [1] * 2
    assert all(sorted(evaluation.part) == list(range(FRAMES)) for evaluation in spy.seen)
    assert torch.equal(spy.seen[0].x, NOISE)


def test_the_place_of_a_frame_in_the_latent_shows_in_its_number() -> None:
    spy = Spy()
    steps = run(LOOP, spy)
    for evaluation, before in zip(spy.seen[1:], steps, strict=False):
        assert torch.equal(evaluation.x, before.x[:, :, list(evaluation.part)])


def test_for_a_transformer_without_positions_turning_changes_nothing() -> None:
    assert rel_l2(final(LOOP, Standing()), final(Standing())) <= ROUNDING
    assert rel_l2(final(LOOP), final()) > 1e-3


@given(st.integers(2, 60), st.integers(1, 60), st.integers(2, 60))
def test_no_frame_is_always_the_first(frames: int, shift: int, steps: int) -> None:
    if shift % frames == 0:
        return
    first = {step * shift % frames for step in range(steps)}
    assert len(first) > 1


def test_windows_lie_on_the_ring() -> None:
    spy = Spy()
    final(LOOP, ContextWindows(window_frames=9, overlap_frames=0, freenoise=False), spy)
    of_step_1 = [evaluation.part for evaluation in spy.seen if evaluation.step == 1]
    assert of_step_1 == [(2, 3, 4), (4, 0, 1)]


# --- decoding -----------------------------------------------------------------------------------------------


def pictures(latent: torch.Tensor) -> list[float]:
    """Stands for a causal decoder: one picture of the first frame and four of every other."""
    first, *others = latent.flatten().tolist()
    return [first, *itertools.chain(*([frame] * 4 for frame in others))]


@given(st.integers(1, 40))
def test_decoded_with_a_lead_every_frame_gives_four_pictures_in_order(frames: int) -> None:
    loop = torch.arange(float(frames)).view(1, 1, frames, 1, 1)
    decoded = pictures(for_decoding(loop))[LEAD_FRAMES:]
    assert decoded == [float(frame) for frame in range(frames) for _ in range(4)]


def test_in_front_of_the_loop_are_its_last_frames() -> None:
    found = for_decoding(NOISE)
    assert LEAD_LATENT_FRAMES == 3
    assert torch.equal(found[:, :, :3], NOISE[:, :, -3:])
    assert torch.equal(found[:, :, 3:], NOISE)
    short = NOISE[:, :, :2]
    assert torch.equal(for_decoding(short), short[:, :, [1, 0, 1, 0, 1]])


# --- batches, guidance --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, CFG, {**CFG, "solver": SOLVERS["heun"]}], ids=["plain", "cfg", "cfg heun"])
def test_a_batch_equals_its_clips_alone(options: dict[str, Any]) -> None:
    noise = randn(2, 4, FRAMES, 4, 4, seed=4)
    together = final(LOOP, x=noise, **options)
    for i in range(2):
        assert rel_l2(together[i : i + 1], final(LOOP, x=noise[i : i + 1], **options)) <= ROUNDING


def test_batched_guidance_gives_the_same() -> None:
    batched = {**CFG, "guidance": Guidance(cfg=3, batched=True)}
    assert rel_l2(final(LOOP, **batched), final(LOOP, **CFG)) <= ROUNDING


# --- laws of extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [SeamlessLoop(shift_latent_frames=0), replace(LOOP, when=Interval(0.5, 0.5))])
def test_off_it_is_bit_identical_to_none(idle: SeamlessLoop) -> None:
    assert torch.equal(final(idle), final())


def test_off_it_is_bit_identical_to_none_beside_an_image_too() -> None:
    image = ImageToVideo(image=randn(1, 4, 1, 4, 4, seed=7))
    assert torch.equal(final(SeamlessLoop(shift_latent_frames=0), image), final(image))


@pytest.mark.parametrize("change", [{"shift_latent_frames": 1}, {"when": Interval(0, 0.5)}], ids=str)
def test_every_setting_changes_the_video(change: dict[str, Any]) -> None:
    assert rel_l2(final(replace(LOOP, **change)), final(LOOP)) > 1e-4


def test_the_order_of_extensions_is_irrelevant() -> None:
    windows = ContextWindows(window_frames=9, overlap_frames=4, schedule="uniform")
    results = [final(*order) for order in itertools.permutations([LOOP, windows, Standing()])]
    assert all(torch.equal(result, results[0]) for result in results)


def test_runs_do_not_share_anything_and_the_callers_noise_stays() -> None:
    noise, other = NOISE.clone(), replace(LOOP, shift_latent_frames=1)
    start = partial(sample, DIT, NOISE, prompt(), sigmas=flow_sigmas(STEPS, 7.0))
    pairs = list(zip(start(extensions=[LOOP]), start(extensions=[other]), strict=True))
    assert torch.equal(pairs[-1][0].x, final(LOOP))
    assert torch.equal(pairs[-1][1].x, final(other))
    assert torch.equal(NOISE, noise)


# --- what cannot work ---------------------------------------------------------------------------------------


def test_an_image_to_video_run_is_refused() -> None:
    with pytest.raises(HyVideoError, match=r"no first frame, but this video begins with a given image\. Leave out"):
        final(LOOP, ImageToVideo(image=randn(1, 4, 1, 4, 4, seed=7)))


CLIP = randn(1, 4, FRAMES, 4, 4, seed=7)
IMAGE = CLIP[:, :, :1]


def check_together(*extensions: Extension) -> None:
    config = replace(DIT.config, in_channels=9) if any(isinstance(e, ImageConcat) for e in extensions) else DIT.config
    check_run(config, NOISE, prompt(), extensions=extensions)


@pytest.mark.parametrize(
    "image", [FirstFrame(image=IMAGE), ImageToVideo(image=IMAGE), ImageConcat(image=IMAGE), Keyframes(clip=CLIP)]
)
def test_whatever_gives_an_image_is_refused_before_anything_is_loaded(image: Extension) -> None:
    windows = ContextWindows(window_frames=9, overlap_frames=4, schedule="looped")
    for looping, words in ((LOOP, r"Leave out HyVideo Seamless Loop"), (windows, "Choose the schedule static")):
        for order in ([image, looping], [looping, image]):
            with pytest.raises(HyVideoError, match=rf"begins with a given image.*{words}"):
                check_together(*order)
        check_together(looping)
    off = SeamlessLoop(shift_latent_frames=0)
    static, short = replace(windows, schedule="static"), replace(windows, window_frames=17)
    check_together(image, off, static, short)


@pytest.mark.parametrize(
    ("frames", "shift", "advice"), [(5, 5, "Use 4"), (3, 6, "Use 5"), (1, 6, "Choose 5 frames or more")]
)
def test_a_shift_that_turns_nothing_is_refused_before_anything_is_loaded(frames: int, shift: int, advice: str) -> None:
    loop = SeamlessLoop(shift_latent_frames=shift)
    with pytest.raises(GeometryError, match=f"^shift_latent_frames is {shift}, .* has {frames} frames: .*{advice}"):
        check_run(TINY, randn(1, 4, frames, 4, 4), prompt(), extensions=[loop])


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^shift_latent_frames is -1, but must be 0"):
        SeamlessLoop(shift_latent_frames=-1)
