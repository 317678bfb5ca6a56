"""What a job will cost, asked over HTTP: the same plan as the node's and the sampler's, and no way to break it."""

from __future__ import annotations

import json
import os
import re
import urllib.parse

import jobs
import psutil
import pytest
import torch

from tools.client import ComfyError

PATH = "/hyvideo/plan"
#: Large enough for the second prompt to show in the two digits of the log.
BOTH_PROMPTS = {
    "size.resolution.width": 384,
    "size.resolution.height": 384,
    "size.frames": 17,
    "sampler.steps": 1,
    "sampler.cfg": 3.0,
    "sampler.negative": ["prompt", 1],
    "sampler.batched_cfg": True,
}
#: Of rank 8, for one layer of the toy model.
LAYER = "transformer.double_blocks.1.img_attn_qkv"
LORA = {f"{LAYER}.lora_A.weight": torch.zeros(8, 256), f"{LAYER}.lora_B.weight": torch.zeros(768, 8)}
VALUES = ("COMBO", "INT", "FLOAT", "BOOLEAN", "STRING")
TILES = ("tile_size", "tile_frames", "overlap")
SIZE = {"width": jobs.WIDTH_PX, "height": jobs.HEIGHT_PX, "frames": jobs.FRAMES}


@pytest.fixture
def planned(studio):
    """The answer to a POST of a workflow."""

    def ask(job, **more):
        return studio.client.post(PATH, {"prompt": job, **more})

    return ask


@pytest.fixture
def by_names(studio):
    """The answer to a GET with these parameters."""

    def ask(**parameters):
        return studio.client.get(f"{PATH}?{urllib.parse.urlencode(parameters)}")

    return ask


@pytest.fixture
def refusal(studio):
    """What the server answers to a body that it refuses; it must live on, and answer the next one."""

    def ask(body, path=PATH, status=400):
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with pytest.raises(ComfyError) as caught:
            studio.client.request(path, raw, {"Content-Type": "application/json"})
        assert caught.value.status == status, caught.value
        assert studio.client.post(PATH, {"prompt": jobs.text_to_latent()})["fits"]
        return caught.value.body["error"]

    return ask


def video(changes=None):
    return jobs.changed(jobs.text_to_video(), changes or {})


def with_model_node(kind, **inputs):
    job = jobs.text_to_latent()
    job["extra"] = jobs.node(kind, model=["model", 0], **inputs)
    return jobs.changed(job, {"sampler.model": ["extra", 0]})


def logged(studio, words):
    return [line for line in studio.server.log.read_text("utf-8", "replace").splitlines() if words in line]


# --- laws -----------------------------------------------------------------------------------------------------


def test_the_plan_is_the_one_that_hyvideo_plan_tells(studio, by_names):
    job = {name: content for name, content in jobs.text_to_latent().items() if name in ("model", "size")}
    job["plan"] = jobs.node("HyvPlan", model=["model", 0], latent=["size", 0], memory_gb=24.0)
    (text,) = studio.run(job)["plan"]["text"]
    answer = by_names(model=jobs.MODEL, memory_gb=24, **SIZE)
    assert f"{answer['sampling']['text']}\n{answer['decoding']['text']}" == text
    assert f"predicted peak {answer['sampling']['peak_bytes'] / 1e9:.2f} GB" in text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size.frames": 33, "size.batch_size": 2},
        {"model.attention": "chunked"},
        {"model.storage": "fp8"},
        BOTH_PROMPTS,
    ],
    ids=["as it is", "longer, two clips", "another kernel", "fp8", "both prompts at once"],
)
def test_the_plan_is_the_one_that_the_sampler_logs(studio, planned, changes):
    job = jobs.text_to_latent({"sampler.seed": next(studio.unused_seeds), **changes})
    told = planned(job)["sampling"]["text"].splitlines()
    before = len(logged(studio, "plan: "))
    studio.run(job)
    lines = [line.split("plan: ")[1] for line in logged(studio, "plan: ")[before:]]
    assert lines[:2] == told


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("HyvMemory", {"resident_blocks": 2}),
        ("HyvContextWindows", {"window_frames": 17, "overlap_frames": 4, "schedule": "static", "blend": "flat"}),
        ("HyvFirstBlockCache", {"threshold": 0.1}),
        ("HyvSTG", {"mode": "attention (STG-A)", "scale": 1.0, "blocks": "double 1"}),
    ],
)
def test_what_the_model_went_through_counts_as_in_the_sampler(studio, planned, kind, inputs):
    schema = studio.client.object_info(kind)[kind]["input"]["required"]
    defaults = {name: spec[1]["default"] for name, spec in schema.items() if len(spec) > 1 and "default" in spec[1]}
    job = jobs.changed(
        with_model_node(kind, **{**defaults, **inputs}),
        {"size.frames": 33, "sampler.seed": next(studio.unused_seeds)},
    )
    told = planned(job)["sampling"]["text"].splitlines()
    before = len(logged(studio, "plan: "))
    studio.run(job)
    assert [line.split("plan: ")[1] for line in logged(studio, "plan: ")[before:]][:2] == told
    plain = planned(jobs.text_to_latent({"size.frames": 33}))
    assert planned(job)["sampling"]["peak_bytes"] != plain["sampling"]["peak_bytes"]


