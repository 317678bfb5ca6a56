"""Image-to-video by wider input: the original's loop, what the transformer is given, the laws of extensions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, config_of, golden_weights, prompt, randn, random_dit, save
from spies import Spy

from golden_data import GOLDEN, assert_close, golden, of_case, rel_l2
from hyvideo_core.errors import CheckpointError, GeometryError, NumericsError
from hyvideo_core.extensions.context_windows import ContextWindows
from hyvideo_core.extensions.image_concat import DROPPED_FRAMES, ImageConcat, a_frame_later, beside
from hyvideo_core.model import DiT
from hyvideo_core.sample import Guidance, Step, flow_sigmas, run, sample
from hyvideo_core.sample.seams import Evaluation, Extension, Predict
from hyvideo_core.types import Conditioning, Interval
from hyvideo_core.weights import load_dit, load_vae

PIPELINE, META = golden("pipeline_i2v")
CASE = "i2v_concat_cfg"
#: The reference's own bound for whole sampling loops.
LATENTS = {"rel": 3e-5, "max_abs": 2e-4}

#: As HunyuanVideo-I2V v1 and SkyReels-V1 widen 16 channels to 33 and 32.
MARKED = random_dit(replace(TINY, in_channels=9))
PLAIN = random_dit(replace(TINY, in_channels=8))
NOISE = randn(1, 4, 3, 4, 4, seed=3)
IMAGE = randn(1, 4, 1, 4, 4, seed=7)
I2V = ImageConcat(image=IMAGE, stability=False)
SKYREELS = ImageConcat(image=IMAGE, marked=False, stability=False)
STEPS = 3
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3, rescale=0.5)}
MODELS = pytest.mark.parametrize(("dit", "given"), [(MARKED, I2V), (PLAIN, SKYREELS)], ids=["I2V v1", "SkyReels"])


def steps_of(*extensions: Extension, x: torch.Tensor = NOISE, dit: DiT = MARKED, **options: Any) -> list[Step]:
    return list(sample(dit, x, prompt(), **{"sigmas": flow_sigmas(STEPS, 7.0), **options}, extensions=extensions))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return steps_of(*extensions, **options)[-1].x


# --- the reference ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The steps of the reference's case."""
    folder = tmp_path_factory.mktemp("concat")
    path: Path = save(folder / "i2v.safetensors", golden_weights() | golden("dit_i2v_concat_img_in")[0])
    data, stated = of_case(PIPELINE, CASE), META["cases"][CASE]
    config = config_of(golden("dit_weights")[1], guidance_embed=stated["guidance_embed"], in_channels=33)
    prompts = [
        Conditioning(data[f"{start}text_states"], data[f"{start}text_states_2"], data[f"{start}text_mask"])
        for start in ("", "neg_")
    ]
    return list(
        sample(
            load_dit(path, config=config, dtype=torch.float32),
            data["noise"],
            prompts[0],
            sigmas=flow_sigmas(stated["steps"], stated["shift"], stated["reverse"]),
            negative=prompts[1],
            guidance=Guidance(cfg=stated["cfg_scale"], rescale=stated["guidance_rescale"]),
            extensions=[ImageConcat(image=data["img_latents"], stability=stated["i2v_stability"])],
        )
    )


def test_a_whole_loop_gives_the_originals_latents(original: list[Step]) -> None:
    data = of_case(PIPELINE, CASE)
    assert len(original) == META["cases"][CASE]["steps"]
    for step, expected in zip(original, data["latents_after_steps"], strict=True):
        assert_close(step.x, expected, **LATENTS)
    assert_close(original[-1].x, data["latents_final"], **LATENTS)


def test_the_video_is_the_originals_once_the_first_frames_are_dropped(original: list[Step]) -> None:
    vae = load_vae(GOLDEN / "vae_weights.safetensors")
    decoded = vae.decode(original[-1].x / vae.config.scaling_factor)[:, :, DROPPED_FRAMES:]
    assert_close((decoded / 2 + 0.5).clamp(0, 1), of_case(PIPELINE, CASE)["video"], rel=3e-5, max_abs=2e-4)


