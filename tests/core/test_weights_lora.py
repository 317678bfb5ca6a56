"""A LoRA means the same in every format it is written in, and whatever cannot be applied is refused by name."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_data import TINY, golden_weights, randn, random_dit, save
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import GOLDEN, golden, of_case, rel_l2
from hyvideo_core.errors import CheckpointError
from hyvideo_core.model import DiT
from hyvideo_core.ops import Linear, Stored, fp8
from hyvideo_core.weights import load_dit
from hyvideo_core.weights.files import Checkpoint, SafetensorsCheckpoint
from hyvideo_core.weights.lora import Lora, lora_bytes, lora_shapes, merge, parse_blocks
from hyvideo_core.weights.lora_file import LoraFile, parse, read_lora
from hyvideo_core.weights.lora_names import PREFIXES, Home, find_home, homes

Tensors = dict[str, torch.Tensor]

CASE = of_case(golden("dit_cases")[0], "b_padded_text")
EXPECTED, META = golden("lora/expected")
FILES = sorted(path for path in (GOLDEN / "lora").glob("*.safetensors") if path.stem != "expected")
NAMES = json.loads((GOLDEN / "manifests/names_dit.json").read_text())
FULL = json.loads((GOLDEN / "manifests/dit_HYVideo-T-2-cfgdistill.json").read_text())
SHAPES = lora_shapes(random_dit())
LAYER = "double_blocks.0.img_mlp.fc1"
ROWS, COLUMNS = SHAPES[LAYER]


class InMemory(Checkpoint):
    """A checkpoint of tensors at hand."""

    def __init__(self, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
        super().__init__(Path("some_lora.safetensors"), {k: tuple(t.shape) for k, t in tensors.items()}, metadata or {})
        self.tensors = tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]


def read(tensors: Tensors, metadata: dict[str, str] | None = None) -> LoraFile:
    return parse(InMemory(tensors, metadata), SHAPES)


def pair(layer: str = LAYER, rank: int = 2, **parts: torch.Tensor) -> Tensors:
    """A whole term in original names; ``parts`` replace or add tensors by role."""
    rows, columns = SHAPES.get(layer, (ROWS, COLUMNS))[:2]
    tensors = {"lora_A.weight": randn(rank, columns), "lora_B.weight": randn(rows, rank, seed=1)}
    return {f"transformer.{layer}.{role}": tensor for role, tensor in (tensors | parts).items()}


def expected_of(path: Path) -> torch.Tensor:
    return EXPECTED["out_diffusers_partial" if "partial" in path.stem else "out_fused"]


def velocity(dit: DiT) -> torch.Tensor:
    return dit(CASE["x"], CASE["t"], CASE["text_states"], CASE["text_mask"], CASE["text_states_2"], CASE["guidance"])


def golden_dit() -> DiT:
    return load_dit(GOLDEN / "dit_weights.safetensors", dtype=torch.float32)


# --- formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_merged_it_gives_the_reference_output(path: Path) -> None:
    dit = golden_dit()
    plain = velocity(dit)
    merge(dit, [Lora(path, META["strength"])])
    assert rel_l2(velocity(dit), expected_of(path)) <= 1e-5
    assert rel_l2(plain, expected_of(path)) > 1e-3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_of_the_reference_files_has_a_home(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_lora(path, lora_shapes(golden_dit())).unmatched == ()
    assert caplog.records == []


def other_names(module: str, column: str) -> Any:
    """The manifest's names of a weight: ComfyUI's, or diffusers' with their rows."""
    number = re.search(r"(?<=_blocks\.)\d+", module)
    template = re.sub(r"(?<=_blocks\.)\d+", "0", module)
    found = json.dumps(NAMES[template + ".weight"][column]).replace(".weight", "")
    return json.loads(re.sub(r"(?<=_blocks\.)0", number[0] if number else "0", found))


FULL_SHAPES = {
    name.removesuffix(".weight"): tuple(shape)
    for name, shape in FULL.items()
    if name.endswith(".weight") and "norm" not in name.split(".")[-2]
}


