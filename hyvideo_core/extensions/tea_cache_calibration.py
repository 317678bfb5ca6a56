"""Coefficients of TeaCache for a checkpoint that nobody measured, from a run in which every step is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.errors import CheckpointError, HyVideoError
from hyvideo_core.extensions.step_cache import (
    CacheState,
    Current,
    StepCache,
    relative_change,
    residual_bytes,
    unclean,
)
from hyvideo_core.extensions.tea_cache import TeaSlot, first_modulation, input_change, residual
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlocks
from hyvideo_core.model.layers import token_chunks
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run

#: The change of the first block's input, and that of what all blocks add to the tokens.
Pair = tuple[float, float]


class CalibrationState(CacheState[TeaSlot]):
    """The slots of a run, and what was measured in it."""

    def __init__(self, run: Run) -> None:
        super().__init__(run, TeaSlot)
        self.pairs: list[Pair] = []


@dataclass(frozen=True)
class TeaCacheCalibration(Extension):
    """Measures what ``TeaCache`` estimates, and reports the ``coefficients`` for it at the end of a run.

    Nothing is skipped and the result is the same to the last bit. ``found`` hears of each ``Pair``: to have one set of
    coefficients for several runs, collect them all and take ``fitted``. Beside another cache it measures that.
    """

    rank: ClassVar[int] = StepCache.rank
    found: Callable[[Pair], None] = field(default=lambda pair: None, repr=False)

    def cache_bytes(self, config: DiTConfig, latent_shape: tuple[int, ...], dtype_bytes: int, turns: int = 1) -> int:
        """As ``StepCache.cache_bytes``: a result of each of ``turns`` that decide, while blocks run."""
        return turns * residual_bytes(config, latent_shape, dtype_bytes)

    def start(self, run: Run) -> CalibrationState:
        """Nothing measured yet."""
        return CalibrationState(run)

    def wrap_predict(self, inner: Predict, state: CalibrationState) -> Predict:
        """Note what is evaluated."""
        composition = state.composed()

        def predict(evaluation: Evaluation) -> torch.Tensor:
            state.enter(evaluation, composition)
            return inner(evaluation)

        return predict

    def wrap_blocks(self, inner: RunBlocks, state: CalibrationState) -> RunBlocks:
        """Measure in those evaluations in which ``TeaCache`` would decide."""

        def run(stream: Stream) -> None:
            current = state.current
            if not current.leads:
                inner(stream)
                return
            change = _input_change(state, stream, current)
            inner(stream)
            before = current.slot.residual
            now = residual(state.dit, stream, current.evaluation.x, stream.tokens.device)
            current.slot.residual = now
            if before is not None:
                moving = now[:, unclean(stream) :], before[:, unclean(stream) :]
                chunks = token_chunks(moving[0].shape[1], stream.chunk_tokens)
                pair = change, relative_change((moving[0][:, at], moving[1][:, at]) for at in chunks)
                state.pairs.append(pair)
                self.found(pair)

        return run

    def report(self, state: CalibrationState) -> str:
        """The coefficients."""
        if not state.pairs:
            return "TeaCache: there is nothing to calibrate from. Run two steps or more."
        coefficients = ", ".join(f"{each:.6g}" for each in fitted(state.pairs))
        return f"TeaCache: the coefficients for this checkpoint are {coefficients} (from {len(state.pairs)} changes)."


def fitted(pairs: Iterable[Pair]) -> tuple[float, float]:
    """The coefficients under which the estimates for all these pairs add up to what was measured.

    They are a line through 0. The authors' polynomials are of degree 4 and took the videos of 70 prompts to fit
    (ali-vilab/TeaCache, issue 2); a line is determined by a single run, no step of no length gets an estimate, and it
    holds where steps are longer or shorter than those measured. Raises ``ValueError`` where no input changed.
    """
    pairs = list(pairs)
    change, result = (math.fsum(pair[i] for pair in pairs) for i in (0, 1))
    if not change > 0:
        raise ValueError(f"Among {len(pairs)} pairs the input never changed. Calibrate with a run of several steps.")
    return result / change, 0.0


def note_pair(path: Path, pair: Pair) -> None:
    """Write a pair at the end of the file at ``path``, which begins with it: what is measured outlives a broken run.

    Raises ``HyVideoError`` where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{pair[0]!r} {pair[1]!r}\n")
    except OSError as error:
        raise HyVideoError(
            f"The calibration {path.name} cannot be written ({error}). Free some space there, or choose another name."
        ) from error


def noted_pairs(path: Path) -> list[Pair]:
    """All pairs of the file at ``path``. Raises ``CheckpointError`` naming the line that is none."""
    pairs: list[Pair] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path.name} is no calibration of TeaCache ({error}). Choose another, or calibrate again."
        ) from error
    for number, line in enumerate(lines, start=1):
        try:
            change, result = map(float, line.split())
        except ValueError:
            change = result = math.nan
        if not (0 <= change < math.inf and 0 <= result < math.inf):
            raise CheckpointError(
                f"{path.name} is no calibration of TeaCache: its line {number} is '{line[:40]}', but must be two "
                "numbers, the changes of input and result. Delete it and calibrate again."
            )
        pairs.append((change, result))
    return pairs


def _input_change(state: CalibrationState, stream: Stream, current: Current[TeaSlot]) -> float:
    slot = current.slot
    before, slot.modulation = slot.modulation, first_modulation(state.dit, stream)
    if before is None:
        return math.inf
    return input_change(state.dit, stream, slot.modulation, current.before.x, before)
