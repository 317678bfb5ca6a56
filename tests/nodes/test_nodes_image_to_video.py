"""HyVideo Image to Video: the image is the first frame, whatever its size; what cannot work is said early."""

from __future__ import annotations

import jobs
import numpy as np
import pytest
import torch
from PIL import Image

CFG = {"sampler.cfg": 3.0, "sampler.negative": ["prompt", 1], "prompt.negative": "blurry"}


def picture(seed: int, width: int = jobs.WIDTH_PX, height: int = jobs.HEIGHT_PX) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def pictures(server):
    """Pictures in the input folder: two of the video's size, and the first within a wider and within a taller one."""
    first, folder = picture(1), server.base / "input"
    wide, tall = picture(3, width=jobs.WIDTH_PX + 38), picture(4, height=jobs.HEIGHT_PX + 22)
    wide[:, 19:-19], tall[11:-11] = first, first
    for name, pixels in {"first": first, "second": picture(2), "wide": wide, "tall": tall}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def known():
    """Latents already computed by this module's tests, by what makes them."""
    return {}


@pytest.fixture
def latent(studio, known):
    """The latent of an image-to-video job with these changes, computed once."""

    def get(changes=None, image="first.png"):
        key = repr((image, sorted((changes or {}).items())))
        if key not in known:
            known[key] = studio.saved_latent(jobs.image_to_latent(changes, image))
        return known[key]

    return get


@pytest.fixture
def encoded(studio):
    """The latent of a picture of the video's size alone."""

    def get(image):
        job = jobs.image_to_latent({"save.samples": ["encode", 0]}, image)
        job["encode"] = jobs.node("HyvEncode", vae=["vae", 0], images=["picture", 0], tiling="whole")
        return studio.saved_latent(job)

    return get


# --- the image ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, CFG, {"sampler.denoise": 0.5}, {"first.stability": False}], ids=str)
def test_the_first_latent_frame_is_the_images(latent, encoded, changes):
    found = latent(changes)
    assert found.shape == (1, 16, 2, 6, 8)
    assert torch.isfinite(found).all()
    # Both went through the scaling of latents, there and back.
    torch.testing.assert_close(found[:, :, :1], encoded("first.png"), rtol=1e-6, atol=1e-6)


def test_another_image_makes_another_video(latent):
    first, second = latent(), latent(image="second.png")
    assert not torch.equal(first[:, :, 0], second[:, :, 0])
    assert not torch.equal(first[:, :, 1], second[:, :, 1])


@pytest.mark.parametrize(
    "changes",
    [{"first.stability": False}, {"sampler.seed": 2}, {"prompt.prompt": "A red car."}, {"sampler.denoise": 0.5}, CFG],
    ids=str,
)
def test_every_setting_changes_what_follows_the_image(latent, changes):
    found = latent(changes)
    assert torch.equal(found[:, :, 0], latent()[:, :, 0])
    assert not torch.equal(found[:, :, 1], latent()[:, :, 1])


def test_stability_is_on_unless_it_is_switched_off(latent):
    assert torch.equal(latent({"first.stability": True}), latent())


@pytest.mark.parametrize("image", ["wide.png", "tall.png"])
def test_the_middle_of_a_picture_of_another_shape_is_taken(latent, image):
    assert torch.equal(latent(image=image), latent())


def test_a_picture_of_another_size_is_scaled_as_the_original_scales(server, latent, encoded):
    large = Image.fromarray(picture(5, width=3 * jobs.WIDTH_PX, height=3 * jobs.HEIGHT_PX))
    large.save(server.base / "input" / "large.png")
    # The original scales with Pillow, bilinear, to whole grey values; random weights magnify the rounding.
    scaled = large.resize((jobs.WIDTH_PX, jobs.HEIGHT_PX), Image.Resampling.BILINEAR)
    scaled.save(server.base / "input" / "scaled.png")
    expected = encoded("scaled.png")
    assert (latent(image="large.png")[:, :, :1] - expected).norm() / expected.norm() < 0.1


def test_alpha_changes_nothing(studio, latent):
    job = jobs.image_to_latent({"first.image": ["rgba", 0]})
    job["mask"] = jobs.node("SolidMask", value=0.5, width=jobs.WIDTH_PX, height=jobs.HEIGHT_PX)
    job["rgba"] = jobs.node("JoinImageWithAlpha", image=["picture", 0], alpha=["mask", 0])
    assert torch.equal(studio.saved_latent(job), latent())


