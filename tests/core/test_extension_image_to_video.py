"""Image-to-video by token replacement: the original's loops, the image to the last bit, the laws of extensions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, config_of, prompt, randn, random_dit

from golden_data import GOLDEN, assert_close, golden, of_case, rel_l2
from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.extensions import ImageToVideo
from hyvideo_core.model import DiT
from hyvideo_core.sample import Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.seams import Extension, OnBlock, Predict
from hyvideo_core.types import Conditioning, Interval
from hyvideo_core.weights import load_dit

PIPELINE, META = golden("pipeline_i2v")
CASES = [name for name, stated in META["cases"].items() if stated["mode"] == "token_replace"]
#: The reference's own bound for whole sampling loops.
LATENTS = {"rel": 3e-5, "max_abs": 2e-4}
BATCH_ROUNDING = 1e-5

DIT = random_dit()
NOISE = randn(1, 4, 3, 4, 4, seed=3)
IMAGE = randn(1, 4, 1, 4, 4, seed=7)
PLAIN = ImageToVideo(image=IMAGE, stability=False)
STEPS = 4
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3, rescale=0.5)}


def run(*extensions: Extension, x: torch.Tensor = NOISE, dit: DiT = DIT, **options: Any) -> list[Step]:
    return list(sample(dit, x, prompt(), **{"sigmas": flow_sigmas(STEPS, 7.0), **options}, extensions=extensions))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


# --- the reference ------------------------------------------------------------------------------------------


@cache
def steps_of(case: str, **changes: Any) -> list[Step]:
    """The reference's case, with ``changes`` to its extension."""
    data, stated = of_case(PIPELINE, case), META["cases"][case]
    config = config_of(golden("dit_weights")[1], guidance_embed=stated["guidance_embed"])
    given = ImageToVideo(image=data["img_latents"], stability=stated["i2v_stability"])
    steps = sample(
        load_dit(GOLDEN / "dit_weights.safetensors", config=config, dtype=torch.float32),
        data["noise"],
        Conditioning(data["text_states"], data["text_states_2"], data["text_mask"]),
        sigmas=flow_sigmas(stated["steps"], stated["shift"], stated["reverse"]),
        guidance=Guidance(embedded=stated["embedded_guidance_scale"]),
        extensions=[replace(given, **changes)],
    )
    return list(steps)


@pytest.mark.parametrize("case", CASES)
def test_whole_loops_give_the_originals_latents(case: str) -> None:
    data, steps = of_case(PIPELINE, case), steps_of(case)
    assert len(steps) == META["cases"][case]["steps"]
    for step, expected in zip(steps, data["latents_after_steps"], strict=True):
        assert_close(step.x, expected, **LATENTS)
    assert_close(steps[-1].x, data["latents_final"], **LATENTS)


@pytest.mark.parametrize("case", CASES)
def test_the_reference_shows_whether_the_noise_has_a_trace_of_the_image(case: str) -> None:
    stability = META["cases"][case]["i2v_stability"]
    other = steps_of(case, stability=not stability)[-1].x
    assert rel_l2(other, of_case(PIPELINE, case)["latents_final"]) > 10 * LATENTS["rel"]


# --- the image ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stability", [False, True])
@pytest.mark.parametrize("options", [{}, CFG], ids=["plain", "cfg"])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_frame_0_is_the_image_to_the_last_bit_after_every_step(
    steps: int, options: dict[str, Any], stability: bool
) -> None:
    given = replace(PLAIN, stability=stability)
    for step in run(given, sigmas=flow_sigmas(steps, 7.0), **options):
        assert torch.equal(step.x[:, :, :1], IMAGE)
        assert torch.equal(step.denoised[:, :, :1], IMAGE)


def test_a_run_from_a_lower_noise_level_keeps_the_image_too() -> None:
    last = run(PLAIN, sigmas=flow_sigmas(STEPS, 7.0)[2:])[-1]
    assert torch.equal(last.x[:, :, :1], IMAGE)


def test_the_last_clean_estimate_is_the_result() -> None:
    last = run(PLAIN)[-1]
    assert rel_l2(last.denoised, last.x) <= 1e-6


def test_all_other_frames_follow_the_image() -> None:
    other = replace(PLAIN, image=randn(1, 4, 1, 4, 4, seed=8))
    for frame in (1, 2):
        assert rel_l2(final(other)[:, :, frame], final(PLAIN)[:, :, frame]) > 1e-3


def test_the_noise_of_frame_0_plays_no_part() -> None:
    noise = NOISE.clone()
    noise[:, :, 0] = randn(1, 4, 4, 4, seed=9)
    assert torch.equal(final(PLAIN, x=noise), final(PLAIN))


