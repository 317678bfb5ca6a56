"""The two layouts of one file name, any prefix, and files that are something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from golden_data import GOLDEN, golden
from hyvideo_core.configs import HUNYUAN_VIDEO_VAE, VAEConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.weights.files import Checkpoint
from hyvideo_core.weights.vae import detect_config, host_name, inspect_vae, load_vae

WEIGHTS, META = golden("vae_weights")
METADATA = {"config": json.dumps(META["config"])}
PREFIXES = ["", "vae.", "first_stage_model."]
LATENT = torch.linspace(-2, 2, 16 * 2 * 2 * 3).view(1, 16, 2, 2, 3)


def host_layout(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def as_stored(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:, :, None, None, None] if ".to_" in name and tensor.ndim == 2 else tensor

    return {host_name(name): as_stored(name, tensor).contiguous() for name, tensor in weights.items()}


def saved(path: Path, tensors: dict[str, torch.Tensor], prefix: str = "", config: bool = True) -> Path:
    file = path / "hunyuan_video_vae_bf16.safetensors"
    save_file({prefix + k: v for k, v in tensors.items()}, file, METADATA if config else None)
    return file


def test_the_rule_for_host_names_gives_the_whole_manifest() -> None:
    manifest = json.loads((GOLDEN / "manifests/names_vae_to_comfy.json").read_text())
    expected = {name: host if isinstance(host, str) else host[0] for name, host in manifest.items()}
    assert {name: host_name(name) for name in manifest} == expected


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", [dict, host_layout])
def test_every_layout_and_prefix_gives_the_same_video(tmp_path: Path, layout: type, prefix: str) -> None:
    expected = load_vae(GOLDEN / "vae_weights.safetensors").decode(LATENT)
    file = saved(tmp_path, layout(WEIGHTS), prefix)
    vae = load_vae(file)
    assert torch.equal(vae.decode(LATENT), expected)
    assert inspect_vae(file) == vae.config


def test_the_official_pickle_with_its_nesting_loads_too(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.pt"
    torch.save({"state_dict": {"vae." + k: v for k, v in WEIGHTS.items()}}, file)
    config = load_vae(GOLDEN / "vae_weights.safetensors").config
    assert torch.equal(
        load_vae(file, config=config).decode(LATENT), load_vae(GOLDEN / "vae_weights.safetensors").decode(LATENT)
    )


def test_the_configuration_is_read_off_shapes_and_metadata(tmp_path: Path) -> None:
    expected = VAEConfig(block_out_channels=(16, 16, 32, 32), norm_groups=4)
    assert load_vae(saved(tmp_path, WEIGHTS)).config == expected
    assert load_vae(saved(tmp_path, host_layout(WEIGHTS), config=False)).config == expected


def test_the_full_size_configuration_is_read_off_its_manifest() -> None:
    shapes = json.loads((GOLDEN / "manifests/vae_884-16c-hy.json").read_text())
    checkpoint = Checkpoint(Path("vae.pt"), {k: tuple(v) for k, v in shapes.items()}, {})
    assert detect_config(checkpoint, prefix="", is_host=False) == HUNYUAN_VIDEO_VAE


def test_stated_groups_and_scale_win_over_the_guess(tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    save_file(WEIGHTS, file, {"config": json.dumps({"norm_num_groups": 8, "scaling_factor": 0.5})})
    vae = load_vae(file)
    assert vae.config.norm_groups == 8
    assert vae.scaling_factor == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_have_the_wanted_dtype_and_no_gradients(dtype: torch.dtype) -> None:
    vae = load_vae(GOLDEN / "vae_weights.safetensors", dtype=dtype)
    assert {p.dtype for p in vae.parameters()} == {dtype}
    assert not any(p.requires_grad for p in vae.parameters())


OTHER_FILES = {
    "transformer": ({"txt_in.individual_token_refiner.blocks.0.norm1.weight": torch.ones(4)}, "transformer"),
    "lora": ({"lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight": torch.ones(4, 4)}, "a LoRA"),
    "image vae, diffusers": (
        {"decoder.conv_norm_out.weight": torch.ones(4), "decoder.conv_in.weight": torch.ones(4, 4, 3, 3)},
        "a VAE for images",
    ),
    "image vae, original": (
        {
            "first_stage_model.decoder.mid.block_1.norm1.weight": torch.ones(4),
            "first_stage_model.decoder.conv_in.weight": torch.ones(4, 4, 3, 3),
        },
        "a VAE for images",
    ),
    "nothing known": ({"x": torch.ones(1)}, "unknown"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_another_kind_of_file_is_named_and_the_remedy_given(tmp_path: Path, kind: str) -> None:
    tensors, found = OTHER_FILES[kind]
    with pytest.raises(CheckpointError, match=f"{found}.*HunyuanVideo VAE was expected.*models/vae"):
        load_vae(saved(tmp_path, tensors, config=False))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    broken = {k: v for k, v in WEIGHTS.items() if k != "decoder.conv_out.conv.bias"}
    with pytest.raises(CheckpointError, match=r"lacks 1 of 244 tensors.*decoder\.conv_out\.conv\.bias"):
        load_vae(saved(tmp_path, broken))


def test_a_decoder_without_its_encoder_is_named(tmp_path: Path) -> None:
    decoder = {k: v for k, v in WEIGHTS.items() if k.startswith("decoder.")}
    with pytest.raises(CheckpointError, match="incomplete or holds the decoder alone"):
        load_vae(saved(tmp_path, decoder))


def test_three_levels_are_refused(tmp_path: Path) -> None:
    fewer = {k: v for k, v in WEIGHTS.items() if "blocks.3" not in k}
    with pytest.raises(CheckpointError, match=r"3 levels of resolution.*needs 4"):
        load_vae(saved(tmp_path, fewer))


def test_metadata_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    save_file(WEIGHTS, file, {"config": "[1]"})
    with pytest.raises(CheckpointError, match="'config' is not a JSON object"):
        load_vae(file)
