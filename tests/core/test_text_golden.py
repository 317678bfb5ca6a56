"""Token ids, hidden states and pooled states are the original's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from text_data import CLIP_CONFIG, LLAMA_CONFIG, META, PROMPTS, TENSORS, clip_weights, llama_weights, saved

from golden_data import of_case
from hyvideo_core.text import IMAGE, VIDEO, CLIPEncoder, MLLMEncoder, TextEncoders
from hyvideo_core.text.tokenizers import CLIP_EOS, CLIP_MAX_LENGTH, LLAMA_PAD
from hyvideo_core.weights import load_clip, load_mllm

CASES = list(META["cases"])
#: The reference encodes CLIP's prompts in this order.
CLIP_CASES = ["llm/video0", "llm/video1", "llm/video2", "llm/video3"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def mllm(tmp_path_factory: pytest.TempPathFactory, llama_tokenizer: Path) -> MLLMEncoder:
    file = saved(tmp_path_factory.mktemp("text") / "llm.safetensors", llama_weights(), "model.", LLAMA_CONFIG)
    return load_mllm(file, tokenizer=llama_tokenizer, dtype=torch.float32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, clip_tokenizer: Path) -> CLIPEncoder:
    file = saved(tmp_path_factory.mktemp("text") / "clip_l.safetensors", clip_weights(), "", CLIP_CONFIG)
    return load_clip(file, tokenizer=clip_tokenizer, dtype=torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_ids_inside_the_template_are_the_originals(mllm: MLLMEncoder, case: str) -> None:
    expected = of_case(TENSORS, case)
    ids, crop = mllm.tokenize(PROMPTS[case], IMAGE if "image" in case else VIDEO, truncate=True)
    assert ids + [LLAMA_PAD] * (META["max_length_llm"] - len(ids)) == expected["input_ids"][0].tolist()
    assert len(ids) == expected["attention_mask"].sum()
    assert META["max_length_llm"] - crop == expected["mask_out"].shape[1]


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_of_valid_tokens_are_the_originals(mllm: MLLMEncoder, case: str) -> None:
    expected = of_case(TENSORS, case)
    valid = int(expected["mask_out"].sum())
    hidden, mask = mllm.encode([PROMPTS[case]], IMAGE if "image" in case else VIDEO, truncate=True)
    assert mask.tolist() == [[1] * valid]
    assert hidden.shape == (1, valid, LLAMA_CONFIG["hidden_size"])
    assert (hidden - expected["hidden_state"][:, :valid]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("number", range(len(CLIP_CASES)))
def test_the_pooled_state_and_its_ids_are_the_originals(clip: CLIPEncoder, number: int) -> None:
    expected = of_case(TENSORS, f"clip/{number}")
    prompt = PROMPTS[CLIP_CASES[number]]
    ids = clip.tokenizer.encode(prompt)
    assert ids + [CLIP_EOS] * (CLIP_MAX_LENGTH - len(ids)) == expected["input_ids"][0].tolist()
    assert (clip.encode([prompt]) - expected["pooled"]).abs().max() <= TOLERANCE


def test_prompts_of_different_length_in_one_batch_equal_each_alone(mllm: MLLMEncoder, clip: CLIPEncoder) -> None:
    encoders = TextEncoders(mllm, clip)
    prompts = [PROMPTS[case] for case in ("llm/video2", "llm/video1", "llm/video0")]
    batch = encoders.encode(prompts, VIDEO)
    assert batch.text_mask is not None
    assert batch.text_mask.sum(1).tolist() == [38, 1, 11]
    assert batch.text.shape == (3, 38, LLAMA_CONFIG["hidden_size"])
    for row, prompt in enumerate(prompts):
        alone = encoders.encode([prompt], VIDEO)
        valid = alone.text.shape[1]
        assert torch.equal(batch.text[row, :valid], alone.text[0])
        assert torch.equal(batch.text_mask[row], torch.arange(38).lt(valid).long())
        assert not batch.text[row, valid:].any()
        assert torch.equal(batch.pooled[row], alone.pooled[0])


def test_space_around_a_prompt_changes_nothing(mllm: MLLMEncoder, clip: CLIPEncoder) -> None:
    encoders, prompt = TextEncoders(mllm, clip), PROMPTS["llm/video0"]
    plain, spaced = encoders.encode([prompt], VIDEO), encoders.encode([f" \n{prompt}\n\n "], VIDEO)
    assert torch.equal(plain.text, spaced.text)
    assert torch.equal(plain.pooled, spaced.pooled)


def test_every_prompt_changes_both_outputs(mllm: MLLMEncoder, clip: CLIPEncoder) -> None:
    encoders = TextEncoders(mllm, clip)
    one, other = (encoders.encode([PROMPTS[case]], VIDEO) for case in ("llm/video0", "llm/video2"))
    assert not torch.allclose(one.text[:, :11], other.text[:, :11])
    assert not torch.allclose(one.pooled, other.pooled)


def test_an_end_token_typed_by_a_user_ends_clips_prompt(clip: CLIPEncoder) -> None:
    assert torch.equal(clip.encode(["<|endoftext|> a cat"]), clip.encode([""]))


def test_nothing_stays_on_meta_or_asks_for_gradients(mllm: MLLMEncoder, clip: CLIPEncoder) -> None:
    both = TextEncoders(mllm, clip)
    tensors = {**dict(both.named_parameters()), **dict(both.named_buffers())}
    assert not [name for name, tensor in tensors.items() if tensor.is_meta or tensor.requires_grad]
    assert not mllm.llama.training
    assert not clip.clip.training


def test_layers_nobody_reads_are_not_in_memory(mllm: MLLMEncoder) -> None:
    names = [name for name, _ in mllm.named_parameters()]
    assert {int(name.split(".")[2]) for name in names if ".layers." in name} == {0, 1, 2, 3}
    assert not [name for name in names if name.endswith("llama.norm.weight")]
