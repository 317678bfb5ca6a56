"""The VAE reproduces the original's numbers: whole, tiled, and block by block."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from golden_data import GOLDEN, assert_close, golden, of_case
from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.vae import VAE, Tiling
from hyvideo_core.vae.blocks import Stage
from hyvideo_core.weights.vae import load_vae

TOLERANCE = {"rel": 2e-5, "max_abs": 1e-4}
CASES, META = golden("vae_cases")
ENCODE = [name for name in META["cases"] if name.startswith("enc/")]
DECODE = [name for name in META["cases"] if name.startswith("dec/")]
TILED_ENCODE = [name for name in META["cases"] if name.startswith("tile_enc/")]
TILED_DECODE = [name for name in META["cases"] if name.startswith("tile_dec/")]


@pytest.fixture(scope="module")
def vae() -> VAE:
    return load_vae(GOLDEN / "vae_weights.safetensors")


def pixels(x_u8: torch.Tensor) -> torch.Tensor:
    return x_u8.float() / 127.5 - 1


def tiling_of(case: str) -> Tiling:
    sizes = META["tiling"]
    return Tiling(
        tile_size_px=sizes["tile_sample_min_size"],
        tile_frames=sizes["tile_sample_min_tsize"],
        overlap=sizes["tile_overlap_factor"],
        spatial=META["cases"][case]["spatial"],
        temporal=META["cases"][case]["temporal"],
    )


@pytest.mark.parametrize("case", ENCODE)
def test_encoding_gives_the_moments_of_the_original(vae: VAE, case: str) -> None:
    data = of_case(CASES, case)
    posterior = vae.encode(pixels(data["x_u8"]))
    assert_close(posterior.moments, data["moments"], **TOLERANCE)
    assert_close(posterior.mode(), data["moments"][:, :16], **TOLERANCE)


@pytest.mark.parametrize("case", DECODE)
def test_decoding_gives_the_pixels_of_the_original(vae: VAE, case: str) -> None:
    data = of_case(CASES, case)
    assert_close(vae.decode(data["z"]), data["sample"], **TOLERANCE)


@pytest.mark.parametrize("case", TILED_ENCODE)
def test_tiled_encoding_cuts_and_fades_as_the_original(vae: VAE, case: str) -> None:
    data = of_case(CASES, case)
    assert_close(vae.encode(pixels(data["x_u8"]), tiling_of(case)).moments, data["moments"], **TOLERANCE)


@pytest.mark.parametrize("case", TILED_DECODE)
def test_tiled_decoding_cuts_and_fades_as_the_original(vae: VAE, case: str) -> None:
    data = of_case(CASES, case)
    assert_close(vae.decode(data["z"], tiling_of(case)), data["sample"], **TOLERANCE)


@torch.no_grad()
def test_every_block_gives_the_activations_of_the_original(vae: VAE) -> None:
    expected, _ = golden("vae_blocks")
    encoder, decoder = vae.encoder, vae.decoder
    found = {}

    def run(name: str, block: nn.Module | Stage, x: torch.Tensor) -> torch.Tensor:
        found[name] = torch.cat(block(list(x.clone().split(2, dim=2))), dim=2)  # blocks use up their input
        return found[name]

    h = run("enc/conv_in", encoder.conv_in, pixels(expected["enc/x_u8"]))
    for i, block in enumerate(encoder.down_blocks):
        h = run(f"enc/down_blocks.{i}", block, h)
    h = run("enc/mid_block", encoder.mid_block, h)
    h = run("enc/encoder_out", encoder.head, h)
    found["enc/moments"] = moments = vae.quant_conv(h)
    h = run("dec/conv_in", decoder.conv_in, vae.post_quant_conv(moments[:, :16]))
    h = run("dec/mid_block", decoder.mid_block, h)
    for i, block in enumerate(decoder.up_blocks):
        h = run(f"dec/up_blocks.{i}", block, h)
    run("dec/sample", decoder.head, h)
    assert found.keys() == expected.keys() - {"enc/x_u8"}
    for name, tensor in found.items():
        assert_close(tensor, expected[name], **TOLERANCE)


def test_the_full_size_model_has_the_official_names_and_shapes() -> None:
    manifest = json.loads((GOLDEN / "manifests/vae_884-16c-hy.json").read_text())
    with torch.device("meta"):
        state = VAE(HUNYUAN_VIDEO_VAE).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == manifest
