"""Values that cannot work: each is a clear error, before or while the job runs, and the next job works."""

from __future__ import annotations

from pathlib import Path

import jobs
import pytest
import torch
from safetensors.torch import save_file


def on_video(**changes):
    return jobs.text_to_video({key.replace("__", "."): value for key, value in changes.items()})


def with_node(job, name, content):
    return job | {name: content}


def latent_from(content):
    return with_node(jobs.text_to_latent({"sampler.latent": ["other", 0]}), "other", content)


def combined():
    content = jobs.node("ConditioningCombine", conditioning_1=["prompt", 0], conditioning_2=["prompt", 1])
    return with_node(jobs.text_to_latent({"sampler.positive": ["combined", 0]}), "combined", content)


def without_pooled_output():
    job = jobs.text_to_latent({"sampler.positive": ["bare", 0]})
    return with_node(job, "bare", jobs.node("LotusConditioning"))


def masked():
    job = latent_from(jobs.node("SetLatentNoiseMask", samples=["size", 0], mask=["masks", 0]))
    job["mask"] = jobs.node("SolidMask", value=1.0, width=jobs.WIDTH_PX, height=jobs.HEIGHT_PX)
    return with_node(job, "masks", jobs.node("BatchMasksNode", **{f"masks.mask{i}": ["mask", 0] for i in range(3)}))


CUSTOM = {"prompt.template": "custom", "prompt.template.crop_start": -1}