def test_every_name_of_the_full_model_in_every_layout_is_known_and_means_its_own_rows() -> None:
    assert len(FULL_SHAPES) == 20 * 10 + 40 * 3 + 2 * 5 + 14
    table = homes(FULL_SHAPES)
    for module, shape in FULL_SHAPES.items():
        for name in (module, other_names(module, "comfy")):
            assert find_home(name, table) == Home(module, 0, shape[0])
        for name, first, *end in other_names(module, "diffusers"):
            rows = (first, end[0] - first) if end else (shape[0] // 2, shape[0])
            assert find_home(name, table) == Home(module, *rows)


def test_no_name_means_two_things_with_underscores_for_dots_and_any_prefix() -> None:
    table = homes(FULL_SHAPES)
    assert len(table) == sum(len(homes({module: shape})) for module, shape in FULL_SHAPES.items())
    for prefix in PREFIXES:
        for name, home in table.items():
            assert find_home(prefix + name, table) == home


@pytest.mark.parametrize("name", ["double_blocks_20_img_mlp_fc1", "blocks_0_attn_to_q", "img_mlp_fc1", "", "model_"])
def test_other_names_have_no_home(name: str) -> None:
    assert find_home(name, homes(FULL_SHAPES)) is None


def kohya(prefix: str, layer: str) -> tuple[str, str, str]:
    start = prefix + layer.replace(".", "_")
    return f"{start}.lora_down.weight", f"{start}.lora_up.weight", f"{start}.alpha"


def dotted(prefix: str, layer: str, names: tuple[str, str]) -> tuple[str, str, str]:
    return f"{prefix}{layer}.{names[0]}", f"{prefix}{layer}.{names[1]}", f"{prefix}{layer}.alpha"


AB = ("lora_A.weight", "lora_B.weight")
STYLES = {
    "musubi": lambda layer: kohya("lora_unet_", layer),
    "tencent": lambda layer: kohya("Hunyuan_video_I2V_lora_", layer),
    "onetrainer": lambda layer: kohya("lora_transformer_", layer),
    "transformer": lambda layer: dotted("transformer.", layer, AB),
    "diffusion_model": lambda layer: dotted("diffusion_model.", layer, AB),
    "peft": lambda layer: dotted("base_model.model.", layer, ("lora_A.default.weight", "lora_B.default.weight")),
    "nested": lambda layer: dotted("model.diffusion_model.", layer, ("lora_down.weight", "lora_up.weight")),
    "bare": lambda layer: dotted("", layer, ("lora.down.weight", "lora.up.weight")),
}


def written(terms: dict[str, tuple[torch.Tensor, torch.Tensor, float | None]], naming: str, style: str) -> Tensors:
    """A LoRA file's tensors: terms by module under original, ComfyUI or diffusers names in one of the key styles."""
    tensors: Tensors = {}
    for module, (down, up, alpha) in terms.items():
        names = [(module, up)]
        if naming == "comfy":
            names = [(other_names(module, "comfy"), up)]
        elif naming == "diffusers":
            # The manifest's rows are those of width 3072, all multiples of it (or the whole).
            width = SHAPES[module][1]
            found = other_names(module, "diffusers")
            if isinstance(found[0][1], str):
                names = [(found[0][0], up.roll(-len(up) // 2, 0))]
            elif len(found) == 1:
                names = [(found[0][0], up)]
            else:
                names = [(name, up[first // 3072 * width : end // 3072 * width]) for name, first, end in found]
        for name, rows in names:
            keys = STYLES[style](name)
            tensors |= {keys[0]: down, keys[1]: rows.contiguous()}
            if alpha is not None:
                tensors[keys[2]] = torch.tensor(alpha)
    return tensors


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_format_says_the_same(data: st.DataObject) -> None:
    modules = data.draw(st.sets(st.sampled_from(sorted(SHAPES.keys() - {"img_in.proj"})), min_size=1, max_size=5))
    rank = data.draw(st.integers(1, 4))
    alpha = data.draw(st.one_of(st.none(), st.sampled_from([0.5, 2.0, 7.0])))
    terms = {
        module: (randn(rank, SHAPES[module][1], seed=i), randn(SHAPES[module][0], rank, seed=i + 50), alpha)
        for i, module in enumerate(sorted(modules))
    }
    naming = data.draw(st.sampled_from(["original", "comfy", "diffusers"]))
    style = data.draw(st.sampled_from(sorted(STYLES)))
    found = read(written(terms, naming, style))
    assert found.unmatched == ()
    assert found.terms.keys() == terms.keys()
    for module, (down, up, _) in terms.items():
        exact = (1.0 if alpha is None else alpha / rank) * (up @ down)
        assert rel_l2(found.terms[module].delta(), exact) < 1e-6


def test_parts_that_are_missing_are_zero_and_each_has_its_own_alpha_and_rank() -> None:
    q, v = (randn(2, 48), randn(48, 2, seed=1)), (randn(3, 48, seed=2), randn(48, 3, seed=3))
    name = "transformer.transformer_blocks.1.attn.add_{}_proj.{}"
    tensors = {
        name.format("q", "lora_A.weight"): q[0], name.format("q", "lora_B.weight"): q[1],
        name.format("v", "lora_A.weight"): v[0], name.format("v", "lora_B.weight"): v[1],
        name.format("v", "alpha"): torch.tensor(6.0),
    }  # fmt: skip
    delta = read(tensors).terms["double_blocks.1.txt_attn_qkv"].delta()
    assert torch.allclose(delta[:48], q[1] @ q[0], atol=1e-5)
    assert torch.equal(delta[48:96], torch.zeros(48, 48))
    assert torch.allclose(delta[96:], 2 * (v[1] @ v[0]), atol=1e-5)


def test_the_alpha_that_diffusers_keeps_in_the_metadata_counts() -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8, "transformer.r": 2})}
    assert read(pair(), metadata).terms[LAYER].strength == 4
    assert read(pair(alpha=torch.tensor(3.0)), metadata).terms[LAYER].strength == 1.5


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"lora_alpha": "x"}', '{"lora_alpha": -1}', '{"transformer.use_rslora": true}']
)
def test_metadata_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"some_lora.safetensors.*metadata"):
        read(pair(), {"lora_adapter_metadata": text})


def test_factors_stored_in_fp8_are_read() -> None:
    tensors = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in pair().items()}
    down = tensors[f"transformer.{LAYER}.lora_A.weight"].float()
    assert torch.equal(read(tensors).terms[LAYER].down.float(), down)


