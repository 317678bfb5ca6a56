"""Encoded prompts as files: what is saved comes back to the last bit; anything else is refused, or never there."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_data import prompt, randn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompt_data import encoders, same
from safetensors.torch import save, save_file

from hyvideo_core.errors import CheckpointError, NumericsError
from hyvideo_core.text import VIDEO, embeddings_file
from hyvideo_core.text.embeddings_file import FORMAT, Provenance, load_conditioning, save_conditioning, write_whole
from hyvideo_core.types import Conditioning

Tensors = dict[str, torch.Tensor]
FROM = Provenance("a cat 猫 (red:1.2)\n", VIDEO.text, "llava:123:456, torch.float16")
METADATA = {"format": FORMAT, "format_version": "1"}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def saved(path: Path, conditioning: Conditioning) -> Path:
    save_conditioning(path, conditioning, FROM)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mask", [None, MASK, MASK.bool(), MASK.to(torch.uint8), MASK.to(torch.int32)])
def test_what_is_saved_comes_back_to_the_last_bit(
    tmp_path: Path, dtype: torch.dtype, mask: torch.Tensor | None
) -> None:
    whole = prompt(batch=2)
    conditioning = Conditioning(whole.text.to(dtype), whole.pooled.to(dtype), mask)
    found, provenance = load_conditioning(saved(tmp_path / "cat.safetensors", conditioning))
    assert same(found, conditioning)
    assert mask is None or (found.text_mask is not None and found.text_mask.dtype == mask.dtype)
    assert provenance == FROM


def test_what_the_encoders_give_can_be_saved_and_changed_afterwards(tmp_path: Path) -> None:
    conditioning = encoders().encode(["a red circle", "the dog"], VIDEO)
    found, _ = load_conditioning(saved(tmp_path / "two.safetensors", conditioning))
    assert same(found, conditioning)
    found.text.mul_(2)  # nothing of the file is mapped, and nothing is for inference alone


def test_tensors_that_share_memory_or_are_no_whole_rows_are_saved_as_they_look(tmp_path: Path) -> None:
    block = randn(4, 8, 16)
    views = Conditioning(block[:2, ::2, :6], block[:2, 0, 8:], torch.ones(1, 4, dtype=torch.int64).expand(2, -1))
    turned = Conditioning(randn(1, 16, 5).transpose(1, 2), randn(8, 1).T)
    for each in (views, turned):
        found, _ = load_conditioning(saved(tmp_path / "views.safetensors", each))
        assert same(found, each)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_prompt_comes_back_as_it_was_typed(tmp_path: Path, text: str) -> None:
    said = Provenance(text, text[::-1], text.upper())
    save_conditioning(tmp_path / "any.safetensors", prompt(), said)
    assert load_conditioning(tmp_path / "any.safetensors")[1] == said


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "cat.safetensors", prompt(seed=1))
    saved(path, prompt(seed=2))
    assert same(load_conditioning(path)[0], prompt(seed=2))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_where_writing_fails_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = saved(tmp_path / "cat.safetensors", prompt(seed=1))

    def fails(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os if call == "fsync" else Path, call, fails)
    with pytest.raises(OSError, match="no space left"):
        saved(path, prompt(seed=2))
    monkeypatch.undo()
    assert same(load_conditioning(path)[0], prompt(seed=1))
    assert os.listdir(tmp_path) == [path.name]


def test_nobody_ever_finds_a_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append((tmp_path / "x").exists()), sync(file))[1])
    write_whole(tmp_path / "x", b"1" * 100_000)
    assert seen == [False]
    assert (tmp_path / "x").stat().st_size == 100_000


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(prompt(), text=prompt().text[0]), r"text is \[5, 16\] .*, but 3 axes"),
        (replace(prompt(), pooled=prompt(batch=2).pooled), "text has 1 prompts, but pooled 2"),
        (replace(prompt(), text=prompt().text.long()), r"text is .*int64, but 3 axes .*bfloat16"),
        (replace(prompt(), text=prompt().text[:, :0]), ".*something in each"),
        (replace(prompt(), text_mask=torch.ones(1, 4, dtype=torch.int64)), r"text_mask is \[1, 4\].* needs \[1, 5\]"),
        (replace(prompt(), text_mask=torch.zeros(1, 5, dtype=torch.int64)), ".*a 1 for each prompt"),
    ],
)
def test_what_is_no_conditioning_is_not_saved(tmp_path: Path, broken: Conditioning, message: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be saved: {message}"):
        saved(tmp_path / "x.safetensors", broken)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("field", ["text", "pooled"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_is_neither_saved_nor_loaded(tmp_path: Path, field: str, value: float) -> None:
    tensor = getattr(prompt(), field).clone()
    tensor.view(-1)[3] = value
    broken = replace(prompt(), **{field: tensor})
    with pytest.raises(NumericsError, match=r"holds NaN or infinity.*Encode the prompt again"):
        saved(tmp_path / "x.safetensors", broken)
    save_file({"text": broken.text, "pooled": broken.pooled}, tmp_path / "x.safetensors", METADATA)
    with pytest.raises(CheckpointError, match=r"x\.safetensors is no encoded prompt .*NaN or infinity"):
        load_conditioning(tmp_path / "x.safetensors")


def tensors(**changes: torch.Tensor | None) -> Tensors:
    given: dict[str, torch.Tensor | None] = {"text": randn(2, 5, 16), "pooled": randn(2, 8), "text_mask": MASK}
    return {name: tensor for name, tensor in {**given, **changes}.items() if tensor is not None}


@pytest.mark.parametrize(
    ("content", "metadata", "message"),
    [
        (tensors(pooled=None), METADATA, r"holds 2 tensors \(text, text_mask\), but text, pooled"),
        (tensors(extra=torch.ones(1)), METADATA, r"holds 4 tensors \(extra, pooled"),
        ({"double_blocks.0.img_attn_qkv.weight": torch.ones(2, 2)}, None, "does not call it .* but 'nothing'"),
        (tensors(), {"format": "pt"}, "does not call it .* but 'pt'"),
        (tensors(), {**METADATA, "format_version": "2"}, "format version '2', but .* reads 1. Update HyVideo Studio"),
        (tensors(), {"format": FORMAT}, "format version ''"),
        (tensors(text=randn(2, 80)), METADATA, r"text is \[2, 80\] torch.float32, but 3 axes"),
        (tensors(text=randn(2, 5, 16).double()), METADATA, "text is .* torch.float64"),
        (tensors(text=randn(2, 5, 16).to(torch.float8_e4m3fn)), METADATA, "text is .* torch.float8_e4m3fn"),
        (tensors(text=randn(2, 0, 16)), METADATA, "something in each"),
        (tensors(pooled=randn(3, 8)), METADATA, "text has 2 prompts, but pooled 3"),
        (tensors(text_mask=MASK[:, :4].contiguous()), METADATA, r"text_mask is \[2, 4\], but text needs \[2, 5\]"),
        (tensors(text_mask=MASK.float()), METADATA, "text_mask is .* torch.float32"),
        (tensors(text_mask=MASK * 2), METADATA, "1 for valid rows and 0 for others"),
        (tensors(text_mask=MASK * torch.tensor([[1], [0]])), METADATA, "a 1 for each prompt"),
    ],
)
def test_other_contents_are_refused(
    tmp_path: Path, content: Tensors, metadata: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "odd.safetensors"
    save_file(content, path, metadata)
    with pytest.raises(CheckpointError, match=rf"odd\.safetensors .*{message}"):
        load_conditioning(path)


def header(text: str) -> Callable[[bytes], bytes]:
    return lambda whole: struct.pack("<Q", len(text)) + text.encode() + whole[-100:]


WHOLE = save(tensors(), METADATA)
SHAPES = '{"text":{"dtype":"F32","shape":[1,%d,4],"data_offsets":[0,%d]}}'


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:7],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: b"<html>404</html>" * 9,
        lambda whole: b"PK\x03\x04" + whole,
        lambda whole: struct.pack("<Q", 2**63) + whole[8:],
        header("{}"),
        header("[]"),
        header("{" * 5000),
        header('{"__metadata__":null}'),
        header('{"__metadata__":{"format":1}}'),
        header(SHAPES % (2**40, 100)),
        header(SHAPES % (10**30, 100)),
        header(SHAPES % (5, 2**62)),
        header('{"text":{"dtype":"F32","shape":[-1,5,4],"data_offsets":[0,100]}}'),
    ],
)
def test_damaged_and_hostile_files_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(damage(WHOLE))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors is no encoded prompt .* or encode the prompt again"):
        load_conditioning(path)


@given(cut=st.integers(0, len(WHOLE) - 1))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    (tmp_path / "cut.safetensors").write_bytes(WHOLE[:cut])
    with pytest.raises(CheckpointError):
        load_conditioning(tmp_path / "cut.safetensors")


@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_gives_another_prompt_or_a_refusal_and_nothing_else(tmp_path: Path, at: int, byte: int) -> None:
    (tmp_path / "changed.safetensors").write_bytes(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :])
    try:
        found, _ = load_conditioning(tmp_path / "changed.safetensors")
    except CheckpointError:
        return
    assert found.text.isfinite().all()
    assert found.pooled.isfinite().all()


def test_a_checkpoint_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "large.safetensors", prompt())
    monkeypatch.setattr(embeddings_file, "MAX_BYTES", 100)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match=r"it has [\d,]+ bytes, but at most 100 are read"):
        load_conditioning(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is nothing\. Check the path"):
        load_conditioning(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="there is a folder"):
        load_conditioning(tmp_path)


def test_the_format_is_what_any_reader_of_safetensors_sees(tmp_path: Path) -> None:
    content = saved(tmp_path / "x.safetensors", replace(prompt(batch=2), text_mask=MASK)).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    found = json.loads(content[8 : 8 + length])
    assert found.pop("__metadata__") == {
        **METADATA, "prompt": FROM.prompt, "template": FROM.template, "encoder": FROM.encoder,
    }  # fmt: skip
    assert {name: entry["shape"] for name, entry in found.items()} == {
        "text": [2, 5, 16], "pooled": [2, 8], "text_mask": [2, 5],
    }  # fmt: skip
