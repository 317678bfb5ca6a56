"""Old workflows run, and what comes of them is what the nodes of today make."""

from __future__ import annotations

from typing import Any

import jobs
import pytest
import torch
from old_jobs import HEIGHT_PX, WIDTH_PX, WORKFLOWS, latent_of, old
from PIL import Image

pytestmark = pytest.mark.usefixtures("old_files")

#: In float32 the noise of a seed is that of HyVideo Sampler too.
EXACT = {"1.base_precision": "fp32", "1.quantization": "disabled", "16.precision": "fp32"}
TODAY = {
    "model.dtype": "float32",
    "encoders.dtype": "float32",
    "size.resolution.width": WIDTH_PX,
    "size.resolution.height": HEIGHT_PX,
    "sampler.steps": 4,
    "sampler.shift": 9.0,
    "encoders.llm": "llava_llama3_fp16.safetensors",
    "encoders.clip": "clip_l.safetensors",
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_an_old_workflow_runs(studio, name):
    outputs = studio.run(old(name))
    (path,) = studio.files(outputs, "34")
    with Image.open(path) as picture:
        assert picture.size == (WIDTH_PX, HEIGHT_PX)
        assert picture.n_frames == jobs.FRAMES


def test_a_prompt_without_meta_runs_too(studio):
    job = old("t2v")
    for node in job.values():
        del node["_meta"]
    assert torch.isfinite(latent_of(studio, job)).all()


def today(seed: int, features: list[tuple[str, dict[str, Any]]], changes: dict[str, Any]) -> jobs.Json:
    job = jobs.text_to_latent({**TODAY, "sampler.seed": seed, **changes})
    model = ["model", 0]
    for place, (kind, inputs) in enumerate(features):
        job[f"feature{place}"] = jobs.node(kind, model=model, **inputs)
        model = [f"feature{place}", 0]
    job["sampler"]["inputs"]["model"] = model
    return job


def test_text_to_video_is_that_of_today(studio):
    found = latent_of(studio, old("t2v", EXACT))
    features = [("HyvMemory", {"resident_blocks": 3})]
    assert torch.equal(found, studio.saved_latent(today(6, features, {})))


def test_features_are_those_of_today(studio):
    found = latent_of(studio, old("t2v_lora_teacache_enhance", EXACT | {"42.rel_l1_thresh": 1.0}))
    text = old("t2v_lora_teacache_enhance")["44"]["inputs"]["custom_prompt_template"]
    template = {"prompt.template": "custom", "prompt.template.text": text, "prompt.template.crop_start": 12}
    features = [
        ("HyvLora", {"lora": "my_lora.safetensors", "strength": 0.8}),
        ("HyvTeaCache", {"threshold": 1.0, "device": "cpu"}),
        ("HyvEnhanceAVideo", {"weight": 4.0, "start": 0.1, "end": 1.0}),
        ("HyvRiflex", {"k": 4, "above_frames": 0}),
    ]
    assert torch.equal(found, studio.saved_latent(today(7, features, template)))
    for left_out in range(len(features)):
        rest = features[:left_out] + features[left_out + 1 :]
        assert not torch.equal(found, studio.saved_latent(today(7, rest, template))), features[left_out]


def test_video_to_video_is_that_of_today(studio):
    found = latent_of(studio, old("v2v_cfg", EXACT | {"54.enable_vae_tiling": False, "7.precision": "fp32"}))
    job = today(
        8,
        [],
        {
            "prompt.negative": "blurry, low quality",
            "sampler.cfg": 3.0,
            "sampler.negative": ["prompt", 1],
            # Of 4 steps 2 are made; half of them is the first and, inclusive, the second.
            "sampler.cfg_end": 1.0,
            "sampler.solver": "dpm++ 2m",
            "sampler.sigmas": ["last", 1],
            "sampler.latent": ["encode", 0],
        },
    )
    job |= {
        "picture": jobs.node("LoadImage", image="clip.png"),
        "frames": jobs.node("RepeatImageBatch", image=["picture", 0], amount=jobs.FRAMES),
        "vae": jobs.node("HyvLoadVAE", vae=jobs.VAE, dtype="float32"),
        "encode": jobs.node("HyvEncode", vae=["vae", 0], images=["frames", 0], tiling="whole"),
        "all": jobs.node("HyvSchedule", steps=4, shift=9.0, denoise=1.0),
        "last": jobs.node("SplitSigmas", sigmas=["all", 0], step=2),
    }
    assert torch.equal(found, studio.saved_latent(job))


def test_image_to_video_is_that_of_today(studio):
    changes = EXACT | {"54.enable_vae_tiling": False, "7.precision": "fp32"}
    stable = latent_of(studio, old("i2v", changes))
    job = today(9, [], {"model.model": jobs.IMAGE_MODEL, "model.kind": jobs.TOKEN_REPLACE, "sampler.shift": 7.0})
    job |= {
        "picture": jobs.node("LoadImage", image="first.png"),
        "vae": jobs.node("HyvLoadVAE", vae=jobs.VAE, dtype="float32"),
        "first": jobs.node(
            "HyvImageToVideo", model=["model", 0], vae=["vae", 0], image=["picture", 0], latent=["size", 0]
        ),
        "prompt": jobs.node(
            "HyvEncodeImagePrompt",
            text_encoders=["encoders", 0],
            prompt=jobs.PROMPT,
            negative="",
            use="image-to-video v2 (token_replace)",
            **{"images.image0": ["picture", 0], "use.interleave": 4},
        ),
    }
    job["encoders"]["inputs"]["vision"] = "llava_llama3_vision.safetensors"
    job["sampler"]["inputs"]["model"] = ["first", 0]
    torch.testing.assert_close(stable, studio.saved_latent(job), rtol=1e-5, atol=1e-5)
    assert not torch.equal(stable, latent_of(studio, old("i2v", changes | {"3.i2v_mode": "dynamic"})))
