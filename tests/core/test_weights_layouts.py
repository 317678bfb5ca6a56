"""Every published layout of the transformer gives the same network, and a file that lies is told apart."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_data import config_of, golden_weights, save
from hypothesis import given
from hypothesis import strategies as st

from golden_data import GOLDEN, assert_close, golden, of_case, rel_l2
from hyvideo_core.configs import HUNYUAN_VIDEO
from hyvideo_core.errors import CheckpointError
from hyvideo_core.model import DiT
from hyvideo_core.ops import Linear, fp8
from hyvideo_core.weights import check_fast_products, detect_dit, inspect_dit, load_dit, set_fast_products
from hyvideo_core.weights.keymaps import diffusers_to_original, host_to_original

Tensors = dict[str, torch.Tensor]
NAMES = json.loads((GOLDEN / "manifests/names_dit.json").read_text())
FULL = json.loads((GOLDEN / "manifests/dit_HYVideo-T-2-cfgdistill.json").read_text())
VARIANTS = json.loads((GOLDEN / "manifests/dit_variants_vs_cfgdistill.json").read_text())
CONFIG = config_of(golden("dit_weights")[1])
CASE = of_case(golden("dit_cases")[0], "b_padded_text")
FP8 = golden("dit_fp8_scaled")[0]
SCALES = {name.removeprefix("map/"): scale for name, scale in FP8.items() if name.startswith("map/")}
#: Names that a plain fp8 file keeps in bf16.
KEPT_HIGH = ("norm", "bias", "time_in", "vector_in", "guidance_in", "txt_in", "img_in")


def velocity(dit: DiT) -> torch.Tensor:
    return dit(CASE["x"], CASE["t"], CASE["text_states"], CASE["text_mask"], CASE["text_states_2"], CASE["guidance"])


def by_block(name: str) -> tuple[str, str]:
    """The name with its block's number as 0, and that number."""
    found = re.match(r"(?:double|single)_blocks\.(\d+)\.", name)
    number = found[1] if found else "0"
    return re.sub(r"^((?:double|single)_blocks)\.\d+", r"\1.0", name), number


def host_name(name: str) -> str:
    generic, number = by_block(name)
    return re.sub(r"^((?:double|single)_blocks)\.0", rf"\1.{number}", NAMES[generic]["comfy"])


def diffusers_parts(name: str) -> list[tuple[str, float, float]]:
    """diffusers' names for an original one, each with the share of the rows where it begins and ends."""
    generic, number = by_block(name)
    parts = NAMES[generic]["diffusers"]
    if isinstance(parts[0][1], str):
        return [(parts[0][0], 0.0, 1.0)]
    rows = parts[-1][2]
    renamed = [re.sub(r"^((?:single_)?transformer_blocks)\.0", rf"\1.{number}", part[0]) for part in parts]
    return [(new, part[1] / rows, part[2] / rows) for new, part in zip(renamed, parts, strict=True)]


def to_diffusers(tensors: Tensors) -> Tensors:
    out = {}
    for name, tensor in tensors.items():
        if name.startswith("final_layer.adaLN_modulation.1."):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        for new, start, stop in diffusers_parts(name):
            out[new] = tensor[round(start * len(tensor)) : round(stop * len(tensor))].contiguous()
    return out


