"""The rows of the features that plug into sampling. A new feature is one more entry here.

What needs networks that the demo set lacks has none: image-to-video v1, SkyReels, keyframes and Leapfusion, and images
in the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from quality_bench import BASELINE, Bench, Mode, Outcome
from quality_edits import by_flow_edit, by_inversion, continued, edited
from quality_prompts import BATCH, Prompt, recoloured, stressed, videos
from quality_row import Row, guided, row

from hyvideo_core.extensions import (
    AdaptiveProjectedGuidance,
    CfgZeroStar,
    ContextWindows,
    EasyCache,
    EnhanceAVideo,
    FirstBlockCache,
    FreSca,
    Riflex,
    ScheduledPrompts,
    SeamlessLoop,
    SkipGuidance,
    SlidingTileAttention,
    TeaCache,
    TeaCacheCalibration,
)
from hyvideo_core.extensions.skip_guidance import ATTENTION
from hyvideo_core.extensions.step_cache import StepCache
from hyvideo_core.extensions.tea_cache_calibration import Pair, fitted
from hyvideo_core.model import DiT
from hyvideo_core.sample.seams import Extension
from hyvideo_core.text import PromptSchedule, Turn
from hyvideo_core.types import Interval
from tools.demo_model.world import CLIP_FRAMES


def with_(*extensions: Extension) -> Callable[[Bench, DiT], Sequence[Extension]]:
    """These, whatever the model."""
    return lambda bench, dit: extensions


# --- step caches -----------------------------------------------------------------------------------------------

#: Of the blocks' work in percent, and of obedience in points.
WORTH_IT = {"saved": 35.0, "points": -2.0}
#: The authors' number of steps for HunyuanVideo: their thresholds are for the changes from step to step in so many.
OFFICIAL_STEPS = 50


def cached(bench: Bench, cache: StepCache, mode: Mode) -> Outcome:
    """A mode with a cache beside the same without; "saved" in percent of the blocks' work, "points" of obedience."""
    shares: list[float] = []
    outcome = bench.outcome(replace(mode, extensions=with_(replace(cache, saved=shares.append))), mode)
    before = {one.index: one.obeyed["all"] for one in bench.outcome(mode).judged}
    saved = 100 * fmean(shares)
    judged = tuple(
        replace(one, numbers=one.numbers | {"saved": saved, "points": 100.0 * (one.obeyed["all"] - before[one.index])})
        for one in outcome.judged
    )
    points = fmean(one.numbers["points"] for one in judged) if judged else 0.0
    return replace(outcome, judged=judged, note=f"{saved:.0f} % of the blocks' work saved, {points:+.1f} points")


def calibrated(bench: Bench) -> Outcome:
    """TeaCache with the coefficients that the first prompts' runs without it tell of this transformer."""
    pairs: list[Pair] = []
    measuring = Mode(
        prompts=lambda count: videos(min(count, BATCH)), extensions=with_(TeaCacheCalibration(found=pairs.append))
    )
    bench.made(measuring)
    return cached(bench, TeaCache(coefficients=fitted(pairs)), BASELINE)


def _cached(name: str, cache: StepCache, mode: Mode = BASELINE, *, quick: bool = False, worth_it: bool = False) -> Row:
    return Row(name, partial(cached, cache=cache, mode=mode), quick, goals=WORTH_IT if worth_it else {})


LONG_RUN = Mode(steps=OFFICIAL_STEPS)
CACHES = (
    _cached("TeaCache", TeaCache(), quick=True, worth_it=True),
    Row("TeaCache calibrated", calibrated),
    _cached("First-Block Cache", FirstBlockCache(), worth_it=True),
    _cached("First-Block Cache 0.12", FirstBlockCache(threshold=0.12)),
    _cached("EasyCache", EasyCache(), worth_it=True),
    _cached("EasyCache 0.1", EasyCache(threshold=0.1)),
    _cached("TeaCache 50 steps", TeaCache(), LONG_RUN, worth_it=True),
    _cached("First-Block Cache 50 steps", FirstBlockCache(), LONG_RUN, worth_it=True),
    _cached("EasyCache 50 steps", EasyCache(), LONG_RUN, worth_it=True),
    _cached("First-Block Cache 0.12 beside cfg 3", FirstBlockCache(threshold=0.12), guided(3.0)),
)

# --- guidance --------------------------------------------------------------------------------------------------

