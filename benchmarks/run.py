"""Seconds and peak memory beside diffusers: ``python benchmarks/run.py [--case TEXT] [--rounds N] [--json FILE]``.

Times are taken alternately in one process and given as medians and as the median of the per-round ratios, since
machines are noisy. Peaks are the most tensor bytes alive at once beyond weights and inputs, each traced in a
process of its own. Prints a table and, with ``--json``, writes everything to a file.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from measure import traced_peak_bytes

from cases import CASES, Case


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds per case")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--peak-of", nargs=2, metavar=("CASE", "IMPLEMENTATION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(_peak_bytes(*options.peak_of))
        return
    results = [_measure(case, options.rounds) for case in CASES if options.case in case.name]
    report = {"machine": _machine(), "results": results}
    _print_table(results)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def _measure(case: Case, rounds: int) -> dict[str, Any]:
    names = list(case.implementations)
    works = {name: prepare(case.dtype) for name, prepare in case.implementations.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        for work in works.values():
            work()
        for index in range(rounds):
            # The order alternates, so that neither always runs on the warmer machine.
            for name in names if index % 2 == 0 else names[::-1]:
                start = time.perf_counter()
                works[name]()
                seconds[name].append(time.perf_counter() - start)
    del works
    peaks = {name: _peak_in_subprocess(case.name, name) for name in names}
    ratios = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds["diffusers"], strict=True)]
    return {
        "case": case.name,
        "seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "time_ratio": round(statistics.median(ratios), 3),
        "peak_mib": {name: round(value / 2**20, 1) for name, value in peaks.items()},
        "peak_ratio": round(peaks["ours"] / peaks["diffusers"], 3) if peaks["diffusers"] else None,
        "rounds": rounds,
    }


def _peak_in_subprocess(case: str, implementation: str) -> int:
    command = [sys.executable, __file__, "--peak-of", case, implementation]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def _peak_bytes(case_name: str, implementation: str) -> int:
    case = next(case for case in CASES if case.name == case_name)
    work = case.implementations[implementation](case.dtype)
    return traced_peak_bytes(work)


def _machine() -> dict[str, Any]:
    import diffusers

    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def _print_table(results: list[dict[str, Any]]) -> None:
    print(f"{'case':24}{'ours s':>9}{'diffusers s':>13}{'ratio':>8}{'ours MiB':>11}{'diffusers MiB':>15}{'ratio':>8}")
    for row in results:
        seconds, peak = row["seconds"], row["peak_mib"]
        print(
            f"{row['case']:24}{seconds['ours']:9.3f}{seconds['diffusers']:13.3f}{row['time_ratio']:8.3f}"
            f"{peak['ours']:11.1f}{peak['diffusers']:15.1f}{row['peak_ratio'] or 0:8.3f}"
        )


if __name__ == "__main__":
    main()
