"""Wrong, damaged and hostile model files: each refused by name, nothing of them run, the server unharmed."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import jobs
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from tools.paths import TOY_MODELS

TRANSFORMER = TOY_MODELS / "diffusion_models" / jobs.MODEL
KINDS = {
    "a VAE": TOY_MODELS / "vae" / jobs.VAE,
    "a CLIP text encoder": TOY_MODELS / "text_encoders" / jobs.CLIP,
    "a language model": TOY_MODELS / "text_encoders" / jobs.LLAMA,
    "a HunyuanVideo transformer": TRANSFORMER,
}
LORA = {
    f"double_blocks.0.img_attn_qkv.lora_{end}.weight": torch.zeros(shape)
    for end, shape in (("A", (4, 256)), ("B", (768, 4)))
}
HTML = b"<!DOCTYPE html><html><head><title>Entry not found</title></head><body>404</body></html>" * 20


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_model(name: str):
    return jobs.text_to_latent({"model.model": name})


def as_vae(name: str):
    return jobs.text_to_video({"vae.vae": name})


def as_text(name: str, field: str):
    return jobs.text_to_latent({f"encoders.{field}": name})


@pytest.mark.parametrize("kind", ["a VAE", "a CLIP text encoder", "a language model"])
def test_another_model_in_the_transformer_slot_is_named(studio, place, kind):
    place("diffusion_models/wrong.safetensors", KINDS[kind].read_bytes())
    message = studio.failure(as_model("wrong.safetensors"))
    assert f"wrong.safetensors is {kind}" in message
    assert "a HunyuanVideo transformer" in message
    assert "Choose" in message


def test_a_lora_in_the_transformer_slot_is_named(studio, place):
    place("diffusion_models/style.safetensors", LORA)
    message = studio.failure(as_model("style.safetensors"))
    assert "style.safetensors is a LoRA" in message
    assert "Choose" in message


@pytest.mark.parametrize("kind", ["a HunyuanVideo transformer", "a language model", "a CLIP text encoder"])
def test_another_model_in_the_vae_slot_is_named(studio, place, kind):
    place("vae/wrong.safetensors", KINDS[kind].read_bytes())
    message = studio.failure(as_vae("wrong.safetensors"))
    assert f"wrong.safetensors is {kind}" in message
    assert "HunyuanVideo VAE was expected" in message
    assert "Choose" in message


@pytest.mark.parametrize("field", ["llm", "clip"])
@pytest.mark.parametrize("kind", ["a VAE", "a HunyuanVideo transformer"])
def test_another_model_in_a_text_slot_is_named(studio, place, kind, field):
    place("text_encoders/wrong.safetensors", KINDS[kind].read_bytes())
    message = studio.failure(as_text("wrong.safetensors", field))
    assert f"wrong.safetensors is {kind}" in message
    assert "expected" in message


def test_text_encoders_in_each_others_slots_are_named(studio):
    for name, kind, field in ((jobs.CLIP, "a CLIP text encoder", "llm"), (jobs.LLAMA, "a language model", "clip")):
        message = studio.failure(as_text(name, field))
        assert f"{name} is {kind}" in message
        assert "expected" in message
        assert "Choose" in message


def damaged() -> dict[str, tuple[str, bytes, str]]:
    whole = TRANSFORMER.read_bytes()
    return {
        "half": ("half.safetensors", whole[: len(whole) // 2], "promises"),
        "header only": ("header.safetensors", whole[:100], "no complete safetensors header"),
        "empty": ("empty.safetensors", b"", "0 bytes"),
        "web page": ("page.safetensors", HTML, "header"),
        "huge header": ("huge.safetensors", struct.pack("<Q", 2**62) + b"{}" * 50, "header"),
        "not json": ("garbage.safetensors", struct.pack("<Q", 64) + b"\xff" * 200, "header"),
        "empty pickle": ("empty.pt", b"", "empty.pt"),
        "web page as pickle": ("page.pt", HTML, "page.pt"),
        "torn zip": ("torn.pt", pickled({"module": {"a": torch.zeros(4)}})[:-100], "torn.pt"),
    }


@pytest.mark.parametrize("what", damaged())
@pytest.mark.parametrize("slot", ["diffusion_models", "vae", "text_encoders"])
def test_a_damaged_file_is_refused_by_name(studio, place, what, slot):
    name, content, word = damaged()[what]
    place(f"{slot}/{name}", content)
    job = {"diffusion_models": as_model, "vae": as_vae, "text_encoders": lambda name: as_text(name, "llm")}[slot](name)
    message = studio.failure(job)
    assert name in message
    assert word in message
    assert "download it again" in message or "choose another" in message


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("slot", ["diffusion_models", "vae", "text_encoders"])
def test_code_in_a_pickle_never_runs(studio, place, tmp_path, slot, legacy):
    marker = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save({"module": {"w": Payload(marker)}}, buffer, _use_new_zipfile_serialization=not legacy)
    place(f"{slot}/hostile.pt", buffer.getvalue())
    slots = {"diffusion_models": as_model, "vae": as_vae, "text_encoders": lambda name: as_text(name, "clip")}
    message = studio.failure(slots[slot]("hostile.pt"))
    assert not marker.exists()
    assert "hostile.pt" in message
    assert ".safetensors" in message
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert marker.exists(), "the payload must be one that works"


def test_a_zip_that_is_no_checkpoint_is_refused(studio, place):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    place("diffusion_models/archive.pt", buffer.getvalue())
    message = studio.failure(as_model("archive.pt"))
    assert "archive.pt" in message
    assert "download it again" in message


def test_weights_with_nan_are_an_error_and_not_a_black_video(studio, place):
    tensors = load_file(TRANSFORMER)
    tensors["double_blocks.0.img_mod.linear.bias"][0] = float("nan")
    place("diffusion_models/nan.safetensors", tensors)
    before = set(studio.server.base.rglob("*.mp4"))
    message = studio.failure(jobs.text_to_video({"model.model": "nan.safetensors"}))
    assert "NaN" in message
    assert "step 1 of 3" in message
    assert "bfloat16" in message
    assert "checkpoint" in message
    assert set(studio.server.base.rglob("*.mp4")) == before


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_replaced_between_two_jobs_is_read_again(studio, place, in_place):
    tensors = load_file(TRANSFORMER)
    path = place("diffusion_models/edited.safetensors", tensors)
    change = {"model.model": "edited.safetensors"}
    first = studio.latent(change)
    assert torch.equal(first, studio.latent())
    tensors["final_layer.linear.bias"] += 1
    if in_place:
        place("diffusion_models/edited.safetensors", save(tensors))
    else:
        path.unlink()
        place("diffusion_models/edited.safetensors", tensors)
    second = studio.latent(change)
    assert not torch.equal(first, second)
    assert torch.isfinite(second).all()


def test_a_loaded_file_that_is_cut_short_is_refused_and_harms_nothing(studio, place):
    whole = TRANSFORMER.read_bytes()
    path = place("diffusion_models/cut.safetensors", whole)
    change = {"model.model": "cut.safetensors"}
    studio.latent(change)
    os.truncate(path, len(whole) // 3)
    message = studio.failure(jobs.text_to_latent(change))
    assert "cut.safetensors" in message
    assert "promises" in message


def test_a_model_folder_is_read_and_a_missing_shard_is_named(studio, place):
    llama = load_file(KINDS["a language model"])
    with safe_open(KINDS["a language model"], "pt") as file:
        config = json.loads(file.metadata()["config"])
    names = sorted(llama)
    halves = {"model-1.safetensors": names[: len(names) // 2], "model-2.safetensors": names[len(names) // 2 :]}
    index = {"weight_map": {name: shard for shard, part in halves.items() for name in part}}
    place("LLM/llava/config.json", json.dumps(config).encode())
    place("LLM/llava/model.safetensors.index.json", json.dumps(index).encode())
    for shard, part in halves.items():
        path = place(f"LLM/llava/{shard}", {name: llama[name] for name in part})
    assert torch.equal(studio.latent({"encoders.llm": "llava"}), studio.latent())
    path.unlink()
    message = studio.failure(as_text("llava", "llm"))
    assert "model-2.safetensors" in message
    assert "llava" in message


def test_a_model_file_that_disappears_is_refused_by_name(studio, place):
    path = place("diffusion_models/gone.safetensors", load_file(TRANSFORMER))
    studio.latent({"model.model": "gone.safetensors"})
    path.unlink()
    studio.drop_results()
    errors = studio.rejection(jobs.text_to_latent({"model.model": "gone.safetensors"}))
    assert "gone.safetensors" in errors["model"]["errors"][0]["details"]


@pytest.mark.parametrize("prefix", ["", "model.", "model.diffusion_model."])
def test_a_pickle_with_the_official_nesting_gives_the_same_video(studio, place, prefix):
    content = {"module": {prefix + name: tensor for name, tensor in load_file(TRANSFORMER).items()}}
    place("diffusion_models/official.pt", pickled(content))
    assert torch.equal(studio.latent({"model.model": "official.pt"}), studio.latent())
