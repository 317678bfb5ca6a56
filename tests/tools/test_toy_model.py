"""The toy checkpoint: real formats, the same on every machine, readable by ComfyUI's own loaders."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tools import model_files, tensor_file
from tools.client import ComfyClient
from tools.server import NATIVE_WIDTHS
from tools.toy_model import build


@pytest.fixture(scope="module")
def models() -> Path:
    return build.ensure()


def layer(names: tuple[str, ...]) -> torch.nn.Module:
    return torch.nn.ModuleDict({name: torch.nn.Linear(8, 4) for name in names})


def test_weights_depend_on_names_alone() -> None:
    one = build.tensors(layer(("a", "b")), torch.float32)
    torch.rand(3)
    two = build.tensors(layer(("b", "a")), torch.float32)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["a.weight"], one["b.weight"])


def test_a_prefix_is_added_only_where_it_lacks() -> None:
    names = build.tensors(torch.nn.ModuleDict({"model": layer(("a",))}), torch.float32, prefix="model.")
    assert set(names) == {"model.a.weight", "model.a.bias"}
    assert set(build.tensors(layer(("a",)), torch.float32, prefix="model.")) == set(names)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "vae" / "x.safetensors"
    tensor_file.write(path, {"a": torch.ones(2)}, {})
    with pytest.raises(Exception, match=r".+"):
        tensor_file.write(path, {"a": "not a tensor"}, {})
    with safe_open(str(path), "pt") as file:
        assert torch.equal(file.get_tensor("a"), torch.ones(2))


@pytest.mark.parametrize("missing", build.FILES)
def test_the_model_is_current_only_with_every_file(models: Path, tmp_path: Path, missing: str) -> None:
    for name in build.FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name != missing:
            (tmp_path / name).touch()
    (tmp_path / build.STAMP_NAME).write_text(build.recipe())
    assert build.is_current(models)
    assert not build.is_current(tmp_path)


def test_the_transformer_is_recognised_as_text_to_video(models: Path) -> None:
    found = model_files.recognise(models / build.TRANSFORMER)
    assert found is not None
    assert (found.kind, found.note) == (model_files.TRANSFORMER, "text-to-video, width 256")


def test_every_weight_is_finite_and_none_is_constant(models: Path) -> None:
    for name in build.FILES:
        with safe_open(str(models / name), "pt") as file:
            for key in file.keys():  # noqa: SIM118  not a mapping
                tensor = file.get_tensor(key).float()
                assert torch.isfinite(tensor).all(), key
                assert tensor.numel() == 1 or tensor.std() > 0, key


@pytest.mark.server
def test_the_hosts_own_text_and_vae_nodes_run_on_the_toy_files(client: ComfyClient) -> None:
    graph = {
        "1": {"class_type": "DualCLIPLoader", "inputs": {
            "clip_name1": Path(build.CLIP).name, "clip_name2": Path(build.LLAMA).name, "type": "hunyuan_video"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 0], "text": "a cat"}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
        "4": {"class_type": "VAELoader", "inputs": {"vae_name": Path(build.VAE).name}},
        "5": {"class_type": "EmptyHunyuanLatentVideo",
              "inputs": {"width": 64, "height": 48, "length": 5, "batch_size": 1}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["4", 0]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "native"}},
    }  # fmt: skip
    outputs = client.run(graph, timeout_s=120)["outputs"]
    assert "pooled_output" in outputs["3"]["text"][0]
    assert len(outputs["7"]["images"]) == 5


@pytest.fixture
def native_widths(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The helper loaded beside a stand-in for the host."""
    host = types.ModuleType("comfy.sd")
    host.load_text_encoder_state_dicts = lambda state_dicts, **options: options
    host.AutoencoderKL = lambda ddconfig, **_: ddconfig["ch"]

    class VAE:
        def __init__(self, sd: dict) -> None:
            self.width = host.AutoencoderKL(ddconfig={"ch": 128, "z_channels": 16}, embed_dim=16)

    host.VAE = VAE
    package = types.ModuleType("comfy")
    package.sd = host
    monkeypatch.setitem(sys.modules, "comfy", package)
    monkeypatch.setitem(sys.modules, "comfy.sd", host)
    spec = importlib.util.spec_from_file_location("native_widths_under_test", NATIVE_WIDTHS / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_state_dicts(width: int, clip_width: int) -> list[dict[str, torch.Tensor]]:
    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    llama = {
        "model.embed_tokens.weight": empty(128320, width),
        "model.layers.0.mlp.gate_proj.weight": empty(512, width),
        "model.layers.0.self_attn.q_proj.weight": empty(width, width),
        "model.layers.0.self_attn.k_proj.weight": empty(128, width),
        "model.layers.10.self_attn.k_proj.weight": empty(128, width),
    }
    clip = {
        "text_model.embeddings.token_embedding.weight": empty(49408, clip_width),
        "text_model.encoder.layers.0.mlp.fc1.weight": empty(256, clip_width),
    }
    return [clip, llama]


def test_widths_are_read_from_the_files(native_widths: types.ModuleType) -> None:
    options = native_widths.comfy.sd.load_text_encoder_state_dicts(text_state_dicts(256, 128))["model_options"]
    assert options["llama_model_config"] == {
        "vocab_size": 128320,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    assert options["model_config"]["hidden_size"] == 128


def test_files_of_full_width_and_other_models_are_left_alone(native_widths: types.ModuleType) -> None:
    load = native_widths.comfy.sd.load_text_encoder_state_dicts
    assert load(text_state_dicts(4096, 768), embedding_directory="e") == {"embedding_directory": "e"}
    assert load(text_state_dicts(256, 128)[:1]) == {}
    marks = {"decoder.conv_in.conv.weight": torch.empty(1), "decoder.conv_norm_out.weight": torch.empty(128)}
    assert native_widths.comfy.sd.VAE(marks).width == 128
    assert native_widths.comfy.sd.VAE({"decoder.conv_norm_out.weight": torch.empty(32)}).width == 128


def test_the_autoencoder_gets_the_files_width_for_that_file_only(native_widths: types.ModuleType) -> None:
    host = native_widths.comfy.sd
    before = host.AutoencoderKL
    marks = {"decoder.conv_in.conv.weight": torch.empty(1), "decoder.conv_norm_out.weight": torch.empty(32)}
    assert host.VAE(marks).width == 32
    assert host.AutoencoderKL is before
