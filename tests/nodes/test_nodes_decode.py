"""Decoding straight into an mp4, and the tiles that are planned."""

from __future__ import annotations

import jobs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tools.paths import TOY_MODELS
from tools.toy_model import build

TWO_PARTS = {"size.frames": 17, "decode.tiling.tile_frames": 8, "decode.tiling.tile_size": 64}


def decoded_to_video(changes=None):
    """A prompt to an mp4 without images between; ``save`` is the decoder itself."""
    job = jobs.text_to_video()
    saving = {key: value for key, value in job["save"]["inputs"].items() if key != "images"}
    job["decode"] = {"class_type": "HyvDecodeVideo", "inputs": job["decode"]["inputs"] | saving}
    del job["save"]
    return jobs.changed(job, changes or {})


@pytest.mark.parametrize("changes", [{}, TWO_PARTS, TWO_PARTS | {"size.batch_size": 2}])
def test_the_video_is_the_one_of_decoding_and_saving(studio, clip, changes):
    direct = clip(studio.files(studio.run(decoded_to_video(changes)), "decode")[0])
    detour = clip(studio.files(studio.run(jobs.text_to_video(changes)))[0])
    assert np.array_equal(direct.frames, detour.frames)
    assert (direct.fps, direct.codec) == (detour.fps, detour.codec)
    assert "HyvDecodeVideo" in direct.tags["prompt"]


def test_planned_tiles_are_the_originals_where_they_fit_and_said_in_the_log(studio):
    auto = {
        "decode.tiling": "auto",
        **{f"decode.tiling.{name}": None for name in ("tile_size", "tile_frames", "overlap")},
    }
    assert np.array_equal(studio.images(auto), studio.images())
    assert "plan: VAE: tiles of 256 px and 64 frames" in studio.server.log.read_text()


def test_planned_tiles_are_the_default(studio):
    for name in ("HyvDecode", "HyvDecodeVideo", "HyvEncode"):
        schema = studio.client.object_info()[name]
        assert [option["key"] for option in schema["input"]["required"]["tiling"][1]["options"]] == [
            "auto",
            "tiled",
            "whole",
        ]


def test_nan_in_a_part_is_an_error_and_nothing_is_written(studio, place):
    tensors = load_file(TOY_MODELS / "vae" / jobs.VAE)
    tensors["decoder.conv_out.conv.bias"][:] = torch.nan
    place("vae/broken.safetensors", tensors)
    job = decoded_to_video(TWO_PARTS | {"vae.vae": "broken.safetensors", "decode.filename_prefix": "nan/clip"})
    assert "The VAE returned NaN or infinity" in studio.failure(job)
    assert not list((studio.server.output / "nan").iterdir())


def test_a_stop_while_decoding_to_video_leaves_no_file(studio):
    big = {"size.resolution.width": 128, "size.resolution.height": 128, "size.frames": 33, "sampler.steps": 1}
    tiles = {"decode.tiling.tile_size": 64, "decode.tiling.tile_frames": 8, "decode.filename_prefix": "stopped/direct"}
    prompt_id = studio.client.queue(decoded_to_video(big | tiles))
    for event in studio.client.follow(prompt_id, timeout_s=60):
        if event.type == "progress" and event.data["node"] == "decode" and event.data["value"] > event.data["max"] / 3:
            break
    studio.client.interrupt()
    final = [event for event in studio.client.follow(prompt_id, timeout_s=60) if event.is_final][-1]
    assert final.type == "execution_interrupted"
    assert not list((studio.server.output / "stopped").glob("*"))
    studio.assert_works()


def test_nan_frames_are_an_error_where_they_are_encoded(studio, place):
    weights = load_file(TOY_MODELS / "vae" / jobs.VAE)
    weights["quant_conv.bias"].fill_(float("nan"))
    build.write(place("vae/nan.safetensors", b""), weights, {"config": '{"norm_num_groups": 32}'})
    message = studio.failure(jobs.video_to_latent({"vae.vae": "nan.safetensors"}))
    assert "while encoding" in message
    assert "HyVideo Load VAE" in message
