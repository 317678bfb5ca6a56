"""Seconds and peak memory on this CPU: ``python benchmarks/run.py [--case TEXT] [--rounds N] [--json FILE]``.

- ``dit``, ``vae``: a forward beside diffusers' and ComfyUI's. ``attention``: one call of each kernel that runs here.
- ``swapped``: a step with all blocks streamed beside all resident; goal at most 1.05 times.
- ``gguf``: unpacking beside the gguf package's own.
- ``loading``: host memory while files of 1 GB load (``loading.py``); goal at most 1.15 times the final size.

Times are taken alternately in one process and given as medians; a ratio is the median of the per-round ratios of the
first implementation to the other, since machines are noisy: below 1 the first is faster. Peaks are the most tensor
bytes alive at once beyond weights and inputs, each traced in a process of its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import dequantise
import kernels
import loading
import networks
import swapping
from measure import traced_peak_bytes

from cases import Case, Missing, Work

CASES: list[Case] = [*networks.CASES, *kernels.CASES, *swapping.CASES, *dequantise.CASES]

Result = dict[str, Any]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds per case")
    parser.add_argument("--json", type=Path, help="write the results here after every case")
    parser.add_argument("--markdown", type=Path, help="write a dated table here after every case")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--peak-of", nargs=2, metavar=("CASE", "IMPLEMENTATION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(_peak_bytes(*options.peak_of))
        return
    cases = [case for case in CASES if options.case in case.name]
    layouts = [layout for layout in loading.LAYOUTS if options.case in f"loading {layout.name}"]
    if options.list:
        print("\n".join([*(case.name for case in cases), *(f"loading {layout.name}" for layout in layouts)]))
        return
    report: Result = {"date": datetime.date.today().isoformat(), "machine": _machine(), "results": [], "loading": []}
    for case in cases:
        report["results"].append(measured(case, options.rounds))
        print(*lines(report["results"][-1]), sep="\n", flush=True)
        _write(options, report)
    for layout in layouts:
        report["loading"].append(loading.measured(layout))
        print(loading_line(report["loading"][-1]), flush=True)
        _write(options, report)


def measured(case: Case, rounds: int) -> Result:
    """Seconds, ratios and peaks of one case, and which implementations are missing for what reason."""
    works: dict[str, Work] = {}
    missing: dict[str, str] = {}
    for name, prepare in case.implementations.items():
        try:
            works[name] = prepare()
        except (Missing, ImportError) as error:
            missing[name] = str(error)
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads or threads)
    with torch.inference_mode():
        _check_agreement(case, {name: work() for name, work in works.items()})
        seconds = _alternating(works, rounds)
    torch.set_num_threads(threads)
    names = list(works)
    del works
    peaks = {name: _peak_in_subprocess(case.name, name) for name in names}
    first, *others = names
    ratios = {name: _median_ratio(seconds[first], seconds[name]) for name in others}
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    result = {
        "case": case.name,
        "seconds": {name: round(found, 4) for name, found in medians.items()},
        "time_ratio": ratios,
        # What numpy allocates is not traced.
        "peak_mib": {name: round(value / 2**20, 1) if value else None for name, value in peaks.items()},
        "peak_ratio": {name: round(peaks[first] / peaks[name], 3) for name in others if peaks[name]},
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
    }
    if case.numbers:
        result["million_numbers_per_s"] = {name: round(case.numbers / found / 1e6) for name, found in medians.items()}
    if case.goal is not None:
        result["goal"] = f"≤ {case.goal}: {'met' if ratios[others[0]] <= case.goal else 'missed'}"
    return result | ({"missing": missing} if missing else {})


def _alternating(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    names = list(works)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        # The order alternates, so that none always runs on the warmer machine.
        for name in names if index % 2 == 0 else names[::-1]:
            start = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _median_ratio(first: list[float], other: list[float]) -> float:
    return round(statistics.median(ours / theirs for ours, theirs in zip(first, other, strict=True)), 3)


def _check_agreement(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Times of different work cannot be compared."""
    if case.agree is None:
        return
    first, *others = results
    for name in others:
        distance = ((results[name].float() - results[first].float()).norm() / results[first].float().norm()).item()
        if not distance <= case.agree:
            raise AssertionError(f"{case.name}: {name} is {distance:.1e} from {first}, {case.agree:.1e} is allowed.")


def _peak_in_subprocess(case: str, implementation: str) -> int:
    command = [sys.executable, __file__, "--peak-of", case, implementation]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def _peak_bytes(case_name: str, implementation: str) -> int:
    case = next(case for case in CASES if case.name == case_name)
    return traced_peak_bytes(case.implementations[implementation]())


def _machine() -> Result:
    import diffusers

    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def lines(row: Result) -> list[str]:
    """One row of the table for each implementation."""
    found = []
    for name, seconds in row["seconds"].items():
        speed = row.get("million_numbers_per_s", {}).get(name, "")
        goal = row.get("goal", "") if not found else ""
        ratio, peak_ratio = row["time_ratio"].get(name, ""), row["peak_ratio"].get(name, "")
        peak = row["peak_mib"][name] or ""
        cells = (row["case"], name, f"{seconds:.4f}", ratio, peak, peak_ratio, speed, goal)
        found.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return found


def loading_line(row: Result) -> str:
    """One row of the table of loading."""
    keys = ("case", "seconds", "file_mib", "final_mib", "peak_mib", "peak_anonymous_mib", "peak_ratio")
    return "| " + " | ".join(str(row[key]) for key in (*keys, "anonymous_ratio", "goal")) + " |"


def markdown(report: Result) -> str:
    """The report as a dated table."""
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    loads = [row["load"] for row in report["results"]]
    load = f"; load while measuring {min(loads)} to {max(loads)}" if loads else ""
    text = [
        f"## {report['date']} · {machine}{load}",
        "",
        "| case | implementation | seconds | first ÷ this | peak MiB | first ÷ this | million numbers/s | goal |",
        "|---|---|---|---|---|---|---|---|",
        *(line for row in report["results"] for line in lines(row)),
        "",
        "| case | seconds | file MiB | final MiB | peak MiB | anonymous MiB | peak ÷ final | anonymous ÷ | goal |",
        "|---|---|---|---|---|---|---|---|---|",
        *(loading_line(row) for row in report["loading"]),
        "",
    ]
    missing = {name: why for row in report["results"] for name, why in row.get("missing", {}).items()}
    return "\n".join([*text, *(f"- {name} was not measured: {why}" for name, why in missing.items()), ""])


def _write(options: argparse.Namespace, report: Result) -> None:
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