def test_it_goes_together_with_other_changes_of_a_model_in_any_order(studio, latent):
    before = jobs.image_to_latent({"first.model": ["memory", 0]})
    before["memory"] = jobs.node("HyvMemory", model=["model", 0], resident_blocks=3)
    after = jobs.image_to_latent({"sampler.model": ["memory", 0]})
    after["memory"] = jobs.node("HyvMemory", model=["first", 0], resident_blocks=3)
    assert torch.equal(studio.saved_latent(before), latent())
    assert torch.equal(studio.saved_latent(after), latent())


def test_another_image_reads_no_weights_again(studio):
    studio.saved_latent(jobs.image_to_latent({"sampler.seed": 3}))
    before = studio.reads()
    studio.saved_latent(jobs.image_to_latent({"sampler.seed": 3}, "second.png"))
    assert studio.reads() == before


def test_text_to_video_is_what_it_was_after_an_image(studio, latent):
    plain = studio.latent()
    latent({"sampler.seed": 4})
    studio.drop_results()
    assert torch.equal(studio.latent(), plain)


# --- batches --------------------------------------------------------------------------------------------------


def batch_of(*images, clips):
    """The job for several clips, with these pictures as one batch."""
    job = jobs.image_to_latent({"size.batch_size": clips}, images[0])
    for number, image in enumerate(images[1:]):
        job[f"picture{number}"] = jobs.node("LoadImage", image=image)
        job[f"batch{number}"] = jobs.node(
            "ImageBatch", image1=job["first"]["inputs"]["image"], image2=[f"picture{number}", 0]
        )
        job["first"]["inputs"]["image"] = [f"batch{number}", 0]
    return job


def test_one_image_serves_a_batch(studio, encoded):
    found = studio.saved_latent(batch_of("first.png", clips=2))
    torch.testing.assert_close(found[:, :, :1], encoded("first.png").expand(2, -1, -1, -1, -1), rtol=1e-6, atol=1e-6)
    assert not torch.equal(found[0, :, 1], found[1, :, 1])


def test_several_images_are_one_for_each_clip(studio, encoded):
    found = studio.saved_latent(batch_of("first.png", "second.png", clips=2))
    expected = torch.cat((encoded("first.png"), encoded("second.png")))
    torch.testing.assert_close(found[:, :, :1], expected, rtol=1e-6, atol=1e-6)


# --- what cannot work -----------------------------------------------------------------------------------------


def without_an_image():
    return jobs.image_to_latent({"sampler.model": ["model", 0]})


def given_twice():
    job = jobs.image_to_latent({"sampler.model": ["again", 0]})
    job["again"] = jobs.changed(job, {"first.model": ["first", 0]})["first"]
    return job


def sampled_at_another_size():
    job = jobs.image_to_latent({"sampler.latent": ["other", 0]})
    job["other"] = jobs.changed(job, {"size.resolution.width": 80})["size"]
    return job


FAILURES = {
    "no image": (without_an_image(), [jobs.MODEL, jobs.TOKEN_REPLACE, "no image", "HyVideo Image to Video"]),
    "no image-to-video model": (
        jobs.image_to_latent({"model.kind": "text-to-video"}),
        [jobs.MODEL, "loaded as a transformer for text-to-video", f"choose kind '{jobs.TOKEN_REPLACE}'"],
    ),
    "kind left to the file": (jobs.image_to_latent({"model.kind": "auto"}), ["text-to-video", "choose kind"]),
    "given twice": (given_twice(), ["an image already", "another HyVideo Image to Video"]),
    "too many images": (batch_of("first.png", "second.png", "wide.png", clips=2), ["3 images for a batch of 2 clips"]),
    "two images for one clip": (batch_of("first.png", "second.png", clips=1), ["2 images for a batch of 1 clips"]),
    "an image as the video": (jobs.image_to_latent({"size.frames": 1}), ["1 frame", "Choose 5 frames or more"]),
    "another size": (sampled_at_another_size(), ["[16, 1, 6, 8]", "[16, 1, 6, 10]", "connect one latent"]),
}


#: Of these the image is as good as any; only what it is given to does not work.
ENCODED = ("given twice", "another size")


@pytest.mark.parametrize("what", FAILURES)
def test_what_cannot_work_says_what_to_do_before_weights_are_read_for_it(studio, what):
    job, words = FAILURES[what]
    studio.release()
    before = studio.reads()
    message = studio.failure(job)
    assert not [word for word in words if word not in message], message
    read = studio.reads() - before
    # One reading of the transformer belongs to the job that follows every failure.
    assert (read["transformer"], read["vae"]) == (1, int(what in ENCODED))