# --- what the terms take ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("blocks", ["", "double: 0"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_bytes_of_the_terms_are_known_from_the_header(
    path: Path, blocks: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    dit = golden_dit()
    lora = Lora(path, 0.5, blocks)
    terms = lora.weighted(read_lora(path, lora_shapes(dit)).terms, lora_shapes(dit))
    expected = 0
    for name, term in terms.items():
        held = term.to("cpu", torch.float32 if name.startswith(DiT.FLOAT32_PARAMETERS) else dtype)
        expected += held.down.nbytes + held.up.nbytes

    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(SafetensorsCheckpoint, "__getitem__", refuse)
    assert lora_bytes([lora], dit.config, dtype) == expected > 0
    assert lora_bytes([lora, lora, Lora(path, 0.0)], dit.config, dtype) == 2 * expected


def test_a_file_that_does_not_fit_is_told_from_its_header(tmp_path: Path) -> None:
    path = save(tmp_path / "half.safetensors", {k: v for k, v in pair().items() if "lora_A" in k})
    with pytest.raises(CheckpointError, match="not the up matrix"):
        lora_bytes([Lora(path)], TINY, torch.bfloat16)


# --- what has no home ---------------------------------------------------------------------------------------


def test_keys_without_a_home_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strangers = ["lora_te1_text_model_layers_0.alpha", "transformer.double_blocks.7.img_mlp.fc1.lora_A.weight", "step"]
    path = save(tmp_path / "mixed.safetensors", pair() | {key: torch.ones(2, 2) for key in strangers})
    found = read_lora(path, SHAPES)
    assert sorted(found.unmatched) == sorted(strangers)
    assert found.terms.keys() == {LAYER}
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "mixed.safetensors: 3 of 5 keys" in message
    assert all(key in message for key in strangers)