@pytest.mark.parametrize(
    "tiles",
    [
        {"decode.tiling": "whole"},
        {"decode.tiling": "tiled", "decode.tiling.tile_size": 64, "decode.tiling.tile_frames": 8},
        {"decode.loop": True},
    ],
    ids=["whole", "small tiles", "a loop"],
)
def test_the_peak_of_decoding_is_the_one_that_the_decoder_logs(studio, planned, tiles):
    if tiles["decode.tiling" if "decode.tiling" in tiles else "decode.loop"] == "whole":
        tiles = tiles | {f"decode.tiling.{name}": None for name in TILES}
    job = video({"sampler.seed": next(studio.unused_seeds), **tiles})
    told = planned(job)["decoding"]["peak_bytes"]
    studio.run(job)
    assert f"predicted peak {told / 1e9:.2f} GB of" in logged(studio, "plan: VAE: ")[-1]


@pytest.mark.parametrize(
    "tiles",
    [
        {},
        {"vae_dtype": "float32"},
        {"tiling": "whole"},
        {"tiling": "tiled", "tiling.tile_size": 64, "tiling.tile_frames": 8, "tiling.overlap": 0.5},
        {"loop": "true"},
    ],
    ids=["the loader's defaults", "another dtype", "whole", "tiles", "a loop"],
)
def test_names_plan_decoding_as_a_workflow_does(planned, by_names, tiles):
    changes = {"decode.tiling": "auto", **{f"decode.tiling.{name}": None for name in TILES}}
    changes |= {"vae.dtype" if name == "vae_dtype" else f"decode.{name}": value for name, value in tiles.items()}
    if "loop" in tiles:
        changes["decode.loop"] = True
    told = by_names(model=jobs.MODEL, vae=jobs.VAE, memory_gb=24, **SIZE, **tiles)["decoding"]
    assert told == planned(video(changes), memory_gb=24)["decoding"]
    published = by_names(model=jobs.MODEL, memory_gb=24, **SIZE)["decoding"]
    assert told["weights_bytes"] < published["weights_bytes"]


def test_names_may_tile_the_published_vae(by_names):
    def peak(**tiles):
        return by_names(model=jobs.MODEL, memory_gb=24, width=960, height=544, frames=129, **tiles)["decoding"]

    assert peak(tiling="whole")["peak_bytes"] > peak()["peak_bytes"] > 0.49e9
    assert peak(tiling="whole")["tile_size_px"] is None
    assert not peak(tiling="whole")["fits"]


def test_on_a_cpu_sampling_may_take_all_memory_and_decoding_what_is_free(studio, planned, by_names):
    answer = planned(video())
    assert answer["sampling"]["limit_bytes"] == psutil.virtual_memory().total
    assert "GB memory in all: weights" in answer["sampling"]["text"]
    assert answer["decoding"]["limit_bytes"] < answer["sampling"]["limit_bytes"]
    assert "GB free: weights" in answer["decoding"]["text"]
    assert answer["memory"]["free_bytes"] < answer["sampling"]["limit_bytes"]
    given = by_names(model=jobs.MODEL, memory_gb=24, **SIZE)
    assert {part["limit_bytes"] for part in (given["sampling"], given["decoding"])} == {24e9}
    assert "of 24.00 GB free" in given["sampling"]["text"]


def test_the_published_vae_computes_here_as_it_would_when_it_runs(by_names):
    here, on_a_card = (by_names(model=jobs.MODEL, memory_gb=gb, **SIZE)["decoding"] for gb in (0, 24))
    assert here["weights_bytes"] == 2 * on_a_card["weights_bytes"]


