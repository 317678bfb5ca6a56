"""The rows of the table of quality, one for each mode of the pack; those of the features are in ``quality_features``.

What cannot run here raises ``Missing`` with the reason. No row needs another to have run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from quality_bench import BASELINE, Bench, Mode, Outcome, judgement
from quality_features import FEATURES
from quality_files import existing, fp8_file, gguf_file, scaled_fp8_file
from quality_models import (
    BF16,
    attending,
    compiled,
    fast_fp8,
    in_head_groups,
    loaded,
    merged,
    with_setting,
)
from quality_prompts import BATCH, SIZES, batches, by_day, by_day_plain, images, unasked, uncoloured, videos
from quality_row import Row, guided, row

from cases import Missing
from hyvideo_core.attention import kernels
from hyvideo_core.attention.registry import KERNELS
from hyvideo_core.extensions import BlockSwap, Loras
from hyvideo_core.memory import Placement
from hyvideo_core.model import DiT
from hyvideo_core.ops.ggml import FORMATS
from hyvideo_core.sample import SOLVERS, Guidance
from hyvideo_core.sample.seams import Extension, Run
from hyvideo_core.types import Interval
from hyvideo_core.vae import Tiling
from hyvideo_core.weights import Lora
from hyvideo_core.weights.gguf import PLAIN_FORMATS
from tools.demo_model.judge import see
from tools.demo_model.world import CLIP_FRAMES, COLORS

# --- how weights are stored ------------------------------------------------------------------------------------

STORED = (
    row("bf16", Mode(model=loaded(dtype=BF16)), quick=True),
    row("fp8 on load by channel", Mode(model=loaded(storage="fp8")), quick=True),
    row("fp8 on load by weight", Mode(model=loaded(storage="fp8_tensor"))),
    row("fp8 file", Mode(model=loaded(layout=fp8_file))),
    row("fp8 scaled file", Mode(model=loaded(layout=scaled_fp8_file))),
    row("fp8 scaled file in bf16", Mode(model=loaded(layout=scaled_fp8_file, dtype=BF16))),
    row("fp8 fast in bf16", Mode(model=fast_fp8)),
    *(
        row(f"GGUF {kind}", Mode(model=loaded(layout=partial(gguf_file, kind))), quick=kind == "Q4_0")
        for kind in (*PLAIN_FORMATS, *FORMATS)
    ),
)

# --- where weights are, and how they are multiplied ------------------------------------------------------------


def swapping(resident: int) -> Callable[[Bench, DiT], Sequence[Extension]]:
    """All but so many blocks streamed; on a CPU a transfer is a copy."""

    def extensions(bench: Bench, dit: DiT) -> Sequence[Extension]:
        placement = Placement(dit, [*dit.double_blocks, *dit.single_blocks], bench.device)
        placement.put(resident)
        return (BlockSwap(waiting=placement.waiting),)

    return extensions


@dataclass(frozen=True)
class SmallChunks(Extension):
    """Attention ``chunked`` in pieces so small that even these short clips have several."""

    SCORES_BYTES: ClassVar[int] = 2**14

    def start(self, run: Run) -> None:
        """For the length of a run."""
        run.stack.callback(setattr, kernels, "SCORES_BYTES", kernels.SCORES_BYTES)
        kernels.SCORES_BYTES = self.SCORES_BYTES


RUN = (
    row("one at a time", Mode(batch=1)),
    row("block swap", Mode(model=loaded(device="cpu"), extensions=swapping(resident=2)), quick=True, exact=True),
    row("chunks of 8 tokens", Mode(model=with_setting(chunk_tokens=8))),
    row("head groups", Mode(model=in_head_groups)),
    row("compiled blocks", Mode(model=compiled)),
    *(row(f"attention {name}", Mode(model=attending(name))) for name in KERNELS),
    row(
        "attention chunked in small chunks",
        Mode(model=attending("chunked"), extensions=lambda bench, dit: (SmallChunks(),)),
    ),
    row("tiled decode", Mode(tiling=Tiling(32, 8, 0.25)), quick=True),
)

# --- sampling and guidance -------------------------------------------------------------------------------------


def negated(bench: Bench) -> Outcome:
    """Prompts that leave the colour open and are mostly answered by one, with that in the negative prompt.

    Of the clips that showed it without; "gone" is from how many of them it went.
    """
    free = replace(guided(3.0), prompts=uncoloured)
    answers = Counter(color for clip in bench.made(free).clips.values() for color in _colors(clip))
    if not answers:
        raise Missing("no thing of any colour is to be seen without a negative prompt")
    likeliest = answers.most_common(1)[0][0]
    unlikeliest = min(COLORS, key=lambda color: answers[color])
    steered, elsewhere = (
        replace(free, negative=lambda _, color=color: f"{'an' if color == 'orange' else 'a'} {color} object")
        for color in (likeliest, unlikeliest)
    )
    outcome = bench.outcome(steered, free)
    shown, left, left_elsewhere = (
        {index for index, clip in bench.made(mode).clips.items() if likeliest in _colors(clip)}
        for mode in (free, steered, elsewhere)
    )
    judged = tuple(
        replace(one, numbers=one.numbers | {"gone": 100.0 * (one.index not in left)})
        for one in outcome.judged
        if one.index in shown
    )
    note = (
        f"{likeliest} in {len(shown)} of {len(outcome.judged)} clips; of these with it negated in {len(shown & left)}, "
        f"with {unlikeliest} negated in {len(shown & left_elsewhere)}"
    )
    return replace(outcome, judged=judged, note=note)


def _colors(clip: torch.Tensor) -> set[str]:
    """Of the things in a clip."""
    return {thing.color for thing in see(clip).things} - {""}


SAMPLED = (
    *(row(f"{steps} steps", Mode(steps=steps), quick=steps == 8) for steps in (12, 8, 5)),
    row("shift 3", Mode(shift=3.0)),
    *(row(f"guidance {scale:g}", Mode(guidance=Guidance(embedded=scale))) for scale in (1.0, 3.0)),
    row("undistilled cfg 1", guided(1.0)),
    row("undistilled cfg 3", guided(3.0), quick=True),
    row("undistilled cfg 3 in the first half", guided(3.0, interval=Interval(0.0, 0.5)), guided(3.0)),
    row("undistilled cfg 3 negative prompt", replace(guided(3.0), negative=unasked), guided(3.0)),
    row("undistilled cfg 5", guided(5.0)),
    row("undistilled cfg 5 rescale 0.7", guided(5.0, rescale=0.7), guided(5.0)),
    row("undistilled cfg 5 negative prompt", replace(guided(5.0), negative=unasked), guided(5.0)),
    row("undistilled cfg 3 batched", guided(3.0, batched=True), guided(3.0)),
    Row("undistilled cfg 3 likeliest colour negated", negated, goals={"gone": 50.0}),
    *(
        row(f"{solver} {steps} steps", Mode(solver=solver, steps=steps))
        for solver in SOLVERS
        if solver != "euler"
        for steps in (20, 8)
    ),
)

# --- LoRA ------------------------------------------------------------------------------------------------------


def night(strength: float) -> Callable[[Bench, DiT], Sequence[Extension]]:
    """The demo set's LoRA beside the weights."""
    return lambda bench, dit: (Loras(loras=(Lora(existing(bench.files.lora), strength),)),)


