"""What decides the result, and what does not."""

from __future__ import annotations

import jobs
import numpy as np
import pytest
import torch
from PIL import Image

CFG = {"sampler.cfg": 3.0, "sampler.negative": ["prompt", 1], "prompt.negative": "blurry"}


@pytest.fixture(scope="module")
def known():
    """Latents already computed by this module's tests, by what makes them."""
    return {}


@pytest.fixture
def latent(studio, known):
    """The latent of a job with these changes, computed once."""

    def get(changes=None):
        key = repr(sorted((changes or {}).items()))
        if key not in known:
            known[key] = studio.latent(changes)
        return known[key]

    return get


def test_the_same_seed_gives_identical_frames(studio):
    first = studio.images({"save.filename_prefix": "image/first"})
    studio.release()
    second = studio.images({"save.filename_prefix": "image/second"})
    assert first.shape == (jobs.FRAMES, jobs.HEIGHT_PX, jobs.WIDTH_PX, 3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, studio.images({"sampler.seed": 2}))


def test_the_same_seed_gives_the_same_latent_after_another_job(studio):
    first = studio.latent()
    studio.drop_results()
    studio.latent({"sampler.seed": 9, "prompt.prompt": "A dog.", "size.frames": 9})
    studio.drop_results()
    assert torch.equal(studio.latent(), first)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler.seed": 2},
        {"prompt.prompt": "A red car drives through the rain."},
        {"prompt.template": "image"},
        {"prompt.template": "custom", "prompt.template.text": "Say: {}<|eot_id|>", "prompt.template.crop_start": -1},
        {"sampler.steps": 4},
        {"sampler.shift": 17.0},
        {"sampler.guidance": 1.0},
        {"sampler.denoise": 0.5},
        {"model.dtype": "float32"},
        {"encoders.dtype": "float32"},
        CFG,
        CFG | {"sampler.cfg": 5.0},
        CFG | {"prompt.negative": "sharp"},
        CFG | {"sampler.cfg_start": 0.5},
        CFG | {"sampler.cfg_end": 0.5},
        CFG | {"sampler.guidance_rescale": 0.7},
    ],
    ids=lambda changes: ",".join(f"{key}={value}" for key, value in changes.items() if not isinstance(value, list)),
)
def test_every_setting_changes_the_result(latent, changes):
    base = CFG if changes is not CFG and changes.keys() >= CFG.keys() else {}
    result = latent(changes)
    assert torch.isfinite(result).all()
    assert result.shape == latent(base).shape
    assert not torch.equal(result, latent(base))


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (1, 16, 2, 6, 8)),
        ({"size.frames": 1}, (1, 16, 1, 6, 8)),
        ({"size.frames": 9}, (1, 16, 3, 6, 8)),
        ({"size.batch_size": 2}, (2, 16, 2, 6, 8)),
        ({"size.resolution.width": 80}, (1, 16, 2, 6, 10)),
        ({"size.resolution.height": 64}, (1, 16, 2, 8, 8)),
    ],
)
def test_the_latent_has_the_size_that_was_asked_for(latent, changes, shape):
    assert latent(changes).shape == shape


#: Source: HunyuanVideo README, resolution table.
OFFICIAL_PX = [(1280, 720), (1104, 832), (960, 960), (960, 544), (832, 624), (720, 720)]


def test_the_official_sizes_are_all_there_and_what_their_names_say(studio, client):
    options = client.object_info("HyvEmptyLatent")["HyvEmptyLatent"]["input"]["required"]["resolution"][1]["options"]
    sizes = {name: tuple(map(int, name.split(" ")[-1].split("×"))) for o in options if "×" in (name := o["key"])}
    assert sorted(sizes.values()) == sorted({*OFFICIAL_PX, *((height, width) for width, height in OFFICIAL_PX)})
    for name, (width, height) in sizes.items():
        empty = jobs.node("HyvEmptyLatent", resolution=name, frames=129, batch_size=1)
        job = {"size": empty, "save": jobs.node("SaveLatent", samples=["size", 0], filename_prefix="latents/official")}
        assert studio.saved_latent(job).shape == (1, 16, 33, height // 8, width // 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler.negative": ["prompt", 1], "prompt.negative": "blurry"},
        {"sampler.negative": ["prompt", 1], "sampler.guidance_rescale": 0.7},
        {"sampler.cfg_start": 0.5, "sampler.cfg_end": 0.5},
        CFG | {"sampler.cfg_start": 0.5, "sampler.cfg_end": 0.5},
        {"model.dtype": "bfloat16"},
        {"encoders.dtype": "bfloat16"},
        {"prompt.prompt": f"  {jobs.PROMPT}\n"},
    ],
    ids=lambda changes: ",".join(f"{key}={value}" for key, value in changes.items() if not isinstance(value, list)),
)
def test_a_setting_without_a_part_to_play_changes_nothing(latent, changes):
    assert torch.equal(latent(changes), latent())


