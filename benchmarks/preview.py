"""What previews cost of a step: ``python benchmarks/preview.py [--case TEXT] [--json FILE] [--markdown FILE]``.

Each case is one run with previews as the sampler's node makes them: shown when they are affordable, encoded in a thread
of their own. *share* is all time that previews and their encoding took in the run, over that of its steps: goal at most
0.01. *every step* is what it would have been, had one been made after each. Times are wall clock, longer on a busy
machine, but for the thread's, which are a processor's. TAEHV has random weights here, which take as long as others.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from networks import SMALL, seeded

from hyvideo_core.model import DiT
from hyvideo_core.preview import Clip, LatentRGB, Previewer, Taehv, sheet
from hyvideo_core.preview.budget import SHARE
from hyvideo_core.preview.taehv import TaehvDecoder
from hyvideo_core.sample import flow_sigmas, sample
from hyvideo_core.types import Conditioning, Geometry
from hyvideo_core.weights import load_dit
from tools.paths import SHIPPED_MODELS
from tools.toy_model import build

Result = dict[str, Any]
TEXT_TOKENS = 40
ROUNDS = 3
METHODS: dict[str, Callable[[], Taehv | None]] = {
    "latent-to-RGB": lambda: None,
    "TAEHV": lambda: Taehv(TaehvDecoder().eval().requires_grad_(False)),
}


@dataclass(frozen=True)
class Run:
    """A transformer, and the clip and number of steps that it samples."""

    name: str
    model: Callable[[], DiT]
    geometry: Geometry
    steps: int


def shipped() -> DiT:
    """The demo set's transformer."""
    return load_dit(SHIPPED_MODELS / "diffusion_models/hyvideo_demo_t2v.safetensors", dtype=torch.bfloat16)


def toy() -> DiT:
    """The transformer of the tests."""
    return load_dit(build.ensure() / "diffusion_models/hyvideo_toy_t2v.safetensors", dtype=torch.float32)


def small() -> DiT:
    """Random weights in the proportions of the real one."""
    made = seeded(DiT(SMALL), torch.float32)
    assert isinstance(made, DiT)
    return made


RUNS = (
    Run("toy", toy, Geometry(64, 48, 5), 30),
    Run("demo", shipped, Geometry(96, 48, 17), 30),
    Run("small", small, Geometry(384, 320, 25), 4),
)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--markdown", type=Path, help="write a dated table here")
    options = parser.parse_args()
    report: Result = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "results": [],
    }
    for run in RUNS:
        for method, prepare in METHODS.items():
            if options.case in f"{run.name} {method}":
                report["results"].append(measured(run, method, prepare()))
                print(line(report["results"][-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(report), encoding="utf-8")


@torch.inference_mode()
def measured(run: Run, method: str, fine: Taehv | None) -> Result:
    """The numbers of one run."""
    dit = run.model()
    x = torch.randn(1, dit.config.in_channels, *run.geometry.latent_shape, generator=torch.Generator().manual_seed(0))
    prompt = Conditioning(
        torch.zeros(1, TEXT_TOKENS, dit.config.text_dim, dtype=dit.dtype),
        torch.zeros(1, dit.config.pooled_dim, dtype=dit.dtype),
    )
    previewer = Previewer(LatentRGB(), fine)
    started = time.perf_counter()
    previewer.rehearse(*x.shape[3:], x.device)
    rehearsed_s = time.perf_counter() - started
    shown: list[tuple[int, str]] = []
    with ThreadPoolExecutor(max_workers=1) as thread:
        previewer.start()
        for step in sample(dit, x, prompt, sigmas=flow_sigmas(run.steps, 7.0)):
            clip = previewer.after_step(step.denoised)
            if clip is not None:
                shown.append((step.index + 1, clip.method))
                thread.submit(encoded, clip, previewer.encoded)
    step_s = previewer.budget.worked_s / run.steps
    last = fine or LatentRGB()
    each_s = statistics.median(timed(lambda: encoded(last(step.denoised))) for _ in range(ROUNDS))
    share = previewer.budget.spent_share
    return {
        "run": f"{run.name} {run.geometry.width}×{run.geometry.height}×{run.geometry.frames}",
        "method": method,
        "step_s": round(step_s, 4),
        "shown": ", ".join(f"{number} by {name}" for number, name in shown),
        "previews": len(shown),
        "steps": run.steps,
        "preview_s": round(each_s, 4),
        "every_step": round(each_s / step_s, 4),
        "share": round(share, 4),
        "rehearsal_s": round(rehearsed_s, 3),
        "goal": f"≤ {SHARE}: {'met' if share <= SHARE else 'missed'}",
        "load": round(os.getloadavg()[0], 1),
    }


def encoded(clip: Clip, took: Callable[[float], None] = lambda seconds: None) -> None:
    """What the panel's thread does with a clip before it sends it; ``took`` hears how long that was."""
    started = time.thread_time()
    base64.b64encode(sheet(clip).jpeg).decode()
    took(time.thread_time() - started)


def timed(work: Callable[[], None]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def line(row: Result) -> str:
    """One row of the table."""
    shown = f"{row['previews']} of {row['steps']}"
    keys = ("step_s", "preview_s", "every_step")
    cells = (row["run"], row["method"], *(row[key] for key in keys), shown, row["share"], row["goal"])
    return "| " + " | ".join(str(cell) for cell in (*cells, row["rehearsal_s"], row["load"])) + " |"


def markdown(report: Result) -> str:
    """The report as a dated table."""
    text = [
        f"## {report['date']} · CPU, torch {report['torch']}, threads {report['threads']}",
        "",
        "| run | finest method | s/step | s/preview | every step | shown | share | goal | before the run, s | load |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(line, report["results"]),
        "",
        *(f"- {row['run']}, {row['method']}: after step {row['shown']}" for row in report["results"]),
        "",
        "No GPU has been measured.",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    main()