AT_NIGHT = Mode(prompts=by_day, extensions=night(1.0))
ADAPTED = (
    row("LoRA at 0", Mode(extensions=night(0.0)), exact=True),
    row("LoRA at 1", AT_NIGHT, quick=True, goals={"background": 90.0}),
    row("LoRA's prompts without it", Mode(prompts=by_day_plain), None),
    row("LoRA at 1 merged", Mode(prompts=by_day, model=merged), AT_NIGHT),
    row("LoRA at 1 beside fp8", replace(AT_NIGHT, model=loaded(storage="fp8")), AT_NIGHT),
)

# --- images, from videos and images, and the VAE alone ---------------------------------------------------------


def reconstructed(bench: Bench, size: tuple[int, int], frames: int) -> Outcome:
    """Clips of the scenes themselves through the VAE and back, beside what they were."""
    prompts = [prompt for prompt in (videos if frames > 1 else images)(bench.count) if prompt.size == size]
    judged, seconds = [], 0.0
    for together in batches(prompts, BATCH):
        truth = torch.stack([prompt.truth(frames) for prompt in together])
        began = time.perf_counter()
        clips = bench.decoded(bench.latent(truth))
        seconds += time.perf_counter() - began
        judged += [judgement(*each) for each in zip(together, clips, truth, strict=True)]
    return Outcome(tuple(judged), seconds / max(1, len(judged)))


def _vae(size: tuple[int, int], frames: int) -> Row:
    width, height = size
    name = f"VAE alone {width}×{height}×{frames}"
    return Row(name, partial(reconstructed, size=size, frames=frames), frames > 1, goals={"psnr_db": 32.0})


OTHERS = (
    row("video-to-video denoise 0.6", Mode(denoise=0.6), None),
    row("images", Mode(prompts=images, frames=1), None, quick=True),
    *(
        row(
            f"image-to-video cfg {scale:g}",
            replace(guided(scale), from_image=True),
            None,
            quick=scale == 3.0,
            goals={"first_frame_db": 30.0, "motion": 90.0},
        )
        for scale in (1.0, 3.0)
    ),
    *(_vae(size, frames) for frames in (CLIP_FRAMES, 1) for size in SIZES),
)

EACH_AND_ALL = dict.fromkeys(("color", "shape", "motion", "background", "count"), 97.0) | {"all": 90.0}
FIRST = Row("float32", partial(Bench.outcome, mode=BASELINE), is_quick=True, goals=EACH_AND_ALL)
ROWS: tuple[Row, ...] = (FIRST, *STORED, *RUN, *SAMPLED, *ADAPTED, *FEATURES, *OTHERS)
