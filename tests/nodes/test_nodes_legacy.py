"""Old nodes: they look as they did, workflows made with them run, values keep their meaning, the rest is named."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import models
from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import ContextWindows, Riflex, SkipGuidance
from hyvideo_core.sample.schedule import flow_sigmas
from hyvideo_core.vae.buckets import nearest_bucket
from hyvideo_core.weights.lora import parse_blocks
from tools.paths import ROOT
from tools.server import Server
from tools.toy_model import build

HERE = Path(__file__).resolve().parent
#: The interface of the old nodes as facts.
NODES = json.loads((HERE / "old_nodes.json").read_text("utf-8"))["nodes"]
WORKFLOWS = sorted(path.stem for path in (HERE / "old_workflows").glob("*.json"))
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")
#: Real files by what stands for them.
TOYS = {
    "hunyuan_video_720_cfgdistill_fp8_e4m3fn.safetensors": jobs.MODEL,
    "hunyuan_video_I2V_fp8_e4m3fn.safetensors": jobs.IMAGE_MODEL,
    "hunyuan_video_vae_bf16.safetensors": jobs.VAE,
}
#: The least that the old sampler takes, and what a test can afford.
WIDTH_PX, HEIGHT_PX = 80, 64
SMALL = {
    "width": WIDTH_PX,
    "height": HEIGHT_PX,
    "num_frames": jobs.FRAMES,
    "amount": jobs.FRAMES,
    "steps": 4,
}
LORA_LAYER = "double_blocks.1.img_attn_qkv"


def module(name: str) -> Any:
    """A file of the old nodes that needs no host."""
    spec = importlib.util.spec_from_file_location(f"legacy_{name}", ROOT / "nodes" / "legacy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


settings = module("settings")


# --- the interface --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def info(server):
    with server.client() as client:
        return client.object_info()


def options_of(spec: list[Any]) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 else {}


@pytest.mark.parametrize("name", NODES)
def test_an_old_node_looks_as_it_did(info, name):
    old, new = NODES[name], info[name]
    assert new["deprecated"]
    assert new["display_name"] == old["display_name"]
    assert not new["category"].startswith("HyVideo Studio")
    outputs = zip(new["output"], new["output_name"], strict=True)
    assert [*outputs] == [(each["type"], each["name"]) for each in old["outputs"]]
    for group in ("required", "optional"):
        was, now = old["inputs"].get(group, {}), new["input"].get(group, {})
        # The order of widgets is what a workflow's values are found by.
        assert list(was) == list(now)
        for field in was:
            assert_same_input(field, was[field], now[field])


def assert_same_input(field: str, was: list[Any], now: list[Any]) -> None:
    before, after = options_of(was), options_of(now)
    if isinstance(was[0], list):
        assert now[0] == "COMBO", field
        if not was[0][0].startswith("<files"):
            assert after["options"] == was[0], field
        if before.get("default") in was[0]:
            assert after["default"] == before["default"], field
    else:
        assert now[0] == was[0], field
    if was[0] in WIDGETS:
        keys = ("min", "max", "step", "multiline", "forceInput", *(["default"] if was[0] != "STRING" else []))
        assert [before.get(key) or 0 for key in keys] == [after.get(key) or 0 for key in keys], field
    assert after["tooltip"]


# --- values ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 100), st.integers(0, 100))
def test_a_part_of_a_run_has_the_steps_it_had(steps, start, end):
    start, end = start / 100, end / 100
    found = settings.part(start, end, steps)
    had = [step for step in range(steps) if start <= step / steps <= end]
    assert [step for step in range(steps) if found.contains(step, steps)] == had


@given(st.integers(1, 60), st.integers(0, 100))
def test_denoising_takes_the_last_steps_of_the_schedule(steps, percent):
    made = int(steps * percent / 100 + 1e-9)
    if not made:
        with pytest.raises(HyVideoError, match="denoise_strength is"):
            settings.levels(steps, 7.0, percent / 100)
        return
    assert torch.equal(settings.levels(steps, 7.0, percent / 100), flow_sigmas(steps, 7.0)[-made - 1 :])


def test_sizes_and_tiles():
    assert [settings.aligned(size) for size in (16, 17, 512, 514)] == [16, 32, 512, 528]
    assert settings.tiling(False, 64, 256, True) == {"tiling": "whole"}
    assert settings.tiling(True, 64, 256, True) == {"tiling": "auto"}
    own = settings.tiling(True, 18, 192, False)
    assert own == {"tiling": "tiled", "tile_size": 192, "tile_frames": 16, "overlap": 0.25}


def test_templates():
    own = settings.Template("custom", "tell: {}", crop_start=2)
    assert [settings.template(name, own).name for name in ("video", "image", "custom")] == ["video", "image", "custom"]
    plain = settings.template("disabled", None)
    assert (plain.fill("a cat"), plain.crop_start) == ("a cat", 0)
    with pytest.raises(HyVideoError, match="nothing is connected to custom_prompt_template"):
        settings.template("custom", None)


def test_blocks_of_a_lora_that_were_switched_off_have_no_effect():
    chosen = {f"double_blocks.{i}.": i != 3 for i in range(20)} | {f"single_blocks.{i}.": i > 1 for i in range(40)}
    found = settings.selected_blocks(chosen)
    assert found == "double 3: 0, single 0: 0, single 1: 0, other: 0"
    assert parse_blocks(found)
    assert settings.selected_blocks(dict.fromkeys(chosen, False)) == ""
    assert settings.selected_blocks(dict.fromkeys(chosen, True)) == "other: 0"


def test_blocks_are_named_by_numbers():
    assert settings.named_blocks("", "20") == "single 20"
    assert settings.named_blocks("1, 2", " 20,21,") == "double 1, double 2, single 20, single 21"
    with pytest.raises(HyVideoError, match="single_blocks has '2-3'"):
        settings.named_blocks("", "2-3")


def test_swapped_blocks_are_those_that_do_not_stay():
    config = DiTConfig()
    assert (config.double_blocks, config.single_blocks) == (settings.DOUBLE_BLOCKS, settings.SINGLE_BLOCKS)
    assert [settings.Swap(*pair).resident_blocks(config) for pair in ((0, 0), (20, 0), (20, 40))] == [60, 40, 0]


@pytest.mark.parametrize(
    ("first", "last", "skippable"),
    [(0, -1, range(1, 9)), (3, -1, range(3, 9)), (0, 5, range(1, 5)), (2, 99, range(2, 9)), (6, 2, range(0))],
)
def test_teacache_acts_between_its_two_steps(first, last, skippable):
    (cache,) = settings.Tea(0.15, "offload_device", first, last).features(10, 0)
    assert (cache.threshold, cache.device) == (0.15, "cpu")
    assert [step for step in range(10) if cache.may_skip(step, 10)] == list(skippable)


def test_context_windows_are_cut_to_what_a_window_may_be():
    options = settings.Context("uniform_looped", 66, 8, 18, True)
    expected = ContextWindows(window_frames=65, overlap_frames=16, schedule="looped", freenoise=True, seed=5)
    assert options.features(30, 5) == (expected,)
    assert "context_stride 8" in options.remarks()[0]
    assert settings.Context("static_standard", 2, 4, 100, False).features(30, 0)[0].window_frames == 5


def test_options_that_are_off_add_nothing():
    nothing = [
        settings.Cfg("", 1.0, zero_star=True),
        settings.Cfg("", 3.0),
        settings.Stg("STG-R", -1, 1.0, 0.0, 1.0),
        settings.Stg("STG-A", 2, 0.0, 0.0, 1.0),
        settings.Slg("", 0.0, 1.0),
        settings.Enhance(2.0, False, False, 0.0, 1.0),
        settings.Tea(0.0, "main_device", 0, -1),
        settings.Fresca(1.0, 1.0, 20),
        settings.Loop(0, 0.0, 1.0),
        settings.RiflexIndex(0),
    ]
    assert not any(each.features(30, 0) for each in nothing)


def test_guidances_keep_their_blocks_and_frequencies():
    (stg,) = settings.Stg("STG-R", 7, 1.5, 0.0, 1.0).features(30, 0)
    assert stg == SkipGuidance(blocks="single 7", scale=1.5)
    (slg,) = settings.Slg("single 20", 0.4, 0.8).features(10, 0)
    assert (slg.name, slg.branches(None, None), slg.when.contains(8, 10)) == ("negative", (), True)
    assert settings.RiflexIndex(4).features(30, 0) == (Riflex(k=4, above_frames=0),)
    (all_high,) = settings.Fresca(1.0, 1.5, 0).features(30, 0)
    assert (all_high.low, all_high.high) == (1.5, 1.5)


def test_trends_of_inversion():
    levels = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert settings.trended(0.5, "constant", levels, 1, 3) == [0, 0.5, 0.5, 0, 0]
    assert settings.trended(1.0, "linear_increase", levels, 0, 9) == levels
    assert settings.trended(1.0, "linear_decrease", levels, 2, 5) == [0, 0, 1, 0.5, 0]
    with pytest.raises(HyVideoError, match="start_step is 3 and end_step 3"):
        settings.trended(1.0, "constant", levels, 3, 3)


# --- old workflows --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def files(server):
    """Text encoders by the names that real ones have, a vision tower, a LoRA, pictures."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    toys, own = build.ensure(), server.base / "models"
    for folder in ("text_encoders", "clip_vision", "loras"):
        (own / folder).mkdir(parents=True, exist_ok=True)
    for name, toy in (("llava_llama3_fp16", build.LLAMA), ("clip_l", build.CLIP)):
        shutil.copy(toys / toy, own / "text_encoders" / f"{name}.safetensors")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=56, patch_size=14))
    tensors = build.tensors(tower, torch.bfloat16, prefix="vision_model.")
    for number, taken in ((1, 64), (2, 256)):
        weight = torch.randn(256, taken, generator=torch.Generator().manual_seed(number)) * taken**-0.5
        tensors[f"multi_modal_projector.linear_{number}.weight"] = weight.bfloat16()
        tensors[f"multi_modal_projector.linear_{number}.bias"] = torch.zeros(256, dtype=torch.bfloat16)
    metadata = {"config": json.dumps({"vision_config": sizes})}
    save_file(tensors, own / "clip_vision" / "llava_llama3_vision.safetensors", metadata)
    rows, columns = load_file(toys / "diffusion_models" / jobs.MODEL)[f"{LORA_LAYER}.weight"].shape
    noise = torch.Generator().manual_seed(5)
    ends = {"A": (4, columns), "B": (rows, 4)}
    lora = {f"transformer.{LORA_LAYER}.lora_{x}.weight": torch.randn(ends[x], generator=noise) * 0.2 for x in ends}
    save_file(lora, own / "loras" / "my_lora.safetensors")
    for number, name in enumerate(("first", "clip")):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(server.base / "input" / f"{name}.png")
    yield
    for path in ("text_encoders/llava_llama3_fp16", "text_encoders/clip_l", "clip_vision/llava_llama3_vision"):
        (own / f"{path}.safetensors").unlink()
    (own / "loras" / "my_lora.safetensors").unlink()