def test_an_alpha_alone_has_no_home() -> None:
    lonely = f"transformer.{LAYER.replace('0', '1')}.alpha"
    assert read(pair() | {lonely: torch.tensor(1.0)}).unmatched == (lonely,)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "a LoRA of Wan"),
        (["lora_unet_blocks_0_cross_attn_q.lora_down.weight"], "a LoRA of Wan"),
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "a LoRA of Stable Diffusion"),
        (["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"], "a LoRA of LTX-Video"),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"], "a LoRA of a text encoder"),
        (["whatever.lora_A.weight"], "a LoRA of another model"),
        (["decoder.conv_norm_out.weight"], "a VAE"),
        (["something"], "an unknown kind of model"),
    ],
)
def test_a_file_in_which_nothing_fits_is_told_apart(keys: list[str], kind: str) -> None:
    with pytest.raises(CheckpointError, match=rf"some_lora.safetensors is {kind}.* none of its 1 keys .*{keys[0]}"):
        read({key: torch.zeros(2, 2) for key in keys})


def test_the_transformer_itself_is_no_lora() -> None:
    with pytest.raises(CheckpointError, match="is a HunyuanVideo transformer: none"):
        read(golden_weights())


def test_an_empty_file_is_no_lora() -> None:
    with pytest.raises(CheckpointError, match="none of its 0 keys"):
        read({})


@pytest.mark.parametrize("field", ["ss_base_model_version", "modelspec.architecture"])
def test_a_lora_of_flux_is_refused_although_its_layers_have_the_same_names(field: str) -> None:
    with pytest.raises(CheckpointError, match=r"a LoRA of Flux \(Flux.1-dev"):
        read(pair(), {field: "Flux.1-dev/lora"})
    assert read(pair(), {field: "hunyuan_video"}).terms


def test_a_lora_of_flux_shows_in_the_number_of_its_blocks() -> None:
    shapes = {f"double_blocks.{i}.img_attn_proj": (4, 4) for i in range(20)}
    shapes |= {f"single_blocks.{i}.linear2": (4, 20) for i in range(40)}

    def lora(double: int, single: int) -> Checkpoint:
        names = [f"double_blocks.{i}.img_attn_proj" for i in range(double)]
        names += [f"single_blocks.{i}.linear2" for i in range(single)]
        return InMemory(
            {f"{n}.lora_A.weight": torch.ones(1, shapes[n][1]) for n in names}
            | {f"{n}.lora_B.weight": torch.ones(4, 1) for n in names}
        )

    with pytest.raises(CheckpointError, match=r"a LoRA of Flux .*19 and 38 blocks"):
        parse(lora(19, 38), shapes)
    for double, single in ((20, 40), (20, 0), (19, 0), (19, 40)):
        assert len(parse(lora(double, single), shapes).terms) == double + single


# --- what cannot be applied ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("dora_scale", "DoRA"), ("lora_magnitude_vector.weight", "DoRA"), ("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"),
        ("diff", "whole tensors"), ("diff_b", "whole tensors"), ("oft_blocks", "OFT"),
        ("lora_mid.weight", "Tucker"), ("lora_B.bias", "biases"), ("lora_B.default.bias", "biases"),
    ],
)  # fmt: skip
def test_other_kinds_of_adapter_are_refused_by_name(suffix: str, kind: str) -> None:
    key = f"transformer.{LAYER}.{suffix}"
    with pytest.raises(CheckpointError, match=rf"some_lora.safetensors holds 1 keys of .*{kind}.*{re.escape(key)}"):
        read(pair() | {key: torch.ones(2, 2)})


