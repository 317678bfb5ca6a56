"""GGUF files: what was written comes back, packed or not; damaged and foreign ones are clear errors."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from dit_data import TINY, golden_weights, inputs, random_dit
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from gguf_data import llama_cpp, written
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hyvideo_core.errors import CheckpointError
from hyvideo_core.ops import PLAIN
from hyvideo_core.ops.ggml import FORMATS, Ggml
from hyvideo_core.weights import load_dit
from hyvideo_core.weights.files import Checkpoint, open_checkpoint, parameter_count
from hyvideo_core.weights.gguf import GgufCheckpoint, LlamaGguf, llama_name

#: Rows of this transformer's matrices are whole blocks of 32.
BLOCKS = replace(TINY, hidden_size=256, heads=8, rope_dims=(8, 12, 12), text_dim=64, pooled_dim=32, double_blocks=1)
#: Relative distance of a matrix from what was written, at most.
CLOSENESS = {"F32": 0, "F16": 1e-3, "BF16": 4e-3, "Q8_0": 0.01, "Q5_1": 0.06, "Q5_0": 0.06, "Q4_1": 0.11, "Q4_0": 0.11}
Weights = dict[str, torch.Tensor]


@cache
def dit_weights() -> Weights:
    return dict(random_dit(BLOCKS).state_dict())


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


# --- round trips ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLOSENESS)
def test_a_transformer_comes_back_under_its_names_as_close_as_its_format_is(kind: str, tmp_path: Path) -> None:
    file = open_checkpoint(written(tmp_path / "dit.gguf", dit_weights(), kind))
    assert file.shapes == {name: tuple(tensor.shape) for name, tensor in dit_weights().items()}
    assert file.metadata["general.architecture"] == "hyvid"
    for name, wanted in dit_weights().items():
        assert file[name].shape == wanted.shape
        assert file[name].is_floating_point()
        assert distance(file[name], wanted) <= CLOSENESS[kind]
    assert distance(
        file["double_blocks.0.img_mlp.fc1.weight"], dit_weights()["double_blocks.0.img_mlp.fc1.weight"]
    ) >= (CLOSENESS[kind] / 20)


def test_the_reference_transformer_is_exact_in_float32(tmp_path: Path) -> None:
    path = written(tmp_path / "golden.gguf", golden_weights())
    file = open_checkpoint(path)
    assert all(torch.equal(file[name], wanted) for name, wanted in golden_weights().items())
    assert set(file) == set(golden_weights())
    assert parameter_count(path) == sum(tensor.numel() for tensor in golden_weights().values())


@pytest.mark.parametrize(("kind", "dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_plain_numbers_keep_their_dtype(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    file = open_checkpoint(written(tmp_path / "dit.gguf", dit_weights(), kind))
    name = "double_blocks.0.img_mlp.fc1.weight"
    assert torch.equal(file[name], dit_weights()[name].to(dtype))
    assert file[name].dtype == file.stored(name).data.dtype == dtype
    assert file.stored(name).packing is PLAIN


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_quantised_matrices_stay_packed(kind: str, tmp_path: Path) -> None:
    file = open_checkpoint(written(tmp_path / "dit.gguf", dit_weights(), kind))
    name = "double_blocks.0.img_mlp.fc1.weight"
    stored = file.stored(name)
    assert stored.packing == Ggml(kind)
    assert stored.data.numpy().tobytes() == quantize(dit_weights()[name].numpy(), Kind[kind]).tobytes()
    assert torch.equal(stored.dense(torch.float32), file[name])
    assert torch.equal(stored.data[5:9], file.stored(name).data[5:9])
    assert file.stored("double_blocks.0.img_mlp.fc1.bias").packing is PLAIN


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"}))
def test_formats_that_only_ggml_s_own_tools_write_are_read(kind: str, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 60, (6, FORMATS[kind].nbytes), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "hyvid")
    writer.add_tensor("a.weight", raw, raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_checkpoint(tmp_path / "k.gguf")
    assert file.shapes == {"a.weight": (6, FORMATS[kind].numbers)}
    assert file.stored("a.weight").packing == Ggml(kind)
    assert torch.equal(file["a.weight"], torch.from_numpy(gguf.dequantize(raw, Kind[kind])))


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_flattened_tensors_regain_the_shape_their_metadata_notes(kind: str, tmp_path: Path) -> None:
    weights = {"img_in.proj.weight": torch.randn(8, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0))}
    file = open_checkpoint(written(tmp_path / "dit.gguf", weights, kind, shapes=True))
    assert file.shapes == {"img_in.proj.weight": (8, 4, 2, 2, 2)}
    assert distance(file["img_in.proj.weight"], weights["img_in.proj.weight"]) < CLOSENESS[kind]
    assert file.stored("img_in.proj.weight").shape == (8, 4, 2, 2, 2)
    assert file.stored("img_in.proj.weight").packing is PLAIN


def test_the_transformer_loads_from_it_like_from_any_file(tmp_path: Path) -> None:
    dit = load_dit(written(tmp_path / "dit.gguf", dit_weights()), config=BLOCKS, dtype=torch.float32)
    arguments = inputs(BLOCKS)
    assert torch.equal(dit(**arguments), random_dit(BLOCKS)(**arguments))


# --- language models -----------------------------------------------------------------------------------------

LLAMA = {"llama__attention__head_count": 4, "llama__attention__head_count_kv": 2, "llama__block_count": 2}
LLAMA |= {"llama__attention__layer_norm_rms_epsilon": 1e-6, "llama__rope__freq_base": 5e5}


@cache
def llama_model() -> Any:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 5e5, "rms_norm_eps": 1e-6}
    model = LlamaModel(LlamaConfig(**sizes, **heads)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape) * parameter.shape[-1] ** -0.5)
    return model


def llama_file(path: Path, kind: str = "F32", **changes: Any) -> Path:
    return written(path, llama_cpp(llama_model().state_dict()), kind, "llama", **{**LLAMA, **changes})


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_llama_in_llama_cpp_s_names_and_order_computes_what_hugging_face_s_does(kind: str, tmp_path: Path) -> None:
    from transformers import LlamaModel

    file = open_checkpoint(llama_file(tmp_path / "llama.gguf", kind))
    model = LlamaModel(llama_model().config).eval().requires_grad_(False)
    model.load_state_dict({name.removeprefix("model."): file[name] for name in file})
    ids = torch.arange(12)[None] * 5
    wanted = llama_model()(ids).last_hidden_state
    assert distance(model(ids).last_hidden_state, wanted) <= (0 if kind == "F32" else 0.02)


def test_a_llama_s_rows_are_put_in_order_without_being_unpacked(tmp_path: Path) -> None:
    file = open_checkpoint(llama_file(tmp_path / "llama.gguf", "Q4_0"))
    for name in file:
        stored = file.stored(name)
        assert (stored.packing == Ggml("Q4_0")) == (len(stored.shape) == 2)
        assert stored.shape == file.shapes[name]
        assert torch.equal(stored.dense(torch.float32), file[name])
        assert distance(file[name], llama_model().state_dict()[name.removeprefix("model.")]) < CLOSENESS["Q4_0"]
        assert file.held(name) == ("Q4_0" if len(stored.shape) == 2 else "float32", stored.nbytes)


def test_a_llama_states_its_configuration_in_hugging_face_s_terms(tmp_path: Path) -> None:
    import json

    stated = json.loads(open_checkpoint(llama_file(tmp_path / "llama.gguf")).metadata["config"])
    config = llama_model().config.to_dict()
    for key in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers"):
        assert stated[key] == config[key]
    assert stated["rms_norm_eps"] == pytest.approx(1e-6)
    assert stated["rope_theta"] == 5e5
    assert "rope_scaling" not in stated


def test_a_llama_with_stretched_frequencies_says_so(tmp_path: Path) -> None:
    import json

    weights = {**llama_cpp(llama_model().state_dict()), "rope_freqs.weight": torch.ones(8)}
    file = open_checkpoint(written(tmp_path / "llama.gguf", weights, "F32", "llama", **LLAMA))
    assert json.loads(file.metadata["config"])["rope_scaling"] == {"rope_type": "llama3"}


def test_every_name_of_a_llama_has_its_counterpart() -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 33)
    for ours in ("token_embd.weight", "output_norm.weight", "output.weight"):
        assert names.get_name(llama_name(ours), try_suffixes=(".weight",)) == ours
    for part in (
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "attn_norm",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ):
        assert names.get_name(llama_name(f"blk.32.{part}.weight"), try_suffixes=(".weight",)) == f"blk.32.{part}.weight"
    assert llama_name("rope_freqs.weight") == "rope_freqs.weight"


@pytest.mark.parametrize("value", [0, 3, 2**31])
@pytest.mark.parametrize("key", ["llama__attention__head_count", "llama__attention__head_count_kv"])
def test_head_counts_that_do_not_fit_are_refused(key: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"llama\.gguf.*(head_count|heads do not divide)"):
        open_checkpoint(llama_file(tmp_path / "llama.gguf", **{key: value}))


# --- damaged and foreign files -------------------------------------------------------------------------------


@cache
def whole() -> bytes:
    """A small file with every part: metadata, words, an original shape, plain and quantised tensors."""
    import tempfile

    weights = {
        "txt_in.individual_token_refiner.a": torch.ones(4, 64),
        "img_in.proj.weight": torch.ones(8, 4, 2, 2, 2),
        "b.bias": torch.ones(7),
    }
    with tempfile.TemporaryDirectory() as folder:
        return written(Path(folder) / "a.gguf", weights, "Q8_0", shapes=True).read_bytes()


def header_length() -> int:
    """Bytes before the tensors, at least."""
    return whole().index(b"b.bias") + 40


def opened_and_read(path: Path) -> Checkpoint:
    file = open_checkpoint(path)
    for name in file:
        assert file[name].shape == file.shapes[name]
        file.stored(name)
    return file


@given(length=st.integers(0, len(whole()) - (-7 * 4 % 32) - 1))  # the last tensor is padded to 32 bytes
@example(length=0)
@example(length=4)
@example(length=24)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_anywhere_is_a_checkpoint_error_that_names_it(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole()[:length])
    with pytest.raises(CheckpointError, match=r"cut\.gguf.*ownload it again"):
        open_checkpoint(path)


def test_a_broken_download_says_where_it_ends(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(whole()[:-40])
    with pytest.raises(CheckpointError, match=rf"ends after {len(whole()) - 40:,} bytes.*download broke off"):
        open_checkpoint(tmp_path / "cut.gguf")


@given(place=st.integers(0, header_length() - 1), value=st.integers(0, 255))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_header_bytes_give_a_checkpoint_error_or_a_file(place: int, value: int, tmp_path: Path) -> None:
    content = bytearray(whole())
    content[place] = value
    path = tmp_path / "flipped.gguf"
    path.write_bytes(content)
    try:
        opened_and_read(path)
    except CheckpointError as error:
        message = str(error)
    else:
        return  # some bytes do not matter
    assert "flipped.gguf" in message


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>404</html>" * 9, b"GGML" + bytes(100), bytes(100), b"GG"])
def test_other_files_under_that_name_are_told_apart(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"page\.gguf does not begin with GGUF"):
        open_checkpoint(tmp_path / "page.gguf")


@pytest.mark.parametrize(("key", "why"), [("tokens", "1,099,511,627,776 words"), ("token_type", "ends after")])
def test_an_endless_array_is_refused_at_once(key: str, why: str, tmp_path: Path) -> None:
    content, field = bytearray(whole()), f"tokenizer.ggml.{key}".encode()
    at = content.index(field) + len(field) + 8
    content[at : at + 8] = (2**40).to_bytes(8, "little")
    (tmp_path / "endless.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"endless\.gguf.*{why}.*download it again"):
        open_checkpoint(tmp_path / "endless.gguf")


def test_models_of_another_architecture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"llama\.gguf is .*, but a HunyuanVideo transformer"):
        load_dit(llama_file(tmp_path / "llama.gguf"))
    with pytest.raises(CheckpointError, match=r"flux\.gguf is .*, but a HunyuanVideo transformer"):
        load_dit(
            written(tmp_path / "flux.gguf", {"double_blocks.0.img_attn.qkv.weight": torch.ones(4, 32)}, arch="flux")
        )
    with pytest.raises(CheckpointError, match=r"dit\.gguf is a GGUF of architecture 'hyvid', but .*'llama'"):
        LlamaGguf(GgufCheckpoint(written(tmp_path / "dit.gguf", {"a.weight": torch.ones(4, 32)})))


def test_an_unsupported_quantisation_is_named_with_what_to_choose(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "iq1.gguf", "hyvid")
    size = gguf.GGML_QUANT_SIZES[Kind.IQ1_S][1]
    writer.add_tensor("a.weight", np.zeros((2, size), np.uint8), raw_dtype=Kind.IQ1_S)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"iq1\.gguf: a\.weight.*IQ1_S.*F16.*Q4_K.*Choose a file"):
        open_checkpoint(tmp_path / "iq1.gguf")


def test_without_the_package_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(whole())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"a\.gguf needs the gguf package.*pip install gguf"):
        open_checkpoint(tmp_path / "a.gguf")


def test_a_shape_in_the_metadata_that_cannot_be_is_refused(tmp_path: Path) -> None:
    content = bytearray(whole())
    key = b"comfy.gguf.orig_shape.img_in.proj.weight"
    at = content.index(key) + len(key) + 4 + 4 + 8
    content[at] += 1
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.gguf: img_in\.proj\.weight.*\[9, 4, 2, 2, 2\].*damaged"):
        open_checkpoint(tmp_path / "a.gguf")


# --- memory --------------------------------------------------------------------------------------------------

PROBE = """
import sys
from pathlib import Path
import gguf, torch
from hyvideo_core.weights.files import open_checkpoint

def resident_mib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

open_checkpoint(sys.argv[1])
before = resident_mib()
file = open_checkpoint(sys.argv[2])
stored = file.stored("a.weight")
print(resident_mib() - before, stored.nbytes / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured through Linux's /proc")
def test_opening_a_large_file_reads_none_of_it_nor_keeps_a_tokenizer_s_words(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(whole())
    path = tmp_path / "sparse.gguf"
    writer = gguf.GGUFWriter(path, "hyvid")
    writer.add_array("tokenizer.ggml.tokens", [f"word {number}" for number in range(100_000)])
    rows, row_bytes = 2**16, 34 * 960
    writer.add_tensor_info("a.weight", (rows, row_bytes), np.dtype(np.uint8), rows * row_bytes, raw_dtype=Kind.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + rows * row_bytes + 64)  # takes no room on disk
    done = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path / "small.gguf"), str(path)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    grown, size = map(float, done.stdout.split())
    assert size > 2000
    assert grown < 12