def steps_of_the_model(studio):
    """The nodes that a model goes through, with the defaults of their values; some take more, such as an image."""
    for name, node in studio.client.object_info().items():
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        if "HYV_MODEL" in node["output"] and "model" in inputs and inputs["model"][0] == "HYV_MODEL":
            values = {field: spec[1] for field, spec in inputs.items() if spec[0] in VALUES}
            yield name, {field: each.get("default", each.get("options", [""])[0]) for field, each in values.items()}


def test_a_plan_logs_nothing(studio, planned, place):
    place("loras/counted.safetensors", LORA)
    place("hyvideo_teacache/measured.txt", b"0.5 0.25\n0.5 0.25\n")
    own = {"HyvLora": {"lora": "counted.safetensors"}, "HyvTeaCache": {"coefficients": "measured.txt"}}
    before = studio.server.log.read_text("utf-8", "replace")
    found = dict(steps_of_the_model(studio))
    assert own.keys() | {"HyvImageToVideo", "HyvPromptSchedule"} < found.keys()
    for name, defaults in found.items():
        assert planned(with_model_node(name, **defaults | own.get(name, {})))["fits"], name
        assert studio.server.log.read_text("utf-8", "replace") == before, name


def test_nothing_is_loaded_for_a_plan(studio, planned):
    studio.release()
    before = studio.reads()
    planned(video({"size.frames": 65}))
    assert studio.reads() == before


def test_a_lora_counts_with_its_strength(planned, place):
    place("loras/counted.safetensors", LORA)
    job = with_model_node("HyvLora", lora="counted.safetensors", strength=1.0)
    assert planned(job)["sampling"]["lora_bytes"] == 2 * 8 * (256 + 768)
    assert planned(jobs.changed(job, {"extra.strength": 0.0}))["sampling"]["lora_bytes"] == 0


def test_a_replaced_file_is_planned_anew(planned, place):
    from models import cheap_transformer, transformer

    job = jobs.text_to_latent({"model.model": "replaced.safetensors"})
    place("diffusion_models/replaced.safetensors", transformer())
    assert planned(job)["sampling"]["blocks"] == 6
    place("diffusion_models/replaced.safetensors", cheap_transformer())
    assert planned(job)["sampling"]["blocks"] == 2


# --- what fits ------------------------------------------------------------------------------------------------


def at_frames(by_names, frames, **more):
    return by_names(model=jobs.MODEL, **{"width": 1280, "height": 720, "frames": frames, "memory_gb": 0.9, **more})


def test_what_does_not_fit_says_what_would_and_that_is_true(by_names):
    answer = at_frames(by_names, 129, batch_size=2)
    assert not answer["fits"]
    assert not answer["decoding"]["fits"] or not answer["sampling"]["fits"]
    most = next(each["frames"] for each in answer["instead"] if "frames" in each)
    assert most % 4 == 1
    assert at_frames(by_names, most, batch_size=2)["fits"]
    assert not at_frames(by_names, most + 4, batch_size=2)["fits"]
    size = next(each for each in answer["instead"] if "width" in each)
    assert at_frames(by_names, 129, batch_size=2, **size)["fits"]
    assert at_frames(by_names, 1)["instead"] == []


def test_a_card_without_memory_is_not_this_one(by_names):
    answer = by_names(model=jobs.MODEL, memory_gb=1e-12, **SIZE)
    assert answer["memory"] == {"device": "cpu", "free_bytes": 0, "is_given": True}
    assert not answer["fits"]


def test_what_fits_nowhere_is_offered_nothing(by_names):
    answer = at_frames(by_names, 129, memory_gb=0.1)
    assert not answer["fits"]
    assert answer["instead"] == []
    assert answer["sampling"]["needed_bytes"] > 0.1e9


# --- time: of what no other test runs, by a part of the steps that only these name ------------------------------


