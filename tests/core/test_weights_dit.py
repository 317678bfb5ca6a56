"""A transformer is loaded the same from every layout, and anything else is told apart by name."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_data import config_of, golden_weights, save

from golden_data import GOLDEN, golden, of_case
from hyvideo_core.errors import CheckpointError
from hyvideo_core.model import DiT
from hyvideo_core.weights import describe_dit, detect_dit, inspect_dit, load_dit, parameter_count
from hyvideo_core.weights.keymaps import PREFIXES, host_to_original

NAMES = json.loads((GOLDEN / "manifests/names_dit.json").read_text())
CONFIG = config_of(golden("dit_weights")[1])
CASE = of_case(golden("dit_cases")[0], "b_padded_text")

Tensors = dict[str, torch.Tensor]


def velocity(dit: DiT) -> torch.Tensor:
    return dit(CASE["x"], CASE["t"], CASE["text_states"], CASE["text_mask"], CASE["text_states_2"], CASE["guidance"])


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return velocity(load_dit(GOLDEN / "dit_weights.safetensors", dtype=torch.float32))


def host_name(name: str) -> str:
    """ComfyUI's name, by the manifest of block 0."""
    found = re.search(r"^(?:double|single)_blocks\.(\d+)\.", name)
    number = found[1] if found else "0"
    template = NAMES[re.sub(r"^((?:double|single)_blocks)\.\d+", r"\1.0", name)]["comfy"]
    return re.sub(r"^((?:double|single)_blocks)\.0", rf"\1.{number}", template)


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


# --- layouts ------------------------------------------------------------------------------------------------


def test_the_known_prefixes_are_those_of_the_files_people_have() -> None:
    assert {"", "model.", "model.model.", "model.diffusion_model.", "diffusion_model."} <= set(PREFIXES)


@pytest.mark.parametrize("host", [False, True], ids=["original names", "host names"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_and_naming_gives_identical_output(
    prefix: str, host: bool, tmp_path: Path, expected: torch.Tensor
) -> None:
    tensors = {host_name(k): v for k, v in golden_weights().items()} if host else golden_weights()
    assert host == ("double_blocks.1.txt_attn.norm.key_norm.weight" in tensors)
    path = save(tmp_path / "model.safetensors", prefixed(prefix, tensors))
    assert detect_dit(path) == CONFIG
    assert torch.equal(velocity(load_dit(path, dtype=torch.float32)), expected)


def test_every_host_name_of_the_full_model_maps_back() -> None:
    names = json.loads((GOLDEN / "manifests/dit_HYVideo-T-2-cfgdistill.json").read_text())
    assert len(names) == 856
    for name in names:
        assert host_to_original(host_name(name)) == name
        assert host_to_original(name) == name


def test_comfyuis_norms_may_be_called_scale() -> None:
    assert host_to_original("double_blocks.3.img_attn.norm.key_norm.scale") == "double_blocks.3.img_attn_k_norm.weight"
    assert host_to_original("single_blocks.3.norm.key_norm.scale") == "single_blocks.3.k_norm.weight"


@pytest.mark.parametrize("nested", [("module",), ("state_dict",), ("model",), ("ema",), (), ("state_dict", "module")])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_pickles_are_read_through_their_nesting(
    nested: tuple[str, ...], suffix: str, tmp_path: Path, expected: torch.Tensor
) -> None:
    content: Any = golden_weights()
    for key in reversed(nested):
        content = {key: content, "step": 7}
    path = tmp_path / f"mp_rank_00_model_states{suffix}"
    torch.save(content, path)
    assert torch.equal(velocity(load_dit(path, dtype=torch.float32)), expected)


def test_old_pickles_are_read_too(tmp_path: Path, expected: torch.Tensor) -> None:
    path = tmp_path / "old.pt"
    torch.save(golden_weights(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(velocity(load_dit(path, dtype=torch.float32)), expected)


def test_names_with_unicode_and_spaces_are_fine(tmp_path: Path, expected: torch.Tensor) -> None:
    folder = tmp_path / "модели и 模型"
    folder.mkdir()
    path = save(folder / "Hunyuan vidéo ☂ (1).SAFETENSORS", golden_weights())
    assert torch.equal(velocity(load_dit(str(path), dtype=torch.float32)), expected)


# --- dtypes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_in_the_asked_dtype_but_the_final_projection_in_float32(
    stored: torch.dtype, dtype: torch.dtype, tmp_path: Path
) -> None:
    path = save(tmp_path / "model.safetensors", {k: v.to(stored) for k, v in golden_weights().items()})
    dit = load_dit(path, dtype=dtype)
    for name, parameter in dit.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith("final_layer.linear.") else dtype), name
        assert not parameter.requires_grad
    assert not dit.training
    assert dit.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int8])
