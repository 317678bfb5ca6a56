"""The doctor recognises files by their content, survives what is broken, and tells what to do."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch
from dit_data import golden_weights
from safetensors.torch import load_file
from test_weights_layouts import save_diffusers

from golden_data import GOLDEN
from hyvideo_core import attention
from hyvideo_core.model import compiling
from hyvideo_core.ops import fp8
from hyvideo_core.weights import inspect_dit
from tools import comfyui, dev, doctor, environment, model_files
from tools.console import ToolError
from tools.demo_model import files as demo_files
from tools.paths import ROOT
from tools.toy_model import build

REFINER = "txt_in.individual_token_refiner.blocks.0.norm1.weight"
FULL = {
    name: tuple(shape)
    for name, shape in json.loads((GOLDEN / "manifests/dit_HYVideo-T-2-cfgdistill.json").read_text()).items()
}
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
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end - missing_bytes)
    return path


def full_size(path: Path, channels: int = 16) -> Path:
    """The official model's header, with these input channels."""
    return header_file(path, {**FULL, "img_in.proj.weight": (3072, channels, 1, 2, 2)})


def gguf_file(path: Path, architecture: str, tensors: dict[str, torch.Tensor]) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("prefix", ["", "model.", "model.model.", "model.diffusion_model.", "diffusion_model."])
def test_a_transformer_is_known_under_every_prefix(tmp_path: Path, prefix: str) -> None:
    shapes = {prefix + REFINER: (3072,), prefix + "img_in.proj.weight": (3072, 16, 1, 2, 2)}
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found == model_files.Found(tmp_path / "x.safetensors", model_files.TRANSFORMER, "text-to-video, width 3072")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({REFINER: (3072,), "img_in.proj.weight": (3072, 33, 1, 2, 2)}, "image-to-video (latent_concat)"),
        ({**WIDE_TRANSFORMER, "double_blocks.0.img_attn_qkv.lora_A.weight": (16, 3072)}, "LoRA"),
        (llama_shapes(128256, "model."), "128,256 tokens"),
    ],
)
def test_a_file_the_loaders_refuse_does_not_count_as_found(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found is not None
    assert not found.usable
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
    monkeypatch.setattr(compiling, "why_not_compile", lambda device: f"no compiler for {device.type}")
    monkeypatch.setattr(fp8, "why_not_fast", lambda _: "")
    assert doctor.report_kernels()
    lines = capsys.readouterr().out.splitlines()
    signs = [line.split()[0] for line in lines]
    assert signs == [doctor.GOOD, doctor.INFO, doctor.BAD, doctor.INFO, doctor.GOOD]
    assert lines[0].endswith("sdpa; auto is sdpa")
    assert lines[1].endswith("not flash2: flash_attn is not installed")
    assert "torch.compile: no compiler for" in lines[3]
    assert lines[4].endswith("fp8_products fast: works")


def test_without_any_kernel_no_video_is_possible(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [attention.Report(name, False, "relative error 1.2", wrong=True) for name in ("sdpa", "flash2")]
    monkeypatch.setattr(attention, "available", lambda *_: wrong)
    monkeypatch.setattr(compiling, "why_not_compile", lambda _: "")
    monkeypatch.setattr(fp8, "why_not_fast", lambda _: "none")
    assert not doctor.report_kernels()
    assert f"{doctor.BAD} not sdpa, flash2: relative error 1.2" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gguf", "triton", "sageattention", "flash_attn", "flash_attn_interface"])
def test_optional_packages_are_listed_with_version_or_as_absent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(doctor, "module_version", lambda module: "9.8.7" if module == name else None)
    doctor.report_software(None)
    said = capsys.readouterr().out
    assert f"{name} 9.8.7" in said
    assert said.count(" absent") == len(doctor.OPTIONAL) - 1


def test_a_modules_version_is_that_of_its_package() -> None:
    assert doctor.module_version("PIL") == doctor.installed_version("pillow")
    assert doctor.module_version("no_such_module") is None
    assert doctor.module_version("tools") == "of unknown version"


@pytest.fixture(scope="module")
def toy_models() -> Path:
    return build.ensure()


@pytest.fixture(scope="module")
def describe() -> model_files.Describe:
    return model_files.loaders()


def test_what_the_loaders_take_is_found(toy_models: Path, describe: model_files.Describe) -> None:
    found = {
        file.path.relative_to(toy_models).as_posix(): file.kind for file in model_files.scan([toy_models], describe)
    }
    assert found[build.TRANSFORMER] == model_files.TRANSFORMER
    assert found[build.VAE] == model_files.VAE


@pytest.mark.parametrize(("name", "kind"), [(build.TRANSFORMER, "transformer"), (build.VAE, "VAE")])
def test_pickles_are_opened_by_the_loaders_and_only_named_without_them(
    tmp_path: Path, toy_models: Path, describe: model_files.Describe, name: str, kind: str
) -> None:
    path = tmp_path / {"transformer": "mp_rank_00_model_states.pt", "VAE": "pytorch_model.pt"}[kind]
    torch.save({"module": load_file(toy_models / name)}, path)
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
    assert not found.usable
    assert "lacks" in found.note


def test_text_models_in_folders_count_once_and_their_shards_not_at_all(
    tmp_path: Path, describe: model_files.Describe
) -> None:
    folder = tmp_path / "llava"
    header_file(folder / "model-00001-of-00002.safetensors", llama_shapes(128320, "model."))
    (folder / "config.json").write_text("{}")
    (found,) = model_files.scan([tmp_path], describe)
    assert found.path == folder
    assert not found.usable
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


def memory_report(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free_gb: float | None,
    ram_gb: float | None = 64,
    found: tuple[model_files.Found, ...] = (),
) -> tuple[bool, list[str]]:
    monkeypatch.setattr(doctor, "free_gpu_bytes", lambda: free_gb and int(free_gb * doctor.GB))
    monkeypatch.setattr(doctor, "ram_bytes", lambda: ram_gb and (int(ram_gb * doctor.GB), 0))
    return doctor.report_memory(found), capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("free_gb", "fits"), [(None, False), (0.4, False), (2.5, False), (3.5, True), (80, True)])
def test_the_memory_is_compared_with_what_the_first_video_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_gb: float | None, fits: bool
) -> None:
    found, lines = memory_report(monkeypatch, capsys, free_gb)
    assert found == fits
    rows = [line.split() for line in lines if "×" in line]
    assert len(rows) == 3 * len(doctor.SIZES)
    if free_gb is None:
        assert "there is no GPU" in lines[0]
        assert all(float(least) <= float(most) for _, _, least, _, most, _ in rows)
        return
    for sign, _, *words in rows:
        assert sign == (doctor.BAD if words[:2] == ["does", "not"] else doctor.GOOD)
        # The need of a size that does not fit is above what is free, the peak of one that does is not.
        assert float(words[-2]) >= free_gb if sign == doctor.BAD else float(words[0]) <= free_gb + 0.05