def test_time_is_told_only_once_a_run_has_measured_it(studio, planned):
    steps = {"sampler.steps": 4, "sampler.cfg_start": 0.11}
    job = jobs.text_to_latent({"sampler.seed": next(studio.unused_seeds), **steps})
    assert planned(job)["time"] is None
    studio.run(job)
    time = planned(job)["time"]
    assert not time["is_scaled"]
    assert time["steps"] == 4
    assert time["step_s"] == time["measured_step_s"] > 0
    larger = planned(jobs.changed(job, {"size.frames": 33, "sampler.steps": 7}))["time"]
    assert larger["is_scaled"]
    assert larger["measured_size"] == [jobs.WIDTH_PX, jobs.HEIGHT_PX, jobs.FRAMES]
    assert larger["step_s"] > larger["measured_step_s"] == time["step_s"]
    assert larger["steps"] == 7
    assert larger["first_step_s"] >= larger["step_s"]


def test_of_two_sizes_the_nearer_tells_the_time_and_a_far_one_tells_none(studio, planned):
    job = jobs.text_to_latent({"sampler.steps": 2, "sampler.cfg_start": 0.12})
    for frames in (jobs.FRAMES, 33):
        studio.run(jobs.changed(job, {"size.frames": frames, "sampler.seed": next(studio.unused_seeds)}))
    told = {frames: planned(jobs.changed(job, {"size.frames": frames}))["time"] for frames in (jobs.FRAMES, 33, 41)}
    assert {frames: (time["measured_size"][2], time["is_scaled"]) for frames, time in told.items()} == {
        jobs.FRAMES: (jobs.FRAMES, False),
        33: (33, False),
        41: (33, True),
    }
    assert planned(jobs.changed(job, {"size.resolution.width": 1280, "size.resolution.height": 720}))["time"] is None


def test_the_time_is_the_one_that_the_sampler_logs(studio, planned):
    job = jobs.text_to_latent({"sampler.seed": next(studio.unused_seeds), "sampler.steps": 3})
    studio.run(job)
    time = planned(job)["time"]
    told = logged(studio, "sampling: 3 steps in ")[-1].split("sampling: ")[1]
    first, each = time["first_step_s"], time["step_s"]
    assert told == f"3 steps in {time['total_s']:.2f} s: the first {first:.2f} s, then {each:.2f} s each"


@pytest.mark.parametrize(
    "changes",
    [{"sampler.solver": "heun"}, {"model.storage": "fp8"}, {"sampler.cfg": 2.0, "sampler.negative": ["prompt", 1]}],
    ids=["another solver", "another format", "another guidance"],
)
def test_a_run_tells_nothing_of_the_time_of_other_settings(studio, planned, changes):
    job = jobs.text_to_latent({"sampler.seed": next(studio.unused_seeds), "sampler.cfg_start": 0.13})
    studio.run(job)
    assert planned(job)["time"]
    assert planned(jobs.changed(job, changes))["time"] is None


def test_a_card_that_is_only_thought_of_has_no_time(studio, planned):
    job = jobs.text_to_latent({"sampler.seed": next(studio.unused_seeds)})
    studio.run(job)
    assert planned(job)["time"]
    assert planned(job, memory_gb=24)["time"] is None


# --- wires ----------------------------------------------------------------------------------------------------


def test_wires_are_followed_through_other_nodes(planned):
    job = jobs.text_to_latent()
    job["mask"] = jobs.node("SolidMask", value=1.0, width=64, height=64)
    job["masked"] = jobs.node("SetLatentNoiseMask", samples=["size", 0], mask=["mask", 0])
    job["length"] = jobs.node("PrimitiveInt", value=17)
    job = jobs.changed(job, {"sampler.latent": ["masked", 0], "size.frames": ["length", 0]})
    assert planned(job)["size"]["frames"] == 17


def test_values_that_no_plan_needs_may_come_from_anywhere(planned):
    job = jobs.text_to_latent()
    job["number"] = jobs.node("AnotherPacksNumber", value=1)
    assert planned(jobs.changed(job, {"sampler.seed": ["number", 0], "sampler.steps": ["number", 0]}))["fits"]


def test_a_value_that_a_plan_needs_must_be_known(refusal):
    job = with_model_node("HyvMemory", resident_blocks=["number", 0])
    job["number"] = jobs.node("AnotherPacksNumber", value=1)
    assert "resident_blocks is wired to a node and known only when that has run" in refusal({"prompt": job})


def test_a_node_that_needs_an_image_is_passed_over(planned):
    plain = planned(jobs.text_to_latent({"model.kind": jobs.TOKEN_REPLACE}))["sampling"]
    assert planned(jobs.image_to_latent())["sampling"] == plain


