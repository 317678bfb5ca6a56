"""What every mode of the pack does to a trained network: ``python benchmarks/quality.py [--save] [--only ROW,…]``.

The demo set's networks make clips of fixed prompts that nothing was trained on, each from the noise of its own seed,
drawn on the CPU. Columns: percent of the prompts that were obeyed in colour, shape, motion, background, number of
things, and in all of these at once (also apart for prompts that ask for one thing and for two), as
``tools/demo_model/judge.py`` sees it; mean and worst PSNR, and mean SSIM, of the clips beside those of the row
``float32`` (20 steps, shift 7, guidance 6), ∞ where they are the same to the last bit; seconds of sampling and
decoding. These differ:

- ``undistilled`` with more than a ``cfg`` and ``LoRA at 1`` with more are beside the same without it;
- ``VAE alone`` is beside the scenes themselves, and ``image-to-video`` tells the PSNR of the first frame beside its;
- ``LoRA at 1`` asks for a black background, whatever the prompt says, of prompts without black things;
- what moves one way cannot loop, so in ``seamless loop`` and ``looped windows`` only things at rest obey;
- ``video-to-video`` begins with the scene itself; it, ``images`` and ``image-to-video`` have nothing to be beside.

``--record`` writes what was measured to ``results/quality.json`` and ``.md``, in the first each row with its day and
machine; the heading of the second is of the last run. Rows that were not measured, or cannot be here, stay as they
were; the oldest tell no day, nor one thing and two apart.
``--gate`` measures the rows that CI runs on the first prompts, and fails when obedience is more than 3 points, and
more than one prompt, below the record in any column of any row, or a mean in dB more than 2 dB, or what a cache saves
more than 3 points.

GGUF's K types, whose blocks of 256 numbers do not fit most rows of networks this narrow, and IQ4_NL and IQ4_XS, which
the gguf package reads and cannot write, have no numbers. Seconds are for a rough idea: the machine may be doing more.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
from quality_bench import Bench
from quality_files import Files
from quality_report import PROMPTS, QUICK_PROMPTS, Result, falls, heading, line, markdown, not_run, result
from quality_rows import ROWS, Row

from cases import Missing

RESULTS = Path(__file__).parent / "results"
RECORD = RESULTS / "quality.json"


def main(arguments: Sequence[str] | None = None, files: Files | None = None, record: Path = RECORD) -> int:
    """Measure and report; the exit code. ``files`` None is the demo set as it is shipped."""
    options = _options(arguments)
    rows = _chosen(options)
    if options.rows:
        print("\n".join(f"{row.name}{'  (quick)' if row.is_quick else ''}" for row in rows))
        return 0
    if absent := (files or Files()).absent():
        print(f"These files of the demo set are not there: {', '.join(path.name for path in absent)}.")
        if options.record:
            return 1
    report: Result = {"date": datetime.date.today().isoformat(), "machine": _machine(options.device), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        count = QUICK_PROMPTS if options.quick else options.prompts
        bench = Bench(files or Files(), count, Path(folder), options.device)
        print("\n".join(heading()), flush=True)
        for row in rows:
            report["rows"].append(measured(row, bench) | {"on": f"{report['date']}, {_told(report['machine'])}"})
            print(line(report["rows"][-1]), flush=True)
            _write(options, report, record)
    if not options.gate:
        return 0
    if not record.is_file():
        print(f"There is no record to compare with: {record}. Make one with --record.")
        return 1
    worse = falls(json.loads(record.read_text("utf-8"))["rows"], report["rows"])
    print("\n".join(worse) or "No row is below the record.")
    return int(bool(worse))


def measured(row: Row, bench: Bench) -> Result:
    """The row's numbers, or why there are none; whatever else goes wrong is an error."""
    try:
        return result(row, row.measure(bench))
    except Missing as reason:
        return not_run(row, str(reason))


def _chosen(options: argparse.Namespace) -> list[Row]:
    rows = [row for row in ROWS if row.is_quick or not options.quick]
    if not options.only:
        return rows
    wanted = [name.strip() for name in options.only.split(",")]
    for name in wanted:
        if not any(fnmatchcase(row.name, name) for row in rows):
            sys.exit(f"There is no row '{name}'; --rows lists those there are.")
    return [row for row in rows if any(fnmatchcase(row.name, name) for name in wanted)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS, help=f"how many prompts ({PROMPTS})")
    parser.add_argument("--quick", action="store_true", help=f"the rows of CI on {QUICK_PROMPTS} prompts")
    parser.add_argument("--only", default="", metavar="ROW,…", help="only these rows; * stands for any text")
    parser.add_argument("--rows", action="store_true", help="print the names of the rows")
    parser.add_argument("--device", default="cpu", help="where to compute")
    parser.add_argument("--save", action="store_true", help="write a dated table and its numbers to results/")
    parser.add_argument("--record", action="store_true", help="make the results the record of the gate")
    parser.add_argument("--gate", action="store_true", help="--quick, and fail where the record is missed")
    options = parser.parse_args(arguments)
    options.quick = options.quick or options.gate
    if options.record and (options.quick or options.prompts < PROMPTS):
        parser.error(f"--record needs all {PROMPTS} prompts")
    return options


def _machine(device: str) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "capability": capability,
        "torch": torch.__version__,
    }


def _told(machine: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def _write(options: argparse.Namespace, report: Result, record: Path) -> None:
    """After every row, so that a run that is cut off leaves what it has."""
    if options.save:
        dated = RESULTS / f"{report['date']}-quality"
        dated.with_suffix(".json").write_text(_json(report), encoding="utf-8")
        dated.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    if options.record:
        before = json.loads(record.read_text("utf-8"))["rows"] if record.is_file() else []
        found = {row["row"]: row for row in before}
        found |= {row["row"]: row for row in report["rows"] if "reason" not in row or row["row"] not in found}
        kept = [found[row.name] for row in ROWS if row.name in found]
        record.write_text(_json(report | {"rows": kept}), encoding="utf-8")
        record.with_suffix(".md").write_text(markdown(report | {"rows": kept}), encoding="utf-8")


def _json(report: Result) -> str:
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
