"""Laws of the transformer that hold for any weights."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from dit_data import TINY, inputs, randn, random_dit
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golden_data import GOLDEN, rel_l2
from hyvideo_core.attention import available
from hyvideo_core.configs import HUNYUAN_VIDEO, DiTConfig
from hyvideo_core.model import DiT
from hyvideo_core.weights.detect import dit_config

ROUNDING = 1e-5
DIT = random_dit()
MANY_HEADS = random_dit(replace(TINY, heads=8, hidden_size=64, rope_dims=(2, 4, 2)))


@given(valid=st.integers(1, 9), padding=st.integers(1, 9), scale=st.sampled_from([1.0, 1e4]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_padded_text_never_changes_the_video(valid: int, padding: int, scale: float, seed: int) -> None:
    plain = inputs(length=valid)
    padded = dict(plain)
    padded["text"] = torch.cat((plain["text"], scale * randn(1, padding, TINY.text_dim, seed=seed)), dim=1)
    padded["text_mask"] = torch.cat((plain["text_mask"], torch.zeros(1, padding, dtype=torch.int64)), dim=1)
    assert torch.equal(DIT(**padded), DIT(**plain))


@given(lengths=st.lists(st.integers(1, 8), min_size=2, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_batch_of_different_prompts_equals_the_single_runs(lengths: list[int], seed: int) -> None:
    together = inputs(batch=len(lengths), length=8, seed=seed)
    for i, n in enumerate(lengths):
        together["text_mask"][i, n:] = 0
    out = DIT(**together)
    for i in range(len(lengths)):
        alone = {name: value[i : i + 1] for name, value in together.items()}
        assert rel_l2(out[i : i + 1], DIT(**alone)) <= ROUNDING


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_no_mask_means_all_valid(dtype: torch.dtype) -> None:
    plain = inputs()
    masked = DIT(**plain | {"text_mask": plain["text_mask"].to(dtype)})
    assert torch.equal(DIT(**plain | {"text_mask": None}), masked)


@given(mask=st.lists(st.booleans(), min_size=8, max_size=8).filter(any))
@settings(max_examples=20, deadline=None)
def test_a_mask_with_holes_equals_the_text_without_them(mask: list[bool]) -> None:
    plain = inputs(length=8)
    holes = torch.tensor([mask])
    compacted = plain | {"text": plain["text"][:, holes[0]], "text_mask": None}
    assert torch.equal(DIT(**plain | {"text_mask": holes}), DIT(**compacted))


@given(chunk_tokens=st.integers(1, 40), height=st.integers(1, 5), width=st.integers(1, 5), frames=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_the_chunk_size_changes_nothing_but_rounding(chunk_tokens: int, height: int, width: int, frames: int) -> None:
    given_inputs = inputs(thw=(frames, 2 * height, 2 * width))
    out = random_dit(chunk_tokens=chunk_tokens)(**given_inputs)
    assert rel_l2(out, DIT(**given_inputs)) <= ROUNDING


@pytest.mark.parametrize("kernel", [r.name for r in available("cpu", torch.float32, TINY.head_dim) if r.ok])
def test_every_attention_kernel_gives_the_same_velocity(kernel: str) -> None:
    given_inputs = inputs(batch=2)
    given_inputs["text_mask"][0, 3:] = 0
    assert rel_l2(random_dit(attention=kernel)(**given_inputs), DIT(**given_inputs)) <= ROUNDING


@given(
    groups=st.sampled_from([1, 2, 4, 8]),
    chunk_tokens=st.integers(1, 40),
    frames=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=2),
    token_replace=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_head_groups_and_chunks_change_nothing_but_rounding(
    groups: int, chunk_tokens: int, frames: int, lengths: list[int], token_replace: bool
) -> None:
    given_inputs = inputs(MANY_HEADS.config, batch=len(lengths), thw=(frames, 4, 6), length=8)
    for i, n in enumerate(lengths):
        given_inputs["text_mask"][i, n:] = 0
    grouped = random_dit(MANY_HEADS.config, head_groups=groups, chunk_tokens=chunk_tokens)
    expected = MANY_HEADS(**given_inputs, token_replace=token_replace)
    assert rel_l2(grouped(**given_inputs, token_replace=token_replace), expected) <= ROUNDING


@pytest.mark.parametrize("groups", [0, 3, -1, 16])
def test_head_groups_must_divide_the_heads(groups: int) -> None:
    with pytest.raises(ValueError, match=f"head_groups is {groups}.*8 heads"):
        random_dit(MANY_HEADS.config, head_groups=groups)(**inputs(MANY_HEADS.config))


def test_a_given_first_frame_is_seen_without_noise_and_guidance() -> None:
    plain = inputs(thw=(3, 4, 6))
    assert rel_l2(DIT(**plain, token_replace=True), DIT(**plain)) > 1e-3
    # At the end of the schedule, and with guidance that says nothing, the frame is like every other.
    dit = random_dit(replace(TINY, guidance_embed=False))
    clean = inputs(dit.config, thw=(3, 4, 6)) | {"timestep": torch.zeros(1)}
    assert rel_l2(dit(**clean, token_replace=True), dit(**clean)) <= ROUNDING


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_are_never_modified_and_a_second_forward_gives_identical_bits(dtype: torch.dtype) -> None:
    dit = random_dit().to(dtype)
    dit.final_layer.linear.float()
    given_inputs = inputs(batch=2)
    given_inputs = {k: v.to(dtype) if v.is_floating_point() and k != "timestep" else v for k, v in given_inputs.items()}
    given_inputs["text_mask"][1, 2:] = 0
    kept = {name: value.clone() for name, value in given_inputs.items()}
    weights = {name: value.clone() for name, value in dit.state_dict().items()}
    first = dit(**given_inputs)
    assert torch.equal(dit(**given_inputs), first)
    assert all(torch.equal(given_inputs[name], kept[name]) for name in kept)
    assert all(torch.equal(value, weights[name]) for name, value in dit.state_dict().items())


@pytest.mark.parametrize("name", ["x", "timestep", "text", "pooled", "guidance"])
def test_every_input_matters(name: str) -> None:
    plain = inputs()
    assert rel_l2(DIT(**plain | {name: plain[name] * 1.5}), DIT(**plain)) > 1e-3


def test_guidance_is_ignored_by_a_model_without_it() -> None:
    dit = random_dit(replace(TINY, guidance_embed=False))
    plain = inputs(dit.config)
    assert torch.equal(dit(**plain | {"guidance": torch.tensor([3000.0])}), dit(**plain))


def test_a_distilled_model_demands_guidance() -> None:
    with pytest.raises(ValueError, match="guidance"):
        DIT(**inputs() | {"guidance": None})


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        ({"x": randn(1, 33, 2, 4, 6)}, ("33", "4")),
        ({"text": randn(1, 5, 4096)}, ("4096", "16")),
        ({"pooled": randn(1, 768)}, ("768", "8")),
        ({"x": randn(1, 4, 2, 5, 6)}, (r"\[2, 5, 6\]", r"\[1, 2, 2\]")),
        ({"x": randn(4, 2, 4, 6)}, (r"\[4, 2, 4, 6\]", "B, C, T, H, W")),
        ({"text_mask": torch.ones(1, 9)}, (r"\[1, 9\]", r"\[1, 5\]")),
        ({"pooled": randn(3, 8)}, (r"\[3, 8\]", "1 latents")),
        ({"text": randn(2, 5, 16), "text_mask": None}, (r"\[2, 5, 16\]", "1 latents")),
        ({"timestep": torch.tensor(5.0)}, (r"\[\]", "1 latents")),
    ],
    ids=[
        "latent channels",
        "text width",
        "pooled width",
        "odd size",
        "no batch",
        "mask of other text",
        "pooled rows",
        "text rows",
        "scalar timestep",
    ],
)
def test_wrong_shapes_are_errors_that_name_both_numbers(
    change: dict[str, torch.Tensor], numbers: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match="{}.*{}".format(*numbers)):
        DIT(**inputs() | change)


def test_a_prompt_without_a_valid_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="no valid text token"):
        DIT(**inputs() | {"text_mask": torch.zeros(1, 5)})
    with pytest.raises(ValueError, match="no valid text token"):
        DIT(**inputs(length=0) | {"text_mask": None})


def test_the_final_projection_is_computed_in_float32_whatever_the_dtype() -> None:
    assert DIT.FLOAT32_PARAMETERS == ("final_layer.linear",)
    dit = random_dit().bfloat16()
    dit.final_layer.linear.float()
    assert dit(**inputs()).dtype == torch.float32


MANIFEST = {
    name: tuple(shape)
    for name, shape in json.loads((GOLDEN / "manifests/dit_HYVideo-T-2-cfgdistill.json").read_text()).items()
}
VARIANTS = json.loads((GOLDEN / "manifests/dit_variants_vs_cfgdistill.json").read_text())


def shapes_of(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in DiT(config).state_dict().items()}


def test_the_full_size_model_has_the_official_names_and_shapes() -> None:
    shapes = shapes_of(DiTConfig())
    assert shapes == MANIFEST
    assert len(shapes) == 856
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 12_821_012_544
    assert dit_config(shapes) == DiTConfig()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_official_variant_is_a_change_of_configuration(name: str) -> None:
    variant: dict[str, Any] = VARIANTS[name]
    expected = {key: shape for key, shape in MANIFEST.items() if key not in variant["removed"]}
    expected |= {key: tuple(shape) for key, shape in (variant["added"] | variant["changed"]).items()}
    config = replace(
        HUNYUAN_VIDEO,
        guidance_embed=not variant["removed"],
        in_channels=expected["img_in.proj.weight"][1],
    )
    assert dit_config(expected) == config
    shapes = shapes_of(config)
    assert shapes == expected
    assert len(shapes) == variant["tensors"]
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == variant["parameters"]


@given(
    heads=st.integers(1, 4),
    head_dim=st.integers(2, 80).map(lambda half: 2 * half),
    mlp_rows=st.integers(1, 2000),
    double=st.integers(1, 3),
    single=st.integers(0, 3),
    guidance=st.booleans(),
)
@example(heads=1, head_dim=98, mlp_rows=1, double=1, single=1, guidance=True)  # 98 · (1 / 98) < 1
@settings(max_examples=40, deadline=None)
def test_any_configuration_is_found_again_from_its_shapes(
    heads: int, head_dim: int, mlp_rows: int, double: int, single: int, guidance: bool
) -> None:
    space = 2 * (head_dim * 7 // 32)
    config = DiTConfig(
        hidden_size=heads * head_dim,
        heads=heads,
        double_blocks=double,
        single_blocks=single,
        rope_dims=(head_dim - 2 * space, space, space),
        text_dim=12,
        pooled_dim=6,
        guidance_embed=guidance,
        mlp_ratio=mlp_rows / (heads * head_dim),
    )
    assert config.mlp_dim == mlp_rows
    assert dit_config(shapes_of(config)) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 50, "heads": 3}, "50.*3"),
        ({"rope_dims": (5, 9, 10)}, "5, 9, 10"),
        ({"rope_dims": (4, 4, 4)}, "24"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(TINY, **changes)


@pytest.mark.parametrize("single", ["timestep", "text", "pooled", "guidance"])
def test_one_row_of_a_condition_serves_the_whole_batch(single: str) -> None:
    arguments = inputs(batch=2)
    arguments[single] = arguments[single][:1]
    if single == "text":
        arguments["text_mask"] = arguments["text_mask"][:1]
    repeated = {
        name: rows if rows is None or name == "x" else rows.expand(2, *rows.shape[1:])
        for name, rows in arguments.items()
    }
    assert torch.equal(DIT(**arguments), DIT(**repeated))


def test_a_guidance_for_another_number_of_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"guidance has shape \[3\]"):
        DIT(**inputs(batch=2) | {"guidance": torch.full((3,), 6000.0)})
