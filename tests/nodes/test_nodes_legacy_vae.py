"""Old nodes around the VAE: keyframes, sizes, looks at a latent, decoding."""

from __future__ import annotations

from pathlib import Path

import jobs
import pytest
from old_jobs import HEIGHT_PX, WIDTH_PX, complete, latent_of, old
from PIL import Image

from hyvideo_core.vae.buckets import nearest_bucket
from tools.toy_model import build

pytestmark = pytest.mark.usefixtures("old_files")


def test_keyframes_with_their_lora(studio):
    job = old("v2v_cfg", {"3.samples": None, "3.denoise_strength": 1.0, "3.num_frames": 9})
    job["lora"] = jobs.node("HyVideoLoraSelect", lora=Path(build.KEYFRAME_LORA).name, strength=1.0)
    ends = {"vae": ["7", 0], "start_image": ["52", 0], "end_image": ["52", 0], "num_frames": 9}
    job["54"] = complete("HyVideoEncodeKeyframes", ends)
    job = jobs.changed(job, {"1.lora": ["lora", 0], "3.image_cond_latents": ["54", 0]})
    found = latent_of(studio, job)
    # The first latent frame was left out there, too.
    assert found.shape[2] == 2


def test_sizes_previews_and_decoding(studio):
    job = old("i2v")
    job["size"] = complete("HyVideoGetClosestBucketSize", {"image": ["51", 0], "base_size": "360"})
    job["scaled"] = jobs.node(
        "ImageScale",
        image=["51", 0],
        upscale_method="area",
        width=["size", 0],
        height=["size", 1],
        crop="disabled",
    )
    job["34"]["inputs"]["images"] = ["scaled", 0]
    (path,) = studio.files(studio.run(job), "34")
    assert Image.open(path).size == nearest_bucket(HEIGHT_PX, WIDTH_PX, "360p")[::-1]
    job["look"] = complete("HyVideoLatentPreview", {"samples": ["3", 0], "r_bias": 0.5})
    job["34"]["inputs"]["images"] = ["look", 0]
    (path,) = studio.files(studio.run(job), "34")
    assert (Image.open(path).size, Image.open(path).n_frames) == ((10, 8), 2)
    skipped = old("t2v", {"5.skip_latents": 1, "5.balance_brightness": True, "5.enable_vae_tiling": False})
    (path,) = studio.files(studio.run(skipped), "34")
    assert Image.open(path).size == (WIDTH_PX, HEIGHT_PX)
