"""The old sampler: every option reaches the video, and so does all that it may begin with."""

from __future__ import annotations

import jobs
import pytest
import torch
from old_jobs import HEIGHT_PX, NODES, WIDTH_PX, complete, latent_of, old

import models

pytestmark = pytest.mark.usefixtures("old_files")
#: The first one is that of all other tests.
SCHEDULERS = NODES["HyVideoSampler"]["inputs"]["optional"]["scheduler"][0][1:]

OPTIONS = {
    "stg_args": ("HyVideoSTG", {"stg_mode": "STG-R", "stg_block_idx": 1, "stg_scale": 1.0}),
    "context_options": ("HyVideoContextOptions", {"context_schedule": "static_standard", "context_frames": 5}),
    "feta_args": ("HyVideoEnhanceAVideo", {"weight": 4.0}),
    "loop_args": ("HyVideoLoopArgs", {"shift_skip": 1}),
    "fresca_args": ("HunyuanVideoFresca", {"fresca_scale_high": 2.0, "fresca_freq_cutoff": 1}),
    "slg_args": ("HunyuanVideoSLG", {"single_blocks": "1", "start_percent": 0.0, "end_percent": 1.0}),
}


@pytest.fixture(scope="module")
def plain(server):
    """Nine frames with cfg, without any option: what each option is compared with."""
    return old("t2v", {"3.num_frames": 9, "30.hyvid_cfg": ["cfg", 0]}) | {
        "cfg": complete("HyVideoCFG", {"cfg": 3.0, "negative_prompt": "blurry"})
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_reaches_the_video(studio, plain, name):
    kind, values = OPTIONS[name]
    job = jobs.changed(plain | {"option": complete(kind, values)}, {f"3.{name}": ["option", 0]})
    found = latent_of(studio, job)
    assert torch.isfinite(found).all()
    assert found.shape[2] == 3
    assert not torch.equal(found, latent_of(studio, plain))


def test_cfg_zero_star_and_schedulers_reach_the_video(studio, plain):
    first = latent_of(studio, plain)
    changes = [{"cfg.use_cfg_zero_star": True}, *({"3.scheduler": name} for name in SCHEDULERS)]
    assert all(not torch.equal(latent_of(studio, jobs.changed(plain, each)), first) for each in changes)
    batched = latent_of(studio, jobs.changed(plain, {"cfg.batched_cfg": True}))
    assert (batched - first).norm() < 0.05 * first.norm()


def test_a_mask_keeps_what_is_black(studio):
    black = {"black": jobs.node("SolidMask", value=0.0, width=WIDTH_PX, height=HEIGHT_PX)}
    job = jobs.changed(old("v2v_cfg") | black, {"3.mask": ["black", 0]})
    torch.testing.assert_close(latent_of(studio, job), latent_of(studio, job, "54"), rtol=1e-4, atol=1e-4)


def test_one_latent_frame_begins_the_video(studio):
    job = old("i2v")
    job["1"]["inputs"]["model"] = jobs.MODEL
    job = jobs.changed(job, {"3.image_cond_latents": None, "3.samples": ["54", 0]})
    found = latent_of(studio, job)
    torch.testing.assert_close(found[:, :, :1], latent_of(studio, job, "54"), rtol=1e-5, atol=1e-5)
    message = studio.failure(jobs.changed(job, {"3.denoise_strength": 0.5}))
    assert "samples is one latent frame" in message


@pytest.mark.parametrize("channels", [33, 32])
def test_an_image_beside_the_latent_costs_the_first_latent_frame(studio, place, channels):
    place("diffusion_models/wide.safetensors", models.transformer(in_channels=channels))
    job = old("i2v", {"1.model": "wide.safetensors", "3.num_frames": 9})
    found = latent_of(studio, job)
    assert found.shape[2] == 2
    assert not torch.equal(found, latent_of(studio, jobs.changed(job, {"3.i2v_mode": "dynamic"})))


def test_a_video_too_short_or_too_long_is_fitted(studio):
    for frames in (5, 13):
        job = old("v2v_cfg", {"3.num_frames": 9, "53.amount": frames})
        assert latent_of(studio, job).shape[2] == 3