#: The block that is disturbed: the published ones are of a transformer ten times as deep.
DISTURBED = "single 1"
#: Of so small a latent all frequencies are below the usual cutoff.
SMALL_CUTOFF = 2
GUIDANCES: dict[str, tuple[Extension, ...]] = {
    "CFG-Zero★": (CfgZeroStar(),),
    "STG-A": (SkipGuidance(blocks=DISTURBED, scale=0.5, disturbance=ATTENTION),),
    "STG-R": (SkipGuidance(blocks=DISTURBED, scale=0.5),),
    "FreSca": (FreSca(cutoff=SMALL_CUTOFF),),
    "APG": (AdaptiveProjectedGuidance(),),
}
GUIDED = (
    row(
        "undistilled cfg 3 SLG",
        replace(guided(3.0), extensions=with_(SkipGuidance(blocks=DISTURBED, scale=3.0, when=Interval(0.01, 0.15)))),
        guided(3.0),
    ),
    *(
        row(f"undistilled cfg 3 {name}", replace(guided(3.0), extensions=with_(*each)), guided(3.0))
        for name, each in GUIDANCES.items()
    ),
    row(
        "undistilled cfg 3 all of these",
        replace(guided(3.0), extensions=with_(*(one for each in GUIDANCES.values() for one in each))),
        guided(3.0),
    ),
)

# --- quality and length ----------------------------------------------------------------------------------------

#: Three times as long as the clips of the training.
LONG_FRAMES = 3 * (CLIP_FRAMES - 1) + 1
LONG = Mode(frames=LONG_FRAMES)


def windows(schedule: str) -> ContextWindows:
    """As long as the clips of the training, half of each shared."""
    return ContextWindows(window_frames=CLIP_FRAMES, overlap_frames=8, schedule=schedule)


LENGTHS = (
    row("Enhance-A-Video", Mode(extensions=with_(EnhanceAVideo()))),
    row("Enhance-A-Video 1", Mode(extensions=with_(EnhanceAVideo(weight=1.0)))),
    row(f"{LONG_FRAMES} frames", LONG, None),
    *(
        row(f"{LONG_FRAMES} frames in {schedule} windows", replace(LONG, extensions=with_(windows(schedule))), None)
        for schedule in ("static", "uniform", "looped")
    ),
    # Of the frequencies of time the first has the period nearest to what clips of this length show.
    row(f"{LONG_FRAMES} frames RIFLEx", replace(LONG, extensions=with_(Riflex(k=1, above_frames=CLIP_FRAMES))), None),
    row("seamless loop", Mode(extensions=with_(SeamlessLoop(shift_latent_frames=2)))),
)

# --- prompts, attention, and clips from clips ------------------------------------------------------------------


def turning(bench: Bench, prompts: Sequence[Prompt]) -> Sequence[Extension]:
    """A run begins with the prompt of the scene before it was recolored, and turns to its own after a tenth."""
    before = {prompt.index: prompt.text for prompt in videos(bench.count)}
    turns = (
        Turn(0.0, bench.encoded([before[prompt.index] for prompt in prompts])),
        Turn(0.1, bench.encoded([prompt.text for prompt in prompts])),
    )
    return (ScheduledPrompts(positive=PromptSchedule(turns)),)


PROMPTED = (
    row("colors weigh 1.5", Mode(prompts=stressed, weighted=True)),
    row("another color's prompt in the first tenth", Mode(prompts=recoloured, for_batch=turning), None),
)
SPARSE = (
    row("sliding tile 5×3×3 of 1×1×1", Mode(extensions=with_(SlidingTileAttention(tile=(1, 1, 1), window=(5, 3, 3))))),
    row("sliding tile 3×3×3 of 1×1×1", Mode(extensions=with_(SlidingTileAttention(tile=(1, 1, 1), window=(3, 3, 3))))),
)
EDITED = (
    Row(
        "FlowEdit to another color",
        partial(edited, edit=partial(by_flow_edit, source=6.0, target=12.0, share=26 / 30), prompts=recoloured),
        goals={"color": 80.0, "motion": 80.0},
    ),
    Row(
        "RF inversion to another color",
        partial(edited, edit=partial(by_inversion, gamma=0.5, eta=0.5, end=0.3), prompts=recoloured),
    ),
    Row("inpainting after 9 frames", partial(edited, edit=partial(continued, kept_latent_frames=3))),
)

FEATURES: tuple[Row, ...] = (*CACHES, *GUIDED, *LENGTHS, *PROMPTED, *SPARSE, *EDITED)
