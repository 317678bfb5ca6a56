"""The true size on a real card: ``python benchmarks/gpu.py [--only TEXT] [--json FILE] [--markdown FILE]``.

Random weights of the full model, one forward and one tiled decode for each of the sizes people run, with the seconds,
the measured peak beyond the weights, and what ``hyvideo_core.plan`` predicted. ``--rehearse`` runs the same code on
the CPU with a tiny model, so that it is known to work before a card is at hand; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hyvideo_core.configs import HUNYUAN_VIDEO, HUNYUAN_VIDEO_VAE, DiTConfig, VAEConfig
from hyvideo_core.model import DiT
from hyvideo_core.plan import dit_activation_bytes, vae_activation_bytes
from hyvideo_core.types import Geometry
from hyvideo_core.vae import VAE, Tiling

SIZES = {
    "720×1280×129": Geometry(1280, 720, 129),
    "544×960×129": Geometry(960, 544, 129),
    "320×512×61": Geometry(512, 320, 61),
    "720×1280×1": Geometry(1280, 720, 1),
}
REHEARSAL_SIZES = {"32×48×5": Geometry(48, 32, 5)}
REHEARSAL_DIT = replace(HUNYUAN_VIDEO, hidden_size=128, heads=1, double_blocks=1, single_blocks=1)
REHEARSAL_VAE = replace(HUNYUAN_VIDEO_VAE, block_out_channels=(32, 32, 32, 32))
TEXT_TOKENS = 256
ROUNDS = 3


def main() -> None:
    """Measure what was asked for and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--markdown", type=Path, help="write a dated table here")
    parser.add_argument("--rehearse", action="store_true", help="tiny model on the CPU")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --rehearse runs a tiny model on the CPU instead")
    device = torch.device("cpu" if options.rehearse else "cuda")
    rows = measure(device, options.only)
    report = {"date": datetime.date.today().isoformat(), "machine": machine(device), "rows": rows}
    table = markdown(report)
    print(table)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(table)


def measure(device: torch.device, only: str) -> list[dict[str, Any]]:
    """All rows whose name contains ``only``."""
    on_cpu = device.type == "cpu"
    sizes = REHEARSAL_SIZES if on_cpu else SIZES
    rows: list[dict[str, Any]] = []
    for prepare in (prepare_dit, prepare_vae):
        works = prepare(device, on_cpu)
        for name, geometry in sizes.items():
            row = f"{works.__name__} {name}"
            if only in row:
                work, predicted_bytes = works(geometry)
                rows.append({"row": row, "predicted_peak_gb": round(predicted_bytes / 1e9, 2), **timed(work, device)})
        del works
        if not on_cpu:
            torch.cuda.empty_cache()
    return rows


Prepared = Callable[[Geometry], tuple[Callable[[], object], int]]


def prepare_dit(device: torch.device, rehearse: bool) -> Prepared:
    """The transformer with random weights; gives one forward for a geometry."""
    config = REHEARSAL_DIT if rehearse else HUNYUAN_VIDEO
    dit = filled(DiT, config, device, torch.bfloat16)
    dit.final_layer.linear.float()

    def forward(geometry: Geometry) -> tuple[Callable[[], object], int]:
        x = torch.randn(1, config.in_channels, *geometry.latent_shape, device=device)
        text = torch.randn(1, TEXT_TOKENS, config.text_dim, device=device)
        pooled = torch.randn(1, config.pooled_dim, device=device)
        timestep, guidance = torch.tensor([900.0], device=device), torch.tensor([6016.0], device=device)
        predicted = dit_activation_bytes(config, tuple(x.shape), 2)
        return lambda: dit(x, timestep, text, None, pooled, guidance), predicted

    return forward


def prepare_vae(device: torch.device, rehearse: bool) -> Prepared:
    """The VAE with random weights; gives one tiled decode for a geometry."""
    config: VAEConfig = REHEARSAL_VAE if rehearse else HUNYUAN_VIDEO_VAE
    dtype = torch.float32 if rehearse else torch.float16
    vae = filled(VAE, config, device, dtype)
    tiling = Tiling.original(config)

    def decode(geometry: Geometry) -> tuple[Callable[[], object], int]:
        latent = torch.randn(1, config.latent_channels, *geometry.latent_shape, device=device, dtype=dtype)
        tile = (tiling.tile_size_px, tiling.tile_frames)
        predicted = vae_activation_bytes(geometry.latent_shape, *tile, dtype.itemsize)
        return lambda: vae.decode(latent, tiling), predicted

    return decode


def filled(build: Callable[[Any], Any], config: DiTConfig | VAEConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """A module with small random weights, made on the device in its final dtype."""
    with torch.device("meta"):
        module = build(config)
    module = module.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(std=0.02)
    return module


def timed(work: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Median seconds of several rounds, and the peak beyond what was allocated before."""
    cuda = device.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    with torch.inference_mode():
        work()
        for _ in range(ROUNDS):
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() - before if cuda else None
    return {
        "seconds": round(statistics.median(seconds), 3),
        "peak_gb": None if peak is None else round(peak / 1e9, 2),
    }


def machine(device: torch.device) -> dict[str, str]:
    """What it ran on."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU rehearsal: numbers mean nothing"
    return {"device": name, "torch": torch.__version__, "cuda": str(torch.version.cuda)}


def markdown(report: dict[str, Any]) -> str:
    """The report as a dated table."""
    lines = [
        f"## {report['date']} · {report['machine']['device']} · torch {report['machine']['torch']}",
        "",
        "| work | seconds | peak beyond weights, GB | predicted, GB |",
        "|---|---|---|---|",
    ]
    for row in report["rows"]:
        peak = "not measured" if row["peak_gb"] is None else row["peak_gb"]
        lines.append(f"| {row['row']} | {row['seconds']} | {peak} | {row['predicted_peak_gb']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
