"""How a feature plugs into sampling without touching the others.

A feature is a frozen dataclass deriving from ``Extension``. It may wrap one whole evaluation, all blocks,
each block, or each attention call; change the latent that a run begins with; and hold a part of the latent.
``rank`` fixes the nesting (lower is further out), so the order in which extensions were added is irrelevant.
State lives in what ``start`` returns, never on modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, ClassVar

import torch
from torch import nn

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import DiT, RunBlock, RunBlocks, Seams
from hyvideo_core.types import Conditioning, Interval


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the transformer: which latent, at which noise level, for which prompt.

    ``branch`` names the guidance branch ("positive", "negative"), so that caches can tell them apart.
    ``token_replace`` says that frame 0 of x is the latent of a given image (``DiT.forward``).
    """

    x: torch.Tensor
    sigma: float
    step: int
    steps: int
    conditioning: Conditioning
    branch: str
    token_replace: bool = False


#: Active from the first step to the last.
WHOLE_RUN = Interval()

Predict = Callable[[Evaluation], torch.Tensor]


@dataclass(frozen=True)
class Run:
    """One sampling run, as an extension sees it when it starts. ``stack`` takes what must be undone."""

    dit: DiT
    sigmas: torch.Tensor
    stack: ExitStack


@dataclass(frozen=True)
class Extension:
    """Base of every feature; the defaults change nothing. ``when`` is the part of the run it is active in."""

    rank: ClassVar[int] = 0
    when: Interval = WHOLE_RUN

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``ValueError`` or ``HyVideoError`` for an x [B, C, T, H, W] it cannot act on; asked before loading."""

    def start(self, run: Run) -> Any:
        """Per-run state, handed to all that follow; cleanup goes on ``run.stack``."""
        return run

    def begin(self, x: torch.Tensor, state: Any) -> torch.Tensor:
        """What the first step begins with instead of x."""
        return x

    def hold(self, x: torch.Tensor, state: Any) -> torch.Tensor:
        """x with what no step may change put back; x is a latent before or after a step, or a clean estimate."""
        return x

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        """Around one whole evaluation."""
        return inner

    def wrap_blocks(self, inner: RunBlocks, state: Any) -> RunBlocks:
        """Around all blocks of an evaluation."""
        return inner

    def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
        """Around one block."""
        return inner

    def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
        """Around one attention call."""
        return inner


@dataclass(frozen=True)
class OnBlock(Extension):
    """Calls ``check`` before every block; it may raise to stop the run within one block's time."""

    rank: ClassVar[int] = -1000
    check: Callable[[], None] = lambda: None

    def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
        """Check, then run the block."""

        def run(block: nn.Module, stream: Stream) -> None:
            self.check()
            inner(block, stream)

        return run


#: An extension and its state in this run.
Running = tuple[Extension, Any]


def started(extensions: Sequence[Extension], run: Run) -> list[Running]:
    """Extensions by rank with the state of this run. Equal ranks are ordered by class and settings."""
    ordered = sorted(extensions, key=lambda extension: (extension.rank, type(extension).__name__, repr(extension)))
    return [(extension, extension.start(run)) for extension in ordered]


def compose(evaluate: Callable[..., torch.Tensor], active: Sequence[Running]) -> Predict:
    """One evaluation with all active extensions around it."""
    seams = Seams(
        blocks=partial(_nested, "wrap_blocks", active),
        block=partial(_nested, "wrap_block", active),
        attend=partial(_nested, "wrap_attend", active),
    )
    predict: Predict = _nested("wrap_predict", active, partial(evaluate, seams=seams))
    return predict


def passed(change: str, active: Sequence[Running], x: torch.Tensor) -> torch.Tensor:
    """x after ``begin`` or ``hold`` of every extension, the lowest rank first."""
    for extension, state in active:
        x = getattr(extension, change)(x, state)
    return x


def _nested(wrap: str, active: Sequence[Running], innermost: Any) -> Any:
    """``innermost`` wrapped by every extension, the lowest rank outermost."""
    return reduce(lambda inner, pair: getattr(pair[0], wrap)(inner, pair[1]), reversed(active), innermost)