# --- what the transformer is given --------------------------------------------------------------------------


@MODELS
@pytest.mark.parametrize("options", [{}, CFG, {**CFG, "guidance": Guidance(cfg=3, batched=True)}], ids=str)
def test_beside_every_latent_is_the_image_and_zeros_after_it(
    dit: DiT, given: ImageConcat, options: dict[str, Any]
) -> None:
    seen: list[Evaluation] = []
    final(given, Spy(seen=seen), dit=dit, **options)
    assert len(seen) == STEPS * (2 if len(options) and not options["guidance"].batched else 1)
    for evaluation in seen:
        for row in evaluation.x:
            assert torch.equal(row[4:8, 0], IMAGE[0, :, 0])
            assert not row[4:8, 1:].any()
            if given.marked:
                assert (row[8, 0] == 1).all()
                assert not row[8, 1:].any()
            assert row.shape[0] == dit.config.in_channels


@MODELS
def test_the_image_and_the_mark_reach_the_video(dit: DiT, given: ImageConcat) -> None:
    other = replace(given, image=randn(1, 4, 1, 4, 4, seed=8))
    assert rel_l2(final(other, dit=dit), final(given, dit=dit)) > 1e-3


def test_the_mark_is_as_the_transformer_would_be_given_it_by_hand() -> None:
    state = torch.cat((IMAGE, torch.ones(1, 1, 1, 4, 4)), dim=1)
    wide = torch.cat((NOISE, torch.cat((state, torch.zeros(1, 5, 2, 4, 4)), dim=2)), dim=1)
    text = prompt()
    velocity = MARKED(wide, torch.tensor([1000.0]), text.text, None, text.pooled, torch.tensor([6000.0]))
    step = steps_of(I2V, sigmas=torch.tensor([1.0, 0.5]))[0]
    assert rel_l2(step.x - NOISE, -0.5 * velocity) <= 1e-5


def test_stability_begins_with_a_trace_of_the_image_in_every_frame() -> None:
    noise = 0.999 * NOISE + 0.001 * IMAGE
    assert rel_l2(final(replace(I2V, stability=True)), final(I2V, x=noise)) <= 1e-6
    assert rel_l2(final(replace(I2V, stability=True)), final(I2V)) > 1e-5


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("options", [{}, {**CFG, "guidance": Guidance(cfg=3, batched=True)}], ids=["plain", "batched"])
def test_a_batch_equals_its_clips_alone(options: dict[str, Any], images: int) -> None:
    noise, image = randn(2, 4, 3, 4, 4, seed=4), randn(images, 4, 1, 4, 4, seed=5)
    together = final(replace(I2V, image=image), x=noise, **options)
    for i in range(2):
        alone = final(replace(I2V, image=image[i % images][None]), x=noise[i : i + 1], **options)
        assert rel_l2(together[i : i + 1], alone) <= 1e-5


def test_a_part_of_the_frames_has_its_own_of_the_image() -> None:
    given = torch.arange(24.0).view(1, 2, 3, 2, 2)
    wide = beside(Evaluation(NOISE[:, :, :2, :2, :2], 1.0, 0, 1, prompt(), "positive", part=(2, 0)), given)
    assert torch.equal(wide.x[:, 4:], given[:, :, [2, 0]])
    assert wide.part == (2, 0)


def test_context_windows_see_the_latent_alone_and_only_the_first_has_the_image() -> None:
    seen: list[Evaluation] = []
    windows = ContextWindows(window_frames=5, overlap_frames=4, freenoise=False)
    out = final(I2V, windows, Spy(seen=seen), sigmas=torch.tensor([1.0, 0.5]))
    assert out.shape == NOISE.shape
    assert [evaluation.part for evaluation in seen] == [(0, 1), (1, 2)]
    assert [bool(evaluation.x[:, 4:].any()) for evaluation in seen] == [True, False]