def test_a_dtype_this_model_cannot_compute_in_is_refused_with_the_reason(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"{dtype}.*black frames.*bfloat16 or float32"):
        load_dit(GOLDEN / "dit_weights.safetensors", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_integer_weights_are_refused_not_cast(dtype: torch.dtype, tmp_path: Path) -> None:
    name = "double_blocks.0.img_attn_proj.weight"
    path = save(tmp_path / "int8.safetensors", golden_weights() | {name: golden_weights()[name].to(dtype)})
    with pytest.raises(CheckpointError, match=f"int8.safetensors: {re.escape(name)} holds {dtype}"):
        load_dit(path)


# --- incomplete, changed, surplus ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(golden_weights()))
def test_whichever_tensor_is_missing_is_named(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "part.safetensors", {k: v for k, v in golden_weights().items() if k != name})
    with pytest.raises(CheckpointError, match=f"part.safetensors.* lacks .*{re.escape(name)}"):
        load_dit(path)


def test_a_shard_is_told_to_be_one(tmp_path: Path) -> None:
    without_blocks = {k: v for k, v in golden_weights().items() if not k.startswith("double_blocks.")}
    path = save(tmp_path / "model-00002.safetensors", without_blocks)
    with pytest.raises(CheckpointError, match=r"lacks double_blocks.0.*shard"):
        load_dit(path)


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    changed = golden_weights() | {"single_blocks.1.linear2.bias": torch.zeros(73)}
    path = save(tmp_path / "wide.safetensors", changed)
    with pytest.raises(CheckpointError, match=r"wide.safetensors: single_blocks.1.linear2.bias .*\[73\].*\[72\]"):
        load_dit(path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("img_in.proj.weight", (72, 16)),
        ("img_in.proj.weight", (72,)),
        ("double_blocks.0.img_attn_q_norm.weight", (0,)),
        ("double_blocks.0.img_attn_q_norm.weight", (25,)),
        ("double_blocks.0.img_attn_q_norm.weight", ()),
        ("txt_in.input_embedder.weight", (72,)),
    ],
)
def test_shapes_that_make_no_sense_are_a_checkpoint_error(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = save(tmp_path / "odd.safetensors", golden_weights() | {name: torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
        load_dit(path)


def test_tensors_without_a_home_are_named_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, expected: torch.Tensor
) -> None:
    junk = {"double_blocks.0.img_atn_qkv.weight": torch.zeros(1), "optimizer.step": torch.zeros(1)}
    path = save(tmp_path / "junk.safetensors", golden_weights() | junk)
    with caplog.at_level(logging.WARNING):
        dit = load_dit(path, dtype=torch.float32)
    assert torch.equal(velocity(dit), expected)
    [record] = caplog.records
    message = record.getMessage()
    assert "junk.safetensors: 2 tensors" in message
    assert all(name in message for name in junk)


def test_a_clean_file_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    load_dit(GOLDEN / "dit_weights.safetensors")
    assert caplog.records == []


# --- other models -------------------------------------------------------------------------------------------

LORA_KOHYA = {
    f"lora_unet_double_blocks_0_img_mlp_fc1.{part}.weight": torch.zeros(2, 2) for part in ("lora_down", "lora_up")
}
LORA_EVERYWHERE = {
    f"diffusion_model.{name.removesuffix('.weight')}.{part}.weight": torch.zeros(2, 2)
    for name in golden_weights()
    if name.endswith(".weight")
    for part in ("lora_A", "lora_B")
}


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        (LORA_KOHYA, "a LoRA"),
        (LORA_EVERYWHERE, "a LoRA"),
        ({"decoder.conv_norm_out.weight": torch.zeros(1)}, "a VAE"),
        ({"first_stage_model.decoder.mid.block_1.norm1.weight": torch.zeros(1)}, "a VAE"),
        ({"text_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(1)}, "a CLIP text encoder"),
        ({"model.layers.0.self_attn.q_proj.weight": torch.zeros(1)}, "a language model"),
        ({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, "a Flux-style transformer"),
        ({"weight": torch.zeros(1)}, "an unknown kind of model"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_another_model_in_the_transformer_slot_is_told_apart(
    tensors: Tensors, kind: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"chosen{suffix}"
    save(path, tensors) if suffix == ".safetensors" else torch.save(tensors, path)
    for function in (load_dit, detect_dit, describe_dit):
        with pytest.raises(CheckpointError, match=f"chosen.* is {kind}.*, but a HunyuanVideo transformer"):
            function(path)


def test_the_vae_of_this_very_model_is_told_apart() -> None:
    with pytest.raises(CheckpointError, match=r"vae_weights.safetensors is a VAE, but a HunyuanVideo transformer"):
        load_dit(GOLDEN / "vae_weights.safetensors")


def test_a_file_is_described_in_one_line() -> None:
    path = GOLDEN / "dit_weights.safetensors"
    count = sum(tensor.numel() for tensor in golden_weights().values())
    assert parameter_count(path) == count
    line = describe_dit(path)
    assert "image-to-video (token_replace)" in inspect_dit(path).describe("image-to-video (token_replace)")
    assert all(word in line for word in ("text-to-video", "2+3 blocks", f"{count:,}", "guidance-distilled"))
    assert "\n" not in line