def test_what_a_size_is_said_to_need_is_enough_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, lines = memory_report(monkeypatch, capsys, 2)
    need = next(line for line in lines if "1280×720×129" in line).split()[-2]
    for offset, sign in ((0.06, doctor.GOOD), (-0.06, doctor.BAD)):
        _, lines = memory_report(monkeypatch, capsys, float(need) + offset)
        assert next(line for line in lines if "1280×720×129" in line).split()[0] == sign


def test_streaming_is_told_as_hidden_or_not_and_needs_ram(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, lines = memory_report(monkeypatch, capsys, 8, ram_gb=16)
    assert lines[2].endswith("rest streams unnoticed")
    assert lines[5].endswith("rest streams slowing it down")
    # 16 GB hold the fp8 file and not the bf16 one.
    assert ["RAM has 16.0 GB" in line for line in lines].count(True) == 1
    for free_gb, ram_gb in ((8, 64), (8, None), (80, 4)):
        assert "RAM has" not in "".join(memory_report(monkeypatch, capsys, free_gb, ram_gb)[1])


def test_the_published_sizes_are_those_of_the_official_file(tmp_path: Path) -> None:
    assert inspect_dit(full_size(tmp_path / "x.safetensors")) == doctor.published("bfloat16", 2)


def test_the_files_that_are_here_are_planned_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, toy_models: Path
) -> None:
    files = [full_size(tmp_path / "big.safetensors"), toy_models / build.TRANSFORMER]
    found = [model_files.Found(file, model_files.TRANSFORMER, "") for file in files]
    refused = model_files.Found(tmp_path / "refused.safetensors", model_files.TRANSFORMER, "", usable=False)
    _, lines = memory_report(monkeypatch, capsys, 80, found=(refused, *found))
    assert "sampling with big.safetensors, 25.6 GB" in lines[1]
    assert f"sampling with {files[1].name}, 0.0 GB" in lines[6]
    assert "published" not in "".join(lines)


# --- layouts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "kind", "usable"),
    [
        ("hunyuan_video_t2v_720p.safetensors", 16, "text-to-video", True),
        ("hunyuan_video_v2_replace_image_to_video_720p.safetensors", 16, "image-to-video (token_replace)", True),
        ("hunyuan_video_image_to_video_720p.safetensors", 33, "image-to-video (latent_concat)", False),
        ("skyreels.safetensors", 32, "SkyReels image-to-video", False),
        ("x.safetensors", 20, "20 input channels", False),
    ],
)
def test_transformers_are_listed_as_what_they_are_for(
    tmp_path: Path, describe: model_files.Describe, name: str, channels: int, kind: str, usable: bool
) -> None:
    found = model_files.recognise(full_size(tmp_path / name, channels), describe)
    assert found is not None
    assert found.kind == model_files.TRANSFORMER
    assert found.usable == usable
    assert kind in found.note