def test_of_several_latents_one_is_named(planned, refusal):
    job = jobs.text_to_latent()
    job["other"] = jobs.node("HyvEmptyLatent", resolution="540p 1:1 · 720×720", frames=1, batch_size=1)
    assert "2 HyVideo Empty Latents" in refusal({"prompt": job})
    assert planned(job, node="size")["size"]["width"] == jobs.WIDTH_PX
    assert "No HyVideo Sampler takes the latent of node other" in refusal({"prompt": job, "node": "other"})


def test_a_decoder_of_others_is_not_planned(planned):
    assert planned(jobs.text_to_latent())["decoding"] is None


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_vae_that_is_listed_and_gone_does_not_hide_the_plan_of_sampling(studio, planned):
    link = studio.server.base / "models" / "vae" / "gone.safetensors"
    link.symlink_to(link.with_name("was here.safetensors"))
    try:
        answer = planned(video({"vae.vae": link.name}))
    finally:
        link.unlink()
    assert answer["fits"]
    assert answer["decoding"]["fits"] is None
    assert link.name in answer["decoding"]["text"]
    assert str(link.parent) not in answer["decoding"]["text"]


def test_a_missing_vae_does_not_hide_the_plan_of_sampling(planned):
    answer = planned(video({"vae.vae": "absent.safetensors"}))
    assert answer["sampling"]["fits"]
    assert answer["decoding"]["fits"] is None
    assert "absent.safetensors" in answer["decoding"]["text"]
    assert answer["decoding"]["missing"] == {"file": "absent.safetensors", "folder": "models/vae"}
    assert answer["fits"]


def test_a_damaged_vae_does_not_hide_it_either(planned, place):
    place("vae/damaged.safetensors", b"no tensors at all")
    answer = planned(video({"vae.vae": "damaged.safetensors"}))
    assert answer["sampling"]["fits"]
    assert answer["decoding"]["fits"] is None
    assert "damaged.safetensors" in answer["decoding"]["text"]


# --- what is not planned ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.model": "../../../etc/passwd"}, "not in its list"),
        ({"model.model": "/etc/passwd"}, "not in its list"),
        ({"model.model": ["x", 0]}, "known only when that has run"),
        ({"model.model": {"a": 1}}, "not in its list"),
        ({"model.model": None}, "model is missing"),
        ({"model.attention": "none such"}, "attention is 'none such', which is not in its list (auto, sdpa"),
        ({"size.frames": 16}, "must be 4n+1"),
        ({"size.frames": 10**30}, "must lie between 1 and 1025"),
        ({"size.frames": 10**400}, "must lie between 1 and 1025"),
        ({"size.frames": -3}, "must lie between"),
        ({"size.frames": "5"}, "must be of type INT"),
        ({"size.frames": 5.5}, "must be of type INT"),
        ({"size.frames": True}, "must be of type INT"),
        ({"size.frames": None}, "frames is missing"),
        ({"size.batch_size": 10**9}, "must lie between 1 and 64"),
        (
            {"size.resolution": "a size of my own"},
            "resolution is 'a size of my own', which is not in its list (720p 16:9",
        ),
        ({"size.resolution": ["size", 0]}, "known only when that has run"),
        ({"size.resolution.width": 10**6}, "must lie between 16 and 4096"),
        ({"size.resolution.width": 65}, "must be a multiple of 16"),
        ({"size.resolution.width": None}, "resolution.width is missing"),
        ({"sampler.cfg": float("nan")}, "must lie between"),
        ({"sampler.model": ["sampler", 0]}, "known only when that has run"),
        ({"sampler.model": ["nowhere", 0]}, "no model is connected"),
        ({"sampler.model": ["prompt", 0]}, "known only when that has run"),
        ({"sampler.cfg_start": 0.9, "sampler.cfg_end": 0.1}, "0 ≤ start ≤ end ≤ 1"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(refusal, changes, words):
    assert words in refusal({"prompt": jobs.text_to_latent(changes)})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([], "is [], but must be a JSON object"),
        ({"prompt": {}, "more": 1}, "has 'more', but must be a JSON object"),
        ({}, "must be a workflow"),
        ({"prompt": []}, "must be a workflow"),
        ({"prompt": {"1": 5}}, "class_type and inputs"),
        ({"prompt": {"1": {"class_type": ["HyvEmptyLatent"], "inputs": {}}}}, "class_type and inputs"),
        ({"prompt": {"1": {"class_type": "HyvEmptyLatent", "inputs": []}}}, "class_type and inputs"),
        ({"prompt": {"1": {"class_type": "KSampler", "inputs": {}}}}, "0 HyVideo Empty Latents"),
        ({"prompt": jobs.text_to_latent(), "node": 5}, "node is 5"),
        ({"prompt": jobs.text_to_latent(), "node": "sampler"}, "must be the id of a HyVideo Empty Latent"),
        ({"prompt": jobs.text_to_latent(), "memory_gb": -1}, "memory_gb is -1"),
        ({"prompt": jobs.text_to_latent(), "memory_gb": "24"}, "must be a number"),
        ({"prompt": jobs.text_to_latent(), "memory_gb": float("inf")}, "memory_gb is inf"),
    ],
)
def test_a_bad_request_is_refused_with_the_reason(refusal, body, words):
    assert words in refusal(body)


