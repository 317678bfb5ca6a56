"""What holds for the text encoders whatever the prompt, the file's unread parts or transformers' version."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_data import CLIP_CONFIG, LLAMA_CONFIG, PROMPTS, Weights, clip_weights, llama_weights, saved, saved_shards

from hyvideo_core.errors import CheckpointError, PromptError, TokenizerError
from hyvideo_core.text import IMAGE, VIDEO, MLLMEncoder, Template, TextEncoders
from hyvideo_core.text.tokenizers import CLIPTokenizer
from hyvideo_core.weights import describe_clip, describe_mllm, load_clip, load_mllm
from tools.paths import ROOT

PROMPT = PROMPTS["llm/video2"]
LLAMA, CLIP = llama_weights(), clip_weights()
HEAD_DIM, THETA = 8, 500000.0
ANY_PROMPT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
Load = Callable[..., MLLMEncoder]


@pytest.fixture
def load(tmp_path: Path, llama_tokenizer: Path) -> Load:
    def load(weights: Weights = LLAMA, config: dict = LLAMA_CONFIG, **options: Any) -> MLLMEncoder:
        file = saved(tmp_path / "llm.safetensors", weights, "model.", config)
        return load_mllm(file, tokenizer=llama_tokenizer, **{"dtype": torch.float32, **options})

    return load


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, llama_tokenizer: Path, clip_tokenizer: Path) -> TextEncoders:
    folder = tmp_path_factory.mktemp("text")
    llm = saved(folder / "llm.safetensors", LLAMA, "model.", LLAMA_CONFIG)
    clip = saved(folder / "clip_l.safetensors", CLIP, "", CLIP_CONFIG)
    return TextEncoders(
        load_mllm(llm, tokenizer=llama_tokenizer, dtype=torch.float32),
        load_clip(clip, tokenizer=clip_tokenizer, dtype=torch.float32),
    )


@given(prompt=ANY_PROMPT, template=st.sampled_from([VIDEO, IMAGE]))
@settings(max_examples=40, deadline=None)
def test_there_is_one_row_for_each_token_that_is_kept(both: TextEncoders, prompt: str, template: Template) -> None:
    ids, crop = both.mllm.tokenize(prompt, template)
    found = both.encode([prompt], template)
    assert found.text.shape == (1, len(ids) - crop, LLAMA_CONFIG["hidden_size"])
    assert found.pooled.shape == (1, CLIP_CONFIG["hidden_size"])
    assert found.text.isfinite().all()
    assert found.pooled.isfinite().all()


@given(prompts=st.lists(ANY_PROMPT, min_size=2, max_size=4), data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_prompts_company_in_a_batch_changes_no_bit(
    both: TextEncoders, prompts: list[str], data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(prompts) - 1))
    batch, alone = both.encode(prompts, VIDEO), both.encode([prompts[row]], VIDEO)
    assert batch.text_mask is not None
    assert torch.equal(batch.text[row][batch.text_mask[row].bool()], alone.text[0])
    assert torch.equal(batch.pooled[row], alone.pooled[0])


@given(words=st.lists(st.sampled_from(["cat", "Ω", "猫", "🐾", "3.14", "<tag>", "{}", "\n\n", "don't"]), min_size=1))
@settings(max_examples=25, deadline=None)
def test_a_prompt_is_refused_just_when_it_would_be_cut(both: TextEncoders, words: list[str]) -> None:
    prompt = " ".join(words * (400 // len(words)))
    while True:
        cut, _ = both.mllm.tokenize(prompt, VIDEO, truncate=True)
        whole = both.mllm.tokenizer.encode(VIDEO.fill(prompt.strip()))
        if len(whole) <= VIDEO.max_length:
            break
        assert cut == whole[: VIDEO.max_length]
        with pytest.raises(PromptError, match=rf"prompt has {len(whole) - 96} tokens, .* has room for 255\."):
            both.mllm.tokenize(prompt, VIDEO)
        excess = len(whole) - VIDEO.max_length
        prompt = prompt[: -max(1, excess // 8)]
    assert both.mllm.tokenize(prompt, VIDEO) == (whole, 95)


@pytest.mark.parametrize("prompts", ["a cat", "", [], ()])
def test_prompts_that_are_no_list_of_prompts_are_refused(both: TextEncoders, prompts: Any) -> None:
    for encode in (lambda: both.mllm.encode(prompts, VIDEO), lambda: both.clip.encode(prompts)):
        with pytest.raises(PromptError, match=r"^prompts is .*, but must be a list of one prompt or more"):
            encode()


@pytest.mark.parametrize("prompt", ["<image>", "<|eot_id|>", "<pad>", "<|begin_of_text|>", "<|endoftext|>", "{}{}"])
def test_control_words_that_a_user_types_are_encoded_like_any_word(both: TextEncoders, prompt: str) -> None:
    found, plain = both.encode([f"a {prompt} b"], VIDEO), both.encode(["a"], VIDEO)
    assert torch.equal(found.text[0, 0], plain.text[0, 0])
    assert found.text.isfinite().all()
    assert found.pooled.isfinite().all()


def test_nobody_reads_the_last_two_layers_and_the_final_norm(load: Load) -> None:
    unread = ("layers.4.", "layers.5.", "norm.")
    nan = {k: torch.full_like(v, torch.nan) if k.startswith(unread) else v for k, v in LLAMA.items()}
    assert any(tensor.isnan().any() for tensor in nan.values())
    expected = load().encode([PROMPT], VIDEO)[0]
    assert torch.equal(load(nan).encode([PROMPT], VIDEO)[0], expected)
    without_norm = {k: v for k, v in LLAMA.items() if k != "norm.weight"}
    assert torch.equal(load(without_norm).encode([PROMPT], VIDEO)[0], expected)


def test_every_layer_before_them_is_read(load: Load) -> None:
    nan = {k: torch.full_like(v, torch.nan) if k == "layers.3.mlp.down_proj.weight" else v for k, v in LLAMA.items()}
    assert load(nan).encode([PROMPT], VIDEO)[0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rotary_frequencies_are_the_formulas(load: Load, dtype: torch.dtype) -> None:
    found = load(dtype=dtype).llama.get_buffer("rotary_emb.inv_freq")
    expected = torch.tensor([THETA ** (-2 * pair / HEAD_DIM) for pair in range(HEAD_DIM // 2)])
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-6, atol=0)


def test_a_transformers_that_loses_the_rotary_base_changes_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    expected = load().encode([PROMPT], VIDEO)[0]

    class Forgetful(transformers.LlamaConfig):
        def __init__(self, **settings: Any) -> None:
            settings.pop("rope_theta", None)
            super().__init__(**settings)

    monkeypatch.setattr(transformers, "LlamaConfig", Forgetful)
    assert torch.equal(load().encode([PROMPT], VIDEO)[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_clip_in_half_precision_stays_near_float32(
    both: TextEncoders, tmp_path: Path, clip_tokenizer: Path, dtype: torch.dtype
) -> None:
    file = saved(tmp_path / "clip.safetensors", CLIP, "", CLIP_CONFIG)
    found = load_clip(file, tokenizer=clip_tokenizer, dtype=dtype).encode([PROMPT])
    expected = both.clip.encode([PROMPT])
    assert found.dtype == dtype
    assert (found.float() - expected).norm() / expected.norm() < 2.5e-2


@pytest.mark.parametrize("module", ["hyvideo_core.text", "hyvideo_core.weights"])
def test_transformers_is_not_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "content",
    ["", "{", "<html>404</html>", "[]", "null", '{"weight_map": 3}', '{"weight_map": {"a": 5}}', '{"weights": {}}'],
)
def test_a_damaged_shard_index_is_named(tmp_path: Path, content: str) -> None:
    folder = saved_shards(tmp_path / "llava", LLAMA, LLAMA_CONFIG)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json is not a shard index.*ownload it"):
        describe_mllm(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("describe", [describe_mllm, describe_clip])
def test_a_file_that_broke_off_is_named(tmp_path: Path, describe: Callable[[Path], str], share: float) -> None:
    file = saved(tmp_path / "half.safetensors", LLAMA if describe is describe_mllm else CLIP)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"^half\.safetensors .* download it again"):
        describe(file)


def test_a_clip_folder_without_merges_says_what_belongs_there(tmp_path: Path, clip_tokenizer: Path) -> None:
    (tmp_path / "vocab.json").write_bytes((clip_tokenizer / "vocab.json").read_bytes())
    with pytest.raises(TokenizerError, match=r"cannot be read as a tokenizer .*a folder with vocab\.json and merges"):
        CLIPTokenizer(tmp_path)


@pytest.mark.parametrize("activation", ["gelu", "relu7", 3])
def test_a_clip_of_another_activation_is_refused(tmp_path: Path, activation: object) -> None:
    file = saved(tmp_path / "clip.safetensors", CLIP, "", {**CLIP_CONFIG, "hidden_act": activation})
    with pytest.raises(CheckpointError, match=rf"activation {activation!r}, but .*'quick_gelu' were expected"):
        describe_clip(file)


def test_a_clip_of_too_few_tokens_is_refused(tmp_path: Path) -> None:
    small = {**CLIP, "text_model.embeddings.token_embedding.weight": torch.zeros(49407, 32)}
    with pytest.raises(CheckpointError, match=r"with 49,407 tokens .*, but CLIP-L's 49,408"):
        describe_clip(saved(tmp_path / "clip.safetensors", small, "", CLIP_CONFIG))


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_attention_heads", 4.0), ("num_attention_heads", 4.5), ("head_dim", 8.0), ("num_hidden_layers", 6.0),
     ("rope_theta", float("nan")), ("rms_norm_eps", float("inf"))],
)  # fmt: skip
def test_numbers_that_only_look_like_numbers_are_refused(tmp_path: Path, name: str, value: float) -> None:
    config = json.loads(json.dumps({**LLAMA_CONFIG, name: value}))
    with pytest.raises(CheckpointError, match=rf"says {name} is {value!r}, but it must be a positive number"):
        describe_mllm(saved(tmp_path / "llm.safetensors", LLAMA, "", config))