@pytest.mark.parametrize("role", ["lora_A.weight", "lora_B.weight"])
def test_half_a_term_is_refused(role: str) -> None:
    tensors = pair()
    del tensors[f"transformer.{LAYER}.{role}"]
    lacking = "down" if "A" in role else "up"
    with pytest.raises(CheckpointError, match=rf"has transformer.{LAYER}.lora_. ?.*not the {lacking} matrix"):
        read(tensors)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((2, COLUMNS + 1), (ROWS, 2)),
        ((2, COLUMNS), (ROWS - 1, 2)),
        ((2, COLUMNS), (ROWS, 3)),
        ((0, COLUMNS), (ROWS, 0)),
    ],
)
def test_shapes_that_do_not_fit_are_named_with_those_that_would(down: tuple[int, int], up: tuple[int, int]) -> None:
    message = (
        rf"term of {LAYER} .*{re.escape(str(list(down)))}.*{re.escape(str(list(up)))}.*\[rank, {COLUMNS}\].*\[{ROWS}"
    )
    with pytest.raises(CheckpointError, match=message):
        read(pair(**{"lora_A.weight": torch.ones(down), "lora_B.weight": torch.ones(up)}))


def test_a_vector_for_a_matrix_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"lora_A.weight has shape \[48\]"):
        read(pair(**{"lora_A.weight": torch.ones(48)}))


@pytest.mark.parametrize(
    "alpha", [torch.tensor(float("nan")), torch.ones(2), torch.ones(0), torch.tensor(0.0), torch.tensor(-4.0)]
)
def test_a_malformed_alpha_is_refused(alpha: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=rf"{LAYER}.alpha holds .* alpha is one positive number"):
        read(pair(alpha=alpha))


@pytest.mark.parametrize("alpha", [torch.tensor(4), torch.tensor([4.0]), torch.tensor(4.0, dtype=torch.bfloat16)])
def test_an_alpha_may_be_of_any_number_type(alpha: torch.Tensor) -> None:
    assert read(pair(alpha=alpha)).terms[LAYER].strength == 2


@pytest.mark.parametrize("role", ["lora_A.weight", "lora_B.weight"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_nan_is_refused_and_infinity_too(role: str, bad: float, dtype: torch.dtype) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in pair().items()}
    broken = pair()[f"transformer.{LAYER}.{role}"]
    broken[1, 1] = float("nan") if dtype == torch.float8_e4m3fn else bad  # that dtype has no infinity
    tensors[f"transformer.{LAYER}.{role}"] = broken.to(dtype)
    with pytest.raises(CheckpointError, match=rf"{LAYER}.{role} holds NaN or infinity"):
        read(tensors)


def test_integers_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"lora_B.weight holds torch.int8"):
        read(pair(**{"lora_B.weight": torch.ones(ROWS, 2, dtype=torch.int8)}))


def test_two_keys_for_one_matrix_are_refused() -> None:
    other = f"diffusion_model.{LAYER}.lora_A.weight"
    with pytest.raises(CheckpointError, match=rf"{other} and transformer.{LAYER}.lora_A.weight both mean"):
        read(pair() | {other: torch.ones(2, COLUMNS)})


def test_a_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone.safetensors should be a checkpoint file"):
        read_lora(tmp_path / "gone.safetensors", SHAPES)


# --- the patch embedding ------------------------------------------------------------------------------------


def patch_pair(channels: int) -> Tensors:
    return {
        "transformer.x_embedder.proj.lora_A.weight": randn(2, channels, 1, 2, 2),
        "transformer.x_embedder.proj.lora_B.weight": randn(48, 2, 1, 1, 1),
    }


