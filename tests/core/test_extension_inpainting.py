"""Inpainting: what is kept is kept to the last bit, what is made anew is free, and what lies between is a blend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.extensions.image_to_video import ImageToVideo
from hyvideo_core.extensions.inpainting import Inpainting, latent_mask
from hyvideo_core.sample import Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.schedule import noised, partial_sigmas
from hyvideo_core.sample.seams import Evaluation, Extension, Predict
from hyvideo_core.sample.solvers import SOLVERS
from hyvideo_core.types import Interval

DIT = random_dit()
SHAPE = (1, 4, 3, 4, 4)
CLEAN, NOISE = randn(*SHAPE, seed=1), randn(*SHAPE, seed=3)
STEPS = 4
SIGMAS = flow_sigmas(STEPS, 7.0)
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3, rescale=0.5)}
#: A region in space, in the last two frames.
BINARY = torch.zeros(1, 1, 3, 4, 4)
BINARY[:, :, 1:, :, :2] = 1
KEPT = (BINARY == 0).expand(SHAPE)
SOFT = torch.linspace(0.1, 0.9, 48).view(1, 1, 3, 4, 4)


def inpainting(mask: torch.Tensor | float = BINARY, **changes: Any) -> Inpainting:
    mask = mask if isinstance(mask, torch.Tensor) else torch.full((1, 1, 1, 4, 4), mask)
    return Inpainting(**{"mask": mask, "clean": CLEAN, "noise": NOISE, **changes})


def run(*extensions: Extension, x: torch.Tensor = NOISE, solver: str = "euler", **options: Any) -> list[Step]:
    settings = {"sigmas": SIGMAS, "solver": SOLVERS[solver], **options}
    return list(sample(DIT, x, prompt(), **settings, extensions=extensions))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


# --- the two ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("options", [{}, CFG], ids=["plain", "cfg"])
def test_all_to_be_made_anew_is_bit_identical_to_no_mask(solver: str, options: dict[str, Any]) -> None:
    for step, expected in zip(
        run(inpainting(1.0), solver=solver, **options), run(solver=solver, **options), strict=True
    ):
        assert torch.equal(step.x, expected.x)
        assert torch.equal(step.denoised, expected.denoised)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("options", [{}, CFG], ids=["plain", "cfg"])
def test_nothing_to_be_made_anew_is_the_clip_to_the_last_bit(solver: str, options: dict[str, Any]) -> None:
    assert torch.equal(final(inpainting(0.0), solver=solver, **options), CLEAN)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("options", [{}, CFG], ids=["plain", "cfg"])
def test_what_is_kept_is_at_its_level_after_every_step_and_clean_in_every_estimate(
    solver: str, options: dict[str, Any]
) -> None:
    for step in run(inpainting(), solver=solver, **options):
        level = SIGMAS[step.index + 1].item()
        assert torch.equal(step.x[KEPT], noised(CLEAN, NOISE, level)[KEPT])
        assert torch.equal(step.denoised[KEPT], CLEAN[KEPT])
    assert torch.equal(step.x[KEPT], CLEAN[KEPT])
    assert rel_l2(step.x[~KEPT], CLEAN[~KEPT]) > 0.1


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_model_sees_what_is_kept_at_the_level_it_is_asked_for(solver: str) -> None:
    seen: list[float] = []

    @dataclass(frozen=True)
    class Spy(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            def predict(evaluation: Evaluation) -> torch.Tensor:
                assert torch.equal(evaluation.x[KEPT], noised(CLEAN, NOISE, evaluation.sigma)[KEPT])
                seen.append(evaluation.sigma)
                return inner(evaluation)

            return predict

    final(inpainting(), Spy(), solver=solver, **CFG)
    assert len(seen) == 2 * (STEPS if solver == "euler" else 2 * STEPS - 1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_that_begins_halfway_keeps_its_part_too(solver: str) -> None:
    sigmas = partial_sigmas(3, 7.0, 0.5)
    found = final(inpainting(), x=noised(CLEAN, NOISE, sigmas[0].item()), sigmas=sigmas, solver=solver)
    assert torch.equal(found[KEPT], CLEAN[KEPT])


def test_what_is_made_anew_follows_what_is_kept() -> None:
    other = inpainting(clean=torch.where(KEPT, randn(*SHAPE, seed=9), CLEAN))
    assert rel_l2(final(other)[~KEPT], final(inpainting())[~KEPT]) > 1e-3


def test_what_the_clip_shows_where_it_is_made_anew_plays_no_part() -> None:
    other = inpainting(clean=torch.where(KEPT, CLEAN, randn(*SHAPE, seed=9)))
    assert torch.equal(final(other), final(inpainting()))


def test_the_noise_of_the_kept_part_matters_to_the_rest() -> None:
    other = inpainting(noise=randn(*SHAPE, seed=9))
    assert rel_l2(final(other)[~KEPT], final(inpainting())[~KEPT]) > 1e-3
    assert torch.equal(final(other)[KEPT], CLEAN[KEPT])


# --- between -------------------------------------------------------------------------------------------------


def test_between_the_ends_one_step_gives_the_blend() -> None:
    sigmas = flow_sigmas(1, 7.0)
    expected = SOFT * final(sigmas=sigmas) + (1 - SOFT) * CLEAN
    assert rel_l2(final(inpainting(SOFT), sigmas=sigmas), expected) <= 1e-6


@dataclass(frozen=True, eq=False)
class Certain(Extension):
    """A model that always means the same clean latent."""

    rank: ClassVar[int] = 2000
    target: torch.Tensor = CLEAN

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        return lambda evaluation: (evaluation.x - self.target) / evaluation.sigma


@pytest.mark.parametrize("solver", SOLVERS)
@given(steps=st.integers(1, 20), mask=st.floats(0.01, 1), shift=st.floats(0.5, 17))
@settings(max_examples=20)
def test_between_the_ends_any_number_of_steps_gives_the_blend(
    solver: str, steps: int, mask: float, shift: float
) -> None:
    target = randn(*SHAPE, seed=5)
    found = final(inpainting(mask), Certain(target=target), sigmas=flow_sigmas(steps, shift), solver=solver)
    assert rel_l2(found, mask * target + (1 - mask) * CLEAN) <= 1e-4


def test_a_mask_near_to_zero_is_near_to_keeping() -> None:
    assert rel_l2(final(inpainting(1e-5)), CLEAN) <= 1e-3


def test_between_the_ends_the_clean_estimate_is_the_blend() -> None:
    free = Certain(target=randn(*SHAPE, seed=5))
    for step in run(inpainting(SOFT), free):
        assert rel_l2(step.denoised, SOFT * free.target + (1 - SOFT) * CLEAN) <= 1e-5


def test_every_value_between_makes_another_video() -> None:
    results = [final(inpainting(mask)) for mask in (0.0, 0.3, 0.6, 1.0)]
    assert all(rel_l2(one, other) > 1e-2 for one, other in pairwise(results))


# --- laws of extensions --------------------------------------------------------------------------------------


def test_never_active_it_is_bit_identical_to_none() -> None:
    assert torch.equal(final(inpainting(when=Interval(0.5, 0.5))), final())


def test_what_is_let_go_before_the_end_is_kept_until_then_and_then_moves() -> None:
    steps = run(inpainting(when=Interval(0, 0.75)))
    kept = [torch.equal(step.denoised[KEPT], CLEAN[KEPT]) for step in steps]
    assert kept == [True, True, True, False]
    assert not torch.equal(steps[-1].x[KEPT], CLEAN[KEPT])


def test_a_given_image_has_the_last_word_in_its_frame_in_every_order() -> None:
    image = ImageToVideo(image=randn(1, 4, 1, 4, 4, seed=7))
    one, other = run(image, inpainting(0.0)), run(inpainting(0.0), image)
    for step, same in zip(one, other, strict=True):
        assert torch.equal(step.x, same.x)
        assert torch.equal(step.x[:, :, :1], image.image)
    assert torch.equal(one[-1].x[:, :, 1:], CLEAN[:, :, 1:])


@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_equals_its_clips_alone(rows: int) -> None:
    x, clean = randn(2, *SHAPE[1:], seed=4), randn(rows, *SHAPE[1:], seed=6)
    mask = torch.stack((BINARY[0], SOFT[0]))[:rows]
    together = final(Inpainting(mask=mask, clean=clean, noise=x), x=x)
    for i in range(2):
        own = slice(i % rows, i % rows + 1)
        alone = final(Inpainting(mask=mask[own], clean=clean[own], noise=x[i : i + 1]), x=x[i : i + 1])
        assert rel_l2(together[i : i + 1], alone) <= 1e-5


def test_the_callers_tensors_are_left_as_they_were() -> None:
    given = inpainting(SOFT.clone())
    before = [each.clone() for each in (given.mask, given.clean, given.noise)]
    final(given)
    assert all(torch.equal(*pair) for pair in zip(before, (given.mask, given.clean, given.noise), strict=True))


# --- what cannot work ----------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a mask of another size": (
        {"mask": torch.ones(1, 1, 3, 4, 6)},
        r"mask .* is \[1, 1, 3, 4, 6\], but .*\[1, 4, 3, 4, 4\]",
    ),
    "a mask of another length": ({"mask": torch.ones(1, 1, 2, 4, 4)}, r"mask .* is \[1, 1, 2, 4, 4\]"),
    "too many masks": ({"mask": torch.ones(2, 1, 1, 4, 4)}, r"mask .* is \[2, 1, 1, 4, 4\]"),
    "a clip of another length": ({"clean": CLEAN[:, :, :1]}, r"clip .* is \[1, 4, 1, 4, 4\]"),
    "a clip of other channels": ({"clean": CLEAN[:, :3]}, r"clip .* is \[1, 3, 3, 4, 4\]"),
    "noise of another size": ({"noise": NOISE[..., :3]}, r"noise .* is \[1, 4, 3, 4, 3\]"),
    "too much noise": ({"noise": torch.cat((NOISE, NOISE))}, r"noise .* is \[2, 4, 3, 4, 4\]"),
    "noise without a batch": ({"noise": NOISE[0]}, r"noise .* is \[4, 3, 4, 4\]"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(what: str) -> None:
    changes, words = WRONG[what]
    with pytest.raises(GeometryError, match=words):
        check_run(TINY, NOISE, prompt(), extensions=[inpainting(**changes)])


@pytest.mark.parametrize("name", ["clean", "noise"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_damaged_clip_is_refused(name: str, bad: float) -> None:
    with pytest.raises(NumericsError, match="to keep holds NaN or infinity"):
        check_run(TINY, NOISE, prompt(), extensions=[inpainting(**{name: torch.full(SHAPE, bad)})])


def test_a_run_in_the_other_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="only on the way from noise to clean"):
        run(inpainting(), sigmas=flow_sigmas(STEPS, 7.0, reverse=False))


@pytest.mark.parametrize("make", [inpainting, lambda mask: latent_mask(mask, SHAPE)], ids=["Inpainting", "latent_mask"])
@pytest.mark.parametrize(
    ("value", "words"),
    [(-0.1, "mask has values from -0.1 to 1"), (1.5, "to 1.5, but 0"), (math.nan, "mask has values")],
)
def test_a_value_that_is_no_part_is_refused(make: Callable[..., object], value: float, words: str) -> None:
    mask = torch.ones(1, 1, 1, 4, 4)
    mask[..., 0] = value
    with pytest.raises(ValueError, match=words):
        make(mask)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 3, 4, 4)])
def test_a_mask_of_other_axes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"mask has shape .* is needed\. Make it with latent_mask"):
        inpainting(torch.ones(shape))


# --- from pixels to latent cells -----------------------------------------------------------------------------

MASKS = st.builds(
    lambda frames, scale, seed: torch.rand(frames, 4 * scale, 6 * scale, generator=torch.Generator().manual_seed(seed)),
    st.sampled_from([1, 3, 9]),
    st.sampled_from([1, 2, 8]),
    st.integers(0, 1000),
)
LATENT = (2, 16, 3, 4, 6)


def naive(mask: torch.Tensor) -> torch.Tensor:
    """The greatest value of the pixels of every cell, one after the other, for masks of whole cells."""
    frames, height, width = mask.shape
    groups = {1: [[0]], 3: [[0], [1], [2]], 9: [[0], [1, 2, 3, 4], [5, 6, 7, 8]]}[frames]
    tall, wide = height // 4, width // 6
    out = torch.zeros(1, 1, len(groups), 4, 6)
    for t, group in enumerate(groups):
        for y in range(4):
            for x in range(6):
                pixels = [mask[f, y * tall + i, x * wide + j] for f in group for i in range(tall) for j in range(wide)]
                out[0, 0, t, y, x] = max(pixels)
    return out


@given(mask=MASKS)
@settings(max_examples=15)
def test_a_cell_takes_the_greatest_of_its_pixels(mask: torch.Tensor) -> None:
    assert torch.equal(latent_mask(mask, LATENT), naive(mask))


@pytest.mark.parametrize("value", [0.0, 1.0])
@given(frames=st.sampled_from([1, 3, 9]), height=st.integers(1, 70), width=st.integers(1, 70))
def test_an_even_mask_of_any_size_stays_even(value: float, frames: int, height: int, width: int) -> None:
    found = latent_mask(torch.full((frames, height, width), value), LATENT)
    assert found.shape == (1, 1, 1 if frames == 1 else 3, 4, 6)
    assert bool((found == value).all())


@given(mask=MASKS, more=MASKS)
def test_marking_more_never_keeps_more(mask: torch.Tensor, more: torch.Tensor) -> None:
    if mask.shape == more.shape:
        assert bool((latent_mask(torch.maximum(mask, more), LATENT) >= latent_mask(mask, LATENT)).all())


@given(mask=MASKS, threshold=st.floats(0, 1))
def test_black_and_white_stay_black_and_white(mask: torch.Tensor, threshold: float) -> None:
    found = latent_mask((mask > threshold).float(), LATENT)
    assert bool(((found == 0) | (found == 1)).all())


@pytest.mark.parametrize("frame", range(9))
def test_a_marked_frame_marks_the_latent_frame_that_codes_it(frame: int) -> None:
    mask = torch.zeros(9, 32, 48)
    mask[frame, 8, 17] = 1
    found = latent_mask(mask, LATENT)
    assert found.nonzero().tolist() == [[0, 0, (frame + 3) // 4, 1, 2]]


def test_an_image_has_one_frame() -> None:
    assert latent_mask(torch.ones(1, 32, 48), (1, 16, 1, 4, 6)).shape == (1, 1, 1, 4, 6)


def test_images_of_a_batch_have_masks_of_their_own() -> None:
    masks, images = torch.rand(2, 32, 48), (2, 16, 1, 4, 6)
    alone = [latent_mask(mask[None], images) for mask in masks]
    assert torch.equal(latent_mask(masks, images), torch.cat(alone))
    assert torch.equal(latent_mask(masks[:, None], images), torch.cat(alone))


def test_a_mask_as_the_host_has_it_and_one_for_each_clip_are_taken_too() -> None:
    mask = torch.rand(9, 32, 48)
    assert torch.equal(latent_mask(mask[:, None], LATENT), latent_mask(mask, LATENT))
    other = torch.rand(9, 32, 48)
    both = latent_mask(torch.stack((mask, other))[:, None], LATENT)
    assert torch.equal(both, torch.cat((latent_mask(mask, LATENT), latent_mask(other, LATENT))))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((5, 32, 48), "mask has 5 frames, but the clip has 9"),
        ((3, 1, 9, 32, 48), "mask is for 3 clips, but there are 2"),
        ((9, 3, 32, 48), r"mask has shape \[9, 3, 32, 48\]"),
        ((32, 48), r"mask has shape \[32, 48\]"),
    ],
)
def test_a_mask_for_another_clip_is_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        latent_mask(torch.ones(shape), LATENT)


def test_the_mask_of_a_video_serves_a_run() -> None:
    pixels = torch.zeros(9, 32, 32)
    pixels[5:, :, 16:] = 1
    found = final(replace(inpainting(), mask=latent_mask(pixels, SHAPE)))
    assert torch.equal(found[:, :, :2], CLEAN[:, :, :2])
    assert torch.equal(found[..., :2], CLEAN[..., :2])
    assert rel_l2(found[:, :, 2, :, 2:], CLEAN[:, :, 2, :, 2:]) > 0.1
