"""Videos changed by a prompt: masks, inversion and the way back, editing."""

from __future__ import annotations

import jobs
import pytest
import torch

OTHER = "A red car drives through the rain."
FEW = {"sampler.steps": 2, "model.dtype": "float32"}


@pytest.fixture(scope="module")
def known():
    """Latents already computed by this module's tests, by what makes them."""
    return {}


@pytest.fixture
def latent(studio, known):
    """The latent that a job saves, computed once."""

    def get(job):
        key = repr(job)
        if key not in known:
            known[key] = studio.saved_latent(job)
        return known[key]

    return get


@pytest.fixture
def clip_latent(latent):
    """The encoded picture that all of these jobs begin with."""
    return latent(jobs.changed(jobs.video_to_latent(FEW), {"save.samples": ["encode", 0]}))


# --- masks ---------------------------------------------------------------------------------------------------


def masked(changes=None, mask="half"):
    """The grey picture with a mask: white at the right half, or one value everywhere."""
    job = jobs.video_to_latent(FEW | {"sampler.latent": ["masked", 0]})
    size = {"width": jobs.WIDTH_PX, "height": jobs.HEIGHT_PX}
    job["masked"] = jobs.node("SetLatentNoiseMask", samples=["encode", 0], mask=["mask", 0])
    job["mask"] = jobs.node("SolidMask", value=0.0 if mask == "half" else mask, **size)
    if mask == "half":
        job["white"] = jobs.node("SolidMask", value=1.0, width=jobs.WIDTH_PX // 2, height=jobs.HEIGHT_PX)
        place = {"x": jobs.WIDTH_PX // 2, "y": 0, "operation": "add"}
        job["joined"] = jobs.node("MaskComposite", destination=["mask", 0], source=["white", 0], **place)
        job["masked"]["inputs"]["mask"] = ["joined", 0]
    return jobs.changed(job, changes or {})


def test_what_a_mask_does_not_mark_stays(latent, clip_latent):
    found, half = latent(masked()), clip_latent.shape[-1] // 2
    torch.testing.assert_close(found[..., :half], clip_latent[..., :half], atol=1e-5, rtol=1e-5)
    free = latent(jobs.video_to_latent(FEW))
    assert not torch.allclose(found[..., half:], clip_latent[..., half:], atol=0.1)
    assert not torch.equal(found[..., half:], free[..., half:])


def test_a_white_mask_is_bit_identical_to_none(latent):
    assert torch.equal(latent(masked(mask=1.0)), latent(jobs.video_to_latent(FEW)))


def test_a_mask_without_noise_to_add_is_refused(studio):
    error = studio.failure(masked({"sampler.add_noise": False}))
    assert "noise mask and add_noise is off" in error


# --- inversion and the way back ------------------------------------------------------------------------------

INVERT = {"gamma": 0.5, "seed": 3, "guidance": 0.0}
STEER = {"eta": 0.5, "trend": "constant", "start": 0.0, "end": 1.0}


def inverted(changes=None, **settings):
    """The grey picture to noise."""
    job = jobs.video_to_latent(FEW | {"save.samples": ["invert", 0]})
    fixed = {"model": ["model", 0], "prompt": ["prompt", 1], "latent": ["encode", 0], "steps": 2, "shift": 7.0}
    job["invert"] = jobs.node("HyvInvert", **fixed, **INVERT | settings)
    return jobs.changed(job, changes or {})


def back(changes=None, **settings):
    """And back, steered."""
    job = inverted(
        {
            "sampler.latent": ["invert", 0],
            "sampler.add_noise": False,
            "sampler.model": ["steer", 0],
            "save.samples": ["sampler", 0],
            "prompt.prompt": OTHER,
        }
    )
    job["steer"] = jobs.node("HyvRFInversion", model=["model", 0], latent=["encode", 0], **STEER | settings)
    return jobs.changed(job, changes or {})


def test_all_of_gamma_is_the_seeds_noise(latent):
    drawn = torch.randn(1, 16, 2, 6, 8, generator=torch.manual_seed(3))
    torch.testing.assert_close(latent(inverted(gamma=1.0)) * 0.476986, drawn, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", [{"gamma": 0.2}, {"seed": 4}, {"guidance": 6.0}], ids=str)
def test_every_setting_changes_the_noise(latent, change):
    assert not torch.equal(latent(inverted(**change)), latent(inverted()))


def test_all_of_eta_gives_the_video_back(latent, clip_latent):
    torch.testing.assert_close(latent(back(eta=1.0)), clip_latent, atol=1e-4, rtol=1e-4)


def test_steering_comes_nearer_to_the_video_and_without_it_the_model_is_free(latent, clip_latent):
    far, near = ((latent(back(eta=eta)) - clip_latent).norm() for eta in (0.0, 0.5))
    assert near < far
    assert torch.equal(latent(back(eta=0.0)), latent(back({"sampler.model": ["model", 0]})))


@pytest.mark.parametrize(
    "change", [{"trend": "rising"}, {"trend": "falling"}, {"start": 0.5}, {"end": 0.5}, {"eta": 0.6}], ids=str
)
def test_every_setting_of_the_way_back_changes_the_video(latent, change):
    assert not torch.equal(latent(back(**change)), latent(back()))


def test_freenoise_leaves_inverted_noise_where_it_is(latent):
    job = back({"steer.model": ["windows", 0]})
    windows = {"window_frames": 5, "overlap_frames": 0, "schedule": "static", "blend": "flat"}
    found = []
    for freenoise in (True, False):
        job["windows"] = jobs.node("HyvContextWindows", model=["model", 0], freenoise=freenoise, **windows)
        longer = {"picture.batch_size": 9}
        found.append(latent(jobs.changed(job, longer)))
    assert torch.equal(*found)


def test_an_inversion_that_is_steered_is_refused(studio):
    assert "before that node" in studio.failure(back({"invert.model": ["steer", 0]}))


# --- editing -------------------------------------------------------------------------------------------------

EDIT = {"n_max": 2, "n_min": 0, "n_avg": 1, "source_guidance": 6.0, "target_guidance": 12.0, "seed": 5}


def edited(changes=None, extra=None, **settings):
    """The grey picture edited from one prompt to another."""
    job = jobs.video_to_latent(FEW | {"save.samples": ["edit", 0]}) | (extra or {})
    job["other"] = jobs.changed(job, {"prompt.prompt": OTHER})["prompt"]
    fixed = {"model": ["model", 0], "source": ["prompt", 0], "target": ["other", 0], "latent": ["encode", 0]}
    job["edit"] = jobs.node("HyvFlowEdit", **fixed, steps=3, shift=7.0, **EDIT | settings)
    return jobs.changed(job, changes or {})


def test_nothing_to_edit_gives_the_video_back(latent, clip_latent):
    same = edited({"edit.target": ["prompt", 0]}, target_guidance=6.0)
    torch.testing.assert_close(latent(same), clip_latent, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"n_max": 3},
        {"n_min": 1},
        {"n_avg": 2},
        {"source_guidance": 5.0},
        {"target_guidance": 9.0},
        {"seed": 6},
        {"source_cfg": 3.0, "negative": ["prompt", 1]},
        {"target_cfg": 3.0, "negative": ["prompt", 1]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_changes_the_edit(latent, clip_latent, change):
    usual = latent(edited())
    assert not torch.equal(usual, clip_latent)
    assert not torch.equal(latent(edited(**change)), usual)


def test_a_clip_taken_out_of_a_batch_is_edited_as_in_the_batch(latent):
    batch = {
        "twice": jobs.node("RepeatLatentBatch", samples=["encode", 0], amount=2),
        "second": jobs.node("LatentFromBatch", samples=["twice", 0], batch_index=1, length=1),
    }
    both = latent(edited({"edit.latent": ["twice", 0]}, batch))
    alone = latent(edited({"edit.latent": ["second", 0]}, batch))
    torch.testing.assert_close(alone, both[1:], atol=1e-4, rtol=1e-4)
    assert (alone - both[:1]).norm() / alone.norm() > 1e-3


def test_a_mask_says_where_a_video_is_edited(latent, clip_latent):
    mask = {name: content for name, content in masked().items() if name in ("mask", "white", "joined", "masked")}
    found, half = latent(edited({"edit.latent": ["masked", 0]}, mask)), clip_latent.shape[-1] // 2
    torch.testing.assert_close(found[..., :half], clip_latent[..., :half], atol=1e-5, rtol=1e-5)
    assert not torch.equal(found[..., half:], clip_latent[..., half:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edit.n_max": 4}, ["n_max is 4", "has 3 steps"]),
        ({"edit.n_min": 3}, ["n_min is 3 and n_max is 2", "lower n_min"]),
        ({"edit.target_cfg": 2.0}, ["target_cfg is 2.0", "set target_cfg to 1"]),
    ],
)
def test_an_edit_that_cannot_be_is_told(studio, changes, words):
    error = studio.failure(edited(changes))
    assert all(word in error for word in words), error
