"""Prompts rewritten by a local language model: what it is asked, what is taken of its answer, what is left behind."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prompt_data import CAPTIONS, ROWS
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from hyvideo_core.errors import CheckpointError, PromptError
from hyvideo_core.text import rewrite as module
from hyvideo_core.text.rewrite import MODES, cleaned, rewrite, rewrite_prompt
from tools.demo_model.tokenizers import llama_tokenizer

TOKENIZER = llama_tokenizer(CAPTIONS, ROWS)
IDS = Tokenizer.from_str(TOKENIZER)
EOT = IDS.token_to_id("<|eot_id|>")
#: The parts of Llama-3's that matter here; it also shows what it is handed besides the messages.
CHAT = (
    "{{ bos_token }}{% for turn in messages %}<|start_header_id|>{{ turn.role }}<|end_header_id|>\n\n"
    "{{ turn.content }}<|eot_id|>{% endfor %}"
    "{% if enable_thinking is not defined or enable_thinking %}{{ raise_exception('it would think') }}{% endif %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def saved(folder: Path, model: LlamaForCausalLM, chat: str | None = CHAT) -> Path:
    model.generation_config = GenerationConfig(eos_token_id=EOT)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(TOKENIZER)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | ({} if chat is None else {"chat_template": chat}))
    )
    return folder


def llama(width: int = 16, room: int = 2048) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=room,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def answering(answer: str, after: str = "\n\n") -> LlamaForCausalLM:
    """A model that says just this: each token follows on the one before, ``after`` being the last of its input."""
    model = llama(width=ROWS)
    chain = [IDS.encode(after).ids[-1], *IDS.encode(answer).ids[1:], EOT]
    assert len(set(chain)) == len(chain), "a token that comes twice would have two successors"
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(ROWS))
        model.lm_head.weight.zero_()
        for token, following in itertools.pairwise(chain):
            model.lm_head.weight[following, token] = 1
    return model


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("random"), llama())


def test_the_two_modes_ask_for_different_things_and_hand_over_the_prompt() -> None:
    normal, master = (rewrite_prompt("  eine Katze, die läuft\n", mode) for mode in MODES)
    for message in (normal, master):
        assert message.endswith("\n\nPrompt: eine Katze, die läuft\n\nRewritten prompt:")
        assert "English" in message
        assert all(rule in message for rule in ("Keep", "technical terms", "style", "light", "mood"))
    assert "every fact" in normal
    assert "every fact" not in master
    assert all(word in master and word not in normal for word in ("foreground", "composed", "cinematographer"))
    assert "one or two short sentences" in normal


def test_other_modes_and_empty_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^mode is 'best', but must be one of normal, master\."):
        rewrite_prompt("a cat", "best")
    with pytest.raises(PromptError, match="prompt to rewrite is empty"):
        rewrite_prompt(" \n", "normal")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A cat walks.", "A cat walks."),
        ("  A cat walks.\n\nIt stops.\n", "A cat walks.\n\nIt stops."),
        ('"A cat walks."', "A cat walks."),
        ("“A cat walks.”", "A cat walks."),
        ("'A cat walks.'", "A cat walks."),
        ('A sign says "OPEN".', 'A sign says "OPEN".'),
        ('"OPEN" is written on the "door"', '"OPEN" is written on the "door"'),
        ("Sure! Here is the rewritten prompt:\n\nA cat walks.", "A cat walks."),
        ('Here\'s a richer version of your prompt:\n"A cat walks."', "A cat walks."),
        ("**Rewritten prompt:** A cat walks.", "A cat walks."),
        ("Rewritten prompt: A cat walks.", "A cat walks."),
        ("### Video description:\nA cat walks.", "A cat walks."),
        ("Prompt: A cat walks.", "A cat walks."),
        ("```text\nA cat walks.\n```", "A cat walks."),
        ("**A cat walks.**", "A cat walks."),
        ("<think>\nShort: no.\n</think>\n\nA cat walks.", "A cat walks."),
        ("let me see… </think>A cat walks.", "A cat walks."),
        ("<thinking>a</thinking> <think>b</think> A cat walks.", "A cat walks."),
        ("A cat walks.\n\nPrompt: a dog\n\nRewritten prompt: A dog", "A cat walks."),
        ("Here are two cats, one of them black: they walk.", "Here are two cats, one of them black: they walk."),
        ("Promptly a cat walks: it is late.", "Promptly a cat walks: it is late."),
        ("<think>\nI wonder", ""),
        ("<think></think>", ""),
        ('""', ""),
        ("Here is the prompt:", ""),
        ("", ""),
    ],
)
def test_what_a_model_says_around_its_answer_goes(answer: str, expected: str) -> None:
    assert cleaned(answer) == expected


PARTS = [*"ab \"“”'`*#:\n", "<think>", "</think>", "```", "\n\nPrompt:", "Sure! ", "**"]


@given(answer=st.lists(st.sampled_from(PARTS)).map("".join))
def test_what_was_cleaned_is_clean(answer: str) -> None:
    found = cleaned(answer)
    assert cleaned(found) == found == found.strip()
    assert "think>" not in found


@pytest.mark.parametrize("chat", [CHAT, None], ids=["chat", "plain"])
def test_the_answer_is_what_the_model_says_to_that_message_until_its_end(tmp_path: Path, chat: str | None) -> None:
    model = answering("The red circle moving left", after="\n\n" if chat else ":")
    folder = saved(tmp_path / "m", model, chat)
    assert rewrite("a circle", "normal", folder, dtype=torch.float32) == "The red circle moving left"
    assert rewrite("a circle", "normal", folder, dtype=torch.float32, max_new_tokens=2) == "The red"


def test_its_answer_is_cleaned(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", answering("Sure! The red circle"))
    assert rewrite("a circle", "master", folder, dtype=torch.float32) == "The red circle"


def test_an_empty_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"model in mute gave no prompt, but ''\. Raise max_new_tokens"):
        rewrite("a circle", "normal", saved(tmp_path / "mute", answering("")), dtype=torch.float32)


def test_the_message_is_one_turn_of_the_user_and_thinking_is_off(random_model: Path, monkeypatch: Any) -> None:
    seen: list[torch.Tensor] = []
    generate = LlamaForCausalLM.generate

    def spied(self: LlamaForCausalLM, ids: torch.Tensor, **options: Any) -> Any:
        seen.append(ids)
        return generate(self, ids, **options)

    monkeypatch.setattr(LlamaForCausalLM, "generate", spied)
    rewrite("a red circle", "master", random_model, dtype=torch.float32, max_new_tokens=3)
    message = rewrite_prompt("a red circle", "master")
    expected = (
        f"<|start_header_id|>user<|end_header_id|>\n\n{message}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert seen[0][0].tolist() == IDS.encode(expected).ids  # one <|begin_of_text|>, not two


def test_without_a_seed_the_answer_is_the_same_and_with_one_the_seeds(random_model: Path) -> None:
    def answer(seed: int | None, mode: str = "normal") -> str:
        return rewrite("a circle", mode, random_model, dtype=torch.float32, max_new_tokens=12, seed=seed)

    assert answer(None) == answer(None)
    assert answer(7) == answer(7)
    assert len({answer(None), answer(7), answer(8), answer(2**64 - 1)}) == 4
    assert answer(8) != answer(8, "master")


def test_without_a_seed_each_token_is_the_likeliest(random_model: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(random_model)
    ids = IDS.encode(
        f"<|start_header_id|>user<|end_header_id|>\n\n{rewrite_prompt('a circle', 'normal')}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ).ids
    length = len(ids)
    with torch.inference_mode():
        while len(ids) < length + 8:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert EOT not in ids[length:]
    expected = cleaned(IDS.decode(ids[length:], skip_special_tokens=True))
    assert rewrite("a circle", "normal", random_model, dtype=torch.float32, max_new_tokens=8) == expected


def test_other_random_numbers_are_left_alone(random_model: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rewrite("a circle", "normal", random_model, dtype=torch.float32, max_new_tokens=3, seed=7)
    assert torch.equal(torch.rand(3), expected)


def weights_in_memory() -> int:
    gc.collect()
    return sum(type(each) is torch.nn.Parameter and not each.is_meta for each in gc.get_objects())


class Interrupted(Exception):
    pass


def test_the_model_is_gone_afterwards_and_after_a_failure(random_model: Path) -> None:
    before = weights_in_memory()
    rewrite("a circle", "normal", random_model, dtype=torch.float32, max_new_tokens=2)
    assert weights_in_memory() == before
    during: list[int] = []

    def check() -> None:
        during.append(weights_in_memory())
        if len(during) == 4:
            raise Interrupted

    with pytest.raises(Interrupted) as failure:
        rewrite("a circle", "normal", random_model, dtype=torch.float32, max_new_tokens=50, check=check)
    # The exception still holds the frames in which the model was used.
    assert failure.tb is not None
    assert weights_in_memory() == before
    assert all(count > before for count in during)


def test_nothing_is_asked_of_the_network_and_no_code_is_run(random_model: Path, monkeypatch: Any) -> None:
    import transformers

    seen: list[dict[str, Any]] = []
    for loader in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM):
        real = loader.from_pretrained

        def spied(folder: Path, real: Callable[..., Any] = real, **options: Any) -> Any:
            seen.append(options)
            return real(folder, **options)

        monkeypatch.setattr(loader, "from_pretrained", spied)
    rewrite("a circle", "normal", random_model, dtype=torch.float32, max_new_tokens=5)
    assert [(each["local_files_only"], each["trust_remote_code"]) for each in seen] == [(True, False)] * 2
    assert seen[1]["use_safetensors"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_model_is_loaded_in_the_dtype_that_is_asked_for(random_model: Path, dtype: torch.dtype) -> None:
    model, _ = module._read(random_model, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", Path("Qwen/Qwen3-4B")):
        with pytest.raises(CheckpointError, match=r"holds no config\.json\. Download a whole model"):
            rewrite("a cat", "normal", folder)


def with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "surprise", "auto_map": {"AutoModelForCausalLM": "surprise.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "surprise.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Model: pass\n")


def with_pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_half_the_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def without_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def with_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("<html>")


def with_a_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [
        with_code,
        with_pickle_only,
        with_half_the_weights,
        without_a_tensor,
        without_a_tokenizer,
        with_a_broken_tokenizer,
        with_a_broken_config,
    ],
)
def test_damaged_and_hostile_folders_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = saved(tmp_path / "bad", llama())
    damage(folder)
    with pytest.raises(CheckpointError, match=r"The language model in bad (cannot be loaded|lacks 1 tensors)"):
        rewrite("a cat", "normal", folder, dtype=torch.float32, max_new_tokens=1)
    assert not (folder / "ran").exists()


def test_a_prompt_that_the_model_has_no_room_for_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", llama(room=1024))
    with pytest.raises(PromptError, match=r"has room for 1024\. Shorten the prompt, or lower max_new_tokens"):
        rewrite("a cat, " * 1000, "normal", folder, dtype=torch.float32)


@pytest.mark.parametrize("count", [0, -3])
def test_a_number_of_tokens_below_one_is_refused(count: int, random_model: Path) -> None:
    with pytest.raises(ValueError, match=rf"^max_new_tokens is {count}, but must be 1 or more"):
        rewrite("a cat", "normal", random_model, max_new_tokens=count)
