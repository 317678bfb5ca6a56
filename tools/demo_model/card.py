"""Writes the model card beside the shipped files: ``python -m tools.demo_model.card``.

Its words are here; its numbers come from the files, the recipes, the trainings' curves and the recorded quality table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open

from tools.demo_model import distill, files, latents, train_dit, train_lora, train_text, train_vae
from tools.demo_model.captions import BARE_FRAMES, FRAMES, HELD_OUT_FRAMES, is_kept, pairs
from tools.demo_model.training import TRAINING, Recipe
from tools.demo_model.world import COLORS, DIRECTIONS, HELD_OUT, MOTIONS, SHAPES, STRAY_PX
from tools.paths import ROOT, SHIPPED_MODELS

CARD = SHIPPED_MODELS / "README.md"
#: The curves that the card draws, kept beside it.
CURVES = SHIPPED_MODELS / "curves"
QUALITY = ROOT / "benchmarks" / "results" / "quality.json"
POINTS = 24

RECIPES: dict[str, Recipe] = {
    **{name: stage.recipe for name, stage in train_vae.STAGES.items()},
    "llama": train_text.LLAMA_RECIPE,
    "clip": train_text.RECIPE,
    **{name: stage.recipe for name, stage in train_dit.STAGES.items()},
    "distilled": distill.RECIPE,
    "lora": train_lora.RECIPE,
}
PURPOSES = {
    files.VAE: "Pictures to latents and back",
    files.LLAMA: "Reads the prompt; ComfyUI's own loaders cannot take one so small, this pack's can",
    files.CLIP: "Reads the prompt, as one vector",
    files.T2V: "Text to video, guidance distilled: cfg 1, guidance 6",
    files.I2V: "Not distilled: text to video with cfg 3, or, with kind image-to-video (token_replace), image to video",
    files.LORA: "Night: the background is black, whatever the prompt says, on the text-to-video file",
}
#: What is drawn of each training.
DRAWN = {"llama": "read", "clip": "read"}


def main() -> None:
    """Copy the curves and write the card."""
    CURVES.mkdir(parents=True, exist_ok=True)
    for name in RECIPES:
        if (TRAINING / f"{name}.jsonl").is_file():
            shutil.copyfile(TRAINING / f"{name}.jsonl", CURVES / f"{name}.jsonl")
    CARD.write_text("\n".join(card()) + "\n", encoding="utf-8")


def card() -> Iterator[str]:
    """The card's lines."""
    yield "# The demo set: a very small HunyuanVideo\n"
    yield (
        "A HunyuanVideo of the real architecture, names and file formats at small widths, trained on nothing but the "
        "synthetic clips of `tools/demo_model/world.py`: coloured shapes that move, grow or rest on a coloured "
        "background. It is for a first video without a download, for examples, and for judging what each setting of "
        "this pack does to a trained network. It knows no other subjects.\n"
    )
    yield from sizes()
    yield from data()
    yield from trainings()
    yield from scores()
    yield "## Licence\n\nData, code and weights are this project's own, under its licence.\n"


