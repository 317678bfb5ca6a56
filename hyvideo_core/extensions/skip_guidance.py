"""Guidance away from what the model makes of the same prompt when some of its blocks are disturbed.

Two published methods are this one. Skip layer guidance and spatio-temporal guidance's residual skip (STG-R) leave
blocks out; spatio-temporal guidance's attention skip (STG-A) keeps video tokens from seeing each other in them.

Source: STG, arXiv 2411.18664, and junhahyung/STGuidance ``diffusers/hunyuanvideo/pipeline_stg_hunyuan.py``;
skip layer guidance, Stability-AI/sd3.5 ``sd3_impls.py`` (SkipLayerCFGDenoiser). STG's authors leave out double block 2
at scale 1 (``inference.py``). Their attention skip knows single blocks only, makes a mask of all tokens by all, and
lets padded text in; their residual skip, of several blocks, leaves out the last one named. Here blocks are free, the
mask is never made, and all that are named are disturbed. In the paper a disturbed token sees itself alone; in their
code for this model, as here, the text too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from hyvideo_core.attention import AttentionKernel
from hyvideo_core.attention.kernels import SCORES_BYTES
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import DiT, RunBlock
from hyvideo_core.sample.seams import BOTH, Branch, Evaluation, Extension, Predict, Run
from hyvideo_core.weights.block_names import BLOCK_GROUPS, DOUBLE, BlockRange, block_count, entries, read_range

#: What may be done to a block: leave it out, or let its video tokens see themselves and the text only.
SKIP, ATTENTION = "skip", "attention"
DISTURBANCES = (SKIP, ATTENTION)
#: What ``isolate`` holds at most: a chunk's scores and what they become, its queries and what comes of them.
ISOLATING_BYTES = 4 * SCORES_BYTES


@dataclass
class Disturbed:
    """The blocks that one run disturbs, and what is being evaluated now.

    ``video_tokens`` are those at the start of the sequence in a block whose attention is disturbed, 0 elsewhere.
    """

    blocks: frozenset[nn.Module]
    is_on: bool = False
    video_tokens: int = 0


@dataclass(frozen=True)
class SkipGuidance(Extension):
    """Adds ``scale`` · (v_c − v_disturbed): one more evaluation in each step. At scale 0 nothing is touched.

    ``blocks`` reads like ``double 2, single 10-12``, both ends included; a group without numbers is all of it.
    ``disturbance`` is one of ``DISTURBANCES``. Several act side by side, each with an evaluation of its own; two with
    the same blocks and disturbance are one with the sum of their scales.
    Raises ``ValueError`` naming the entry that cannot be read.
    """

    #: Outside of what changes attention: that sees all tokens as ever, and what is disturbed replaces its result.
    rank: ClassVar[int] = -100
    blocks: str = "double 2"
    scale: float = 1.0
    disturbance: str = SKIP

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"scale is {self.scale}, but must be 0 or more (1 is usual, 0 is off).")
        if self.disturbance not in DISTURBANCES:
            raise ValueError(f"disturbance is '{self.disturbance}', but must be one of {', '.join(DISTURBANCES)}.")
        if not parse_ranges(self.blocks):
            raise ValueError(
                "blocks is empty, but must name blocks to disturb, such as 'double 2'. To switch this off, set scale "
                "to 0."
            )

    @property
    def name(self) -> str:
        """The name of its evaluation."""
        return f"{self.disturbance} {self.blocks}"

    @property
    def added(self) -> int:
        """How many evaluations it adds to a step."""
        return int(self.scale > 0)

    def outside(self, config: DiTConfig) -> DiTConfig:
        """Raises ``ValueError`` for blocks that the transformer lacks."""
        for named in parse_ranges(self.blocks):
            count, last = block_count(config, named.group), max(named.first, named.last or 0)
            if last >= count:
                raise ValueError(
                    f"blocks names {named.group} block {last}, but this model has {count} {named.group} blocks, "
                    f"counted from 0. Name blocks below {count}."
                )
        return config

    def start(self, run: Run) -> Disturbed:
        """The blocks that ``blocks`` names."""
        return Disturbed(frozenset(found_blocks(run.dit, parse_ranges(self.blocks))))

    def branches(self, evaluation: Evaluation, state: Disturbed) -> Sequence[Branch]:
        """The evaluation to disturb."""
        return [Branch(self.name, self.scale)] if self.added else []

    def wrap_predict(self, inner: Predict, state: Disturbed) -> Predict:
        """Tell the blocks whether they are evaluated for this."""

        def predict(evaluation: Evaluation) -> torch.Tensor:
            state.is_on = evaluation.branch == self.name
            try:
                return inner(evaluation)
            finally:
                state.is_on = False

        return predict

    def wrap_block(self, inner: RunBlock, state: Disturbed) -> RunBlock:
        """Leave the block out, or tell its attention that it is disturbed."""

        def run(block: nn.Module, stream: Stream) -> None:
            if not state.is_on or block not in state.blocks:
                inner(block, stream)
            elif self.disturbance == ATTENTION:
                state.video_tokens = stream.video_tokens
                try:
                    inner(block, stream)
                finally:
                    state.video_tokens = 0

        return run

    def wrap_attend(self, inner: AttentionKernel, state: Disturbed) -> AttentionKernel:
        """Attention in which video tokens do not see each other, where it is disturbed."""

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # Whole even where it is disturbed, though only the text's rows are kept: one block's time, and neither
            # kernels nor other extensions ever meet fewer queries than keys.
            out = inner(q, k, v)
            if state.video_tokens:
                isolate(out, q, k, v, state.video_tokens)
            return out

        return attend


@dataclass(frozen=True)
class NegativeSkip(SkipGuidance):
    """Leaves blocks out where the negative prompt is evaluated; no evaluation is added, so ``scale`` has no effect.

    cfg then steers away from a weaker model as well as from what the prompt says. Two evaluations in one batch cannot
    be told apart: ``ValueError`` is raised if ``Guidance.batched`` is on. Source: ComfyUI-HunyuanVideoWrapper
    ``nodes.py`` (HunyuanVideoSLG).
    """

    @property
    def name(self) -> str:
        """The evaluation that is disturbed."""
        return "negative"

    @property
    def added(self) -> int:
        """None: cfg asks for the negative prompt itself."""
        return 0

    def wrap_predict(self, inner: Predict, state: Disturbed) -> Predict:
        """Tell the blocks whether the negative prompt is evaluated."""
        skipping = super().wrap_predict(inner, state)

        def predict(evaluation: Evaluation) -> torch.Tensor:
            if evaluation.branch == BOTH:
                raise ValueError(
                    f"blocks {self.blocks} are to be left out for the negative prompt alone, but both prompts are "
                    "evaluated in one batch. Switch batched off."
                )
            return skipping(evaluation)

        return predict


def isolate(out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, video_tokens: int) -> None:
    """Write into ``out`` [B, L, N, D] what video tokens get that see themselves and the text, but no other of them.

    Text comes after ``video_tokens``; its rows stay. In chunks, as ``kernels.chunked``: within ``ISOLATING_BYTES``.
    """
    batch, length, heads, dim = q.shape
    text_k, text_v = k[:, video_tokens:].permute(0, 2, 3, 1), v[:, video_tokens:].transpose(1, 2)
    # With little text the queries themselves, their products and what comes of them are more than the scores.
    per_query_bytes = batch * heads * (4 * (length - video_tokens + 1) + 2 * dim * q.element_size())
    step = max(1, SCORES_BYTES // per_query_bytes)
    for start in range(0, video_tokens, step):
        at = slice(start, min(start + step, video_tokens))
        queries = q[:, at].transpose(1, 2) * dim**-0.5
        itself = (queries * k[:, at].transpose(1, 2)).sum(dim=-1, keepdim=True)
        scores = torch.cat((itself, torch.matmul(queries, text_k)), dim=-1)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        seen = torch.addcmul(torch.matmul(weights[..., 1:], text_v), weights[..., :1], v[:, at].transpose(1, 2))
        out[:, at] = seen.transpose(1, 2)


def parse_ranges(text: str) -> tuple[BlockRange, ...]:
    """The entries of a text as in ``SkipGuidance.blocks``. Raises ``ValueError`` naming the one that is wrong."""
    return tuple(map(_range, entries(text)))


def found_blocks(dit: DiT, ranges: Iterable[BlockRange]) -> list[nn.Module]:
    """The blocks of a transformer that are named."""
    found: list[nn.Module] = []
    for named in ranges:
        blocks = dit.double_blocks if named.group == DOUBLE else dit.single_blocks
        found += [blocks[number] for number in named.numbers(len(blocks))]
    return found


def _range(text: str) -> BlockRange:
    try:
        found = read_range(text)
    except ValueError as error:
        raise ValueError(f"blocks has the entry '{text}', which {error}") from error
    if found is None or found.group not in BLOCK_GROUPS:
        raise ValueError(
            f"blocks has the entry '{text}', which cannot be read. Write entries like 'double 2' or 'single 10-12', "
            "separated by commas."
        )
    return found