def test_the_image_is_marked_as_clean_in_every_evaluation() -> None:
    @dataclass(frozen=True)
    class Unmarked(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            return lambda evaluation: inner(replace(evaluation, token_replace=False))

    assert rel_l2(final(PLAIN, Unmarked())[:, :, 1:], final(PLAIN)[:, :, 1:]) > 1e-3


def test_the_callers_noise_and_image_are_left_as_they_were() -> None:
    noise, image = NOISE.clone(), IMAGE.clone()
    final(ImageToVideo(image=IMAGE))
    assert torch.equal(NOISE, noise)
    assert torch.equal(IMAGE, image)


def test_stability_changes_the_video() -> None:
    assert rel_l2(final(replace(PLAIN, stability=True)), final(PLAIN)) > 1e-5


def test_a_run_in_two_parts_is_the_whole_run_with_stability_too() -> None:
    calm, sigmas = replace(PLAIN, stability=True), flow_sigmas(STEPS, 7.0)
    half = final(calm, sigmas=sigmas[:3])
    assert torch.equal(final(calm, x=half, sigmas=sigmas[2:]), final(calm, sigmas=sigmas))


# --- batches and guidance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("options", [{}, CFG], ids=["plain", "cfg"])
def test_a_batch_equals_its_clips_alone(options: dict[str, Any], images: int) -> None:
    noise, image = randn(2, 4, 3, 4, 4, seed=4), randn(images, 4, 1, 4, 4, seed=5)
    together = final(ImageToVideo(image=image), x=noise, **options)
    for i in range(2):
        alone = final(ImageToVideo(image=image[i % images][None]), x=noise[i : i + 1], **options)
        assert rel_l2(together[i : i + 1], alone) <= BATCH_ROUNDING
    assert torch.equal(together[:, :, :1], image.expand(2, -1, -1, -1, -1))


def test_both_branches_of_true_cfg_see_the_image() -> None:
    seen: list[tuple[str, bool]] = []

    @dataclass(frozen=True)
    class Spy(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            def predict(evaluation: Any) -> torch.Tensor:
                seen.append((evaluation.branch, torch.equal(evaluation.x[:, :, :1], IMAGE)))
                return inner(evaluation)

            return predict

    final(PLAIN, Spy(), **CFG)
    assert seen == [("positive", True), ("negative", True)] * STEPS


def test_cfg_with_the_prompt_itself_as_negative_changes_nothing() -> None:
    guided = final(PLAIN, negative=prompt(), guidance=Guidance(cfg=5))
    assert rel_l2(guided, final(PLAIN)) <= 1e-6


def test_a_model_without_embedded_guidance_takes_an_image_too() -> None:
    dit = random_dit(replace(TINY, guidance_embed=False))
    assert torch.equal(final(PLAIN, dit=dit)[:, :, :1], IMAGE)
    assert rel_l2(final(PLAIN, dit=dit), final(dit=dit)) > 1e-3


# --- laws of extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stability", [False, True])
def test_never_active_it_is_bit_identical_to_none(stability: bool) -> None:
    never = ImageToVideo(image=IMAGE, stability=stability, when=Interval(0.5, 0.5))
    assert torch.equal(final(never), final())


def test_the_order_of_extensions_is_irrelevant() -> None:
    @dataclass(frozen=True)
    class Halved(Extension):
        rank: ClassVar[int] = 5

        def begin(self, x: torch.Tensor, sigma: float, state: Any) -> torch.Tensor:
            return x / 2

        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            return lambda evaluation: inner(evaluation) / 2

    given = replace(PLAIN, stability=True)
    assert torch.equal(final(Halved(), given), final(given, Halved()))
    assert rel_l2(final(Halved(), given), final(given)) > 1e-3


def test_an_interrupted_run_leaves_nothing_behind() -> None:
    blocks: list[None] = []

    class Stopped(Exception):
        pass

    def check() -> None:
        blocks.append(None)
        if len(blocks) == 6:  # within the second step of four blocks
            raise Stopped

    expected, plain, before = final(PLAIN), final(), dict(vars(DIT))
    with pytest.raises(Stopped):
        final(PLAIN, OnBlock(check=check))
    assert vars(DIT) == before
    assert torch.equal(final(PLAIN), expected)
    assert torch.equal(final(), plain)


def test_two_runs_with_different_images_do_not_meet() -> None:
    other = replace(PLAIN, image=randn(1, 4, 1, 4, 4, seed=8))
    start = partial(sample, DIT, NOISE, prompt(), sigmas=flow_sigmas(STEPS, 7.0))
    pairs = list(zip(start(extensions=[PLAIN]), start(extensions=[other]), strict=True))
    assert torch.equal(pairs[-1][0].x, final(PLAIN))
    assert torch.equal(pairs[-1][1].x, final(other))


# --- what cannot work ---------------------------------------------------------------------------------------

WRONG = {
    "another size": ((1, 4, 1, 4, 6), NOISE, GeometryError, r"\[4, 1, 4, 6\].*\[4, 1, 4, 4\]"),
    "other channels": ((1, 8, 1, 4, 4), NOISE, GeometryError, r"\[8, 1, 4, 4\].*\[4, 1, 4, 4\]"),
    "several frames": ((1, 4, 2, 4, 4), NOISE, GeometryError, r"\[4, 2, 4, 4\].*\[4, 1, 4, 4\]"),
    "too many": ((3, 4, 1, 4, 4), randn(2, 4, 3, 4, 4), GeometryError, "3 images for a batch of 2 clips"),
    "one frame": ((1, 4, 1, 4, 4), NOISE[:, :, :1], GeometryError, "1 frame.*5 frames or more"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_image_that_does_not_fit_is_refused_before_anything_is_loaded(what: str) -> None:
    shape, x, error, words = WRONG[what]
    given = ImageToVideo(image=torch.zeros(shape))
    with pytest.raises(error, match=words):
        check_run(TINY, x, prompt(), extensions=[given])
    with pytest.raises(error, match=words):
        sample(DIT, x, prompt(), sigmas=flow_sigmas(STEPS, 7.0), extensions=[given])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_damaged_image_is_refused(bad: float) -> None:
    image = IMAGE.clone()
    image[0, 0, 0, 0, 0] = bad
    with pytest.raises(NumericsError, match="image's latent holds NaN or infinity"):
        check_run(TINY, NOISE, prompt(), extensions=[ImageToVideo(image=image)])
