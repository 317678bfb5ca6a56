"""Several encoded prompts as one: mixed at once, or one after the other over a run.

Prompts differ in length. Rows are mixed place by place from the first on, the shorter prompt going on with its last
row, which says that the prompt is over. Text has no positions in this model, so rows that repeat only draw a little
more attention.

Source: padding by the last row is that of AUTOMATIC1111 ``modules/prompt_parser.py`` (reconstruct_multicond_batch).
ComfyUI's ConditioningAverage pads with zeros, which are no language model's rows, and cuts what is longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from hyvideo_core.types import Conditioning


def blended(parts: Sequence[tuple[Conditioning, float]]) -> Conditioning:
    """The prompts mixed by their weights, which count as shares of their sum; pooled text likewise.

    Those of weight 0 play no part, not even by their length. Each has a row for each clip of the batch, or one for all.
    Raises ``ValueError`` for weights below 0 or all 0, and for prompts of other encoders or batches.
    """
    weights = [weight for _, weight in parts]
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"weights are {weights}, but each must be 0 or more, and one of them above 0.")
    shares = [(prompt, weight / sum(weights)) for prompt, weight in parts if weight > 0]
    _require_alike([prompt for prompt, _ in shares])
    if len(shares) == 1:
        return shares[0][0]
    device = shares[0][0].text.device
    shares = [(prompt.to(device), share) for prompt, share in shares]
    batch = max(len(prompt.text) for prompt, _ in shares)
    texts = [_mixed([(_valid(prompt, clip), share) for prompt, share in shares]) for clip in range(batch)]
    pooled = [(prompt.pooled.expand(batch, -1), share) for prompt, share in shares]
    lengths = torch.tensor([len(text) for text in texts], device=device)
    mask = torch.arange(int(lengths.max()), device=device)[None] < lengths[:, None]
    padded = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return Conditioning(padded, _sum(pooled), None if bool(mask.all()) else mask.long())


class Turn(NamedTuple):
    """A prompt, in force once the part ``start`` of the run is behind, 0–1; it replaces the one before over ``fade``.

    ``fade`` is a part of the run too, in equal parts from step to step; 0 switches from one step to the next.
    """

    start: float
    prompt: Conditioning
    fade: float = 0.0


@dataclass(frozen=True, eq=False)
class PromptSchedule:
    """Which prompt is in force when; before the first of ``turns`` the run's own prompt is.

    Raises ``ValueError`` for turns that do not follow one another, or begin before a fade is over.
    """

    turns: tuple[Turn, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        starts = [turn.start for turn in self.turns]
        if not all(0 <= start < 1 for start in starts) or any(first >= second for first, second in pairwise(starts)):
            raise ValueError(
                f"prompts begin at {starts}, but must begin one after the other, at 0 or later and before 1. Sort "
                "them, or change where they begin."
            )
        for turn, after in zip(self.turns, (*starts[1:], math.inf), strict=False):
            longest = min(1.0, after - turn.start)
            # A little more, since 0.7 − 0.4 is less than 0.3 to a computer.
            if not 0 <= turn.fade <= longest + 1e-9:
                raise ValueError(
                    f"fade of the prompt that begins at {turn.start:g} is {turn.fade:g}, but must be 0 to {longest:g}, "
                    "so that it is over when the next prompt begins. Lower it, or move the prompts apart."
                )
        _require_alike([turn.prompt for turn in self.turns])

    def at(self, done: float, own: Conditioning) -> Conditioning:
        """The prompt once the part ``done`` of the run is behind, where ``own`` is the run's."""
        before, now = own, Turn(-1.0, own)
        for turn in self.turns:
            if turn.start <= done:
                before, now = now.prompt, turn
        since = done - now.start
        if since >= now.fade:
            return now.prompt
        return blended([(before, 1 - since / now.fade), (now.prompt, since / now.fade)])


def _require_alike(prompts: Sequence[Conditioning]) -> None:
    widths = {(prompt.text.shape[-1], prompt.pooled.shape[-1]) for prompt in prompts}
    if len(widths) > 1:
        raise ValueError(
            f"The prompts are {sorted(widths)} wide (text, pooled), but must be alike. Encode all with the same "
            "encoders."
        )
    rows = {len(prompt.text) for prompt in prompts} | {len(prompt.pooled) for prompt in prompts}
    if len(rows - {1}) > 1:
        raise ValueError(
            f"The prompts are for batches of {sorted(rows)}, but must be for one batch. Encode one prompt for each "
            "clip, or one for all."
        )


def _valid(prompt: Conditioning, clip: int) -> torch.Tensor:
    """The rows [L, D] that count for a clip."""
    row = clip if len(prompt.text) > 1 else 0
    return prompt.text[row] if prompt.text_mask is None else prompt.text[row][prompt.text_mask[row].bool()]


def _mixed(shares: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Rows [L, D] of several prompts as those of one, as long as the longest."""
    longest = max(len(rows) for rows, _ in shares)
    return _sum([(torch.cat((rows, rows[-1:].expand(longest - len(rows), -1))), share) for rows, share in shares])


def _sum(shares: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    total = sum(share * tensor.float() for tensor, share in shares)
    assert isinstance(total, torch.Tensor)
    return total.to(shares[0][0].dtype)