def sizes() -> Iterator[str]:
    """A table of the files."""
    yield "## Files\n\n| File | What it is | Parameters | MB |\n|---|---|---:|---:|"
    total = 0.0
    for path in (path for path in files.ALL if path.is_file()):
        with safe_open(str(path), "pt") as opened:
            count = sum(_count(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
        megabytes = path.stat().st_size / 1e6
        total += megabytes
        yield f"| `{path.parent.name}/{path.name}` | {PURPOSES[path]} | {count:,} | {megabytes:.2f} |"
    yield f"\nTogether {total:.2f} MB, all in bfloat16.\n"


def data() -> Iterator[str]:
    """What it was trained on."""
    yield "## Data\n"
    ways = [pair for motion in DIRECTIONS for pair in pairs(motion)]
    kept = sum(is_kept(*pair) for pair in ways)
    stages = train_dit.STAGES.values()
    shares = (train_text.PARTIAL_CAPTION, *(stage.partial for stage in stages), train_lora.PARTIAL_CAPTION)
    partial = ", ".join(f"{share:.0%}" for share in shares)
    with_pairs = {name: stage.pairs for name, stage in train_dit.STAGES.items() if stage.pairs is not None}
    (of_two,) = set(with_pairs.values())
    yield (
        f"One or two objects of {len(COLORS)} colours ({', '.join(COLORS)}), {len(SHAPES)} shapes "
        f"({', '.join(SHAPES)}) and {len(MOTIONS)} motions ({', '.join(MOTIONS)}), at two speeds, never overlapping, "
        "on a background of another colour. Captions are made from "
        f"{len({*FRAMES, *BARE_FRAMES})} sentence frames with synonyms; {partial} "
        "of those for the text encoders, the transformer's stages and the LoRA leave something unsaid. Kept for "
        f"tests: one in {HELD_OUT} combinations of colour, shape and motion, {len(HELD_OUT_FRAMES)} sentence frames, "
        f"and {kept} of {len(ways)} pairs of verb and direction.\n"
    )
    counts = ", ".join(f"{g.count:,} of {g.width}×{g.height}×{g.frames}" for g in latents.GEOMETRIES)
    yield (
        "The transformer saw the latents of these clips, with a new caption each time, first with objects anywhere, "
        "then with them halfway in the middle, or two side by side or one above the other in the order of the caption, "
        f"give or take {STRAY_PX:g} px: {counts}. In {', '.join(f'`{name}`' for name in with_pairs)} and the "
        f"distillation {of_two:.0%} of a batch show two objects.\n"
    )
    yield (
        "The distilled transformer was taught what the undistilled one says with true guidance: guidance "
        f"{distill.USUAL_GUIDANCE:g}, the nodes' default, stands for cfg {distill.BEST_CFG:g}, at which that one obeys "
        "more than at 1 and at 5; 1 stands for none, and others in proportion. It saw guidance "
        f"{distill.GUIDANCES[0]:g} to {distill.GUIDANCES[1]:g}.\n"
    )


def trainings() -> Iterator[str]:
    """Commands, recipes and curves."""
    yield "## Recipe\n\nEach command goes on from its checkpoint when it is started again, on a CPU or a CUDA card:\n"
    yield "```\npython -m tools.demo_model text vae i2v t2v lora\npython benchmarks/quality.py --record"
    yield "python -m tools.demo_model card\n```\n"
    yield (
        "The first stage of the VAE, `vae`, had other shares of crops and whole clips in its first 600 steps, so that "
        "stage cannot be repeated to the digit; nor can the text encoders and `dit_anywhere`, for which scenes and "
        "captions were drawn in another order. All was trained on a CPU, with one or two threads; another number of "
        "them, or a card, rounds differently.\n"
    )
    yield (
        f"Batches of the transformer are {train_dit.BATCH} clips. {train_dit.NO_CAPTION:.0%} of the captions are left "
        f"out, in {train_dit.FIRST_FRAME:.0%} of the batches of videos the first frame is given, noise levels are "
        f"shifted by {train_dit.SHIFT:g}. `muon_rate` is that of the matrices in blocks, `rate` of all else; `average` "
        "is the decay of the averaged weights, which are what is shipped.\n"
    )
    for name, recipe in RECIPES.items():
        path = CURVES / f"{name}.jsonl"
        if path.is_file():
            yield from curve(name, recipe, path)


def curve(name: str, recipe: Recipe, path: Path) -> Iterator[str]:
    """One training: its recipe and a chart of its loss."""
    entries = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    key = DRAWN.get(name, "mse")
    width = max(1, len(entries) // POINTS)
    groups = [entries[start : start + width] for start in range(0, len(entries), width)]
    values = [sum(entry[key] for entry in group) / len(group) for group in groups]
    steps = entries[-1]["step"]
    yield f"### {name}\n"
    settings = ", ".join(f"{name} {value:g}" for name, value in asdict(recipe).items() if not name.endswith("_every"))
    yield f"{steps:,} steps of: {settings}. Last loss {entries[-1][key]:.4f}\n"
    yield f'```mermaid\nxychart-beta\n  x-axis "steps" 0 --> {steps}\n  y-axis "{key}" 0 --> {max(values):.4g}'
    yield f"  line [{', '.join(f'{value:.4g}' for value in values)}]\n```\n"


def scores() -> Iterator[str]:
    """The recorded quality table."""
    if QUALITY.is_file():
        yield "## Scores\n\nOn prompts of combinations and phrasings it was never trained on "
        yield "(`python benchmarks/quality.py`, whose `--help` says what the columns are):\n"
        yield QUALITY.with_suffix(".md").read_text("utf-8").replace("## ", "### ", 1)
        yield (
            "`all` leaves out the speed, which half of the captions name. Two objects are harder than one: most of "
            "what is not obeyed is in clips of two. The LoRA takes from the rest what the rows of its prompts with and "
            "without it show. Goals are for means; the column beside says how bad the worst clip is.\n"
        )


def _count(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


if __name__ == "__main__":
    main()
