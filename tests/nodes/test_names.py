"""Names of model files: one spelling on every system, and those that Windows saved are found on any."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import PureWindowsPath

import jobs
import pytest
import torch

from tools.paths import ROOT, SHIPPED_MODELS, TOY_MODELS

spec = importlib.util.spec_from_file_location("names", ROOT / "nodes" / "names.py")
names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(names)

PLACE = PureWindowsPath("Meine Modelle", "größer & 視頻", "a b.safetensors")
SHARED = PLACE.as_posix()


def test_a_list_made_on_windows_has_the_names_of_one_made_elsewhere():
    windows = names.FileNames.of("models/vae", [str(PLACE), "b.gguf"], first=["none"], separator="\\")
    elsewhere = names.FileNames.of("models/vae", ["b.gguf", SHARED], first=["none"], separator="/")
    assert list(windows) == list(elsewhere) == ["none", SHARED, "b.gguf"]
    assert json.loads(json.dumps(windows)) == list(windows)


def test_the_hosts_copy_for_the_browser_keeps_the_order():
    # Source: ComfyUI comfy_api/latest/_io.py: a node's information for the browser is made by dataclasses.asdict.
    @dataclass
    class Info:
        options: list[str]

    options = names.FileNames.of("models/vae", ["b", "a"], first=["none"])
    assert asdict(Info(options)) == {"options": ["none", "a", "b"]}


@pytest.mark.parametrize("separator", ["\\", "/"])
def test_either_spelling_is_in_the_list_and_nothing_else(separator):
    found = names.FileNames.of("models/vae", [separator.join(PLACE.parts)], first=["none"], separator=separator)
    for name in (str(PLACE), SHARED, "none"):
        assert name in found
    for name in ("a b.safetensors", SHARED + "\\", "", None, 1):
        assert name not in found


def test_where_a_backslash_is_a_character_a_name_with_one_stays_as_it_is():
    assert list(names.FileNames.of("models/vae", ["odd\\name.safetensors"], separator="/")) == ["odd\\name.safetensors"]
    assert "odd\\name.safetensors" in names.FileNames.of("models/vae", ["odd\\name.safetensors"], separator="/")


@pytest.fixture
def copies(server):
    """The toy models and a LoRA under a folder whose name has spaces and other scripts, beside the server's own."""
    folder = PLACE.parent.as_posix()
    files = {
        "model": TOY_MODELS / "diffusion_models" / jobs.MODEL,
        "llm": TOY_MODELS / "text_encoders" / jobs.LLAMA,
        "clip": TOY_MODELS / "text_encoders" / jobs.CLIP,
        "vae": TOY_MODELS / "vae" / jobs.VAE,
    }
    placed = {}
    for name, file in files.items():
        target = server.base / "models" / file.parent.name / folder / f"{name} ü.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        placed[name] = PureWindowsPath(folder, target.name)
    yield placed
    for folder in ("diffusion_models", "text_encoders", "vae"):
        shutil.rmtree(server.base / "models" / folder / PLACE.parts[0])


@pytest.mark.parametrize("spelled", [str, PureWindowsPath.as_posix], ids=["windows", "posix"])
def test_a_workflow_finds_files_in_folders_by_either_spelling(studio, copies, spelled):
    found = {name: spelled(path) for name, path in copies.items()}
    job = jobs.text_to_images({"sampler.seed": next(studio.unused_seeds)})
    for node, fields in (("model", ["model"]), ("encoders", ["llm", "clip"]), ("vae", ["vae"])):
        job[node]["inputs"] |= {field: found[field] for field in fields}
    assert len(studio.files(studio.run(job))) == jobs.FRAMES


@pytest.mark.parametrize("spelled", [str, PureWindowsPath.as_posix], ids=["windows", "posix"])
def test_an_old_workflow_finds_its_files_by_either_spelling(studio, copies, spelled):
    tiles = {"temporal_tiling_sample_size": 64, "spatial_tile_sample_min_size": 256, "auto_tile_size": True}
    job = {
        "picture": jobs.node("EmptyImage", width=64, height=48, batch_size=5, color=next(studio.unused_seeds)),
        "vae": jobs.node("HyVideoVAELoader", model_name=spelled(copies["vae"]), precision="fp32"),
        "encode": jobs.node("HyVideoEncode", vae=["vae", 0], image=["picture", 0], enable_vae_tiling=False, **tiles),
        "save": jobs.node("SaveLatent", samples=["encode", 0], filename_prefix="latents/test"),
    }
    assert torch.isfinite(studio.saved_latent(job)).all()


def test_a_name_that_is_in_no_list_is_refused_as_the_host_refuses_it(studio):
    errors = studio.rejection(jobs.text_to_latent({"model.model": "no\\such.safetensors"}))
    (error,) = errors["model"]["errors"]
    assert error["type"] == "value_not_in_list"
    assert jobs.MODEL in error["details"]


def test_a_file_that_was_replaced_under_its_name_is_read_anew(studio, server):
    target = server.base / "models" / "diffusion_models" / "wird ersetzt.safetensors"
    shutil.copy(TOY_MODELS / "diffusion_models" / jobs.MODEL, target)
    try:
        changes = {"model.model": target.name, "sampler.seed": next(studio.unused_seeds)}
        first = studio.latent(changes)
        shutil.copy(SHIPPED_MODELS / "diffusion_models" / "hyvideo_demo_t2v.safetensors", target)
        message = studio.failure(jobs.text_to_latent(changes))
        assert message
        shutil.copy(TOY_MODELS / "diffusion_models" / jobs.MODEL, target)
        assert torch.equal(studio.latent(changes), first)
    finally:
        target.unlink()
