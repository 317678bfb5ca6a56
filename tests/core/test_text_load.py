"""Every layout of the text encoders gives the same numbers; whatever is no such file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf_data import llama_cpp, written
from text_data import (
    CLIP_CONFIG,
    LLAMA_CONFIG,
    PROMPTS,
    Weights,
    clip_weights,
    llama_weights,
    saved,
    saved_folder,
    saved_shards,
)

from hyvideo_core.errors import CheckpointError, TokenizerError
from hyvideo_core.ops import fp8
from hyvideo_core.text import VIDEO, CLIPEncoder, MLLMEncoder
from hyvideo_core.weights import describe_clip, describe_mllm, load_clip, load_mllm
from hyvideo_core.weights.files import Checkpoint
from hyvideo_core.weights.text import _clip_settings, _llama_settings

PROMPT = PROMPTS["llm/video0"]
LLAMA, CLIP = llama_weights(), clip_weights()
Q_PROJ = "layers.0.self_attn.q_proj.weight"


@pytest.fixture
def mllm(llama_tokenizer: Path) -> Callable[..., MLLMEncoder]:
    def load(path: Path, **options: object) -> MLLMEncoder:
        return load_mllm(path, tokenizer=llama_tokenizer, **{"dtype": torch.float32, **options})

    return load


@pytest.fixture
def clip(clip_tokenizer: Path) -> Callable[..., CLIPEncoder]:
    def load(path: Path, **options: object) -> CLIPEncoder:
        return load_clip(path, tokenizer=clip_tokenizer, **{"dtype": torch.float32, **options})

    return load


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory, llama_tokenizer: Path) -> torch.Tensor:
    file = saved(tmp_path_factory.mktemp("plain") / "llm.safetensors", LLAMA, config=LLAMA_CONFIG)
    return load_mllm(file, tokenizer=llama_tokenizer, dtype=torch.float32).encode([PROMPT], VIDEO)[0]


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory, clip_tokenizer: Path) -> torch.Tensor:
    file = saved(tmp_path_factory.mktemp("plain") / "clip.safetensors", CLIP, config=CLIP_CONFIG)
    return load_clip(file, tokenizer=clip_tokenizer, dtype=torch.float32).encode([PROMPT])


def llama_file(folder: Path, prefix: str) -> Path:
    return saved(folder / "llava_llama3_fp16.safetensors", LLAMA, prefix, LLAMA_CONFIG)


def llama_folder(folder: Path, prefix: str) -> Path:
    return saved_folder(folder / "llava", LLAMA, {"model_type": "llava", "text_config": LLAMA_CONFIG}, prefix)


def llama_shards(folder: Path, prefix: str) -> Path:
    return saved_shards(folder / "llava", LLAMA, LLAMA_CONFIG, prefix, shards=4)


def new_style_config(folder: Path, prefix: str) -> Path:
    config = {k: v for k, v in LLAMA_CONFIG.items() if k != "rope_theta"}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": LLAMA_CONFIG["rope_theta"]}
    return saved_folder(folder / "llava", LLAMA, config, prefix)


def with_vision_and_head(folder: Path, prefix: str) -> Path:
    others = {
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
        "multi_modal_projector.linear_1.weight": torch.ones(4, 4),
        "language_model.lm_head.weight": torch.ones(4, 4),
    }
    inv_freq = {prefix + "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    named = {prefix + name: tensor for name, tensor in LLAMA.items()}
    return saved_folder(folder / "llava", {**named, **others, **inv_freq}, {"text_config": LLAMA_CONFIG})


PREFIXES = ("", "model.", "language_model.model.", "model.language_model.")


@pytest.mark.parametrize(
    ("layout", "prefix"),
    [
        *((llama_file, prefix) for prefix in PREFIXES),
        *((llama_shards, prefix) for prefix in PREFIXES),
        (llama_folder, "model."),
        (new_style_config, ""),
        (with_vision_and_head, "language_model.model."),
        (with_vision_and_head, "model.language_model."),
    ],
)
def test_every_layout_of_the_language_model_gives_the_same_bits(
    tmp_path: Path, mllm: Callable[..., MLLMEncoder], hidden: torch.Tensor, layout: Callable[..., Path], prefix: str
) -> None:
    assert torch.equal(mllm(layout(tmp_path, prefix)).encode([PROMPT], VIDEO)[0], hidden)


CLIP_LAYOUTS: dict[str, Weights] = {
    "official": CLIP,
    "checkpoint": {"clip_l.transformer." + name: tensor for name, tensor in CLIP.items()},
    "bare": {name.removeprefix("text_model."): tensor for name, tensor in CLIP.items()},
    "with more": {
        **CLIP,
        "text_projection.weight": torch.ones(4, 4),
        "logit_scale": torch.ones(1),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
    },
}


@pytest.mark.parametrize("layout", CLIP_LAYOUTS)
def test_every_layout_of_clip_gives_the_same_bits(
    tmp_path: Path, clip: Callable[..., CLIPEncoder], pooled: torch.Tensor, layout: str
) -> None:
    weights = CLIP_LAYOUTS[layout]
    file = saved(tmp_path / "clip_l.safetensors", weights, config=CLIP_CONFIG)
    folder = saved_folder(tmp_path / "clip-vit-large-patch14", weights, {"text_config": CLIP_CONFIG})
    stated = saved(tmp_path / "other" / "clip_l.safetensors", weights)
    assert torch.equal(clip(file).encode([PROMPT]), pooled)
    assert torch.equal(clip(folder).encode([PROMPT]), pooled)
    assert torch.equal(clip(stated, config=CLIP_CONFIG).encode([PROMPT]), pooled)


def test_an_argument_wins_over_what_is_stated(
    tmp_path: Path, mllm: Callable[..., MLLMEncoder], hidden: torch.Tensor
) -> None:
    file = saved(tmp_path / "llm.safetensors", LLAMA)
    assert torch.equal(mllm(file, config=LLAMA_CONFIG).encode([PROMPT], VIDEO)[0], hidden)
    folder = saved_folder(tmp_path / "llm", LLAMA, {**LLAMA_CONFIG, "rope_theta": 10.0})
    assert not torch.equal(mllm(folder).encode([PROMPT], VIDEO)[0], hidden)
    assert torch.equal(mllm(folder, config={"rope_theta": 500000.0}).encode([PROMPT], VIDEO)[0], hidden)


def test_the_pickle_of_a_language_model_gives_the_same_bits(
    tmp_path: Path, mllm: Callable[..., MLLMEncoder], hidden: torch.Tensor
) -> None:
    torch.save(LLAMA, tmp_path / "llm.pt")
    assert torch.equal(mllm(tmp_path / "llm.pt", config=LLAMA_CONFIG).encode([PROMPT], VIDEO)[0], hidden)


def scaled_fp8(weights: dict[str, torch.Tensor], scale_name: str) -> dict[str, torch.Tensor]:
    """Linear weights as ComfyUI's scaled fp8 files hold them."""
    stored = dict(weights)
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            packed = fp8.quantized(weight, per_channel=False)
            assert packed.scale is not None
            stored |= {name: packed.data, name.replace("weight", scale_name): packed.scale}
    return stored


