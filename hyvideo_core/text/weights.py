"""Weights of words in a prompt, written ``(word:1.2)``, and what they do to the language model's rows.

``(words)`` weigh 1.1, ``(words:1.2)`` 1.2. Brackets nest: one without a number multiplies what is around it, a number
stands for itself. ``\\(`` and ``\\)`` are brackets of the text; a bracket without its partner is an error.

A weight moves a word's rows away from the mean of the prompt's own rows, or towards it:
``mean + weight · (row − mean)``. The mean is what the words of a prompt have in common, so that what is scaled is what
sets a word apart. Multiplying rows alone would do little: the transformer normalises each before it is attended to.
Later rows have read the word already, since the model reads from left to right: a weight of 0 does not erase it.

Source: the grammar is that of ComfyUI ``comfy/sd1_clip.py`` (token_weights), which takes unpaired brackets as text;
AUTOMATIC1111 ``modules/prompt_parser.py`` multiplies numbers too and closes what is open. ComfyUI scales about the rows
of an input of padding only (ClipTokenWeightEncoder), as they are in CLIP what "no prompt" is; it does so for
HunyuanVideo's language model as well, where they mean nothing, and for newer models has switched weights off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from hyvideo_core.errors import PromptError

#: What brackets without a number weigh.
BRACKETS = 1.1
#: Rows that were moved further have long left what the transformer knows.
HEAVIEST = 10.0
#: A number counts only after something that it can weigh: in ``(:1)`` it is text.
PIECE = re.compile(
    r"(?P<escaped>\\[()])"
    r"|(?P<open>\()"
    r"|(?P<close>(?:(?<!(?<!\\)\():\s*(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*)?\))"
    r"|[^\\():]+|[\\:]"
)


@dataclass(frozen=True)
class WeightedPrompt:
    """A prompt without its brackets, stripped, and the weight of each of its characters."""

    text: str
    weights: tuple[float, ...]

    def weight(self, start: int, end: int) -> float | None:
        """The weight of a token at these characters: their mean, spaces aside; None where none is the prompt's."""
        start, end = max(start, 0), min(end, len(self.text))
        if start >= end:
            return None
        # A word takes the space before it into its own token.
        words = [self.weights[at] for at in range(start, end) if not self.text[at].isspace()]
        return fmean(words or self.weights[start:end])


def parse_weights(prompt: str) -> WeightedPrompt:
    """The prompt's text and weights. Raises ``PromptError`` for unpaired brackets and weights outside 0 to 10."""
    pieces = list(PIECE.finditer(prompt))
    numbers = _numbers(prompt, pieces)
    text: list[str] = []
    weights: list[float] = []
    around = [1.0]
    for piece in pieces:
        if piece["open"]:
            around.append(_weight(numbers[piece.start()], around[-1]))
        elif piece["close"]:
            around.pop()
        else:
            words = piece[0][1:] if piece["escaped"] else piece[0]
            text.append(words)
            weights += [around[-1]] * len(words)
    whole = "".join(text)
    start = len(whole) - len(whole.lstrip())
    return WeightedPrompt(whole.strip(), tuple(weights[start : start + len(whole.strip())]))


def reweighted(
    rows: torch.Tensor, prompt: WeightedPrompt, places: Sequence[tuple[int, int]], start: int
) -> torch.Tensor:
    """The language model's rows [L, D] with the prompt's weights.

    ``places`` are the characters of each row's token in a text where the prompt begins at ``start``. Rows of weight 1
    and those of the template stay as they are, to the last bit.
    """
    weights = [prompt.weight(first - start, end - start) for first, end in places]
    moved = {row: weight for row, weight in enumerate(weights) if weight is not None and weight != 1.0}
    if not moved:
        return rows
    own = [row for row, weight in enumerate(weights) if weight is not None]
    mean = rows[own].float().mean(dim=0)
    scale = torch.tensor(list(moved.values()), device=rows.device)[:, None]
    out = rows.clone()
    out[list(moved)] = (mean + scale * (rows[list(moved)].float() - mean)).to(rows.dtype)
    return out


def _numbers(prompt: str, pieces: Sequence[re.Match[str]]) -> dict[int, str | None]:
    """The number before each bracket's partner, if any, by where the bracket opens."""
    open_at: list[int] = []
    numbers: dict[int, str | None] = {}
    for piece in pieces:
        if piece["open"]:
            open_at.append(piece.start())
        elif piece["close"]:
            if not open_at:
                raise _unpaired(prompt, piece.end() - 1)
            numbers[open_at.pop()] = piece["number"]
    if open_at:
        raise _unpaired(prompt, open_at[-1])
    return numbers


def _unpaired(prompt: str, at: int) -> PromptError:
    around = prompt[max(0, at - 20) : at + 20]
    return PromptError(
        f"The prompt has a bracket without its partner, character {at + 1}, in {around!r}. Add the other one, or write "
        f"\\{prompt[at]} for a bracket that belongs to the text."
    )


def _weight(number: str | None, around: float) -> float:
    weight = around * BRACKETS if number is None else float(number)
    if not 0 <= weight <= HEAVIEST:
        raise PromptError(
            f"A weight in the prompt is {weight:g}, but must be 0 to {HEAVIEST:g}; 0.5 to 1.5 is usual. Write \\( and "
            "\\) for brackets that belong to the text."
        )
    return weight
