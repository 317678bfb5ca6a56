"""Host memory while a transformer loads: random files in every layout, each loaded in a process of its own.

What counts is resident memory beyond what the process had before: *anonymous* pages, which nothing but swapping can
take away, and *file* pages of memory-mapped checkpoints, which the system drops whenever it needs room. After loading,
every page of every weight is touched, so that a mapped file counts in full. The goal: never above 1.15 times what the
model takes at the end.

``python benchmarks/loading.py PATH [--dtype D] [--storage S] [--device cuda]`` measures one file and prints JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.memory import Placement
from hyvideo_core.model import DiT
from hyvideo_core.weights import load_dit

GOAL_RATIO = 1.15
#: One GB in bf16: the proportions of the full model.
ONE_GB = DiTConfig(hidden_size=1536, heads=12, double_blocks=3, single_blocks=5)
BLOCKS = ("double_blocks.", "single_blocks.")
NAMES_FILE = Path(__file__).parent.parent / "tests/golden/manifests/names_dit.json"
SAFETENSORS_NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float8_e4m3fn: "F8_E4M3"}
FP8 = torch.float8_e4m3fn
#: Times a second that a process's memory is looked at.
SAMPLES_PER_S = 1000
#: The format's block of Q8_0: a float16 scale and 32 bytes.
Q8_NUMBERS, Q8_BYTES = 32, 34

Entries = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Layout:
    """A published layout: how it is written, and how it is loaded."""

    name: str
    write: Callable[[Path, DiTConfig], Path]
    dtype: str = "bfloat16"
    storage: str = "auto"
    #: Blocks of a file of the same size: twice as many where a number takes one byte.
    blocks_factor: int = 1

    def config(self, base: DiTConfig) -> DiTConfig:
        """The model that makes a file of about one size in every layout."""
        factor = self.blocks_factor
        return replace(base, double_blocks=factor * base.double_blocks, single_blocks=factor * base.single_blocks)


def measured(layout: Layout, base: DiTConfig = ONE_GB) -> dict[str, Any]:
    """The numbers of one layout, its file written to a temporary folder and removed again."""
    with tempfile.TemporaryDirectory(prefix="hyvideo-loading-") as folder:
        path = layout.write(Path(folder), layout.config(base))
        size = sum(f.stat().st_size for f in path.rglob("*")) if path.is_dir() else path.stat().st_size
        found = measured_in_subprocess(path, "--dtype", layout.dtype, "--storage", layout.storage)
    return {"case": f"loading {layout.name}", "file_mib": round(size / 2**20, 1)} | verdict(found)


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """Sizes in MiB and ratios; the goal is judged on all memory, and on what cannot be dropped."""
    final = found["final_bytes"]
    resident, anonymous = found["peak_rss_bytes"] / final, found["peak_anonymous_bytes"] / final
    met = "met" if resident <= GOAL_RATIO else "met without file pages" if anonymous <= GOAL_RATIO else "missed"
    return {
        "seconds": round(found["seconds"], 3),
        "final_mib": round(final / 2**20, 1),
        "peak_mib": round(found["peak_rss_bytes"] / 2**20, 1),
        "peak_anonymous_mib": round(found["peak_anonymous_bytes"] / 2**20, 1),
        "peak_file_mib": round(found["peak_file_bytes"] / 2**20, 1),
        "peak_ratio": round(resident, 3),
        "anonymous_ratio": round(anonymous, 3),
        "goal": f"≤ {GOAL_RATIO}: {met}",
    }


def measured_in_subprocess(path: Path, *arguments: str) -> dict[str, Any]:
    """What ``main`` prints for a file, from a fresh process."""
    done = subprocess.run([sys.executable, __file__, str(path), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --- in the process that loads --------------------------------------------------------------------------------


def main() -> None:
    """Load one file and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--storage", default="auto")
    parser.add_argument("--device", default="cpu", help="where the weights shall be at the end")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        # The context's own memory is not the loader's.
        torch.zeros(1, device=device)
    with peaks() as found:
        start = time.perf_counter()
        dit = load_dit(options.path, dtype=getattr(torch, options.dtype), storage=options.storage)
        final = sum(tensor.nbytes for tensor in dit.state_dict().values())
        if device.type == "cuda":
            blocks = [*dit.double_blocks, *dit.single_blocks]
            Placement(dit, blocks, device).put(len(blocks))
            torch.cuda.synchronize()
        else:
            touched = sum(int(t.contiguous().view(-1).view(torch.uint8)[::4096].sum()) for t in dit.parameters())
            assert touched >= 0
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "final_bytes": final, **found}))


@contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """Fills in the most memory of this process while it lasts, beyond what it had before."""
    before, most, over = memory(), memory(), threading.Event()

    def watch() -> None:
        while not over.wait(1 / SAMPLES_PER_S):
            for kind, value in memory().items():
                most[kind] = max(most[kind], value)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    found: dict[str, int] = {}
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        for kind, value in memory().items():
            found[f"peak_{kind}_bytes"] = max(most[kind], value) - before[kind]


def memory() -> dict[str, int]:
    """Bytes this process holds: all, anonymous, and of files (``/proc/self/status``)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "Rss"))}
    return {"rss": found["VmRSS"], "anonymous": found["RssAnon"], "file": found["RssFile"]}


# --- files ----------------------------------------------------------------------------------------------------


def parameters(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    """Original names and shapes."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in DiT(config).state_dict().items()}


def plain(config: DiTConfig, dtype: torch.dtype = torch.bfloat16) -> Entries:
    """All in one dtype."""
    return {name: (dtype, shape) for name, shape in parameters(config).items()}


def fp8(config: DiTConfig) -> Entries:
    """Matrices of blocks in fp8, the rest in bf16."""
    return {
        name: (FP8 if name.startswith(BLOCKS) and len(shape) == 2 else torch.bfloat16, shape)
        for name, shape in parameters(config).items()
    }