def test_other_extensions_see_the_latent_alone() -> None:
    @dataclass(frozen=True)
    class FurtherOut(Spy):
        rank: ClassVar[int] = 499

    seen: list[Evaluation] = []
    final(I2V, FurtherOut(seen=seen))
    assert {evaluation.x.shape[1] for evaluation in seen} == {4}


# --- laws ---------------------------------------------------------------------------------------------------


def test_the_order_of_extensions_is_irrelevant() -> None:
    @dataclass(frozen=True)
    class Halved(Extension):
        rank: ClassVar[int] = 600

        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            return lambda evaluation: inner(replace(evaluation, x=evaluation.x / 2)) / 2

    assert torch.equal(final(Halved(), I2V), final(I2V, Halved()))
    assert rel_l2(final(Halved(), I2V), final(I2V)) > 1e-3


def test_runs_side_by_side_do_not_meet_and_the_callers_tensors_stay() -> None:
    noise, image = NOISE.clone(), IMAGE.clone()
    other = replace(I2V, image=randn(1, 4, 1, 4, 4, seed=8))
    runs = [sample(MARKED, NOISE, prompt(), sigmas=flow_sigmas(STEPS, 7.0), extensions=[e]) for e in (I2V, other)]
    *_, (first, second) = zip(*runs, strict=True)
    assert torch.equal(first.x, final(I2V))
    assert torch.equal(second.x, final(other))
    assert torch.equal(NOISE, noise)
    assert torch.equal(IMAGE, image)


# --- what cannot work ---------------------------------------------------------------------------------------

WRONG = {
    "another size": ((1, 4, 1, 4, 6), NOISE, GeometryError, r"\[4, 1, 4, 6\].*\[4, 1, 4, 4\]"),
    "several frames": ((1, 4, 2, 4, 4), NOISE, GeometryError, r"\[4, 2, 4, 4\].*\[4, 1, 4, 4\]"),
    "too many": ((3, 4, 1, 4, 4), randn(2, 4, 3, 4, 4), GeometryError, "3 images for a batch of 2 clips"),
    "one frame": ((1, 4, 1, 4, 4), NOISE[:, :, :1], GeometryError, "1 frame.*5 frames or more"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_image_that_does_not_fit_is_refused_before_anything_is_loaded(what: str) -> None:
    shape, x, error, words = WRONG[what]
    with pytest.raises(error, match=words):
        run.check_run(MARKED.config, x, prompt(), extensions=[replace(I2V, image=torch.zeros(shape))])


def test_a_damaged_image_is_refused() -> None:
    with pytest.raises(NumericsError, match="image's latent holds NaN or infinity"):
        run.check_run(MARKED.config, NOISE, prompt(), extensions=[replace(I2V, image=IMAGE * float("nan"))])


@pytest.mark.parametrize(
    ("channels", "given", "words"),
    [(4, I2V, "takes 4 input channels.*4 with 5 .* has 9"), (8, I2V, "takes 8 .* has 9"), (9, SKYREELS, "9 .* has 8")],
)
def test_a_transformer_for_another_input_is_refused(channels: int, given: ImageConcat, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        run.check_run(replace(TINY, in_channels=channels), NOISE, prompt(), extensions=[given])


def test_without_an_image_the_wider_transformer_is_refused() -> None:
    with pytest.raises(ValueError, match="latent channels: got 4, but this checkpoint expects 9"):
        final()


def test_a_part_of_the_run_is_no_choice() -> None:
    with pytest.raises(ValueError, match=r"^when is 0.5 to 1, but .* every step"):
        replace(I2V, when=Interval(0.5, 1))


@pytest.mark.parametrize("frames", [1, 3])
def test_a_clip_a_frame_later_begins_with_its_first_frame_twice(frames: int) -> None:
    clip = randn(2, 4, 3, 4, 4)[:, :, :frames]
    found = a_frame_later(clip)
    assert found.shape == clip.shape
    assert torch.equal(found[:, :, 0], clip[:, :, 0])
    assert torch.equal(found[:, :, 1:], clip[:, :, :-1])
