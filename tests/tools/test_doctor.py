"""The doctor recognises files by their content, survives what is broken, and tells what to do."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hyvideo_core import attention
from tools import comfyui, dev, doctor, environment, model_files
from tools.console import ToolError
from tools.demo_model import build
from tools.paths import ROOT

REFINER = "txt_in.individual_token_refiner.blocks.0.norm1.weight"
WIDE_TRANSFORMER = {REFINER: (3072,), "img_in.proj.weight": (3072, 16, 1, 2, 2)}


def llama_shapes(tokens: int, prefix: str) -> dict[str, tuple[int, ...]]:
    shapes = {"embed_tokens.weight": (tokens, 4096), "layers.0.self_attn.q_proj.weight": (4096, 4096)}
    return {prefix + name: shape for name, shape in shapes.items()}


def header_file(path: Path, shapes: dict[str, tuple[int, ...]], missing_bytes: int = 0) -> Path:
    """A safetensors file of full size whose data are a hole that takes no disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * 2
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end - missing_bytes)
    return path


@pytest.mark.parametrize("prefix", ["", "model.", "model.model.", "model.diffusion_model.", "diffusion_model."])
def test_a_transformer_is_known_under_every_prefix(tmp_path: Path, prefix: str) -> None:
    shapes = {prefix + REFINER: (3072,), prefix + "img_in.proj.weight": (3072, 16, 1, 2, 2)}
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found == model_files.Found(tmp_path / "x.safetensors", model_files.TRANSFORMER, "text-to-video, width 3072")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({REFINER: (3072,), "img_in.proj.weight": (3072, 33, 1, 2, 2)}, "image-to-video v1"),
        ({**WIDE_TRANSFORMER, "double_blocks.0.img_attn_qkv.lora_A.weight": (16, 3072)}, "LoRA"),
        (llama_shapes(128256, "model."), "128,256 tokens"),
    ],
)
def test_a_file_the_loaders_refuse_does_not_count_as_found(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found is not None
    assert found.kind == ""
    assert words in found.note


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (model_files.VAE, {"decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)}),
        (model_files.VAE, {"vae.decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)}),
        (model_files.LLAMA, llama_shapes(128320, "model.")),
        (model_files.LLAMA, llama_shapes(128320, "language_model.model.")),
        (model_files.LLAMA, llama_shapes(128259, "")),
        ("", llama_shapes(32000, "model.")),
        (model_files.CLIP, {"text_model.embeddings.token_embedding.weight": (49408, 768)}),
        ("", {"decoder.conv_in.conv.weight": (512, 4, 3, 3, 3)}),
        ("", {"text_model.embeddings.token_embedding.weight": (49408, 1280)}),
        ("", {"double_blocks.0.img_attn.qkv.weight": (1, 1)}),
    ],
)
def test_the_parts_are_told_from_other_models(kind: str, shapes: dict[str, tuple[int, ...]]) -> None:
    assert model_files.classify(shapes)[0] == kind


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\xff" * 64, struct.pack("<Q", 2) + b"[", b"\x02" + bytes(7) + b"{]"]
)
def test_a_damaged_file_is_named_and_never_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    found = model_files.recognise(tmp_path / "x.safetensors")
    assert found is not None
    assert found.note.startswith("damaged")


def test_a_partial_download_is_called_damaged(tmp_path: Path) -> None:
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", WIDE_TRANSFORMER, missing_bytes=1))
    assert found is not None
    assert found.kind == ""
    assert "damaged" in found.note


def test_each_file_is_listed_once(tmp_path: Path) -> None:
    header_file(tmp_path / "unet" / "x.safetensors", WIDE_TRANSFORMER)
    assert len(model_files.scan([tmp_path / "unet", tmp_path])) == 1


def test_missing_parts_are_exactly_those_not_found(tmp_path: Path) -> None:
    found = model_files.scan([header_file(tmp_path / "x.safetensors", WIDE_TRANSFORMER).parent])
    assert doctor.missing_kinds(found) == [model_files.VAE, model_files.LLAMA, model_files.CLIP]


@pytest.mark.parametrize("error", [ToolError("set it right"), RuntimeError("driver too old"), ImportError("no torch")])
def test_a_part_that_fails_is_reported_and_does_not_end_the_report(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail() -> None:
        raise error

    assert doctor.section("Devices", fail) is None
    assert str(error) in capsys.readouterr().out


def test_a_kernel_that_is_absent_is_told_from_one_that_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = [
        attention.Report("sdpa", True, ""),
        attention.Report("flash2", False, "flash_attn is not installed"),
        attention.Report("sage2", False, "relative error 1.2", wrong=True),
    ]
    monkeypatch.setattr(attention, "available", lambda *_: reports)
    monkeypatch.setattr(attention, "choose", lambda *_: "sdpa")
    assert doctor.report_attention()
    lines = capsys.readouterr().out.splitlines()
    signs = [line.split()[0] for line in lines]
    assert signs == [doctor.GOOD, doctor.INFO, doctor.BAD, doctor.INFO]
    assert "flash_attn is not installed" in lines[1]
    assert lines[-1].endswith("auto is sdpa")


@pytest.fixture(scope="module")
def demo_models() -> Path:
    return build.ensure()


@pytest.fixture(scope="module")
def describe() -> model_files.Describe:
    return model_files.loaders()


def test_what_the_loaders_take_is_found(demo_models: Path, describe: model_files.Describe) -> None:
    found = {
        file.path.relative_to(demo_models).as_posix(): file.kind for file in model_files.scan([demo_models], describe)
    }
    assert found[build.TRANSFORMER] == model_files.TRANSFORMER
    assert found[build.VAE] == model_files.VAE


@pytest.mark.parametrize(("name", "kind"), [(build.TRANSFORMER, "transformer"), (build.VAE, "VAE")])
def test_pickles_are_opened_by_the_loaders_and_only_named_without_them(
    tmp_path: Path, demo_models: Path, describe: model_files.Describe, name: str, kind: str
) -> None:
    path = tmp_path / {"transformer": "mp_rank_00_model_states.pt", "VAE": "pytorch_model.pt"}[kind]
    torch.save({"module": load_file(demo_models / name)}, path)
    found = model_files.recognise(path, describe)
    assert found is not None
    assert found.kind == kind
    bare = model_files.recognise(path)
    assert bare is None or "only torch can open it" in bare.note


def test_a_pickle_with_code_is_refused_and_named(tmp_path: Path, describe: model_files.Describe) -> None:
    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"module": Code()}, tmp_path / "hunyuan.pt")
    found = model_files.recognise(tmp_path / "hunyuan.pt", describe)
    assert found is not None
    assert found.kind == ""
    assert not (tmp_path / "ran").exists()


def test_the_loaders_have_the_last_word(tmp_path: Path, describe: model_files.Describe) -> None:
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", WIDE_TRANSFORMER), describe)
    assert found is not None
    assert found.kind == ""
    assert "lacks" in found.note


def test_text_models_in_folders_count_once_and_their_shards_not_at_all(
    tmp_path: Path, describe: model_files.Describe
) -> None:
    folder = tmp_path / "llava"
    header_file(folder / "model-00001-of-00002.safetensors", llama_shapes(128320, "model."))
    (folder / "config.json").write_text("{}")
    (found,) = model_files.scan([tmp_path], describe)
    assert found.path == folder
    assert found.kind == ""
    assert "model-00002-of-00002.safetensors" in found.note


@pytest.mark.parametrize(
    ("works", "models", "fits", "demo", "code"),
    [
        (True, True, True, False, 0),
        (True, True, False, False, 1),
        (True, False, True, False, 1),
        (True, False, False, True, 0),
        (False, True, True, True, 1),
    ],
)
def test_the_exit_code_says_whether_a_video_is_possible(
    capsys: pytest.CaptureFixture[str], works: bool, models: bool, fits: bool, demo: bool, code: int
) -> None:
    assert doctor.verdict(works, models, fits, demo) == code
    said = capsys.readouterr().out
    assert ("model: possible" in said) == (works and models and fits)


@pytest.mark.parametrize(("gib", "fits"), [(None, False), (24, False), (32, True)])
def test_the_memory_is_compared_with_what_the_first_video_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gib: int | None, fits: bool
) -> None:
    monkeypatch.setattr(doctor, "gpu_bytes", lambda: gib and gib * doctor.GIB)
    assert doctor.report_memory() == fits
    assert ("there is no GPU" if gib is None else f"{gib}.0 GiB") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("users_own", "torch_here", "stays"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_comfyuis_own_python_is_examined_although_the_clone_has_one(
    monkeypatch: pytest.MonkeyPatch, users_own: bool, torch_here: bool, stays: bool
) -> None:
    monkeypatch.setattr(environment, "is_ready", lambda: True)
    monkeypatch.setattr(environment, "inside_venv", lambda: False)
    monkeypatch.setattr(comfyui, "is_users_own", lambda: users_own)
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda name: object() if torch_here else None)
    monkeypatch.setattr(dev, "continue_in_venv", lambda argv: "the clone's")
    monkeypatch.setattr(doctor, "run", lambda: "this one")
    assert dev.run_doctor(["doctor"]) == ("this one" if stays else "the clone's")


def test_a_users_comfyui_is_known_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(comfyui.VARIABLE, raising=False)
    assert comfyui.is_users_own() == (comfyui.enclosing() is not None)
    monkeypatch.setenv(comfyui.VARIABLE, "somewhere")
    assert comfyui.is_users_own()


@pytest.mark.parametrize("users_own", [True, False])
def test_a_python_without_packages_gets_one_remedy_and_no_exceptions(users_own: bool) -> None:
    code = (
        "import sys; sys.path.insert(0, '.'); from tools import comfyui, dev, environment\n"
        f"environment.is_ready = lambda: False; comfyui.is_users_own = lambda: {users_own}\n"
        "sys.exit(dev.main(['doctor']))"
    )
    # Without site-packages: as bare as a fresh Python.
    command = [sys.executable, "-S", "-X", "utf8", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "✗ torch is not installed" in done.stdout
    assert done.stdout.count("not examined: torch is missing") == 3
    assert "Error" not in done.stdout
    remedy = "start the doctor with the Python that runs ComfyUI" if users_own else "tools/dev.py demo"
    assert remedy in done.stdout
    assert not [line for line in done.stdout.splitlines() if ": run:" in line or line.count(": ") > 2]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["imageio-ffmpeg"], f"-m pip install -r {ROOT / 'requirements.txt'}"),
        (["transformers", "safetensors"], f"-m pip install -r {Path('host') / 'requirements.txt'}"),
        (["torch", "imageio-ffmpeg"], "start the doctor with the Python that runs ComfyUI"),
    ],
)
def test_packages_go_into_the_users_own_python(monkeypatch: pytest.MonkeyPatch, missing: list[str], words: str) -> None:
    monkeypatch.setattr(environment, "inside_venv", lambda: False)
    monkeypatch.setattr(comfyui, "is_users_own", lambda: True)
    monkeypatch.setattr(environment.sys, "orig_argv", ["../my python/python.exe", "tools/dev.py"])
    remedy = doctor.software_remedy(missing, Path("host"))
    assert words in remedy
    assert "dev.py" not in remedy
    assert "pip" not in remedy or '"../my python/python.exe" -m pip' in remedy


def test_the_report_runs_here_and_covers_everything() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "dev.py"), "doctor"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode in (0, 1), done.stderr
    headings = ["ComfyUI", "Software", "Devices", "Attention kernels", "Memory", "Model files", "Demo model", "Verdict"]
    assert [line for line in done.stdout.splitlines() if line and line[0] != " "] == headings
    assert "Traceback" not in done.stderr
