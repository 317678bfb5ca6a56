"""Context windows: a long video is evaluated in windows of time, and their velocities are blended where they overlap.

Each window is evaluated as a clip of its own, with positions from 0. So the first latent frame of a window that begins
later is taken for the first of a clip, which covers one picture where others cover four; the pyramid gives it the
least weight. Only a window that begins with frame 0 knows a given image (token_replace); later ones see it through
what they share with it.

Source: ComfyUI-AnimateDiff-Evolved ``animatediff/context.py`` for the schedules "static" (its standard static),
"uniform" (in place of its standard uniform) and "looped" (its looped uniform with a closed loop), all with stride 1,
and for the blends "pyramid" and "flat"; the pyramid and FreeNoise are those of arXiv 2310.15169 and AILab-CVC/FreeNoise
``scripts/evaluation/inference_freenoise.py``. The standard uniform moves windows by a part of the whole video, and
where one would go on at the beginning leaves neighbours with less overlap than was asked for, or none; "uniform" does
not. ComfyUI-HunyuanVideoWrapper blends with straight ramps over the overlap that begin at weight 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions.given_image import GivenImage
from hyvideo_core.sample.seams import WHOLE_RUN, Evaluation, Extension, Predict
from hyvideo_core.sample.solvers import NEARLY_ONE
from hyvideo_core.types import TEMPORAL_COMPRESSION

logger = logging.getLogger(__name__)

#: Latent frames, in the order in which they are evaluated.
Window = tuple[int, ...]


def static_windows(frames: int, length: int, overlap: int, step: int) -> list[Window]:
    """The same in every step; the last one ends with the video."""
    starts = {min(start, frames - length) for start in range(0, frames, length - overlap)}
    return [tuple(range(start, start + length)) for start in sorted(starts)]


def uniform_windows(frames: int, length: int, overlap: int, step: int) -> list[Window]:
    """The static ones moved on by some part of their distance in every step, and one more at the beginning."""
    stride = length - overlap
    first = round(stride * halving(step)) - stride
    starts = {min(max(start, 0), frames - length) for start in range(first, frames, stride)}
    return [tuple(range(start, start + length)) for start in sorted(starts)]


def looped_windows(frames: int, length: int, overlap: int, step: int) -> list[Window]:
    """Elsewhere in every step, going on at the beginning where the video ends: for videos that loop."""
    first = round(frames * halving(step))
    starts = range(first, first + frames, length - overlap)
    return [tuple(frame % frames for frame in range(start, start + length)) for start in starts]


def halving(step: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, 5/8 …: the binary digits of the step, mirrored at the point."""
    return int(f"{step:b}"[::-1], 2) / 2 ** len(f"{step:b}")


def pyramid(length: int) -> list[float]:
    """1, 2, 3 … up to the middle and down again."""
    return [float(min(place + 1, length - place)) for place in range(length)]


def flat(length: int) -> list[float]:
    """A plain average."""
    return [1.0] * length


#: Latent frames of the video, of a window and of the overlap, step → windows; all of the video is in some window.
SCHEDULES: Mapping[str, Callable[[int, int, int, int], list[Window]]] = MappingProxyType(
    {"static": static_windows, "uniform": uniform_windows, "looped": looped_windows}
)
#: Length of a window → the weight of each of its frames, where windows overlap.
BLENDS: Mapping[str, Callable[[int], list[float]]] = MappingProxyType({"pyramid": pyramid, "flat": flat})

#: What is told where windows go around and a video begins with an image.
LOOPED_IMAGE = (
    "Looped context windows go on at the beginning where the video ends, but this video begins with a given image, "
    "which can only be the first of a window. Choose the schedule static or uniform."
)