def test_rescale_of_nothing_is_no_rescale(latent):
    assert torch.equal(latent(CFG | {"sampler.guidance_rescale": 0.0}), latent(CFG))


def test_every_attention_kernel_is_exact(latent):
    auto = latent({"model.dtype": "float32"})
    chunked = latent({"model.dtype": "float32", "model.attention": "chunked"})
    assert torch.equal(latent({"model.dtype": "float32", "model.attention": "sdpa"}), auto)
    # Only the order of sums differs, so it does differ, by float32's 6e-8 grown through 3 steps of 6 blocks.
    assert not torch.equal(chunked, auto)
    assert (chunked - auto).norm() / auto.norm() < 1e-5


def test_lower_denoise_stays_closer_to_the_video_it_starts_from(studio):
    start = studio.saved_latent(jobs.changed(jobs.video_to_latent(), {"save.samples": ["encode", 0]}))
    distance = [
        (studio.saved_latent(jobs.video_to_latent({"sampler.denoise": denoise})) - start).abs().mean()
        for denoise in (0.05, 0.3, 0.6, 1.0)
    ]
    assert distance == sorted(distance)
    assert distance[0] < 0.5 * distance[-1]


def test_next_to_no_denoise_gives_the_video_back(studio):
    start = studio.saved_latent(jobs.changed(jobs.video_to_latent(), {"save.samples": ["encode", 0]}))
    hardly = {"sampler.denoise": 0.01, "sampler.steps": 1, "sampler.shift": 0.01}
    torch.testing.assert_close(studio.saved_latent(jobs.video_to_latent(hardly)), start, atol=0.02, rtol=0.02)


def test_full_denoise_forgets_the_video_it_starts_from(studio, latent):
    assert torch.equal(studio.saved_latent(jobs.video_to_latent()), latent())


def test_guidance_in_the_prompt_wins_over_the_widget_and_means_the_same(studio, latent):
    job = jobs.text_to_latent({"sampler.positive": ["guide", 0], "sampler.guidance": 6.0})
    job["guide"] = jobs.node("FluxGuidance", conditioning=["prompt", 0], guidance=2.5)
    assert torch.equal(studio.saved_latent(job), latent({"sampler.guidance": 2.5}))


def test_each_clip_of_a_batch_is_its_own(latent):
    batch = latent({"size.batch_size": 2})
    assert batch.shape[0] == 2
    assert not torch.equal(batch[0], batch[1])


WIDE = {"size.resolution.width": 96, "size.frames": 13}


@pytest.mark.parametrize(
    "changes",
    [
        {"decode.tiling.tile_size": 64},
        {"decode.tiling.tile_frames": 8},
        {"decode.tiling.tile_size": 64, "decode.tiling.overlap": 0.5},
        {"vae.dtype": "bfloat16"},
        {"vae.dtype": "float16"},
    ],
)
def test_every_setting_of_the_decoder_changes_the_frames(studio, changes):
    base = WIDE | ({"decode.tiling.tile_size": 64} if "decode.tiling.overlap" in changes else {})
    expected, found = studio.images(base), studio.images(WIDE | changes)
    assert found.shape == expected.shape == (13, jobs.HEIGHT_PX, 96, 3)
    assert not np.array_equal(found, expected)


def test_a_tile_larger_than_the_clip_is_the_whole(studio):
    assert np.array_equal(studio.images({"decode.tiling": "whole"}), studio.images())


def test_the_tiling_of_the_encoder_changes_the_latent(studio):
    big = {"picture.width": 96, "picture.batch_size": 9, "save.samples": ["encode", 0]}
    tiles = {"tiling": "tiled", "tiling.tile_size": 64, "tiling.tile_frames": 8, "tiling.overlap": 0.25}
    tiled = {f"encode.{key}": value for key, value in tiles.items()}
    whole = studio.saved_latent(jobs.video_to_latent(big))
    parts = studio.saved_latent(jobs.video_to_latent(big | tiled))
    assert whole.shape == parts.shape
    assert not torch.equal(whole, parts)


def test_images_are_cropped_at_the_centre_to_what_the_model_can_represent(studio):
    noise = np.random.default_rng(0).integers(0, 256, (61, 75, 3), dtype=np.uint8)
    Image.fromarray(noise).save(studio.server.base / "input" / "noise.png")
    job = jobs.video_to_latent({"encode.images": ["odd", 0], "save.samples": ["encode", 0]})
    job["odd"] = jobs.node("LoadImage", image="noise.png")
    cropped = jobs.changed(job, {"encode.images": ["crop", 0]})
    cropped["crop"] = jobs.node("ImageCrop", image=["odd", 0], x=5, y=6, width=64, height=48)
    found = studio.saved_latent(job)
    assert found.shape == (1, 16, 1, 48 // 8, 64 // 8)
    assert torch.equal(found, studio.saved_latent(cropped))