def save_diffusers(folder: Path, tensors: Tensors, shards: int = 2) -> Path:
    """A folder as diffusers saves it."""
    folder.mkdir(parents=True)
    split = to_diffusers(tensors)
    names = sorted(split)
    index = {}
    for number in range(shards):
        file = f"diffusion_pytorch_model-{number + 1:05}-of-{shards:05}.safetensors"
        save(folder / file, {name: split[name] for name in names[number::shards]})
        index |= dict.fromkeys(names[number::shards], file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {"rope_axes_dim": list(CONFIG.rope_dims), "rope_theta": CONFIG.rope_theta}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return velocity(load_dit(GOLDEN / "dit_weights.safetensors", dtype=torch.float32))


# --- names ----------------------------------------------------------------------------------------------------


def test_every_name_of_the_full_model_is_found_from_every_layout() -> None:
    for name in FULL:
        assert host_to_original(host_name(name)) == name
        assert [diffusers_to_original(part) for part, *_ in diffusers_parts(name)] == [
            (name, place) for place in range(len(diffusers_parts(name)))
        ]


# --- diffusers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "transformer"])
def test_a_sharded_diffusers_folder_gives_identical_output(inside: str, tmp_path: Path, expected: torch.Tensor) -> None:
    save_diffusers(tmp_path / "HunyuanVideo" / inside, golden_weights())
    dit = load_dit(tmp_path / "HunyuanVideo", dtype=torch.float32)
    assert dit.config == CONFIG
    assert torch.equal(velocity(dit), expected)


def test_one_diffusers_file_is_read_too(tmp_path: Path, expected: torch.Tensor) -> None:
    path = save(tmp_path / "diffusion_pytorch_model.safetensors", to_diffusers(golden_weights()))
    assert torch.equal(velocity(load_dit(path, dtype=torch.float32)), expected)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = save_diffusers(tmp_path / "transformer", golden_weights())
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks diffusion_pytorch_model-00002-of-00002.safetensors"):
        detect_dit(folder)


@pytest.mark.parametrize("part", ["attn.to_q", "attn.to_k", "proj_mlp"])
def test_a_missing_part_of_a_fused_matrix_is_an_error(part: str, tmp_path: Path) -> None:
    split = to_diffusers(golden_weights())
    del split[f"single_transformer_blocks.0.{part}.weight"]
    path = save(tmp_path / "part.safetensors", split)
    with pytest.raises(CheckpointError, match=r"part.safetensors.*single_blocks\.0\.linear1\.weight"):
        load_dit(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rope_axes_dim": 3, "rope_theta": 256}'])
def test_a_damaged_config_is_named(content: str, tmp_path: Path) -> None:
    folder = save_diffusers(tmp_path / "transformer", golden_weights())
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not the configuration"):
        load_dit(folder)


# --- plain fp8 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["a_full_mask", "b_padded_text"])
def test_a_plain_fp8_file_stays_fp8_and_is_exact(case: str, tmp_path: Path) -> None:
    tensors, _ = golden("dit_head128")
    path = save(tmp_path / "fp8_e4m3fn.safetensors", of_case(tensors, "w"))
    inputs = of_case(tensors, case)
    dit = load_dit(path, dtype=torch.float32)
    assert all(p.dtype == torch.float8_e4m3fn for p in block_weights(dit))
    out = dit(
        inputs["x"],
        inputs["t"],
        inputs["text_states"],
        inputs["text_mask"],
        inputs["text_states_2"],
        inputs["guidance"],
    )
    assert_close(out, inputs["out"], rel=1e-5, max_abs=5e-5)
    assert inspect_dit(path).stored == "float8_e4m3fn"


def block_weights(dit: DiT) -> list[torch.Tensor]:
    blocks = (*dit.double_blocks, *dit.single_blocks)
    return [layer.weight for block in blocks for layer in block.modules() if isinstance(layer, Linear)]


# --- scaled fp8 -----------------------------------------------------------------------------------------------


def official(folder: Path, scales: Tensors | None = SCALES, suffix: str = ".pt", map_name: str = "_map.pt") -> Path:
    """The official pickle with its map beside it."""
    weights = {name: FP8.get("fp8/" + name, tensor) for name, tensor in golden_weights().items()}
    path = folder / f"mp_rank_00_model_states_fp8{suffix}"
    torch.save({"module": weights}, path)
    if scales is not None:
        torch.save(scales, folder / f"mp_rank_00_model_states_fp8{map_name}")
    return path


def hosted(folder: Path, scale_name: str, metadata: dict[str, str] | None = None, marker: bool = True) -> Path:
    """ComfyUI's scaled file, under its own names."""
    tensors = {host_name(name): FP8.get("fp8/" + name, tensor) for name, tensor in golden_weights().items()}
    for layer, scale in SCALES.items():
        host_layer = host_name(layer + ".weight").removesuffix(".weight")
        tensors[f"{host_layer}.{scale_name}"] = scale.reshape(())
        tensors[f"{host_layer}.scale_input"] = torch.ones(())
    if marker:
        tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    return save(folder / "fp8_scaled.safetensors", prefixed, metadata)


LAYERS = json.dumps({"layers": {"double_blocks.0.img_attn.qkv": {"format": "float8_e4m3fn"}}})
SCALED_LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "official": official,
    "official with a safetensors map": lambda folder: with_safetensors_map(folder),
    "host, old names": lambda folder: hosted(folder, "scale_weight"),
    "host, new names": lambda folder: hosted(folder, "weight_scale", {"_quantization_metadata": LAYERS}, False),
}


def with_safetensors_map(folder: Path) -> Path:
    path = official(folder, None)
    save(folder / "fp8_map.safetensors", SCALES)
    return path


@pytest.mark.parametrize("layout", SCALED_LAYOUTS)
def test_scaled_fp8_gives_the_original_output_and_stays_fp8(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = SCALED_LAYOUTS[layout](tmp_path)
    dit = load_dit(path, dtype=torch.float32)
    assert all(p.dtype == torch.float8_e4m3fn for p in block_weights(dit))
    assert_close(velocity(dit), FP8["out"], rel=1e-5, max_abs=5e-5)
    assert torch.equal(velocity(load_dit(path, dtype=torch.float32, storage="plain")), velocity(dit))
    assert inspect_dit(path).stored == "scaled float8_e4m3fn"
    assert "found no home" not in caplog.text


def test_scales_for_each_row_are_read(tmp_path: Path) -> None:
    name = "double_blocks.0.img_attn_qkv"
    packed = fp8.quantized(golden_weights()[name + ".weight"])
    assert packed.scale is not None
    tensors = golden_weights() | {name + ".weight": packed.data, name + ".weight_scale": packed.scale.flatten()}
    dit = load_dit(save(tmp_path / "rows.safetensors", tensors), dtype=torch.float32)
    layer = dit.double_blocks[0].img_attn_qkv
    assert torch.equal(layer.stored.dense(torch.float32), packed.dense(torch.float32))


def test_an_official_fp8_file_without_its_map_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_states_fp8\.pt holds scaled fp8.*model_states_fp8_map\.pt"):
        load_dit(official(tmp_path, None))


WRONG_MAPS: dict[str, Tensors] = {
    "empty": {},
    "of another model": {f"blocks.{i}": torch.ones(1) for i in range(9)},
    "incomplete": {name: SCALES[name] for name in sorted(SCALES)[1:]},
    "not scales": {name: torch.ones(3) for name in SCALES},
    "weights instead": golden_weights(),
}


@pytest.mark.parametrize("kind", WRONG_MAPS)
def test_a_wrong_map_is_an_error(kind: str, tmp_path: Path) -> None:
    if kind == "empty":
        torch.save({"unrelated": 1}, tmp_path / "mp_rank_00_model_states_fp8_map.pt")
        path = official(tmp_path, None)
    else:
        path = official(tmp_path, WRONG_MAPS[kind])
    with pytest.raises(CheckpointError, match=r"fp8_map\.pt"):
        load_dit(path)


def test_scales_without_weights_are_an_error(tmp_path: Path) -> None:
    tensors = golden_weights() | {"double_blocks.7.img_attn_qkv.scale_weight": torch.ones(())}
    with pytest.raises(CheckpointError, match=r"scales for 1 weights.*double_blocks\.7"):
        load_dit(save(tmp_path / "odd.safetensors", tensors))


def test_a_scale_of_another_granularity_is_an_error(tmp_path: Path) -> None:
    tensors = golden_weights() | {"double_blocks.0.img_attn_qkv.weight_scale": torch.ones(216, 3)}
    with pytest.raises(CheckpointError, match=r"scale of double_blocks\.0.*\[216, 3\]"):
        load_dit(save(tmp_path / "blockwise.safetensors", tensors))


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp8", "int8_tensorwise"])
@pytest.mark.parametrize("where", ["metadata", "tensor"])
def test_other_quantised_formats_are_named(kind: str, where: str, tmp_path: Path) -> None:
    layer = "double_blocks.0.img_attn_qkv"
    if where == "metadata":
        stated = {"_quantization_metadata": json.dumps({"layers": {layer: {"format": kind}}})}
        path = save(tmp_path / "quant.safetensors", golden_weights(), stated)
    else:
        described = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
        path = save(tmp_path / "quant.safetensors", golden_weights() | {f"{layer}.comfy_quant": described})
    with pytest.raises(CheckpointError, match=rf"quant\.safetensors is quantised as {kind}.*bf16"):
        load_dit(path)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"layers": 3}', '{"layers": {"a": 1}}', '{"layers": {"a": {}}}'])
def test_damaged_descriptions_of_formats_are_errors(text: str, tmp_path: Path) -> None:
    path = save(tmp_path / "quant.safetensors", golden_weights(), {"_quantization_metadata": text})
    with pytest.raises(CheckpointError, match=r"quant\.safetensors describes its quantisation"):
        load_dit(path)


# --- quantised while loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("storage", "scale_shape"), [("fp8", (216, 1)), ("fp8_tensor", ())])
def test_block_weights_are_quantised_on_load_and_the_rest_stays(
    storage: str, scale_shape: tuple[int, ...], expected: torch.Tensor
) -> None:
    dit = load_dit(GOLDEN / "dit_weights.safetensors", dtype=torch.float32, storage=storage)
    assert {p.dtype for p in block_weights(dit)} == {torch.float8_e4m3fn}
    assert dit.double_blocks[0].img_attn_qkv.weight_scale.shape == scale_shape
    others = [p.dtype for name, p in dit.named_parameters() if "blocks." not in name or "txt_in" in name]
    assert set(others) == {torch.float32}
    assert 0 < rel_l2(velocity(dit), expected) < 0.05


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 1e5]))
def test_fp8_rows_keep_their_precision_whatever_their_size(rows: int, columns: int, seed: int, size: float) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    weight *= torch.logspace(-3, 3, rows)[:, None]
    back = fp8.quantized(weight).dense(torch.float32)
    # e4m3 has three bits of mantissa, so half a step is a sixteenth; below its normal range half a step is 2⁻¹⁰.
    bound = weight.abs() / 16 + weight.abs().amax(dim=1, keepdim=True) / 448 * 2**-10 * 1.001
    assert bool(((back - weight).abs() <= bound).all())