@dataclass(frozen=True)
class ContextWindows(Extension):
    """Evaluates ``window_frames`` frames at a time, ``overlap_frames`` of them shared with the window before.

    Both count frames of the video: 4n+1 for a window, as for any clip, and 4n for what it shares. ``schedule`` is one
    of ``SCHEDULES``, ``blend`` one of ``BLENDS``. ``freenoise`` repeats the first window's noise in a shuffled order
    that ``seed`` decides, so that later windows show the same things; it acts only where a run begins with pure noise.
    Videos no longer than a window are left alone.
    """

    #: Inside of what marks frame 0 as a given image, outside of whatever keeps something of an evaluation.
    rank: ClassVar[int] = -400
    window_frames: int = 129
    overlap_frames: int = 32
    schedule: str = "static"
    blend: str = "pyramid"
    freenoise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window_frames < 5 or self.window_frames % TEMPORAL_COMPRESSION != 1:
            lower = max(5, (self.window_frames - 1) // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION + 1)
            raise ValueError(
                f"window_frames is {self.window_frames}, but must be 4n+1, 5 or more, since a window is a clip of its "
                f"own. Use {lower} or {lower + TEMPORAL_COMPRESSION}."
            )
        if not 0 <= self.overlap_frames < self.window_frames or self.overlap_frames % TEMPORAL_COMPRESSION:
            raise ValueError(
                f"overlap_frames is {self.overlap_frames}, but must be a multiple of 4 from 0 to less than "
                f"window_frames, {self.window_frames}. A quarter of it is usual."
            )
        for name, choices in (("schedule", SCHEDULES), ("blend", BLENDS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is '{getattr(self, name)}', but must be one of {', '.join(choices)}.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, but must be 0 or more.")

    @property
    def length(self) -> int:
        """Latent frames of a window: what an evaluation, and the memory for it, is about."""
        return (self.window_frames - 1) // TEMPORAL_COMPRESSION + 1

    @property
    def overlap(self) -> int:
        """Latent frames that a window shares with the one before."""
        return self.overlap_frames // TEMPORAL_COMPRESSION

    def loops(self, frames: int) -> bool:
        """Whether a video of so many latent frames goes on at its beginning where it ends."""
        return self.schedule == "looped" and frames > self.length

    def check_beside(self, others: Sequence[Extension], x: torch.Tensor) -> None:
        """Raise ``HyVideoError`` where windows go around beside a given image, which is a first frame."""
        if self.loops(x.shape[2]) and any(isinstance(each, GivenImage) for each in others):
            raise HyVideoError(LOOPED_IMAGE)

    def begin(self, x: torch.Tensor, sigma: float, state: Any) -> torch.Tensor:
        """The noise with the first window's again in later ones."""
        if not self.freenoise or x.shape[2] <= self.length:
            return x
        if sigma < NEARLY_ONE:
            logger.warning(
                "FreeNoise is left out: the run begins at noise level %.3f, so its latent holds more than noise, which "
                "must stay where it is.",
                sigma,
            )
            return x
        return x[:, :, freenoise_order(x.shape[2], self.length, self.overlap, self.seed)]

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        """Window by window, blended."""

        def predict(evaluation: Evaluation) -> torch.Tensor:
            frames = evaluation.x.shape[2]
            if frames <= self.length:
                return inner(evaluation)
            windows = SCHEDULES[self.schedule](frames, self.length, self.overlap, evaluation.step)
            out: torch.Tensor | None = None
            for window, share in zip(windows, shares(windows, frames, self.blend), strict=True):
                velocity = inner(within(evaluation, window))
                if out is None:
                    out = velocity.new_zeros(*velocity.shape[:2], frames, *velocity.shape[3:])
                out[:, :, list(window)] += velocity * share.to(velocity)[:, None, None]
            assert out is not None
            return out

        return predict


def evaluated_shape(extensions: Sequence[Extension], latent_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The largest latent [B, C, T, H, W] that the transformer is asked about in a run: what memory is needed for.

    Windows that are not active all the time leave some steps the whole video.
    """
    always = [each.length for each in extensions if isinstance(each, ContextWindows) and each.when == WHOLE_RUN]
    return *latent_shape[:2], min([latent_shape[2], *always]), *latent_shape[3:]


def within(evaluation: Evaluation, window: Window) -> Evaluation:
    """The evaluation of a window's frames alone."""
    part = evaluation.part or range(evaluation.x.shape[2])
    return replace(
        evaluation,
        x=evaluation.x[:, :, list(window)],
        part=tuple(part[frame] for frame in window),
        token_replace=evaluation.token_replace and window[0] == 0,
    )


def shares(windows: Sequence[Window], frames: int, blend: str) -> list[torch.Tensor]:
    """What each frame of each window counts: [length] a window, so that those of one frame of the video add up to 1."""
    weights = [torch.tensor(BLENDS[blend](len(window)), dtype=torch.float64) for window in windows]
    total = torch.zeros(frames, dtype=torch.float64)
    for window, weight in zip(windows, weights, strict=True):
        total[list(window)] += weight
    return [weight / total[list(window)] for window, weight in zip(windows, weights, strict=True)]


def freenoise_order(frames: int, length: int, overlap: int, seed: int) -> list[int]:
    """Which frame's noise each frame takes: a window's own at first, then what is a window back, shuffled in groups."""
    generator = torch.Generator().manual_seed(seed)
    order = list(range(frames))
    for start in range(length, frames, length - overlap):
        count = min(length - overlap, frames - start)
        back = start - length
        order[start : start + count] = [order[back + i] for i in torch.randperm(count, generator=generator).tolist()]
    return order