def test_pages_may_ask_for_refusals_that_are_no_fault_of_theirs(studio):
    answer = studio.client.post(f"{PATH}?refusals=200", {"prompt": jobs.text_to_latent({"model.model": "absent"})})
    assert "not in its list. Put the file into models/diffusion_models" in answer["error"]
    assert answer["missing"] == {"file": "absent", "folder": "models/diffusion_models"}
    assert "fits" not in answer


def test_a_long_name_of_a_missing_file_is_cut_with_a_sign(studio):
    prompt = jobs.text_to_latent({"model.model": "a" * 500})
    answer = studio.client.post(f"{PATH}?refusals=200", {"prompt": prompt})
    assert answer["missing"]["file"] == "a" * 80 + "…"


def test_a_request_of_many_megabytes_is_refused_unread(refusal):
    assert "bytes" in refusal(b" " * (8 * 2**20 + 1))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "width is ''"),
        ({"width": 64, "height": 48}, "model is"),
        ({"model": "..%2F..%2Fetc%2Fpasswd", **SIZE}, "not in its list"),
        ({"model": jobs.MODEL, **SIZE, "width": "1e3"}, "must be a number"),
        ({"model": jobs.MODEL, **SIZE, "frames": "9" * 400}, "must lie between"),
        ({"model": jobs.MODEL, **SIZE, "frames": "9" * 5000}, "must be a number"),
        ({"model": jobs.MODEL, **SIZE, "resident_blocks": 900}, "this model has 6 blocks"),
        ({"model": jobs.MODEL, **SIZE, "colour": "blue"}, "colour is not known"),
        ({"model": jobs.MODEL, **SIZE, "compile_blocks": "1"}, "compile_blocks is '1', but must be true or false"),
        ({"model": jobs.MODEL, **SIZE, "vae": "absent.safetensors"}, "models/vae"),
        ({"model": jobs.MODEL, **SIZE, "vae_dtype": "float16"}, "vae_dtype is not known"),
        ({"model": jobs.MODEL, **SIZE, "vae": jobs.VAE, "vae_dtype": "float8"}, "dtype is 'float8'"),
        (
            {"model": jobs.MODEL, **SIZE, "tiling": "none"},
            "tiling is 'none', which is not in its list (auto, tiled, whole)",
        ),
        ({"model": jobs.MODEL, **SIZE, "tiling.tile_size": 64}, "tiling.tile_size is not known"),
        ({"model": jobs.MODEL, **SIZE, "tiling": "tiled", "tiling.tile_size": 1}, "must lie between 64 and 2048"),
        ({"model": jobs.MODEL, **SIZE, "tiling": "tiled", "tiling.tile_size": 68}, "must be a positive multiple of 8"),
        ({"model": jobs.MODEL, **SIZE, "memory_gb": "nan"}, "memory_gb is nan"),
    ],
)
def test_bad_names_are_refused_with_the_reason(refusal, parameters, words):
    assert words in refusal(None, f"{PATH}?{urllib.parse.urlencode(parameters)}")


def test_a_file_that_is_no_transformer_is_named(refusal, place):
    place("diffusion_models/broken.safetensors", b"\x00" * 100)
    assert "broken.safetensors" in refusal({"prompt": jobs.text_to_latent({"model.model": "broken.safetensors"})})


def test_no_answer_names_a_folder(studio, planned, by_names):
    told = json.dumps([planned(video()), by_names(model=jobs.MODEL, **SIZE)])
    assert not re.search(r"(/[\w.-]+){2,}", told)
