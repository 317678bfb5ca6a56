"""The pack's nodes and ComfyUI's own in one graph."""

from __future__ import annotations

import shutil

import jobs
import numpy as np
import torch
from PIL import Image


def pictures(paths):
    """Pixels [F, H, W, 3] of image files."""
    return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(float)


def with_nodes(job, changes, **added):
    return jobs.changed(job | added, changes)


def test_comfyui_decodes_the_samplers_latent_as_the_pack_does(studio):
    native = with_nodes(
        jobs.text_to_images(),
        {"save.images": ["native", 0]},
        loader=jobs.node("VAELoader", vae_name=jobs.VAE, device="default"),
        native=jobs.node("VAEDecode", samples=["sampler", 0], vae=["loader", 0]),
    )
    ours = pictures(studio.files(studio.run(jobs.text_to_images({"decode.tiling": "whole", "vae.dtype": "float32"}))))
    theirs = pictures(studio.files(studio.run(native)))
    assert ours.shape == theirs.shape
    # The host's VAE may compute in bfloat16.
    assert np.abs(ours - theirs).mean() < 0.05 * ours.std()


def test_comfyuis_empty_latent_gives_the_same_video(studio):
    empty = jobs.node(
        "EmptyHunyuanLatentVideo", width=jobs.WIDTH_PX, height=jobs.HEIGHT_PX, length=jobs.FRAMES, batch_size=1
    )
    job = with_nodes(jobs.text_to_latent(), {"sampler.latent": ["empty", 0]}, empty=empty)
    assert torch.equal(studio.saved_latent(job), studio.latent())


def test_conditioning_passes_through_comfyuis_nodes(studio):
    zeroed = with_nodes(
        jobs.text_to_latent(),
        {"sampler.positive": ["zero", 0]},
        zero=jobs.node("ConditioningZeroOut", conditioning=["prompt", 0]),
    )
    result = studio.saved_latent(zeroed)
    assert torch.isfinite(result).all()
    assert not torch.equal(result, studio.latent())
    as_negative = with_nodes(
        zeroed, {"sampler.positive": ["prompt", 0], "sampler.negative": ["zero", 0], "sampler.cfg": 2.0}
    )
    guided = studio.saved_latent(as_negative)
    assert torch.isfinite(guided).all()
    assert not torch.equal(guided, studio.latent())


def test_comfyuis_text_encoders_give_nearly_the_same_prompt(studio):
    native = with_nodes(
        jobs.text_to_latent(),
        {"sampler.positive": ["encode", 0]},
        clip=jobs.node(
            "DualCLIPLoader", clip_name1=jobs.CLIP, clip_name2=jobs.LLAMA, type="hunyuan_video", device="default"
        ),
        encode=jobs.node("CLIPTextEncode", clip=["clip", 0], text=jobs.PROMPT),
    )
    ours, theirs = studio.latent(), studio.saved_latent(native)
    other_prompt = studio.latent({"prompt.prompt": "A red car drives through the rain."})
    assert (ours - theirs).abs().mean() < 0.5 * (ours - other_prompt).abs().mean()


def test_a_latent_survives_saving_and_loading(studio):
    outputs = studio.run(jobs.text_to_latent())
    (path,) = studio.files(outputs)
    (studio.server.base / "input").mkdir(exist_ok=True)
    shutil.copy(path, studio.server.base / "input" / "kept.latent")
    load = jobs.node("LoadLatent", latent="kept.latent")
    again = {"load": load, "save": jobs.node("SaveLatent", samples=["load", 0], filename_prefix="latents/again")}
    assert torch.equal(studio.saved_latent(again), studio.latent())
    refined = with_nodes(
        jobs.text_to_latent(), {"sampler.latent": ["load", 0], "sampler.denoise": 0.3, "sampler.seed": 8}, load=load
    )
    assert torch.isfinite(studio.saved_latent(refined)).all()


def test_the_saved_video_feeds_comfyuis_video_nodes(studio):
    job = with_nodes(
        jobs.text_to_video({"save.crf": 0}),
        {},
        original=jobs.node("SaveImage", images=["decode", 0], filename_prefix="image/original"),
        parts=jobs.node("GetVideoComponents", video=["save", 0]),
        frames=jobs.node("SaveImage", images=["parts", 0], filename_prefix="image/parts"),
    )
    outputs = studio.run(job)
    ours, theirs = (pictures(studio.files(outputs, name)) for name in ("original", "frames"))
    assert ours.shape == theirs.shape == (jobs.FRAMES, jobs.HEIGHT_PX, jobs.WIDTH_PX, 3)
    # Noise loses most of its colour to yuv420p; unrelated frames differ by more than their spread.
    assert np.abs(ours - theirs).mean() < 0.4 * ours.std()


def test_the_decoders_images_feed_comfyuis_image_nodes_and_encoder(studio):
    job = with_nodes(
        jobs.decoded(jobs.text_to_latent()),
        {},
        smaller=jobs.node(
            "ImageScale", image=["decode", 0], upscale_method="area", width=32, height=32, crop="disabled"
        ),
        encode=jobs.node("HyvEncode", vae=["vae", 0], images=["smaller", 0], tiling="whole"),
        save=jobs.node("SaveLatent", samples=["encode", 0], filename_prefix="latents/small"),
    )
    assert studio.saved_latent(job).shape == (1, 16, 2, 4, 4)
