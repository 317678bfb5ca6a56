"""Context windows: all of the video in every step, blended to one; FreeNoise, images, the laws of extensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from dit_data import prompt, randn, random_dit
from hypothesis import given
from hypothesis import strategies as st
from spies import Spy

from golden_data import rel_l2
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import ImageToVideo, context_windows
from hyvideo_core.extensions.context_windows import (
    BLENDS,
    SCHEDULES,
    ContextWindows,
    Window,
    evaluated_shape,
    freenoise_order,
    halving,
    shares,
)
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.seams import Extension, Predict
from hyvideo_core.types import Interval

DIT = random_dit()
FRAMES, STEPS = 7, 3
NOISE = randn(1, 4, FRAMES, 4, 4, seed=3)
IMAGE = randn(1, 4, 1, 4, 4, seed=7)
#: Windows of 3 latent frames that share 1: 0–2, 2–4, 4–6 in every step.
WINDOWS = ContextWindows(window_frames=9, overlap_frames=4, freenoise=False)
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3)}
ROUNDING = 1e-5


def sized(window_frames: int, overlap_frames: int, **options: Any) -> ContextWindows:
    return ContextWindows(window_frames=window_frames, overlap_frames=overlap_frames, **options)


def run(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> list[Step]:
    options = {"sigmas": flow_sigmas(STEPS, 7.0), **options}
    return list(sample(DIT, x, prompt(), extensions=extensions, **options))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


@dataclass(frozen=True)
class EachFrameAlone(Extension):
    """Stands for the transformer: a velocity that no frame has an influence on but its own."""

    rank: ClassVar[int] = 5

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        return lambda evaluation: evaluation.x.sin() + evaluation.sigma


# --- which windows ------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 40), st.integers(1, 80), st.integers(0, 39)).filter(lambda s: s[2] < s[0])


@given(st.sampled_from(list(SCHEDULES)), sizes, st.integers(0, 60))
def test_all_of_the_video_is_in_some_window_of_full_length(
    schedule: str, size: tuple[int, int, int], step: int
) -> None:
    length, more, overlap = size
    frames = length + more
    windows = SCHEDULES[schedule](frames, length, overlap, step)
    assert set(itertools.chain(*windows)) == set(range(frames))
    assert all(len(set(window)) == length for window in windows)
    assert len(set(windows)) == len(windows) <= math.ceil(frames / (length - overlap)) + 2
    for window in windows:
        steps = [(after - before) % frames for before, after in itertools.pairwise(window)]
        assert set(steps) <= {1}
        assert schedule == "looped" or window[0] <= window[-1]


@given(sizes, st.integers(0, 60))
def test_neighbours_share_the_overlap_or_more(size: tuple[int, int, int], step: int) -> None:
    length, more, overlap = size
    for schedule in ("static", "uniform"):
        windows = SCHEDULES[schedule](length + more, length, overlap, step)
        assert all(len(set(a) & set(b)) >= overlap for a, b in itertools.pairwise(windows))


def spans(windows: list[Window]) -> list[str]:
    return [f"{window[0]}-{window[-1]}" for window in windows]


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("static", 0, ["0-3", "3-6", "6-9"]),
        ("static", 1, ["0-3", "3-6", "6-9"]),
        ("uniform", 0, ["0-3", "3-6", "6-9"]),
        ("uniform", 1, ["0-3", "2-5", "5-8", "6-9"]),
        ("uniform", 2, ["0-3", "1-4", "4-7", "6-9"]),
        ("looped", 0, ["0-3", "3-6", "6-9", "9-2"]),
        ("looped", 1, ["5-8", "8-1", "1-4", "4-7"]),
    ],
)
def test_schedules_by_example(schedule: str, step: int, expected: list[str]) -> None:
    assert spans(SCHEDULES[schedule](10, 4, 1, step)) == expected


def test_the_last_static_window_ends_with_the_video() -> None:
    assert spans(SCHEDULES["static"](11, 4, 1, 0)) == ["0-3", "3-6", "6-9", "7-10"]


@given(st.integers(0, 500))
def test_shifts_fill_the_length_ever_more_finely(step: int) -> None:
    assert [halving(i) for i in range(6)] == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8]
    assert 0 <= halving(step) < 1
    count = 2 ** step.bit_length()
    assert sorted(halving(i) for i in range(count)) == [i / count for i in range(count)]


# --- blending -----------------------------------------------------------------------------------------------


@given(st.sampled_from(list(SCHEDULES)), st.sampled_from(list(BLENDS)), sizes, st.integers(0, 20))
def test_what_windows_count_adds_up_to_one_everywhere(
    schedule: str, blend: str, size: tuple[int, int, int], step: int
) -> None:
    length, more, overlap = size
    frames = length + more
    windows = SCHEDULES[schedule](frames, length, overlap, step)
    total = [0.0] * frames
    for window, share in zip(windows, shares(windows, frames, blend), strict=True):
        for frame, part in zip(window, share.tolist(), strict=True):
            assert part > 0
            total[frame] += part
    assert total == pytest.approx([1.0] * frames)


@pytest.mark.parametrize(
    ("blend", "length", "expected"),
    [("pyramid", 5, [1, 2, 3, 2, 1]), ("pyramid", 4, [1, 2, 2, 1]), ("pyramid", 1, [1]), ("flat", 3, [1, 1, 1])],
)
def test_blends_are_those_of_freenoise(blend: str, length: int, expected: list[float]) -> None:
    assert BLENDS[blend](length) == expected


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("blend", BLENDS)
def test_where_frames_do_not_see_each_other_windows_change_nothing(schedule: str, blend: str) -> None:
    windows = replace(WINDOWS, schedule=schedule, blend=blend)
    assert rel_l2(final(windows, EachFrameAlone()), final(EachFrameAlone())) <= 1e-6


@pytest.mark.parametrize("blend", BLENDS)
def test_a_step_is_the_weighted_mean_of_the_windows_as_clips_of_their_own(blend: str) -> None:
    """Windows of 4 that share 2: 0–3, 2–5, 3–6."""
    weight = {"pyramid": [1.0, 2.0, 2.0, 1.0], "flat": [1.0] * 4}[blend]
    starts = [0, 2, 3]
    sigma = flow_sigmas(STEPS, 7.0)[:2]
    clips = {s: run(x=NOISE[:, :, s : s + 4], sigmas=sigma)[0].x for s in starts}
    expected = torch.empty_like(NOISE)
    for frame in range(FRAMES):
        inside = [s for s in starts if s <= frame < s + 4]
        total = sum(weight[frame - s] for s in inside)
        expected[:, :, frame] = sum(weight[frame - s] / total * clips[s][:, :, frame - s] for s in inside)
    found = final(sized(13, 8, blend=blend, freenoise=False), sigmas=sigma)
    assert rel_l2(found, expected) <= ROUNDING


def test_the_order_of_windows_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = replace(WINDOWS, overlap_frames=8)
    expected = final(windows)
    turned: dict[str, Callable[..., list[Window]]] = {"static": lambda *size: SCHEDULES["static"](*size)[::-1]}
    monkeypatch.setattr(context_windows, "SCHEDULES", turned)
    assert rel_l2(final(windows), expected) <= 1e-6


# --- evaluations --------------------------------------------------------------------------------------------


def test_every_evaluation_is_of_one_window_and_says_which() -> None:
    spy = Spy()
    final(WINDOWS, spy, **CFG, solver=SOLVERS["heun"])
    parts = {(0, 1, 2), (2, 3, 4), (4, 5, 6)}
    assert {evaluation.part for evaluation in spy.seen} == parts
    assert {evaluation.x.shape for evaluation in spy.seen} == {(1, 4, 3, 4, 4)}
    # The last step has one evaluation, those before it two, each for both prompts.
    assert len(spy.seen) == len(parts) * 2 * (2 * STEPS - 1)
    assert len({evaluation.key for evaluation in spy.seen}) == len(parts) * 2 * 2
    assert all(torch.equal(evaluation.x, NOISE[:, :, list(evaluation.part)]) for evaluation in spy.seen[:3])


def test_frames_of_a_part_keep_their_numbers() -> None:
    @dataclass(frozen=True)
    class Later(Extension):
        rank: ClassVar[int] = -450

        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            return lambda evaluation: inner(replace(evaluation, part=tuple(range(20, 27))))

    spy = Spy()
    final(Later(), WINDOWS, spy)
    assert [evaluation.part for evaluation in spy.seen[:3]] == [(20, 21, 22), (22, 23, 24), (24, 25, 26)]


@pytest.mark.parametrize("options", [{}, CFG, {**CFG, "solver": SOLVERS["heun"]}], ids=["plain", "cfg", "cfg heun"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_batch_equals_its_clips_alone(schedule: str, options: dict[str, Any]) -> None:
    windows, noise = replace(WINDOWS, schedule=schedule, freenoise=True), randn(2, 4, FRAMES, 4, 4, seed=4)
    together = final(windows, x=noise, **options)
    for i in range(2):
        assert rel_l2(together[i : i + 1], final(windows, x=noise[i : i + 1], **options)) <= ROUNDING


def test_batched_guidance_gives_the_same() -> None:
    batched = {**CFG, "guidance": Guidance(cfg=3, batched=True)}
    assert rel_l2(final(WINDOWS, **batched), final(WINDOWS, **CFG)) <= ROUNDING


# --- image to video -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["static", "uniform"])
def test_only_the_window_that_begins_with_the_image_is_marked(schedule: str) -> None:
    spy = Spy()
    steps = run(replace(WINDOWS, schedule=schedule), ImageToVideo(image=IMAGE), spy)
    assert all(torch.equal(step.x[:, :, :1], IMAGE) for step in steps)
    assert {evaluation.token_replace for evaluation in spy.seen} == {False, True}
    for evaluation in spy.seen:
        assert evaluation.token_replace == (evaluation.part[0] == 0)
        assert evaluation.token_replace == torch.equal(evaluation.x[:, :, :1], IMAGE)
    assert {evaluation.step for evaluation in spy.seen if evaluation.token_replace} == set(range(STEPS))


def test_an_image_cannot_be_looped() -> None:
    with pytest.raises(HyVideoError, match=r"begins with a given image.*schedule static or uniform"):
        final(replace(WINDOWS, schedule="looped"), ImageToVideo(image=IMAGE))


# --- FreeNoise ----------------------------------------------------------------------------------------------


@given(sizes, st.integers(0, 2**64 - 1))
def test_later_noise_is_a_window_back_shuffled_in_groups(size: tuple[int, int, int], seed: int) -> None:
    length, more, overlap = size
    frames, stride = length + more, length - overlap
    order = freenoise_order(frames, length, overlap, seed)
    assert order == freenoise_order(frames, length, overlap, seed)
    assert order[:length] == list(range(length))
    for start in range(length, frames, stride):
        stop = min(start + stride, frames)
        assert sorted(order[start:stop]) == sorted(order[start - length : stop - length])


def test_the_order_depends_on_the_seed() -> None:
    orders = {tuple(freenoise_order(66, 33, 8, seed)) for seed in range(5)}
    assert len(orders) == 5
    assert tuple(range(33)) * 2 not in orders


def test_the_run_begins_with_the_repeated_noise() -> None:
    windows = replace(WINDOWS, freenoise=True, seed=3)
    repeated = NOISE[:, :, freenoise_order(FRAMES, 3, 1, 3)]
    assert torch.equal(final(windows), final(WINDOWS, x=repeated))
    assert rel_l2(final(windows), final(WINDOWS)) > 1e-2


def test_a_latent_that_holds_more_than_noise_is_left_as_it_is_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    late = {"sigmas": flow_sigmas(STEPS + 1, 7.0)[1:]}
    assert torch.equal(final(replace(WINDOWS, freenoise=True), **late), final(WINDOWS, **late))
    assert [record.message[:40] for record in caplog.records] == ["FreeNoise is left out: the run begins at"]
    final(sized(25, 8), **late)
    assert len(caplog.records) == 1, "there are no windows to give noise to"


@pytest.mark.parametrize(("first", "acts"), [(1 - 2**-24, True), (0.99, False)])
def test_a_first_level_of_one_but_for_rounding_is_pure_noise(first: float, acts: bool) -> None:
    sigmas = flow_sigmas(STEPS, 7.0)
    sigmas[0] = first
    same = torch.equal(final(replace(WINDOWS, freenoise=True), sigmas=sigmas), final(WINDOWS, sigmas=sigmas))
    assert same != acts


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extensions", "frames"),
    [
        ([], 33),
        ([Spy(), sized(77, 8)], 20),
        ([sized(249, 8)], 33),
        ([sized(77, 8, when=Interval(0, 0.5))], 33),
    ],
)
def test_what_is_evaluated_at_once_is_a_window_where_there_always_is_one(
    extensions: list[Extension], frames: int
) -> None:
    assert evaluated_shape(extensions, (2, 16, 33, 8, 10)) == (2, 16, frames, 8, 10)


def test_no_evaluation_is_larger_than_what_is_planned_for() -> None:
    spy = Spy()
    final(WINDOWS, spy)
    assert {evaluation.x.shape for evaluation in spy.seen} == {evaluated_shape([WINDOWS, spy], NOISE.shape)}


# --- laws of extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("window_frames", [25, 29])
def test_a_window_as_long_as_the_video_is_bit_identical_to_none(schedule: str, window_frames: int) -> None:
    whole = sized(window_frames, 8, schedule=schedule)
    assert torch.equal(final(whole), final())
    given_image = ImageToVideo(image=IMAGE)
    assert torch.equal(final(whole, given_image), final(given_image))


def test_never_active_it_is_bit_identical_to_none() -> None:
    assert torch.equal(final(sized(9, 4, when=Interval(0.5, 0.5))), final())


@pytest.mark.parametrize(
    "change",
    [
        {"window_frames": 13},
        {"overlap_frames": 4},
        {"schedule": "uniform"},
        {"schedule": "looped"},
        {"blend": "flat"},
        {"freenoise": False},
        {"seed": 1},
        {"when": Interval(0.3, 1)},
    ],
    ids=str,
)
def test_every_setting_changes_the_video(change: dict[str, Any]) -> None:
    usual = sized(17, 8)
    noise = randn(1, 4, 9, 4, 4, seed=3)
    assert rel_l2(final(replace(usual, **change), x=noise), final(usual, x=noise)) > 1e-4


def test_the_order_of_extensions_is_irrelevant() -> None:
    windows, given_image, spy = replace(WINDOWS, freenoise=True), ImageToVideo(image=IMAGE), Spy()
    results = [final(*order) for order in itertools.permutations([windows, given_image, spy])]
    assert all(torch.equal(result, results[0]) for result in results)


def test_runs_do_not_share_anything_and_the_callers_noise_stays() -> None:
    noise = NOISE.clone()
    one, other = (replace(WINDOWS, freenoise=True, schedule="uniform", seed=seed) for seed in (1, 2))
    start = partial(sample, DIT, NOISE, prompt(), sigmas=flow_sigmas(STEPS, 7.0))
    pairs = list(zip(start(extensions=[one]), start(extensions=[other]), strict=True))
    assert torch.equal(pairs[-1][0].x, final(one))
    assert torch.equal(pairs[-1][1].x, final(other))
    assert torch.equal(NOISE, noise)


# --- what cannot work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window_frames": 1}, r"^window_frames is 1, but must be 4n\+1, 5 or more.*Use 5 or 9"),
        ({"window_frames": 80}, r"^window_frames is 80, .*Use 77 or 81"),
        ({"overlap_frames": 6}, "^overlap_frames is 6, but must be a multiple of 4"),
        ({"overlap_frames": -4}, "^overlap_frames is -4, "),
        ({"window_frames": 9, "overlap_frames": 12}, "^overlap_frames is 12, .*less than window_frames, 9"),
        ({"schedule": "pingpong"}, "^schedule is 'pingpong', but must be one of static, uniform, looped"),
        ({"blend": "linear"}, "^blend is 'linear', but must be one of pyramid, flat"),
        ({"seed": -1}, "^seed is -1, but must be 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ContextWindows(**options)


@pytest.mark.parametrize(("window_frames", "overlap_frames"), [(5, 4), (5, 0), (129, 128), (129, 32)])
def test_the_bounds_are_allowed(window_frames: int, overlap_frames: int) -> None:
    windows = sized(window_frames, overlap_frames)
    assert (windows.length, windows.overlap) == ((window_frames + 3) // 4, overlap_frames // 4)