FAILURES = {
    "frames": (jobs.text_to_latent({"size.frames": 6}), ["frames is 6", "4n+1", "Use 5 or 9"]),
    "width": (jobs.text_to_latent({"size.resolution.width": 70}), ["width is 70 px", "multiple of 16", "64 or 80"]),
    "height": (jobs.text_to_latent({"size.resolution.height": 50}), ["height is 50 px", "multiple of 16", "48 or 64"]),
    "long prompt": (
        jobs.text_to_latent({"prompt.prompt": "word " * 2000}),
        ["2000 tokens", "room for 255", "'video'", "Shorten"],
    ),
    "long prompt for an image": (
        jobs.text_to_latent({"prompt.prompt": "word " * 2000, "prompt.template": "image"}),
        ["2000 tokens", "room for 314", "'image'", "Shorten"],
    ),
    "no place for the prompt": (
        jobs.text_to_latent(CUSTOM | {"prompt.template.text": "no place"}),
        ["template", "0 placeholders", "exactly one"],
    ),
    "two places for the prompt": (
        jobs.text_to_latent(CUSTOM | {"prompt.template.text": "{} and {}"}),
        ["template", "2 placeholders", "exactly one"],
    ),
    "crop beyond the text": (
        jobs.text_to_latent(CUSTOM | {"prompt.template.text": "{}<|eot_id|>", "prompt.template.crop_start": 300}),
        ["drops 300 tokens", "Lower crop_start"],
    ),
    "unknown template": (jobs.text_to_latent({"prompt.template": "x"}), ["template", "video, image or custom"]),
    "unknown resolution": (jobs.text_to_latent({"size.resolution": "8K"}), ["resolution", "960×544", "custom"]),
    "unknown tiling": (on_video(decode__tiling="x"), ["tiling", "tiled or whole"]),
    "tile of an odd number of frames": (
        on_video(**{"decode__tiling.tile_frames": 9}),
        ["tile_frames is 9", "multiple of 4", "Use 8"],
    ),
    "cfg without negative": (jobs.text_to_latent({"sampler.cfg": 3.0}), ["cfg is 3.0", "negative", "set cfg to 1"]),
    "cfg ends before it starts": (
        jobs.text_to_latent({"sampler.cfg_start": 0.8, "sampler.cfg_end": 0.2}),
        ["cfg_start is 0.8", "cfg_end is 0.2", "start before it ends"],
    ),
    "combined prompts": (combined(), ["positive holds 2", "exactly one", "Conditioning Combine"]),
    "latent of an image model": (
        latent_from(jobs.node("EmptyLatentImage", width=64, height=64, batch_size=1)),
        ["latent channels", "got 4", "expects 16", "Use the latent"],
    ),
    "latent of odd size": (
        latent_from(jobs.node("EmptyHunyuanLatentVideo", width=72, height=64, length=5, batch_size=1)),
        ["latent size", "[2, 8, 9]", "multiples of 16 px"],
    ),
    "no pooled output": (
        without_pooled_output(),
        ["positive has no pooled output", "CLIP-L", "HyVideo Encode Prompt"],
    ),
    "mask of another length": (masked(), ["latent's noise mask", "mask has 3 frames", "the clip has 5", "Give 1"]),
    "outside the output folder": (
        on_video(save__filename_prefix="../../outside"),
        ["filename_prefix", "../../outside", "output folder", "video/HyVideo"],
    ),
    "outside with backslashes": (
        on_video(save__filename_prefix="..\\..\\outside"),
        ["filename_prefix", "output folder", "video/HyVideo"],
    ),
    "absolute path": (on_video(save__filename_prefix="/etc/outside"), ["filename_prefix", "/etc/outside"]),
    "no file name": (on_video(save__filename_prefix=""), ["filename_prefix is ''", "no name", "video/HyVideo"]),
    "long file name": (on_video(save__filename_prefix="猫" * 100), ["filename_prefix", "200 bytes"]),
    "null in the file name": (on_video(save__filename_prefix="a\0b"), ["filename_prefix", "null"]),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_value_that_cannot_work_says_what_to_do(studio, name):
    job, words = FAILURES[name]
    before = videos(studio)
    message = studio.failure(job)
    assert not [word for word in words if word not in message], message
    assert videos(studio) == before


def videos(studio):
    """Every mp4 in the server's folders, beside them, and where the jobs above try to write."""
    return {*studio.server.base.parent.rglob("*.mp4"), *Path("/etc").glob("outside*")}


REJECTIONS = {
    "frames": ({"size.frames": 0}, "size", "frames"),
    "width too small": ({"size.resolution.width": 0}, "size", "width"),
    "width too large": ({"size.resolution.width": 99999}, "size", "width"),
    "batch": ({"size.batch_size": 0}, "size", "batch_size"),
    "steps": ({"sampler.steps": 0}, "sampler", "steps"),
    "shift": ({"sampler.shift": 0.0}, "sampler", "shift"),
    "cfg": ({"sampler.cfg": 0.5}, "sampler", "cfg"),
    "denoise": ({"sampler.denoise": 0.0}, "sampler", "denoise"),
    "seed": ({"sampler.seed": -1}, "sampler", "seed"),
    "rescale": ({"sampler.guidance_rescale": 2.0}, "sampler", "guidance_rescale"),
    "dtype": ({"model.dtype": "float16"}, "model", "dtype"),
    "attention": ({"model.attention": "magic"}, "model", "attention"),
    "file": ({"model.model": "../../../etc/passwd"}, "model", "model"),
    "empty prompt": ({"prompt.prompt": " \n "}, "prompt", "prompt"),
    "no prompt at all": ({"prompt.prompt": ""}, "prompt", "prompt"),
}


@pytest.mark.parametrize("name", REJECTIONS)
def test_a_value_out_of_range_is_refused_before_anything_runs(studio, name):
    changes, node, field = REJECTIONS[name]
    errors = studio.rejection(jobs.text_to_latent(changes))
    assert set(errors) == {node}
    (error,) = errors[node]["errors"]
    assert error["extra_info"]["input_name"].split(".")[-1] == field
    assert field in error["details"]


def test_an_empty_prompt_is_one_error_that_says_what_to_do(studio):
    (error,) = studio.rejection(jobs.text_to_latent({"prompt.prompt": " \n "}))["prompt"]["errors"]
    assert "prompt is empty" in error["details"]
    assert "Write what the video shows" in error["details"]
    assert "template" not in error["details"]


def test_an_empty_prompt_from_another_node_is_refused_too(studio):
    job = jobs.text_to_latent({"prompt.prompt": ["text", 0]}) | {"text": jobs.node("PrimitiveString", value=" ")}
    assert "prompt is empty" in studio.failure(job)


@pytest.mark.parametrize("prefix", ["sub folder\\ünïcode 猫", 'it\'s "quoted" & {odd}', "dots.in.name", "folder/"])
def test_a_file_name_may_hold_anything_the_disk_takes(studio, clip, prefix):
    (path,) = studio.files(studio.run(on_video(save__filename_prefix=prefix)))
    parts = prefix.rstrip("/").replace("\\", "/").split("/")
    assert path.name == f"{parts[-1]}_00001_.mp4"
    assert path.parent == studio.server.output.joinpath(*parts[:-1])
    assert len(clip(path).frames) == jobs.FRAMES


def test_nothing_is_overwritten(studio):
    job = on_video(save__filename_prefix="same/name")
    (first,) = studio.files(studio.run(job))
    content = first.read_bytes()
    (second,) = studio.files(studio.run(jobs.changed(job, {"sampler.seed": 5})))
    assert second != first
    assert first.read_bytes() == content


@pytest.mark.parametrize("size_px", [(31, 17), (1, 1), (16, 9)])
def test_a_picture_of_odd_size_becomes_a_video(studio, clip, size_px):
    width, height = size_px
    job = {
        "picture": jobs.node("EmptyImage", width=width, height=height, batch_size=3, color=0x4080C0),
        "save": jobs.node("HyvSaveVideo", images=["picture", 0], fps=10.0, crf=0, filename_prefix="video/odd"),
    }
    video = clip(studio.files(studio.run(job))[0])
    assert video.size_px == (width + width % 2, height + height % 2)
    assert len(video.frames) == 3
    assert abs(video.frames.reshape(-1, 3).mean(0) - (0x40, 0x80, 0xC0)).max() < 6


def test_a_damaged_latent_is_refused_instead_of_saved_black(studio):
    (studio.server.base / "input").mkdir(exist_ok=True)
    bad = {"latent_tensor": torch.full((1, 16, 2, 6, 8), float("nan")), "latent_format_version_0": torch.tensor([])}
    save_file(bad, str(studio.server.base / "input" / "damaged.latent"))
    job = jobs.text_to_video({"decode.latent": ["damaged", 0]})
    job["damaged"] = jobs.node("LoadLatent", latent="damaged.latent")
    message = studio.failure(job)
    assert "VAE returned NaN" in message
    assert "latent" in message
