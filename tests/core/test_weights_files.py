"""Hostile and damaged files: each a clear error, nothing executed, no memory wasted."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_data import golden_weights, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golden_data import GOLDEN
from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError
from hyvideo_core.model import DiT
from hyvideo_core.weights import load_dit, load_vae
from hyvideo_core.weights.files import open_checkpoint, parameter_count

WEIGHTS = GOLDEN / "dit_weights.safetensors"
HTML = b"<!DOCTYPE html><html><title>404</title><body>" + b"Repository not found. " * 50 + b"</body></html>"


def header(entries: Any, data: bytes = b"") -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def tensor(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}


def pickled(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


DAMAGED = {
    "zero bytes": b"",
    "three bytes": b"abc",
    "a web page": HTML,
    "a short web page": b"<html></html>",
    "cut in the header": WEIGHTS.read_bytes()[:2000],
    "cut in the data": WEIGHTS.read_bytes()[:-1],
    "header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "header of the largest number": struct.pack("<Q", 2**64 - 1) + b"{}",
    "data the file does not have": header(tensor(data_offsets=[0, 10**12], shape=[25 * 10**10])),
    "header without shape": header({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "header without offsets": header({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "half an offset": header(tensor(data_offsets=[0]), bytes(4)),
    "offsets in words": header(tensor(data_offsets=["a", "b"]), bytes(4)),
    "shape and data that differ": header(tensor(shape=[7]), bytes(4)),
    "negative shape": header(tensor(shape=[-1]), bytes(4)),
    "header that is a list": header([1, 2, 3]),
    "header that is a number": header(5),
    "entry that is a number": header({"a": 5}),
    "metadata that is a number": header({"__metadata__": 5}),
    "header of bytes": header(b"\xff\xfe\x00\x01"),
    "header of a hundred thousand brackets": header(b"[" * 100_000),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_safetensors_is_a_checkpoint_error_that_names_the_file(what: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(DAMAGED[what])
    for load in (load_dit, load_vae):
        with pytest.raises(CheckpointError, match=r"broken\.safetensors.*ownload it again"):
            load(path)
    assert path.read_bytes() == DAMAGED[what]


def test_a_dtype_that_torch_does_not_know_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "future.safetensors"
    path.write_bytes(header(tensor(dtype="Q9"), bytes(4)))
    opened = open_checkpoint(path)
    assert opened.shapes == {"a": (1,)}
    with pytest.raises(CheckpointError, match=r"future\.safetensors: a is stored as Q9.*bf16"):
        opened["a"]


@pytest.mark.parametrize("padding", range(8))
def test_numbers_are_read_wherever_the_header_ends(padding: int, tmp_path: Path) -> None:
    numbers = torch.randn(5)
    raw = json.dumps({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}).encode() + b" " * padding
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + numbers.numpy().tobytes())
    assert torch.equal(open_checkpoint(path)["a"], numbers)


#: Bytes to overwrite: where, as a fraction of the whole, and with what.
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


def flipped(content: bytes, flips: list[tuple[float, int]], length: int) -> bytes:
    """``content`` with some of its first ``length`` bytes overwritten."""
    changed = bytearray(content)
    for place, value in flips:
        changed[int(place * length)] = value
    return bytes(changed)


@given(flips=FLIPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_header_bytes_give_a_checkpoint_error_or_a_model(
    flips: list[tuple[float, int]], tmp_path: Path
) -> None:
    content = WEIGHTS.read_bytes()
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(flipped(content, flips, 8 + struct.unpack("<Q", content[:8])[0]))
    try:
        load_dit(path)
    except CheckpointError as error:
        message = str(error)
    else:
        return  # some bytes do not matter
    assert "flipped.safetensors" in message


@pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and kilobytes in ru_maxrss")
def test_a_huge_header_length_is_not_read_into_memory(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 8 * 2**30) + b"{")
        file.truncate(9 * 2**30)  # takes no room on disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="header"):
        open_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, proof: Path) -> None:
        self.command = f"touch '{proof}'"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["zip", "old", "bare"])
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
def test_a_pickle_with_code_is_refused_and_not_run(kind: str, suffix: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / f"evil{suffix}"
    content = {"module": dict(golden_weights()), "extra": Payload(proof)}
    if kind == "bare":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    for load in (load_dit, load_vae):
        with pytest.raises(CheckpointError, match=rf"evil\{suffix}.*refused"):
            load(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Payload(proof)))  # the payload itself does work
    assert proof.exists()


RECURSIVE: dict[str, Any] = {}
RECURSIVE["module"] = RECURSIVE
WHOLE = pickled(dict(golden_weights()))
DAMAGED_PICKLES = {
    "zero bytes": b"",
    "a web page": HTML,
    "random bytes": bytes(range(255, 0, -1)),
    "cut at the end": WHOLE[:-100],
    "cut at the start": WHOLE[:60],
    "old and cut": pickled(dict(golden_weights()), _use_new_zipfile_serialization=False)[:-8],
    "a list": pickled([torch.zeros(1)]),
    "a tensor": pickled(torch.zeros(1)),
    "an empty dict": pickled({}),
    "numbers only": pickled({"module": {"a": 1}}),
    "itself inside itself": pickled(RECURSIVE),
    "safetensors inside": WEIGHTS.read_bytes(),
}


@pytest.mark.parametrize("what", DAMAGED_PICKLES)
def test_a_damaged_pickle_is_a_checkpoint_error_that_names_the_file(what: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(DAMAGED_PICKLES[what])
    for load in (load_dit, load_vae):
        with pytest.raises(CheckpointError, match=r"broken\.pt") as error:
            load(path)
        assert "could run code" not in str(error.value)


@given(flips=FLIPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_of_a_pickle_raise_nothing_but_checkpoint_errors(
    flips: list[tuple[float, int]], tmp_path: Path
) -> None:
    content = pickled({"module": {"a": torch.zeros(3)}}, _use_new_zipfile_serialization=False)
    path = tmp_path / "flipped.pt"
    path.write_bytes(flipped(content, flips, len(content)))
    with pytest.raises(CheckpointError, match=r"flipped\.pt"):
        load_dit(path)


@pytest.mark.parametrize("load", [load_dit, load_vae])
def test_paths_that_are_no_files_are_told_apart(load: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.safetensors.*nothing"):
        load(tmp_path / "nowhere.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"a folder|lacks its .safetensors"):
        load(tmp_path / "folder")
    (tmp_path / "model.onnx").write_bytes(b"ONNX")
    with pytest.raises(CheckpointError, match=r"'\.onnx'.*\.safetensors"):
        load(tmp_path / "model.onnx")


# --- memory -------------------------------------------------------------------------------------------------

BIG = {"hidden_size": 512, "heads": 4, "double_blocks": 6, "single_blocks": 6, "text_dim": 64, "pooled_dim": 64}
PROBE = """
import sys, threading, torch
from hyvideo_core.weights import load_dit