def test_the_patch_embedding_is_a_matrix_over_patches(tmp_path: Path) -> None:
    dit, tensors = random_dit(), patch_pair(TINY.in_channels)
    before = dit.img_in.proj.weight
    down, up = tensors.values()
    merge(dit, [Lora(save(tmp_path / "patch.safetensors", tensors))])
    delta = torch.einsum("or,rcthw->octhw", up.flatten(1), down)
    assert torch.allclose(dit.img_in.proj.weight, before + delta, atol=1e-5)


@pytest.mark.parametrize("channels", [1, TINY.in_channels - 1, 2 * TINY.in_channels])
def test_a_patch_embedding_of_other_channels_is_read_as_it_is(channels: int) -> None:
    """Wider ones are for keyframes, narrower ones of a model with fewer inputs; ``extensions.Loras`` sorts it out."""
    assert read(patch_pair(channels)).terms["img_in.proj"].down.shape == (2, channels * 4)


@pytest.mark.parametrize("shape", [(2, 4, 1, 4, 4), (2, 4, 2, 2, 2), (2, 8), (2, 0, 1, 2, 2)])
def test_another_patch_is_refused(shape: tuple[int, ...]) -> None:
    tensors = patch_pair(TINY.in_channels) | {"transformer.x_embedder.proj.lora_A.weight": torch.ones(shape)}
    with pytest.raises(CheckpointError, match=rf"term of img_in.proj is .*{re.escape(str(list(shape)))}"):
        read(tensors)


