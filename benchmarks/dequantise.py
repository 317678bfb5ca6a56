"""GGUF unpacking beside the gguf package's own: ``python benchmarks/dequantise.py [--case TEXT] [--rounds N]``.

One matrix of 3072 × 3072 in each format, to float32, times taken alternately in one process; medians, and the median
of the per-round ratios. Peak: the most bytes alive at once, in sizes of the float32 result. The package works on one
thread; ``--threads`` sets ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from measure import traced_peak_bytes

from cases import Case, Work
from hyvideo_core.ops.ggml import FORMATS, Ggml

SIZE = 3072


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only formats whose name contains this")
    parser.add_argument("--rounds", type=int, default=9, help="alternating rounds per case")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'case':16}{'ours M/s':>10}{'gguf M/s':>10}{'speed-up':>10}{'peak / result':>15}")
    results = []
    for case in CASES:
        if options.case in case.name:
            results.append(row := _measure(case, options.rounds))
            speeds = "".join(f"{row['numbers_per_us'][name]:10.0f}" for name in ("ours", "gguf"))
            print(f"{row['case']:16}{speeds}{row['speed_up']:10.2f}{row['peak_ratio']:15.2f}")
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "results": results}, indent=1) + "\n")


def rows(kind: str) -> np.ndarray:
    """Random packed rows; the same small float16 number wherever a scale may lie keeps everything finite."""
    layout = FORMATS[kind]
    data = np.random.default_rng(0).integers(0, 256, (SIZE * SIZE // layout.numbers, layout.nbytes), dtype=np.uint8)
    for start in (start for start in (0, 2, 80, 82, 108, 208) if start < layout.nbytes):
        data[:, start : start + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return data.reshape(SIZE, -1)


def ours(kind: str, dtype: torch.dtype) -> Work:
    """Ours, to any dtype."""
    data = torch.from_numpy(rows(kind))
    return lambda: Ggml(kind).dense(data, None, dtype)


def package(kind: str) -> Work:
    """The package's, which knows float32 alone."""
    import gguf

    data, number = rows(kind), gguf.GGMLQuantizationType[kind]
    return lambda: torch.from_numpy(gguf.dequantize(data, number))


def _case(kind: str) -> Case:
    implementations = {"ours": lambda dtype: ours(kind, dtype), "gguf": lambda dtype: package(kind)}
    return Case(f"gguf {kind}", torch.float32, implementations)


def _measure(case: Case, rounds: int) -> dict[str, Any]:
    names = list(case.implementations)
    works = {name: prepare(case.dtype) for name, prepare in case.implementations.items()}
    if not torch.equal(*(work() for work in works.values())):
        raise AssertionError(f"{case.name}: the two results differ, so their times cannot be compared.")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names if index % 2 == 0 else names[::-1]:
            start = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - start)
    ratios = [theirs / mine for mine, theirs in zip(seconds["ours"], seconds["gguf"], strict=True)]
    return {
        "case": case.name,
        "numbers_per_us": {name: round(SIZE**2 / statistics.median(times) / 1e6) for name, times in seconds.items()},
        "speed_up": round(statistics.median(ratios), 2),
        "peak_ratio": round(traced_peak_bytes(works["ours"]) / (4 * SIZE**2), 2),
        "rounds": rounds,
    }


CASES = [_case(kind) for kind in FORMATS]


if __name__ == "__main__":
    main()