@pytest.mark.parametrize("scale_name", [None, "scale_weight", "weight_scale"])
def test_fp8_weights_stay_fp8_and_give_what_their_numbers_give(
    tmp_path: Path, mllm: Callable[..., MLLMEncoder], scale_name: str | None
) -> None:
    if scale_name is None:
        stored = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in LLAMA.items()}
        numbers = {name: tensor.float() for name, tensor in stored.items()}
    else:
        stored = scaled_fp8(LLAMA, scale_name)
        numbers = {
            name: stored[name].float() * stored.get(name.replace("weight", scale_name), torch.ones(()))
            for name in LLAMA
        }
    packed = mllm(saved(tmp_path / "fp8.safetensors", stored, config=LLAMA_CONFIG))
    full = mllm(saved(tmp_path / "full.safetensors", numbers, config=LLAMA_CONFIG))
    held = {name: parameter.dtype for name, parameter in packed.named_parameters()}
    assert {dtype for name, dtype in held.items() if "_proj." in name} == {torch.float8_e4m3fn}
    assert {dtype for name, dtype in held.items() if "_proj." not in name} == {torch.float32}
    assert torch.equal(packed.encode([PROMPT], VIDEO)[0], full.encode([PROMPT], VIDEO)[0])
    assert "language model" in describe_mllm(tmp_path / "fp8.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_keep_float32_rotary_frequencies(
    tmp_path: Path,
    mllm: Callable[..., MLLMEncoder],
    clip: Callable[..., CLIPEncoder],
    hidden: torch.Tensor,
    dtype: torch.dtype,
) -> None:
    language = mllm(saved(tmp_path / "llm.safetensors", LLAMA, config=LLAMA_CONFIG), dtype=dtype)
    vision = clip(saved(tmp_path / "clip.safetensors", CLIP, config=CLIP_CONFIG), dtype=dtype)
    assert {parameter.dtype for parameter in [*language.parameters(), *vision.parameters()]} == {dtype}
    assert language.get_buffer("llama.rotary_emb.inv_freq").dtype == torch.float32
    found, _ = language.encode([PROMPT], VIDEO)
    assert found.dtype == vision.encode([PROMPT]).dtype == dtype
    assert (found.float() - hidden).norm() / hidden.norm() < 2.5e-2


