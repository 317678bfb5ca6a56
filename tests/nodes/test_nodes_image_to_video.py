"""HyVideo Image to Video: the image is the first frame, whatever its size; what cannot work is said early."""

from __future__ import annotations

import jobs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import models
from hyvideo_core.vae.buckets import nearest_bucket

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


# --- wider inputs: v1 and SkyReels ----------------------------------------------------------------------------

WIDE = {33: "small_v1.safetensors", 32: "small_skyreels.safetensors"}


@pytest.fixture
def wide(place):
    """Transformers of the kinds that take an image beside the latent, by their input channels."""
    for channels, name in WIDE.items():
        small = {"hidden_size": 256, "heads": 2, "double_blocks": 1, "single_blocks": 1}
        place(f"diffusion_models/{name}", models.transformer(in_channels=channels, **small))


def beside(channels, changes=None, image="first.png"):
    job = jobs.image_to_latent({"model.model": WIDE[channels], "model.kind": "auto"}, image)
    return jobs.changed(job, changes or {})


@pytest.mark.parametrize("channels", WIDE)
def test_a_wider_model_is_known_by_itself_and_sees_the_image(studio, wide, channels):
    found = studio.saved_latent(beside(channels))
    assert torch.isfinite(found).all()
    other = studio.saved_latent(beside(channels, image="second.png"))
    # No frame is held: the model makes all of them, with the image before its eyes.
    assert not torch.equal(other[:, :, 0], found[:, :, 0])
    assert not torch.equal(other[:, :, 1], found[:, :, 1])
    lively = studio.saved_latent(beside(channels, {"first.stability": False}))
    assert torch.equal(lively, found) == (channels == 32)


def test_a_wider_model_needs_its_image_and_no_lora_for_one(studio, wide):
    message = studio.failure(beside(33, {"sampler.model": ["model", 0]}))
    assert "image-to-video (latent_concat), but it was given no image" in message
    message = studio.failure(beside(32, {"first.method": "Leapfusion LoRA"}))
    assert "in a way that a LoRA teaches" in message


# --- LoRAs that teach a text-to-video model ---------------------------------------------------------------------


def test_leapfusion_holds_the_image_as_the_first_frame(studio, encoded):
    job = jobs.image_to_latent({"model.kind": "auto", "first.method": "Leapfusion LoRA"})
    found = studio.saved_latent(job)
    torch.testing.assert_close(found[:, :, :1], encoded("first.png"), rtol=1e-6, atol=1e-6)
    assert torch.equal(studio.saved_latent(jobs.changed(job, {"first.stability": False})), found)
    cut = jobs.changed(job, {"save.samples": ["cut", 0]})
    cut["cut"] = jobs.node("TrimVideoLatent", samples=["sampler", 0], trim_amount=1)
    assert torch.equal(studio.saved_latent(cut), found[:, :, 1:])


@pytest.fixture
def keyframe_lora(place):
    """As diffusers saves it: the patch embedding of twice the channels."""
    generator = torch.Generator().manual_seed(0)
    name = "transformer.x_embedder.proj"
    down = torch.randn(2, 32, 1, 2, 2, generator=generator)
    up = torch.randn(256, 2, 1, 1, 1, generator=generator) / 10
    return place("loras/keyframes.safetensors", {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}).name


def between(lora="keyframes.safetensors", first="first.png", last="second.png", **changes):
    job = jobs.text_to_latent({"size.frames": 9})
    job |= {
        "lora": jobs.node("HyvLora", model=["model", 0], lora=lora, strength=1.0),
        "vae": jobs.node("HyvLoadVAE", vae=jobs.VAE, dtype="auto"),
        "start": jobs.node("LoadImage", image=first),
        "end": jobs.node("LoadImage", image=last),
        "keys": jobs.node(
            "HyvKeyframes",
            model=["lora", 0],
            vae=["vae", 0],
            first=["start", 0],
            last=["end", 0],
            latent=["size", 0],
        ),
    }
    return jobs.changed(job, {"sampler.model": ["keys", 0], **changes})


def test_keyframes_act_through_their_lora_alone_in_any_order_of_nodes(studio, keyframe_lora):
    found = studio.saved_latent(between())
    others = [between(first="second.png"), between(last="first.png"), between(**{"lora.strength": 0.5})]
    assert not [job for job in others if torch.equal(studio.saved_latent(job), found)]
    swapped = between(**{"keys.model": ["model", 0], "lora.model": ["keys", 0], "sampler.model": ["lora", 0]})
    assert torch.equal(studio.saved_latent(swapped), found)
    off = studio.saved_latent(between(**{"lora.strength": 0.0}))
    # Zeros beside the input change the order of sums.
    plain = studio.latent({"size.frames": 9})
    assert (off - plain).norm() / plain.norm() < 0.01


def test_keyframes_and_their_lora_need_each_other(studio, keyframe_lora):
    message = studio.failure(between(**{"sampler.model": ["lora", 0]}))
    assert "keyframes.safetensors is a LoRA for keyframes, but the model was given none" in message
    assert "does nothing without a LoRA for keyframes" in studio.failure(between(**{"keys.model": ["model", 0]}))
    assert "cannot be merged" in studio.failure(between(**{"lora.apply": "merged"}))
    assert "given an image already" in studio.failure(
        between(**{"keys.model": ["again", 0]}) | {"again": between()["keys"]}
    )


# --- sizes, and frames that are left out ----------------------------------------------------------------------


def test_an_image_of_any_size_comes_to_the_nearest_official_one_with_a_latent_of_it(studio):
    fit = jobs.node("HyvFitImage", image=["picture", 0], resolution="360p", frames=5, batch_size=2)
    job = {
        "picture": jobs.node("LoadImage", image="tall.png"),
        "fit": fit,
        "save": jobs.node("SaveLatent", samples=["fit", 1], filename_prefix="latents/test"),
        "image": jobs.node("SaveImage", images=["fit", 0], filename_prefix="image/test"),
    }
    outputs = studio.run(job)
    (latent_file,), (image_file,) = studio.files(outputs), studio.files(outputs, "image")
    height, width = nearest_bucket(jobs.HEIGHT_PX + 22, jobs.WIDTH_PX, "360p")
    assert Image.open(image_file).size == (width, height)
    assert load_file(latent_file)["latent_tensor"].shape == (2, 16, 2, height // 8, width // 8)


def test_frames_are_left_out_once_the_whole_is_decoded(studio):
    whole = studio.images()
    assert np.array_equal(studio.images({"decode.skip_frames": 4}), whole[4:])
    batch = studio.images({"size.batch_size": 2, "decode.skip_frames": 2})
    assert np.array_equal(batch, np.delete(studio.images({"size.batch_size": 2}), [0, 1, 5, 6], axis=0))
    job = jobs.text_to_images({"decode.skip_frames": 5})
    assert "skip_frames is 5, but the latent decodes to 5 frames. Lower it to 4" in studio.failure(job)


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
