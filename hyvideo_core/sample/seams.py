"""How a feature plugs into sampling without touching the others.

A feature is a frozen dataclass deriving from ``Extension``. It may wrap one whole evaluation, all blocks,
each block, or each attention call; change the latent that a run begins with; hold a part of the latent; take
part in guidance, by evaluations to steer away from or by changing what comes of them; and say what must be
remembered of its state for a run to go on in another process.
``rank`` fixes the nesting (lower is further out), so the order in which extensions were added is irrelevant.
State lives in what ``start`` returns, never on modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, ClassVar

import torch
from torch import nn

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.blocks import Attention, Stream
from hyvideo_core.model.dit import DiT, Rope, RunBlock, RunBlocks, Seams
from hyvideo_core.types import Conditioning, Interval

#: What an evaluation's prompt says, where it is not what a run shall show: the clip that an edit or inversion is given.
SOURCE, INVERSION = "source", "inversion"
TARGET = "target"
#: The branch of an evaluation that holds both prompts (``Guidance.batched``).
BOTH = "negative and positive"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the transformer: which latent, at which noise level, for which prompt.

    ``branch`` names the guidance branch ("positive", "negative", …), ``part`` the frames where x is a part of them all,
    ``stage`` counts the evaluations of one branch within a step. ``side`` is ``SOURCE`` or ``TARGET`` in an edit, which
    follows two clips at once, and ``INVERSION`` in one. Caches tell evaluations apart by these four (``key``).
    ``token_replace`` says that frame 0 of x is the latent of a given image (``DiT.forward``).
    """

    x: torch.Tensor
    sigma: float
    step: int
    steps: int
    conditioning: Conditioning
    branch: str
    token_replace: bool = False
    stage: int = 0
    part: tuple[int, ...] = ()
    side: str = ""

    @property
    def key(self) -> tuple[str, int, tuple[int, ...]]:
        """What stays the same from step to step for evaluations that follow on each other."""
        return f"{self.side} {self.branch}".lstrip(), self.stage, self.part


@dataclass(frozen=True)
class Branch:
    """One more evaluation of the positive prompt, or of another, that guidance steers away from.

    ``name`` is the evaluation's ``branch``, by which an extension knows which ones to disturb.
    """

    name: str
    weight: float
    conditioning: Conditioning | None = None


@dataclass(frozen=True)
class Conditional:
    """The positive prompt's evaluation and its velocity, which guidance starts from."""

    evaluation: Evaluation
    velocity: torch.Tensor


#: Active from the first step to the last.
WHOLE_RUN = Interval()

Predict = Callable[[Evaluation], torch.Tensor]


@dataclass(frozen=True)
class Run:
    """One sampling run, as an extension sees it when it starts: the latent's shape [B, C, T, H, W] and the levels.

    ``stack`` takes what must be undone.
    """

    dit: DiT
    sigmas: torch.Tensor
    stack: ExitStack
    shape: tuple[int, ...]


@dataclass(frozen=True)
class BranchNote:
    """How many ``steps`` of a branch a cache could skip, and how many it has ``skipped``."""

    name: str
    skipped: int
    steps: int


@dataclass(frozen=True)
class CacheNote:
    """What a cache has saved a run so far: steps of each branch, and a share (0–1) of the blocks' work in all."""

    name: str
    branches: tuple[BranchNote, ...]
    saved_share: float


@dataclass(frozen=True)
class Extension:
    """Base of every feature; the defaults change nothing. ``when`` is the part of the run it is active in."""

    rank: ClassVar[int] = 0
    when: Interval = WHOLE_RUN

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``ValueError`` or ``HyVideoError`` for an x [B, C, T, H, W] it cannot act on; asked before loading."""

    def check_beside(self, others: Sequence[Extension], x: torch.Tensor) -> None:
        """Raise ``ValueError`` or ``HyVideoError`` for others of the run it cannot act beside; asked before loading."""

    def outside(self, config: DiTConfig) -> DiTConfig:
        """The configuration that a latent and prompts must fit where this acts: of a transformer ``config`` inside.

        Raises ``ValueError`` or ``HyVideoError`` for transformers it cannot act on; asked before loading.
        """
        return config

    def start(self, run: Run) -> Any:
        """Per-run state, handed to all that follow; cleanup goes on ``run.stack``."""
        return run

    def begin(self, x: torch.Tensor, sigma: float, state: Any) -> torch.Tensor:
        """What the first step begins with instead of x, which is at the noise level σ: nothing but noise at 1."""
        return x

    def hold(self, x: torch.Tensor, sigma: float, state: Any) -> torch.Tensor:
        """x with what no step may change put back at the noise level σ that x is at; asked again, it changes nothing.

        x is a latent before or after a step, or an estimate of what the run ends with.
        """
        return x

    def branches(self, evaluation: Evaluation, state: Any) -> Sequence[Branch]:
        """Evaluations to steer away from, beside the negative prompt's."""
        return ()

    def other(self, velocity: torch.Tensor, name: str, conditional: Conditional, state: Any) -> torch.Tensor:
        """What guidance steers away from instead of the velocity of the branch ``name``."""
        return velocity

    def difference(self, difference: torch.Tensor, name: str, conditional: Conditional, state: Any) -> torch.Tensor:
        """What is added, times the weight, instead of the conditional velocity minus that of the branch ``name``."""
        return difference

    def velocity(self, velocity: torch.Tensor, conditional: Conditional, state: Any) -> torch.Tensor:
        """What the solver follows instead of the guided velocity."""
        return velocity

    def note(self, state: Any) -> CacheNote | None:
        """What the run was saved so far, None for nothing; asked after any step."""
        return None

    def report(self, state: Any) -> str:
        """What is worth telling of the run when it is over, in one line; empty for nothing."""
        return ""

    def keep(self, state: Any) -> Mapping[str, torch.Tensor]:
        """What of the state later steps depend on, in tensors that the run will not change; asked after a step."""
        return {}

    def restore(self, state: Any, kept: Mapping[str, torch.Tensor]) -> None:
        """Bring a new state to what ``keep`` told; the tensors are on the model's device."""

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        """Around one whole evaluation."""
        return inner

    def wrap_rope(self, inner: Rope, state: Any) -> Rope:
        """Around the table of positions."""
        return inner

    def wrap_blocks(self, inner: RunBlocks, state: Any) -> RunBlocks:
        """Around all blocks of an evaluation."""
        return inner

    def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
        """Around one block."""
        return inner

    def wrap_attention(self, inner: Attention, state: Any) -> Attention:
        """Around a block's whole attention, all heads and the norms and projections before it."""
        return inner

    def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
        """Around one call of the attention kernel, for one of ``Stream.head_groups`` groups of heads."""
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
        attention=partial(_nested, "wrap_attention", active),
        attend=partial(_nested, "wrap_attend", active),
        rope=partial(_nested, "wrap_rope", active),
    )
    predict: Predict = _nested("wrap_predict", active, partial(evaluate, seams=seams))
    return predict


def passed(change: str, active: Sequence[Running], x: torch.Tensor, *context: Any) -> torch.Tensor:
    """x after the hook ``change`` of every extension, which is given ``context`` too; the lowest rank first."""
    for extension, state in active:
        x = getattr(extension, change)(x, *context, state)
    return x


def _nested(wrap: str, active: Sequence[Running], innermost: Any) -> Any:
    """``innermost`` wrapped by every extension, the lowest rank outermost."""
    return reduce(lambda inner, pair: getattr(pair[0], wrap)(inner, pair[1]), reversed(active), innermost)
