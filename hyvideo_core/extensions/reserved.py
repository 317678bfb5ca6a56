"""What features take of the device beside a model's weights and what one evaluation takes: for the plan of a run."""

from __future__ import annotations

from collections.abc import Sequence

from hyvideo_core.configs import DiTConfig
from hyvideo_core.extensions.context_windows import SCHEDULES, ContextWindows, evaluated_shape
from hyvideo_core.extensions.skip_guidance import ATTENTION, ISOLATING_BYTES, SkipGuidance
from hyvideo_core.extensions.sliding_tile import SlidingTileAttention
from hyvideo_core.extensions.step_cache import StepCache, residual_bytes
from hyvideo_core.extensions.tea_cache_calibration import TeaCacheCalibration
from hyvideo_core.sample.seams import WHOLE_RUN, Extension

#: Steps in which windows that move have been everywhere: more of them in one step than in these there never are.
STEPS_OF_WINDOWS = 8


def reserved_bytes(
    extensions: Sequence[Extension],
    config: DiTConfig,
    latent_shape: tuple[int, ...],
    dtype_bytes: int,
    prompts: int = 2,
) -> int:
    """Most bytes that caches hold on the model's device, and that disturbed and sliding-tile attention work in.

    For a latent [B, C, T, H, W] of the whole video. ``prompts`` are evaluated one after the other in a step: two with
    true cfg, which is assumed where it is not known; that errs by what is kept of one evaluation. Solvers that evaluate
    twice in a step are not counted.
    """
    shape = evaluated_shape(extensions, latent_shape)
    disturbed = [each for each in extensions if isinstance(each, SkipGuidance) and each.scale]
    evaluations = prompts + sum(each.added for each in disturbed)
    turns = max(_windows(each, latent_shape[2]) for each in (*extensions, Extension()))
    kept = 0
    for each in extensions:
        if isinstance(each, StepCache) and each.threshold and each.device == "model":
            kept += each.cache_bytes(config, shape, dtype_bytes, evaluations, turns)
        elif isinstance(each, TeaCacheCalibration):
            kept += each.cache_bytes(config, shape, dtype_bytes, turns)
    isolating = ISOLATING_BYTES if any(each.disturbance == ATTENTION for each in disturbed) else 0
    # q is as large as the tokens, but for the text.
    tiles = SlidingTileAttention.COPIES if any(isinstance(each, SlidingTileAttention) for each in extensions) else 0
    return kept + max(isolating, tiles * residual_bytes(config, shape, dtype_bytes))


def _windows(extension: Extension, frames: int) -> int:
    """In how many parts a video of ``frames`` latent frames is evaluated in a step."""
    if not isinstance(extension, ContextWindows) or extension.when != WHOLE_RUN or frames <= extension.length:
        return 1
    windows = SCHEDULES[extension.schedule]
    return max(len(windows(frames, extension.length, extension.overlap, step)) for step in range(STEPS_OF_WINDOWS))