def test_a_diffusers_folder_is_one_transformer(tmp_path: Path, describe: model_files.Describe) -> None:
    folder = save_diffusers(tmp_path / "pipelines" / "HunyuanVideo" / "transformer", golden_weights())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "HunyuanVideoTransformer3DModel"}))
    header_file(folder.parent / "vae" / "x.safetensors", {"decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)})
    for places in ({"folders": [tmp_path / "pipelines"]}, {"folders": [], "pipelines": [tmp_path / "pipelines"]}):
        for loaders in (describe, None):
            (found,) = model_files.scan(describe=loaders, **places)
            assert (found.path, found.kind, found.usable) == (folder, model_files.TRANSFORMER, True)
    next(folder.glob("*-00002-*")).unlink()
    (found,) = model_files.scan([tmp_path / "pipelines"], describe)
    assert not found.usable
    assert "lacks diffusion_pytorch_model-00002-of-00002.safetensors" in found.note


def test_one_diffusers_file_is_a_transformer() -> None:
    names = {"context_embedder.token_refiner.refiner_blocks.0.norm1.weight": (3072,)}
    assert model_files.classify({**names, "x_embedder.proj.weight": (3072, 16, 1, 2, 2)})[::2] == ("transformer", True)


def test_a_gguf_is_told_by_its_architecture_and_the_loaders(
    tmp_path: Path, toy_models: Path, describe: model_files.Describe
) -> None:
    path = gguf_file(tmp_path / "x.gguf", "hyvid", load_file(toy_models / build.TRANSFORMER))
    for loaders in (describe, None):
        found = model_files.recognise(path, loaders)
        assert found is not None
        assert (found.kind, found.usable) == (model_files.TRANSFORMER, True)


@pytest.mark.parametrize(("name", "listed"), [("chat-7b.gguf", False), ("llava-llama-3-8b.gguf", True)])
def test_a_language_model_in_gguf_is_listed_if_its_name_is_ours(
    tmp_path: Path, describe: model_files.Describe, name: str, listed: bool
) -> None:
    path = gguf_file(tmp_path / name, "llama", {"token_embd.weight": torch.zeros(32, 32)})
    found = model_files.recognise(path, describe)
    assert (found is not None) == listed
    assert found is None or (found.kind, found.usable) == (model_files.LLAMA, False)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(200), b"GGUF" + bytes(28) + b"general.architecture"])
def test_a_damaged_gguf_is_named_and_never_raises(
    tmp_path: Path, describe: model_files.Describe, content: bytes
) -> None:
    (tmp_path / "hunyuan.gguf").write_bytes(content)
    for loaders in (describe, None):
        found = model_files.recognise(tmp_path / "hunyuan.gguf", loaders)
        assert found is not None
        assert not found.usable


def test_scaled_fp8_lacks_its_map_or_has_it_and_the_map_is_no_model(
    tmp_path: Path, describe: model_files.Describe
) -> None:
    weights = golden_weights()
    layers = [name.removesuffix(".weight") for name in weights if "_blocks." in name and "linear" in name]
    layers = [layer for layer in layers if f"{layer}.weight" in weights]
    weights |= {f"{layer}.weight": weights[f"{layer}.weight"].to(fp8.FP8) for layer in layers}
    torch.save({"module": weights}, tmp_path / "mp_rank_00_model_states_fp8.pt")
    (found,) = model_files.scan([tmp_path], describe)
    assert not found.usable
    assert "mp_rank_00_model_states_fp8_map.pt, which is not beside it" in found.note
    torch.save({layer: torch.ones(1) for layer in layers}, tmp_path / "mp_rank_00_model_states_fp8_map.pt")
    (found,) = model_files.scan([tmp_path], describe)
    assert (found.kind, found.usable) == (model_files.TRANSFORMER, True)


def test_loras_are_counted_once_each(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b/c.pt", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert model_files.count_loras([tmp_path, tmp_path / "b"]) == 2


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


def test_the_shipped_model_is_found_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.report_demo()
    assert capsys.readouterr().out.count(doctor.GOOD) == len(demo_files.ALL)


@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1", b"\xff" * 300])
def test_a_shipped_file_that_is_missing_or_damaged_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "demo.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(demo_files, "ALL", (demo_files.VAE, path))
    assert not doctor.report_demo()
    good, bad = capsys.readouterr().out.splitlines()[:2]
    assert doctor.GOOD in good
    assert doctor.BAD in bad
    assert ("missing" if content is None else "damaged") in bad


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
    headings = ["ComfyUI", "Software", "Devices", "Kernels", "Model files", "Memory", "Demo model", "Verdict"]
    assert [line for line in done.stdout.splitlines() if line and line[0] != " "] == headings
    assert "Traceback" not in done.stderr
