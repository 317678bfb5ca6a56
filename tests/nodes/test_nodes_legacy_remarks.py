"""What old nodes cannot do is said, and what they do another way is told on the node."""

from __future__ import annotations

import jobs
import pytest
from old_jobs import complete, old

pytestmark = pytest.mark.usefixtures("old_files")


def with_curve() -> jobs.Json:
    job = old("v2v_cfg")
    inputs = {"model": ["1", 0], "hyvid_embeds": ["30", 0], "samples": ["54", 0]}
    job["3"] = complete("HyVideoInverseSampler", inputs | {"interpolation_curve": 0.5})
    return job


def mixing() -> jobs.Json:
    job = old("t2v")
    inputs = {"model": ["1", 0], "hyvid_embeds": ["30", 0], "hyvid_embeds_2": ["30", 0]}
    job["3"] = complete("HyVideoPromptMixSampler", inputs)
    return job


def native_vae() -> jobs.Json:
    return old("t2v", {"5.vae": ["native", 0]}) | {
        "native": jobs.node("VAELoader", vae_name=jobs.VAE, device="default")
    }


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (mixing, "has no counterpart in this pack. Use HyVideo Blend Prompts"),
        (with_curve, "interpolation_curve gives each frame a strength of its own"),
        (native_vae, "needs that of HunyuanVideo VAE Loader"),
        (lambda: old("t2v", {"16.hidden_state_skip_layer": 1}), "hidden_state_skip_layer 1, but only off and 2"),
        (lambda: old("t2v", {"30.prompt_template": "custom"}), "nothing is connected to custom_prompt_template"),
        (lambda: old("i2v", {"30.prompt_template": "I2V_image"}), "prompt_template is I2V_image"),
        (lambda: old("i2v", {"1.model": jobs.MODEL}), "its file's name must hold 'i2v'"),
        (lambda: old("i2v", {"3.image_cond_latents": None}), "was given no image"),
        (lambda: old("v2v_cfg", {"3.denoise_strength": 0.0}), "denoise_strength is 0.0"),
        (lambda: old("v2v_cfg", {"3.width": 96}), "Make them the same"),
        (lambda: old("v2v_cfg", {"3.samples": None}), "samples is not connected, but denoise_strength is 0.7"),
        (lambda: old("t2v", {"5.skip_latents": 2}), "skip_latents is 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_done_is_said(studio, job, words):
    assert words in studio.failure(job())


def test_what_is_done_another_way_is_told(studio):
    changes = {
        "1.quantization": "torchao_fp8dq",
        "1.attention_mode": "sageattn_varlen",
        "3.scheduler": "SASolverScheduler",
        "16.quantization": "bnb_nf4",
        "43.single_blocks": False,
    }
    outputs = studio.run(old("t2v_lora_teacache_enhance", changes))
    told = {node_id: outputs[node_id]["text"][0] for node_id in ("1", "3", "16")}
    assert "quantization 'torchao_fp8dq' has no counterpart" in told["1"]
    assert "attention_mode sageattn_varlen" in told["1"]
    assert "euler stochastic is nearest" in told["3"]
    assert "for double blocks only" in told["3"]
    assert "bnb_nf4 has no counterpart" in told["16"]


@pytest.mark.parametrize(
    ("kind", "images"),
    [
        ("HyVideoEncode", {"image": ["51", 0]}),
        ("HyVideoEncodeKeyframes", {"start_image": ["51", 0], "end_image": ["51", 0], "num_frames": jobs.FRAMES}),
    ],
)
def test_an_encoder_that_is_to_sample_says_that_it_takes_the_mode(studio, kind, images):
    job = {name: node for name, node in old("i2v").items() if name in ("7", "51")}
    job["encode"] = complete(kind, {"vae": ["7", 0], **images})
    job["save"] = jobs.node("SaveLatent", samples=["encode", 0], filename_prefix="latents/old")
    remark = "latent_dist sample has no counterpart: the mode is used"
    assert remark in studio.run(jobs.changed(job, {"encode.latent_dist": "sample"}))["encode"]["text"][0]
    assert "encode" not in studio.run(jobs.changed(job, {"encode.latent_dist": "mode"}))