def resident_mib(kind):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024

path, dtype = sys.argv[1], getattr(torch, sys.argv[2])
before = resident_mib("RssAnon")
peak, done = [before], threading.Event()

def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], resident_mib("RssAnon"))

thread = threading.Thread(target=watch)
thread.start()
dit = load_dit(path, dtype=dtype)
done.set()
thread.join()
print(max(peak[0], resident_mib("RssAnon")) - before)
"""


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 transformer of about 200 MB."""
    with torch.device("meta"):
        state = DiT(DiTConfig(**BIG)).state_dict()
    folder = tmp_path_factory.mktemp("big")
    tensors = {name: torch.full(slot.shape, 0.01) for name, slot in state.items()}
    torch.save({"module": tensors}, folder / "big.pt")
    return save(folder / "big.safetensors", tensors)


def private_growth_mib(path: Path, dtype: str) -> float:
    """Memory of its own, beyond mapped files, that loading takes at its peak, in a fresh process."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is measured through Linux's /proc")
    command = [sys.executable, "-c", PROBE, str(path), dtype]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return float(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_that_need_no_conversion_stay_in_the_file(big_file: Path, suffix: str) -> None:
    size_mib = big_file.stat().st_size / 2**20
    assert size_mib > 150
    assert private_growth_mib(big_file.with_suffix(suffix), "float32") < 0.1 * size_mib


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_converted_weights_exist_once(big_file: Path, suffix: str) -> None:
    size_mib = big_file.stat().st_size / 2**20
    growth = private_growth_mib(big_file.with_suffix(suffix), "bfloat16")
    assert 0.45 * size_mib < growth < 0.6 * size_mib  # half the bytes of float32, and no second copy


def test_the_parameters_of_a_folder_are_those_of_its_shards(tmp_path: Path) -> None:
    weights = golden_weights()
    names = sorted(weights)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, part in halves.items():
        save(tmp_path / shard, {name: weights[name] for name in part})
    assert parameter_count(tmp_path) == parameter_count(WEIGHTS) > 0