def random_bytes(dtype: torch.dtype, count: int) -> memoryview:
    """``count`` random finite numbers, in a pattern that repeats after 16 MB."""
    pool = torch.randn(min(count, 2**24 // dtype.itemsize), generator=torch.Generator().manual_seed(0)).to(dtype)
    return memoryview(np.resize(pool.view(torch.uint8).numpy(), count * dtype.itemsize))


def save_random(path: Path, entries: Entries) -> Path:
    """A safetensors file of these tensors, written one by one."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in entries.items():
        size = dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for dtype, shape in entries.values():
            file.write(random_bytes(dtype, torch.Size(shape).numel()))
    return path


def host_name(name: str) -> str:
    """ComfyUI's name for an original one."""
    return re.sub(r"(?<=_blocks\.)0", _number(name), str(_names(name)["comfy"]), count=1)


def diffusers_parts(name: str) -> list[tuple[str, float]]:
    """diffusers' names for an original one, each with its share of the rows."""
    parts = _names(name)["diffusers"]
    if isinstance(parts[0][1], str):
        return [(str(parts[0][0]), 1.0)]
    rows = parts[-1][2]
    return [(re.sub(r"(?<=_blocks\.)0", _number(name), p[0], count=1), (p[2] - p[1]) / rows) for p in parts]


def _number(name: str) -> str:
    found = re.match(r"(?:double|single)_blocks\.(\d+)", name)
    return found[1] if found else "0"


def _names(name: str) -> dict[str, Any]:
    generic = re.sub(r"^((?:double|single)_blocks)\.\d+", r"\1.0", name)
    names: dict[str, Any] = json.loads(NAMES_FILE.read_text("utf-8"))[generic]
    return names


def original(folder: Path, config: DiTConfig, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Original names."""
    return save_random(folder / "original.safetensors", plain(config, dtype))


def host(folder: Path, config: DiTConfig) -> Path:
    """ComfyUI's names."""
    entries = {f"model.diffusion_model.{host_name(name)}": entry for name, entry in plain(config).items()}
    return save_random(folder / "host.safetensors", entries)


def plain_fp8(folder: Path, config: DiTConfig) -> Path:
    """fp8 without scales."""
    return save_random(folder / "fp8.safetensors", fp8(config))


def scaled_fp8(folder: Path, config: DiTConfig) -> Path:
    """fp8 with a scale beside each matrix, in ComfyUI's names."""
    entries = {host_name(name): entry for name, entry in fp8(config).items()}
    scales = {
        host_name(name).removesuffix("weight") + "scale_weight": (torch.float32, (1,))
        for name, (dtype, _) in fp8(config).items()
        if dtype == FP8
    }
    return save_random(folder / "scaled.safetensors", entries | scales)


def official(folder: Path, config: DiTConfig) -> Path:
    """The official pickle."""
    tensors = {name: _tensor(dtype, shape) for name, (dtype, shape) in plain(config).items()}
    torch.save({"module": tensors}, folder / "mp_rank_00_model_states.pt")
    return folder / "mp_rank_00_model_states.pt"


def official_fp8(folder: Path, config: DiTConfig) -> Path:
    """The official fp8 pickle and its map of scales."""
    entries = fp8(config)
    scales = {name.removesuffix(".weight"): torch.ones(1) for name, (dtype, _) in entries.items() if dtype == FP8}
    torch.save(scales, folder / "model_fp8_map.pt")
    torch.save({"module": {name: _tensor(*entry) for name, entry in entries.items()}}, folder / "model_fp8.pt")
    return folder / "model_fp8.pt"


def diffusers(folder: Path, config: DiTConfig) -> Path:
    """A sharded diffusers folder."""
    split: Entries = {
        part: (dtype, (round(share * shape[0]), *shape[1:]))
        for name, (dtype, shape) in plain(config).items()
        for part, share in diffusers_parts(name)
    }
    index = {}
    for number in range(2):
        file = f"diffusion_pytorch_model-{number + 1:05}-of-00002.safetensors"
        save_random(folder / file, {name: split[name] for name in sorted(split)[number::2]})
        index |= dict.fromkeys(sorted(split)[number::2], file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    stated = {"rope_axes_dim": config.rope_dims, "rope_theta": config.rope_theta}
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


def gguf_q8(folder: Path, config: DiTConfig) -> Path:
    """GGUF with the matrices of blocks in Q8_0."""
    import gguf

    path = folder / "q8.gguf"
    writer = gguf.GGUFWriter(path, "hyvid")
    block = np.random.default_rng(0).integers(0, 256, (2**15, Q8_BYTES), dtype=np.uint8)
    block[:, :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    for name, shape in parameters(config).items():
        if name.startswith(BLOCKS) and len(shape) == 2:
            packed = np.resize(block, (shape[0], shape[1] // Q8_NUMBERS * Q8_BYTES))
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            numbers = np.frombuffer(random_bytes(torch.float32, torch.Size(shape).numel()), np.float32)
            writer.add_tensor(name, numbers.astype(np.float16).reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    numbers = torch.frombuffer(bytearray(random_bytes(dtype, torch.Size(shape).numel())), dtype=torch.uint8)
    return numbers.view(dtype).view(shape)


LAYOUTS = [
    Layout("original bf16", original),
    Layout("host names bf16", host),
    Layout("official .pt bf16", official),
    Layout("diffusers, 2 shards, bf16", diffusers),
    Layout("plain fp8", plain_fp8, blocks_factor=2),
    Layout("scaled fp8", scaled_fp8, blocks_factor=2),
    Layout("official fp8 .pt and its map", official_fp8, blocks_factor=2),
    Layout("GGUF Q8_0", gguf_q8, blocks_factor=2),
    Layout("original fp32 to bf16", lambda folder, config: original(folder, config, torch.float32)),
    Layout("original bf16 to fp32", original, dtype="float32"),
    Layout("original bf16 to scaled fp8", original, storage="fp8"),
    Layout("plain fp8 to bf16", plain_fp8, storage="plain", blocks_factor=2),
]


if __name__ == "__main__":
    main()
