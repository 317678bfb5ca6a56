"""The true size on a real card: ``python benchmarks/gpu.py --json results.json --markdown results.md``.

Random weights of the full model (a step's time and peak need no trained ones), so no file is needed. Rows, the most
telling first:

- ``step SIZE PRECISION resident``: seconds of one sampling step with all weights on the card; ``… under N GB``: the
  same on a card of N GB (torch may allocate N·10⁹ bytes less half a GB for the driver), as ``plan_sampling`` chose.
  ``fp8`` is stored with a scale for each output channel and unpacked for each product; ``fp8 fast`` multiplies in fp8.
- ``decode SIZE …``: seconds and peak of the tiled VAE, frames handed on as they finish.
- ``diffusers …``: its transformer (each attention backend) and its tiled VAE in the same run; "× ours" above 1 means
  slower than ours resident in bf16, or than our decode measured last.
- ``attention …``: one call of each kernel, then a step with each; ``head groups``, ``compiled``: a step with them.
- ``sliding tiles WINDOW …``: one call within a window of tiles, by ``flex_attention`` in blocks and by dense attention
  window by window, then a step; how much is computed, and what the first call or step takes beside the others.
- ``cache NAME … step, computed``: a step in which a cache watches but may skip nothing; ``… step, skipped``: one it
  skips; ``… run``: a whole run beside one without, by default and skipping all it may. How many steps a cache skips by
  default with random weights says nothing of a trained model, so read that row with the blocks that ran.
- ``loading …``: a 13 GB fp8 file to the card, beside a plain read of it.

Columns: seconds is a median of rounds after one to warm up; peak is all torch had allocated at once, weights included;
predicted is the plan's; ± is predicted against measured, where 0 to 7 % is the goal and below 0 is a defect; slower is
against the same precision and size all resident in this run, for a cache measured in the same row. A goal that was
missed is marked ✗. A row that could not run says why. GB are 10⁹ bytes.

Results are written after every row. ``--minutes N`` ends cleanly after the row in which N minutes are over, and
``--resume`` goes on with the rows that the JSON file lacks, on the same card. ``--only`` and ``--skip`` choose rows by
text in their names; ``--list`` prints them. ``--rehearse`` runs every kind of row with a tiny model on the CPU, so that
nothing is untested before a card is at hand: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from card import Card
from gpu_caches import CACHES, EVERYTHING, Caches
from gpu_decoding import Decoding
from gpu_loading import Loading
from gpu_sampling import STORAGES, Sampling
from gpu_tiles import WAYS, Tiles
from scale import CAPS_GB, GOAL_SIZE, IMAGE_SIZE, REHEARSAL, SECOND_SIZE, SHORT_SIZE, SMALL_CAP_GB, TRUE, Scale

from hyvideo_core.attention.registry import KERNELS
from hyvideo_core.sampling_plan import head_groups

#: diffusers' attention backends that take its mask.
PEER_BACKENDS = ("native", "_native_cudnn")

Result = dict[str, Any]
Row = tuple[str, Callable[[], Result]]


def main() -> None:
    """Measure what was asked for and report."""
    options = _options()
    if not options.rehearse and not torch.cuda.is_available():
        sys.exit("There is no CUDA device. --rehearse runs a tiny model on the CPU instead.")
    card = Card(torch.device("cpu" if options.rehearse else "cuda"))
    bench = Bench(card, REHEARSAL if options.rehearse else TRUE)
    rows = [row for row in bench.rows() if options.only in row[0] and not any(s in row[0] for s in options.skip)]
    if options.list:
        print("\n".join(name for name, _ in rows))
        return
    report: Result = {"date": datetime.date.today().isoformat(), "machine": card.describe(), "rows": []}
    if options.resume:
        report["rows"] = _earlier(options.json, report["machine"])
    done = {row["row"] for row in report["rows"]}
    end = time.monotonic() + 60 * options.minutes
    for name, work in rows:
        if name in done:
            continue
        if time.monotonic() > end:
            print(f"{options.minutes:g} minutes are over; --resume goes on from here.")
            break
        result = {"row": name} | bench.guarded(work)
        report["rows"].append(result)
        print(line(result), flush=True)
        _write(options, report)
    _write(options, report)


class Bench:
    """All rows, and the one model that is on the device at a time."""

    def __init__(self, card: Card, scale: Scale) -> None:
        self._card, self._scale = card, scale
        self._sampling, self._decoding, self._loading = (
            Sampling(card, scale),
            Decoding(card, scale),
            Loading(card, scale),
        )
        self._caches, self._tiles = Caches(card, scale, self._sampling), Tiles(card, scale, self._sampling)

    def rows(self) -> list[Row]:
        """Every row, by importance."""
        fp8 = STORAGES[1:]
        return [
            *self._steps(GOAL_SIZE, STORAGES[:1]),
            *self._decodes(GOAL_SIZE),
            *self._peers(GOAL_SIZE),
            *self._kernels(GOAL_SIZE),
            *self._windows(GOAL_SIZE),
            *self._cached_steps(GOAL_SIZE),
            *self._steps(GOAL_SIZE, fp8),
            *self._steps(SECOND_SIZE, STORAGES[:1]),
            *self._choices(SECOND_SIZE),
            *self._peers(SECOND_SIZE),
            *self._decodes(SECOND_SIZE),
            ("loading a full-size fp8 file", self._alone(self._loading.fp8_file)),
            *self._steps(SHORT_SIZE, STORAGES[:1]),
            *self._cached_steps(SHORT_SIZE),
            *self._cached_runs(SHORT_SIZE),
            *self._steps(IMAGE_SIZE, STORAGES[:1]),
            *self._peers(SHORT_SIZE),
            *self._peers(IMAGE_SIZE),
            *(row for size in (SECOND_SIZE, SHORT_SIZE, IMAGE_SIZE) for row in self._steps(size, fp8)),
            *self._decodes(SHORT_SIZE),
            *self._decodes(IMAGE_SIZE),
        ]

    def guarded(self, work: Callable[[], Result]) -> Result:
        """The row's numbers, or why there are none."""
        started = time.monotonic()
        try:
            result = work()
        except Exception as error:  # a row that cannot run is a finding, and the next may
            text = str(error).strip().splitlines() or [""]
            result = {"reason": f"{type(error).__name__}: {text[0]}"}
        if "reason" in result:
            # Outside of the handler, which would keep the failed row's tensors alive.
            self._sampling.release_everything()
            self._decoding.release()
        return result | {"row_s": round(time.monotonic() - started, 1)}

    def _steps(self, size: str, storages: tuple[str, ...]) -> list[Row]:
        """Resident, then under each limit, for each way to store weights."""
        caps = (*CAPS_GB, SMALL_CAP_GB) if size == SECOND_SIZE else CAPS_GB
        return [
            (f"step {size} {storage} {where}", self._step(partial(self._sampling.step, size, storage, cap)))
            for storage in storages
            for cap, where in ((None, "resident"), *((cap, f"under {cap} GB") for cap in caps))
        ]

    def _decodes(self, size: str) -> list[Row]:
        return [
            (f"decode {size} original tiles", self._alone(partial(self._decoding.ours, size, "original"))),
            (f"decode {size} planned for 4 GB", self._alone(partial(self._decoding.ours, size, "planned"))),
            (f"diffusers decode {size} tiled", self._alone(partial(self._decoding.diffusers, size))),
        ]

    def _peers(self, size: str) -> list[Row]:
        return [
            (f"diffusers step {size} bf16 {backend}", self._step(partial(self._sampling.peer, size, backend)))
            for backend in PEER_BACKENDS
        ]

    def _kernels(self, size: str) -> list[Row]:
        return [
            (f"attention {name} {size}, one call", self._step(partial(self._sampling.kernel, size, name)))
            for name in KERNELS
        ]

    def _windows(self, size: str) -> list[Row]:
        windows = self._scale.windows
        return [
            *(
                (
                    f"sliding tiles {window} {way} {size}, one call",
                    self._step(partial(self._tiles.kernel, size, window, way)),
                )
                for window in windows
                for way in WAYS
            ),
            *(
                (f"sliding tiles {window} {size} step", self._step(partial(self._tiles.step, size, window)))
                for window in windows
            ),
        ]

    def _cached_steps(self, size: str) -> list[Row]:
        return [
            (f"cache {name} {size} step, {what}", self._step(partial(work, size, name)))
            for name in CACHES
            for what, work in (("computed", self._caches.computed), ("skipped", self._caches.skipped))
        ]

    def _cached_runs(self, size: str) -> list[Row]:
        return [
            (f"cache {name} {size} run, {what}", self._step(partial(self._caches.run, size, name, threshold)))
            for name in CACHES
            for what, threshold in (("by default", None), ("skipping all it may", EVERYTHING))
        ]

    def _choices(self, size: str) -> list[Row]:
        def step(**options: Any) -> Callable[[], Result]:
            return self._step(partial(self._sampling.step, size, "bf16", **options))

        return [
            (f"step {size} bf16 compiled", step(compile_blocks=True)),
            *(
                (f"step {size} bf16 head groups {groups}", step(head_groups=groups))
                for groups in head_groups(self._scale.dit)
            ),
            *((f"step {size} bf16 attention {name}", step(attention=name)) for name in KERNELS),
        ]

    def _step(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """With no VAE on the device."""

        def run() -> Result:
            self._decoding.release()
            return work()

        return run

    def _alone(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """With no transformer on the device."""

        def run() -> Result:
            self._sampling.release_everything()
            return work()

        return run


def line(row: Result) -> str:
    """One row in the table."""
    if "reason" in row:
        return f"| {row['row']} | {row['reason'].replace('|', '/')} | | | | | | |"
    cells = [
        row["row"],
        f"{row['seconds']} s",
        _cell(row, "peak_gb"),
        _cell(row, "predicted_gb"),
        _cell(row, "difference_percent", "%"),
        _cell(row, "slowdown_percent", "%"),
        "; ".join(_details(row)),
        "; ".join(f"{'✓' if met else '✗'} {goal}" for goal, met in row.get("goals", [])),
    ]
    return "| " + " | ".join(cells) + " |"


def _cell(row: Result, key: str, unit: str = "") -> str:
    return f"{row[key]}{unit}" if key in row else ""


def _details(row: Result) -> list[str]:
    labels = {
        "resident_blocks": "{} blocks resident",
        "streamed_gb": "{} GB streamed",
        "head_groups": "head groups {}",
        "activations_gb": "activations {} GB",
        "tflop_per_s": "{} TFLOP/s",
        "times_ours": "{} × ours",
        "settings": "{}",
        "plain_s": "without {} s",
        "times_faster": "{} × as fast",
        "blocks_run": "{} blocks ran",
        "computed_s": "a computed step {} s",
        "computed_percent": "{} % of it",
        "reported": "{}",
        "way": "{}",
        "computed": "computes {}",
        "beside_dense": "{}",
        "self_test_s": "self-test {} s",
        "order_s": "order of tokens {} s",
        "first_more_s": "the first {} s longer",
        "tiles": "tiles {}",
        "plain_read_s": "plain read {} s",
        "host_peak_gb": "host peak {} GB",
        "host_anonymous_gb": "of it anonymous {} GB",
        "lowered": "lowered: {}",
        "rounds": "rounds {}",
    }
    return [text.format(row[key]) for key, text in labels.items() if key in row]


def markdown(report: Result) -> str:
    """The report as a dated table."""
    machine = report["machine"]
    return "\n".join(
        [
            f"## {report['date']} · {machine['device']} · torch {machine['torch']} · CUDA {machine['cuda']}",
            "",
            "| row | time | peak GB | predicted GB | ± | slower | details | goals |",
            "|---|---|---|---|---|---|---|---|",
            *(line(row) for row in report["rows"]),
            "",
        ]
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--skip", action="append", default=[], help="no rows whose name contains this; may be repeated")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after so many minutes")
    parser.add_argument("--resume", action="store_true", help="keep the rows in the JSON file and measure the others")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--json", type=Path, help="write the results here after every row")
    parser.add_argument("--markdown", type=Path, help="write a dated table here after every row")
    parser.add_argument("--rehearse", action="store_true", help="tiny model on the CPU; numbers mean nothing")
    options = parser.parse_args()
    if options.resume and options.json is None:
        parser.error("--resume needs --json FILE, the results to go on from")
    return options


def _earlier(path: Path, machine: dict[str, str]) -> list[Result]:
    if not path.is_file():
        return []
    earlier = json.loads(path.read_text("utf-8"))
    if earlier["machine"] != machine:
        sys.exit(f"{path} was measured on {earlier['machine']}, this is {machine}. Give another file.")
    rows: list[Result] = earlier["rows"]
    return rows


def _write(options: argparse.Namespace, report: Result) -> None:
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