# --- strengths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("", {}),
        ("double: 0.5", {"double_blocks.0": 0.5, "double_blocks.1": 0.5}),
        ("double 0: 0.5, single 1: -2", {"double_blocks.0": 0.5, "single_blocks.1": -2}),
        ("double 0-1 : 0.25 ; single 0 - 1:3", {"double_blocks": 0.25, "single_blocks": 3}),
        (
            "\nother: .5,\n single 1: 1e-1\n",
            {"txt_in": 0.5, "time_in": 0.5, "final_layer": 0.5, "single_blocks.1": 0.1},
        ),
        ("single: 0, other: 0", {"single_blocks": 0, "txt_in": 0, "time_in": 0, "final_layer": 0}),
    ],
)
def test_block_strengths_multiply_the_strength_and_what_is_not_named_keeps_it(
    blocks: str, expected: dict[str, float]
) -> None:
    layers = [
        "double_blocks.0.img_mlp.fc1", "double_blocks.1.txt_attn_proj", "single_blocks.0.linear1",
        "single_blocks.1.linear2", "txt_in.individual_token_refiner.blocks.1.mlp.fc1", "time_in.mlp.0",
        "final_layer.linear",
    ]  # fmt: skip
    tensors: Tensors = {}
    for layer in layers:
        tensors |= pair(layer, alpha=torch.tensor(1.0))
    found = Lora(Path("x"), 0.8, blocks).weighted(read(tensors).terms, SHAPES)
    for layer in layers:
        factor = next((value for start, value in expected.items() if layer.startswith(start + ".")), 1.0)
        assert (layer in found) == (factor != 0)
        if factor:
            assert found[layer].strength == pytest.approx(0.8 * factor / 2)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ("double 0-19", "'double 0-19' cannot be read"),
        ("double 0-19: 1, sngle 3: 2", "'sngle 3: 2' begins with 'sngle'.*double, single, other"),
        ("double 5-2: 1", "'double 5-2: 1' ends before it begins"),
        ("single 3: much", "strength 'much', which is no number"),
        ("single 3: nan", "strength 'nan', which is no number"),
        ("other 3: 1", "'other 3: 1' numbers what has no numbers"),
        ("double 0-5: 1, double 5: 2", "'double 5: 2' names blocks that an entry before it"),
        ("double: 1, double 5: 2", "'double 5: 2' names blocks"),
        ("0.5", "'0.5' cannot be read"),
        ("double -1: 1", "'double -1: 1' cannot be read"),
    ],
)
def test_block_strengths_that_cannot_be_read_name_the_entry(blocks: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lora(Path("x"), 1.0, blocks)


def test_blocks_the_model_does_not_have_are_named() -> None:
    with pytest.raises(ValueError, match="double block 2, but the double blocks of this model end at 1"):
        Lora(Path("x"), 1.0, "double 0-2: 1").weighted({}, SHAPES)


@given(st.text(alphabet="doublesingther 0123456789-:,;.\n", max_size=30))
@settings(max_examples=200)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        entries = parse_blocks(text)
    except ValueError as error:
        message = str(error)
        entries = ()
    else:
        message = "Block strengths: none"
    assert message.startswith("Block strengths: ")
    assert all(entry.blocks.first <= (entry.blocks.last or entry.blocks.first) for entry in entries)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_is_a_number(strength: float) -> None:
    with pytest.raises(ValueError, match=r"strength of some\.safetensors"):
        Lora(Path("some.safetensors"), strength)


# --- merging ------------------------------------------------------------------------------------------------

MUSUBI = next(path for path in FILES if "musubi" in path.stem)


def test_merging_writes_into_no_tensor_of_the_model() -> None:
    dit = golden_dit()
    before = {name: (tensor, tensor.clone()) for name, tensor in dit.state_dict().items()}
    merge(dit, [Lora(MUSUBI)])
    for tensor, copy in before.values():
        assert torch.equal(tensor, copy)
    changed = {name for name, tensor in dit.state_dict().items() if tensor is not before[name][0]}
    assert {name for name in changed if not torch.equal(dit.state_dict()[name], before[name][1])} == {
        f"{target}.weight" for target in META["targets"]
    }


def test_merging_keeps_the_dtype() -> None:
    dit = load_dit(GOLDEN / "dit_weights.safetensors")
    merge(dit, [Lora(MUSUBI, META["strength"])])
    assert {parameter.dtype for parameter in dit.double_blocks.parameters()} == {torch.bfloat16}
    assert rel_l2(velocity(dit), EXPECTED["out_fused"]) <= 2.5e-2


def test_merged_fp8_stays_fp8_and_near_the_reference() -> None:
    dit = golden_dit()
    linears = [dit.get_submodule(name) for name in META["targets"]]
    for linear in linears:
        linear.store(fp8.quantized(linear.weight))
    merge(dit, [Lora(MUSUBI, META["strength"])])
    assert {linear.weight.dtype for linear in linears} == {torch.float8_e4m3fn}
    assert all(linear.weight_scale is not None for linear in linears)
    assert rel_l2(velocity(dit), EXPECTED["out_fused"]) <= 2.5e-2


def test_several_merged_at_once_are_their_sum_in_any_order() -> None:
    loras = [Lora(MUSUBI, 0.3), Lora(FILES[0], 0.25), Lora(FILES[1], 0.25)]
    first, second = golden_dit(), golden_dit()
    merge(first, loras)
    merge(second, loras[::-1])
    assert torch.equal(velocity(first), velocity(second))
    assert rel_l2(velocity(first), EXPECTED["out_fused"]) <= 1e-5


def test_strength_0_and_no_loras_change_nothing() -> None:
    dit, plain = golden_dit(), golden_dit()
    merge(dit, [])
    merge(dit, [Lora(MUSUBI, 0.0), Lora(MUSUBI, 1.0, "double: 0, single: 0, other: 0")])
    for name, tensor in dit.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name])


class Unpackable:
    """A packing that cannot be made again."""

    name = "Q4_K"

    def shape(self, data: torch.Tensor) -> tuple[int, ...]:
        return tuple(data.shape)

    def dense(self, data: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        return data.to(dtype)


def test_packed_weights_are_refused_before_anything_changes() -> None:
    dit = golden_dit()
    last: Linear = dit.single_blocks[2].linear2
    last.store(Stored(last.weight.data, Unpackable()))
    before = {name: tensor.data_ptr() for name, tensor in dit.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"merged into single_blocks.2.linear2: it is stored as Q4_K.*runs instead"
    ):
        merge(dit, [Lora(MUSUBI)])
    assert {name: tensor.data_ptr() for name, tensor in dit.state_dict().items()} == before
