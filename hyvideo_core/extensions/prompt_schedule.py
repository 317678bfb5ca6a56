"""Prompts that change while a video is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.sample.flow import fitted, joined
from hyvideo_core.sample.seams import INVERSION, SOURCE, Branch, Evaluation, Extension, Predict, Run
from hyvideo_core.text.blends import PromptSchedule
from hyvideo_core.types import Conditioning

#: Between the names of branches that are evaluated as one batch.
JOINED = " and "
#: The side of an edit that stands for the clip as it was.


@dataclass
class _Running:
    """The schedules on the model's device, and the positive prompt that the run was given."""

    positive: PromptSchedule
    negative: PromptSchedule
    own: Conditioning | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduledPrompts(Extension):
    """Other prompts than the run's, by the part of the steps that is done; without any, nothing changes.

    ``positive`` also holds for evaluations that disturb the positive prompt's to be steered away from. Prompts that an
    extension further in gives to an evaluation stay, and so does what the clip of an edit or an inversion is said to
    show. ``negative`` acts where guidance evaluates a negative prompt.
    """

    #: Outside of what evaluates parts of the frames, or gives them prompts of their own: steps concern them all.
    rank: ClassVar[int] = -550
    positive: PromptSchedule = field(default_factory=PromptSchedule)
    negative: PromptSchedule = field(default_factory=PromptSchedule)

    def check_latent(self, x: torch.Tensor) -> None:
        """Raise ``ValueError`` for prompts that are for another number of clips."""
        for name, prompt in self._prompts():
            if len(prompt.text) not in (1, len(x)):
                raise ValueError(
                    f"A scheduled {name} prompt has {len(prompt.text)} rows for a batch of {len(x)} latents. Give one "
                    "prompt or one for each."
                )

    def outside(self, config: DiTConfig) -> DiTConfig:
        """The same configuration. Raises ``ValueError`` for prompts of other text encoders than it was trained with."""
        expected = (config.text_dim, config.pooled_dim)
        for name, prompt in self._prompts():
            found = (prompt.text.shape[-1], prompt.pooled.shape[-1])
            if found != expected:
                raise ValueError(
                    f"A scheduled {name} prompt is {found} wide (text, pooled), but this checkpoint expects "
                    f"{expected}. Use the text encoders that belong to it."
                )
        return config

    def start(self, run: Run) -> _Running:
        """The prompts where the model is."""
        device = run.dit.device
        return _Running(_moved(self.positive, device), _moved(self.negative, device))

    def branches(self, evaluation: Evaluation, state: _Running) -> Sequence[Branch]:
        """None; asked before the evaluations of each step, which tell the run's own prompt by its identity."""
        state.own = evaluation.conditioning
        return ()

    def wrap_predict(self, inner: Predict, state: _Running) -> Predict:
        """The evaluation with the prompts of its step."""
        if not (self.positive.turns or self.negative.turns):
            return inner

        def predict(evaluation: Evaluation) -> torch.Tensor:
            if evaluation.side in (SOURCE, INVERSION):
                return inner(evaluation)
            return inner(replace(evaluation, conditioning=_scheduled(evaluation, state)))

        return predict

    def _prompts(self) -> list[tuple[str, Conditioning]]:
        schedules = {"positive": self.positive, "negative": self.negative}
        return [(name, turn.prompt) for name, schedule in schedules.items() for turn in schedule.turns]


def _scheduled(evaluation: Evaluation, state: _Running) -> Conditioning:
    """What an evaluation of one branch, or of several as one batch, is conditioned on in its step."""
    done = evaluation.step / evaluation.steps
    names = evaluation.branch.split(JOINED)
    if len(names) == 1:
        return _in_force(names[0], evaluation.conditioning, state, done)
    clips = len(evaluation.x) // len(names)
    now = [_in_force(name, own, state, done) for name, own in zip(names, _split(evaluation, len(names)), strict=True)]
    return joined(*(fitted(prompt, evaluation.x[:clips]) for prompt in now))


def _in_force(name: str, own: Conditioning, state: _Running, done: float) -> Conditioning:
    if name == "negative":
        return state.negative.at(done, own)
    return state.positive.at(done, own) if name == "positive" or own is state.own else own


def _split(evaluation: Evaluation, parts: int) -> list[Conditioning]:
    """The prompts that were joined."""
    prompt = evaluation.conditioning
    assert prompt.text_mask is not None  # joining gives one
    halves = (each.chunk(parts) for each in (prompt.text, prompt.pooled, prompt.text_mask))
    return [Conditioning(text, pooled, mask) for text, pooled, mask in zip(*halves, strict=True)]


def _moved(schedule: PromptSchedule, device: torch.device) -> PromptSchedule:
    return replace(schedule, turns=tuple(turn._replace(prompt=turn.prompt.to(device)) for turn in schedule.turns))