def test_a_row_of_zeros_stays_zero() -> None:
    assert torch.equal(fp8.quantized(torch.zeros(3, 4)).dense(torch.float32), torch.zeros(3, 4))


def test_an_unknown_storage_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"storage is 'int4'.*auto"):
        load_dit(GOLDEN / "dit_weights.safetensors", storage="int4")


def test_the_fast_product_is_close_to_the_exact_one() -> None:
    if reason := fp8.why_not_fast(torch.device("cpu")):
        pytest.skip(reason)
    layer = Linear(64, 48).bfloat16().requires_grad_(False)
    x = torch.randn(2, 7, 64, dtype=torch.bfloat16)
    layer.store(fp8.quantized(layer.weight))
    exact = layer(x)
    layer.fast = True
    assert 0 < rel_l2(layer(x), exact) < 0.06
    assert torch.equal(layer.rows(x, 16, 48), layer(x)[..., 16:48])


@pytest.mark.parametrize("refused", ["float32 with a bias", "float32"])
def test_the_fast_product_is_tried_in_the_dtype_and_with_the_bias_that_will_run(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards give float32 only without a bias, or not at all."""
    real = torch._scaled_mm

    def card(*matrices: torch.Tensor, bias: torch.Tensor | None, out_dtype: torch.dtype, **scales: Any) -> torch.Tensor:
        if out_dtype == torch.float32 and (bias is not None or refused == "float32"):
            raise RuntimeError(f"Bias is not supported when out_dtype is {out_dtype}")
        return real(*matrices, bias=bias, out_dtype=out_dtype, **scales)

    monkeypatch.setattr(torch, "_scaled_mm", card)
    device = torch.device("cpu")
    if reason := fp8.why_not_fast(device):
        pytest.skip(reason)
    assert "in torch.float32 (Bias is not supported" in fp8.why_not_fast(device, torch.float32)


def test_fast_products_of_e5m2_are_refused_by_that_name_from_the_header_and_after(tmp_path: Path) -> None:
    weights, _ = golden("dit_weights")
    packed = {k: v.to(torch.float8_e5m2) if "blocks" in k and v.ndim == 2 else v for k, v in weights.items()}
    path = save(tmp_path / "e5m2.safetensors", packed)
    found = inspect_dit(path)
    with pytest.raises(ValueError, match=r"but those of this model are float8_e5m2\. Choose storage fp8"):
        check_fast_products(found, "auto")
    with pytest.raises(ValueError, match=r"but those of this model are float8_e5m2\. Choose storage fp8"):
        set_fast_products(load_dit(path), True)
    with pytest.raises(ValueError, match="are unpacked when"):
        check_fast_products(found, "plain")
    check_fast_products(found, "fp8")
    set_fast_products(load_dit(path, storage="fp8"), True)


# --- full-size files, by their headers alone --------------------------------------------------------------------


def header_only(path: Path, entries: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None = None) -> Path:
    """A sparse safetensors file of the real size, with a real header and nothing in it."""
    sizes = {"BF16": 2, "F32": 4, "F8_E4M3": 1}
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in entries.items():
        size = sizes[dtype] * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
    return path


def full_names(variant: str | None = None) -> dict[str, list[int]]:
    change = VARIANTS[variant] if variant else {"removed": [], "changed": {}, "added": {}}
    return {k: v for k, v in (FULL | change["changed"] | change["added"]).items() if k not in change["removed"]}


def plain_fp8(name: str) -> str:
    return "BF16" if any(part in name for part in KEPT_HIGH) else "F8_E4M3"


def diffusers_entries(names: dict[str, list[int]]) -> dict[str, tuple[str, list[int]]]:
    return {
        part: ("BF16", [round((stop - start) * shape[0]), *shape[1:]])
        for name, shape in names.items()
        for part, start, stop in diffusers_parts(name)
    }


FULL_LAYOUTS: dict[str, Callable[[], dict[str, tuple[str, list[int]]]]] = {
    "original bf16": lambda: {k: ("BF16", v) for k, v in FULL.items()},
    "host names, prefixed": lambda: {f"model.model.{host_name(k)}": ("BF16", v) for k, v in FULL.items()},
    "plain fp8": lambda: {k: (plain_fp8(k), v) for k, v in FULL.items()},
    "host scaled fp8": lambda: {
        **{host_name(k): (plain_fp8(k), v) for k, v in FULL.items()},
        **{host_name(k).replace("weight", "scale_weight"): ("F32", [1]) for k in FULL if plain_fp8(k) == "F8_E4M3"},
    },
    "diffusers": lambda: diffusers_entries(FULL),
}


@pytest.mark.parametrize("layout", FULL_LAYOUTS)
def test_the_full_model_is_recognised_from_its_header(layout: str, tmp_path: Path) -> None:
    path = header_only(tmp_path / "full.safetensors", FULL_LAYOUTS[layout]())
    found = inspect_dit(path)
    assert found.config == HUNYUAN_VIDEO
    assert found.parameters == 12_821_012_544
    assert len(found.block_bytes) == 60
    fp8_bytes = "fp8" in layout
    # MODEL.md: a double block takes 680 MB and a single one 283 MB in bf16.
    assert found.block_bytes[0] == pytest.approx(680e6 / (2 if fp8_bytes else 1), rel=0.01)
    assert found.block_bytes[-1] == pytest.approx(283e6 / (2 if fp8_bytes else 1), rel=0.01)
    assert ("float8" in found.stored) == fp8_bytes


@pytest.mark.parametrize(("variant", "kind"), [(name, name.split(" (")[0]) for name in VARIANTS])
def test_every_variant_of_the_full_model_is_told_apart(variant: str, kind: str, tmp_path: Path) -> None:
    path = header_only(tmp_path / "full.safetensors", {k: ("BF16", v) for k, v in full_names(variant).items()})
    found = inspect_dit(path)
    assert found.parameters == VARIANTS[variant]["parameters"]
    assert found.config.guidance_embed == ("no guidance" not in variant)
    line = found.describe()
    expected = {"I2V latent_concat": "image-to-video", "SkyReels style I2V": "SkyReels"}.get(kind, "text-to-video")
    assert expected in line
    assert f"{found.parameters:,}" in line
