"""Model files are found if the loaders take them, in every layout, and refused with the loaders' reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dit_data import golden_weights
from model_file_data import WIDE_TRANSFORMER, full_size, gguf_file, header_file, llama_shapes
from safetensors.torch import load_file
from test_weights_layouts import save_diffusers

from hyvideo_core.ops import fp8
from tools import model_files
from tools.toy_model import build


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
    ("name", "channels", "kind", "usable"),
    [
        ("hunyuan_video_t2v_720p.safetensors", 16, "text-to-video", True),
        ("hunyuan_video_v2_replace_image_to_video_720p.safetensors", 16, "image-to-video (token_replace)", True),
        ("hunyuan_video_image_to_video_720p.safetensors", 33, "image-to-video (latent_concat)", True),
        ("skyreels.safetensors", 32, "SkyReels image-to-video", True),
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