FULL_LLAMA = {
    "embed_tokens.weight": (128320, 4096),
    "layers.{}.self_attn.q_proj.weight": (4096, 4096),
    "layers.{}.self_attn.k_proj.weight": (1024, 4096),
    "layers.{}.mlp.gate_proj.weight": (14336, 4096),
}
FULL_CLIP = {
    "text_model.embeddings.token_embedding.weight": (49408, 768),
    "text_model.encoder.layers.{}.self_attn.q_proj.weight": (768, 768),
    "text_model.encoder.layers.{}.mlp.fc1.weight": (3072, 768),
}


def test_the_full_sizes_are_read_off_the_shapes() -> None:
    shapes = {name.format(n): shape for name, shape in FULL_LLAMA.items() for n in range(32)}
    assert _llama_settings(Checkpoint(Path("llm"), shapes, {}), "", {}) == {
        "vocab_size": 128320, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 30,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    shapes = {name.format(n): shape for name, shape in FULL_CLIP.items() for n in range(12)}
    assert _clip_settings(Checkpoint(Path("clip"), shapes, {}), "text_model.", {}) == {
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip


def test_the_header_alone_describes_both(tmp_path: Path) -> None:
    llm = saved_shards(tmp_path / "llm", LLAMA, LLAMA_CONFIG)
    clip = saved(tmp_path / "clip.safetensors", CLIP, config=CLIP_CONFIG)
    assert describe_mllm(llm) == "language model, 6 layers of 32, 128,320 tokens"
    assert describe_clip(clip) == "CLIP text model, 4 layers of 32"


OTHERS: dict[str, tuple[Weights, str]] = {
    "transformer": ({"txt_in.individual_token_refiner.blocks.0.norm1.weight": torch.ones(4)}, "a HunyuanVideo trans"),
    "vae": ({"decoder.conv_norm_out.weight": torch.ones(4)}, "a VAE"),
    "lora": ({"lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight": torch.ones(4, 4)}, "a LoRA"),
    "nothing known": ({"x": torch.ones(1)}, "an unknown kind of model"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("describe", [describe_mllm, describe_clip])
def test_another_kind_of_file_is_named(tmp_path: Path, describe: Callable[[Path], str], kind: str) -> None:
    weights, found = OTHERS[kind]
    with pytest.raises(CheckpointError, match=f"^wrong.safetensors is {found}.* was expected. Choose "):
        describe(saved(tmp_path / "wrong.safetensors", weights))


def test_swapped_slots_are_named(tmp_path: Path) -> None:
    llm = saved_shards(tmp_path / "llm", LLAMA, LLAMA_CONFIG)
    clip = saved(tmp_path / "clip_l.safetensors", CLIP, config=CLIP_CONFIG)
    with pytest.raises(CheckpointError, match=r"clip_l.safetensors is a CLIP text encoder, but the language model"):
        describe_mllm(clip)
    with pytest.raises(CheckpointError, match=r"llm is a language model, but CLIP-L's text model"):
        describe_clip(llm)


def test_other_language_models_are_refused(tmp_path: Path) -> None:
    qwen = {**LLAMA, "layers.0.self_attn.q_proj.bias": torch.ones(32)}
    with pytest.raises(CheckpointError, match=r"has tensors that a Llama-3 has not \(self_attn\.q_proj\.bias\)"):
        describe_mllm(saved(tmp_path / "qwen.safetensors", qwen, "model.", LLAMA_CONFIG))
    mistral = {**LLAMA, "embed_tokens.weight": torch.ones(32000, 32)}
    with pytest.raises(CheckpointError, match=r"knows 32,000 tokens.*128,320"):
        describe_mllm(saved(tmp_path / "mistral.safetensors", mistral, "model.", LLAMA_CONFIG))
    scaling = {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    with pytest.raises(CheckpointError, match=r"rotary embedding of type 'llama3', but Llama-3 has the plain one"):
        describe_mllm(saved_folder(tmp_path / "llama31", LLAMA, {**LLAMA_CONFIG, **scaling}))


def test_a_size_that_needs_a_configuration_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"32 query and 16 key channels, which heads of 128.*num_attention_heads"):
        describe_mllm(saved(tmp_path / "llm.safetensors", LLAMA))
    with pytest.raises(CheckpointError, match=r"of width 32, but CLIP-L's 768 was expected.*num_attention_heads"):
        describe_clip(saved(tmp_path / "clip_g.safetensors", CLIP))


@pytest.mark.parametrize(("kind", "allowed"), [("F32", 0.0), ("Q8_0", 0.02), ("Q4_0", 0.3)])
def test_a_gguf_is_read_and_its_matrices_stay_packed(
    tmp_path: Path, mllm: Callable[..., MLLMEncoder], hidden: torch.Tensor, kind: str, allowed: float
) -> None:
    heads, kv_heads = LLAMA_CONFIG["num_attention_heads"], LLAMA_CONFIG["num_key_value_heads"]
    weights = llama_cpp(LLAMA, heads, kv_heads, LLAMA_CONFIG["num_hidden_layers"])
    stated = {
        "llama__attention__head_count": heads,
        "llama__attention__head_count_kv": kv_heads,
        "llama__attention__layer_norm_rms_epsilon": LLAMA_CONFIG["rms_norm_eps"],
        "llama__rope__freq_base": LLAMA_CONFIG["rope_theta"],
        "llama__block_count": LLAMA_CONFIG["num_hidden_layers"],
    }
    path = written(tmp_path / f"llava-{kind}.gguf", weights, kind, "llama", **stated)
    encoder = mllm(path)
    found = encoder.encode([PROMPT], VIDEO)[0]
    assert ((found - hidden).norm() / hidden.norm()).item() <= allowed
    packed = {name for name, parameter in encoder.named_parameters() if parameter.dtype == torch.uint8}
    assert bool(packed) == (kind != "F32")
    assert "language model, 6 layers of 32" in describe_mllm(path)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, indexed: bool) -> None:
    folder = saved_shards(tmp_path / "llava", LLAMA, LLAMA_CONFIG)
    (folder / "model-00003-of-00003.safetensors").unlink()
    if not indexed:
        (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"llava lacks model-00003-of-00003\.safetensors.*incomplete"):
        describe_mllm(folder)


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_shard_that_broke_off_is_named(tmp_path: Path, length: int) -> None:
    folder = saved_shards(tmp_path / "llava", LLAMA, LLAMA_CONFIG)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is .* download it again"):
        describe_mllm(folder)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "llava").mkdir()
    with pytest.raises(CheckpointError, match=r"llava lacks its \.safetensors files"):
        describe_mllm(tmp_path / "llava")


@pytest.mark.parametrize(
    ("missing", "config", "wanted"),
    [("layers.5.", LLAMA_CONFIG, 6), ("layers.2.", LLAMA_CONFIG, 6), ("layers.2.", {"num_attention_heads": 4}, 5)],
)
def test_missing_layers_are_noticed_though_the_rest_would_run(
    tmp_path: Path, missing: str, config: dict, wanted: int
) -> None:
    rest = {name: tensor for name, tensor in LLAMA.items() if not name.startswith(missing)}
    with pytest.raises(CheckpointError, match=rf"has 5 layers, but {wanted} in unbroken order were expected"):
        describe_mllm(saved(tmp_path / "llm.safetensors", rest, "", config))


def test_too_few_layers_are_no_language_model(tmp_path: Path) -> None:
    two = {name: tensor for name, tensor in LLAMA.items() if name[7:8] not in "2345"}
    with pytest.raises(CheckpointError, match=r"has 2 layers, but 3 in unbroken order were expected"):
        describe_mllm(saved(tmp_path / "llm.safetensors", two, "", {"num_attention_heads": 4}))


def test_a_missing_tensor_is_named(tmp_path: Path, mllm: Callable[..., MLLMEncoder]) -> None:
    rest = {name: tensor for name, tensor in LLAMA.items() if name != "layers.1.mlp.up_proj.weight"}
    with pytest.raises(CheckpointError, match=r"lacks 1 of 37 tensors of LlamaModel: layers\.1\.mlp\.up_proj\.weight"):
        mllm(saved(tmp_path / "llm.safetensors", rest, "", LLAMA_CONFIG))


@pytest.mark.parametrize("content", ["{", "[1]", '"x"', '{"rope_scaling": 3}', '{"text_config": 3}'])
def test_a_damaged_configuration_is_named(tmp_path: Path, content: str) -> None:
    folder = saved_folder(tmp_path / "llava", LLAMA, LLAMA_CONFIG)
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"configuration of llava is not a JSON object"):
        describe_mllm(folder)


@pytest.mark.parametrize("name", ["num_attention_heads", "num_hidden_layers", "rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", ["many", -1, []])
def test_a_senseless_number_in_the_configuration_is_named(tmp_path: Path, name: str, value: object) -> None:
    folder = saved_folder(tmp_path / "llava", LLAMA, {**LLAMA_CONFIG, name: value})
    with pytest.raises(CheckpointError, match=rf"llava says {name} is .*must be a positive number"):
        describe_mllm(folder)


def test_a_wrong_tokenizer_stops_the_load_before_any_weight_is_read(tmp_path: Path, clip_tokenizer: Path) -> None:
    (tmp_path / "broken").mkdir()
    with pytest.raises(TokenizerError, match="ComfyUI ships it"):
        load_mllm(tmp_path / "broken", tokenizer=clip_tokenizer)
    with pytest.raises(TokenizerError, match="ComfyUI ships it"):
        load_clip(tmp_path / "broken", tokenizer=tmp_path)