def old(name: str, changes: dict[str, Any] | None = None) -> jobs.Json:
    """An old workflow in the API's format with toy files and a small size; ``changes`` by "id.input"."""
    job = json.loads((HERE / "old_workflows" / "api" / f"{name}.json").read_text("utf-8"))
    for node in job.values():
        for field, value in node["inputs"].items():
            if isinstance(value, str):
                node["inputs"][field] = TOYS.get(value, value)
            elif field in SMALL and not isinstance(value, list):
                node["inputs"][field] = SMALL[field]
        if node["class_type"] == "HyVideoBlockSwap":
            node["inputs"] |= {"double_blocks_to_swap": 1, "single_blocks_to_swap": 2}
        if node["class_type"] == "HyVideoDecode":
            node["inputs"]["spatial_tile_sample_min_size"] = 64
    return jobs.changed(job, changes or {})


def latent_of(studio, job: jobs.Json, node_id: str = "3") -> torch.Tensor:
    """The latent that a node of a job gives."""
    job = copy.deepcopy(job)
    for name in [name for name, node in job.items() if node["class_type"].startswith("Save")]:
        del job[name]
    job["save"] = jobs.node("SaveLatent", samples=[node_id, 0], filename_prefix="latents/old")
    return studio.saved_latent(job)


def test_there_are_old_workflows_of_each_kind():
    assert WORKFLOWS == ["i2v", "t2v", "t2v_lora_teacache_enhance", "v2v_cfg"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_file_of_the_browser_opens_as_its_api_form(info, name):
    """The values are taken by their places, as the browser does, from the schemas of the running host."""
    workflow = json.loads((HERE / "old_workflows" / f"{name}.json").read_text("utf-8"))
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    opened = {}
    for node in workflow["nodes"]:
        schema = info[node["type"]]["input"]
        specs = {**schema.get("required", {}), **schema.get("optional", {})}
        wires = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        assert wires.keys() <= specs.keys()
        for slot in node["inputs"]:
            assert slot["type"] == specs[slot["name"]][0]
        values = iter(node["widgets_values"])
        inputs: dict[str, Any] = {}
        for field, spec in specs.items():
            if (spec[0] in WIDGETS or spec[0] == "COMBO" or isinstance(spec[0], list)) and not options_of(spec).get(
                "forceInput"
            ):
                inputs[field] = next(values)
                if field == "seed":
                    assert next(values) in ("fixed", "randomize", "increment", "decrement")
        opened[str(node["id"])] = inputs | wires
    api = json.loads((HERE / "old_workflows" / "api" / f"{name}.json").read_text("utf-8"))
    assert opened == {node_id: node["inputs"] for node_id, node in api.items()}


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


# --- the same as with the nodes of today ----------------------------------------------------------------------


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


# --- every option changes something, and the rest of the nodes ------------------------------------------------


OPTIONS = {
    "stg_args": ("HyVideoSTG", {"stg_mode": "STG-R", "stg_block_idx": 1, "stg_scale": 1.0}),
    "context_options": ("HyVideoContextOptions", {"context_schedule": "static_standard", "context_frames": 5}),
    "feta_args": ("HyVideoEnhanceAVideo", {"weight": 4.0}),
    "loop_args": ("HyVideoLoopArgs", {"shift_skip": 1}),
    "fresca_args": ("HunyuanVideoFresca", {"fresca_scale_high": 2.0, "fresca_freq_cutoff": 1}),
    "slg_args": ("HunyuanVideoSLG", {"single_blocks": "1", "start_percent": 0.0, "end_percent": 1.0}),
}


def complete(kind: str, values: dict[str, Any]) -> jobs.Json:
    """A node with all its widgets, as a workflow has them."""
    inputs = {}
    for group in NODES[kind]["inputs"].values():
        for field, spec in group.items():
            if isinstance(spec, list) and (isinstance(spec[0], list) or spec[0] in WIDGETS):
                default = options_of(spec).get("default", spec[0][0] if isinstance(spec[0], list) else None)
                if not options_of(spec).get("forceInput"):
                    inputs[field] = default
    return jobs.node(kind, **(inputs | values))


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
    changes = [{"cfg.use_cfg_zero_star": True}, *({"3.scheduler": name} for name in list(settings.SCHEDULERS)[1:])]
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


def test_images_in_the_prompt(studio):
    job = old("i2v", {"1.model": jobs.MODEL, "3.image_cond_latents": None})
    seeing = complete("HyVideoTextImageEncode", {"prompt": "a cat in <image>", "text_encoders": ["16", 0]})
    job["30"] = jobs.changed({"30": seeing}, {"30.image1": ["52", 0]})["30"]
    found = latent_of(studio, job)
    assert not torch.equal(found, latent_of(studio, jobs.changed(job, {"30.clip_text_override": "a dog"})))
    assert not torch.equal(found, latent_of(studio, jobs.changed(job, {"30.image_token_selection_expr": ""})))


def test_prompts_are_saved_loaded_bridged_and_empty(studio):
    job = old("v2v_cfg")
    direct = latent_of(studio, job)
    kept = job | {"saved": complete("HyVideoTextEmbedsSave", {"hyvid_embeds": ["30", 0]})}
    kept["shown"] = jobs.node("PreviewAny", source=["saved", 0])
    studio.run({name: node for name, node in kept.items() if name in ("16", "30", "55", "saved", "shown")})
    (path,) = (studio.server.output / "hyvid_embeds").glob("hyvid_embed_*.safetensors")
    assert set(load_file(path)) >= {"prompt_embeds", "prompt_embeds_2", "negative_prompt_embeds", "cfg"}
    job["30"] = jobs.node("HyVideoTextEmbedsLoad", embeds=path.name)
    assert torch.equal(latent_of(studio, job), direct)
    native = jobs.text_to_latent(TODAY | {"prompt.negative": "blurry, low quality", "encoders.dtype": "float16"})
    job |= {"native": native["prompt"], "encoders": native["encoders"]}
    bridge = {"positive": ["native", 0], "negative": ["native", 1], "cfg": 3.0, "end_percent": 0.5}
    job["30"] = complete("HyVideoTextEmbedBridge", bridge | {"use_cfg_zero_star": False})
    assert torch.equal(latent_of(studio, job), direct)
    job["30"] = jobs.node("HyVideoEmptyTextEmbeds")
    assert torch.isfinite(latent_of(studio, job)).all()


def test_comfyuis_clip_takes_the_place_of_the_loaders(studio):
    job = old("t2v")
    job["clip"] = jobs.node(
        "DualCLIPLoader", clip_name1=jobs.CLIP, clip_name2=jobs.LLAMA, type="hunyuan_video", device="default"
    )
    elsewhere = jobs.changed(job, {"16.clip_model": "disabled", "30.clip_l": ["clip", 0]})
    found, usual = latent_of(studio, elsewhere), latent_of(studio, old("t2v"))
    assert (found - usual).norm() < 0.2 * usual.norm()
    outputs = studio.run(old("t2v", {"16.clip_model": "disabled"}))
    assert "CLIP-L is used all the same" in outputs["30"]["text"][0]


def test_inversion_and_the_way_back(studio):
    job = old("v2v_cfg", {"1.base_precision": "fp32"})
    common = {"model": ["1", 0], "samples": ["54", 0], "steps": 6, "end_step": 4}
    job["inverse"] = complete("HyVideoInverseSampler", common | {"hyvid_embeds": ["empty", 0]})
    job["empty"] = jobs.node("HyVideoEmptyTextEmbeds")
    back = common | {"hyvid_embeds": ["30", 0], "inversed_latents": ["inverse", 0]}
    job["3"] = complete("HyVideoReSampler", back)
    clip, noise = latent_of(studio, job, "54"), latent_of(studio, job, "inverse")
    assert noise.shape == clip.shape
    assert not torch.equal(
        noise, latent_of(studio, jobs.changed(job, {"inverse.gamma_trend": "linear_decrease"}), "inverse")
    )
    whole = jobs.changed(job, {"3.eta_base": 1.0, "3.end_step": 6})
    torch.testing.assert_close(latent_of(studio, whole), clip, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(latent_of(studio, job), clip, rtol=1e-3, atol=1e-3)


def test_keyframes_with_their_lora(studio, server):
    hidden, channels = build.TRANSFORMER_CONFIG["hidden_size"], 32
    ends = {"A": (2, channels, 1, 2, 2), "B": (hidden, 2, 1, 1, 1)}
    generator = torch.Generator().manual_seed(3)
    tensors = {f"img_in.proj.lora_{x}.weight": torch.randn(ends[x], generator=generator) * 0.1 for x in ends}
    path = server.base / "models" / "loras" / "keyframes.safetensors"
    save_file(tensors, path)
    job = old("v2v_cfg", {"3.samples": None, "3.denoise_strength": 1.0, "3.num_frames": 9})
    job["lora"] = jobs.node("HyVideoLoraSelect", lora=path.name, strength=1.0)
    ends = {"vae": ["7", 0], "start_image": ["52", 0], "end_image": ["52", 0], "num_frames": 9}
    job["54"] = complete("HyVideoEncodeKeyframes", ends)
    job = jobs.changed(job, {"1.lora": ["lora", 0], "3.image_cond_latents": ["54", 0]})
    found = latent_of(studio, job)
    # The first latent frame was left out there, too.
    assert found.shape[2] == 2
    path.unlink()


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


# --- what has no counterpart ----------------------------------------------------------------------------------


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


OTHER_PACK = """
class Sampler:
    CATEGORY, FUNCTION, RETURN_TYPES = "other", "run", ("LATENT",)
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})

    def run(self):
        return (None,)


NODE_CLASS_MAPPINGS = {"HyVideoSampler": Sampler, "HyVideoDecode": Sampler}
"""


@pytest.mark.slow
def test_the_other_packs_own_nodes_win(server, tmp_path):
    pack = tmp_path / "custom_nodes" / "ComfyUI-HunyuanVideoWrapper"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(OTHER_PACK, encoding="utf-8")
    with Server(server.comfyui, tmp_path, python=Path(sys.executable)) as second, second.client() as client:
        found = client.object_info()
    assert {found[name]["category"] for name in ("HyVideoSampler", "HyVideoDecode")} == {"other"}
    assert "HyvSampler" in found
