"""Helpers for the tests of the step caches: what ran in a run, and each cache once more, as a plain loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hyvideo_core.model import DiT
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlock, Seams
from hyvideo_core.sample.guidance import embedded_guidance
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run
from hyvideo_core.types import Conditioning

Key = tuple[int, str, int, tuple[int, ...]]


@dataclass(frozen=True)
class Ran(Extension):
    """Counts the blocks that ran in each evaluation: (step, branch, stage, part) → blocks, in the order it was asked.

    Inside of the caches, as block swap is. What was never asked at all is missing.
    """

    rank: ClassVar[int] = 950
    all_blocks: int = 3
    blocks: Counter[Key] = field(default_factory=Counter, compare=False)

    def start(self, run: Run) -> list[Evaluation]:
        return []

    def wrap_predict(self, inner: Predict, state: list[Evaluation]) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            state[:] = [evaluation]
            self.blocks[_key(evaluation)] += 0
            return inner(evaluation)

        return predict

    def wrap_block(self, inner: RunBlock, state: list[Evaluation]) -> RunBlock:
        def run(block: nn.Module, stream: Stream) -> None:
            self.blocks[_key(state[0])] += 1
            inner(block, stream)

        return run

    def computed(self, branch: str = "positive", stage: int = 0, part: tuple[int, ...] = ()) -> list[int]:
        """The steps in which all blocks ran."""
        found = {(key[0], count) for key, count in self.blocks.items() if key[1:] == (branch, stage, part)}
        return sorted(step for step, count in found if count == self.all_blocks)


def _key(evaluation: Evaluation) -> Key:
    return (evaluation.step, *evaluation.key)


class Naive:
    """A run under true CFG, or without, that skips as a cache does, with whole tensors and nothing shared with it."""

    def __init__(
        self, dit: DiT, prompts: Mapping[str, Conditioning], cfg: float, image: torch.Tensor | None, threshold: float
    ) -> None:
        self.dit, self.prompts, self.cfg, self.image, self.threshold = dit, prompts, cfg, image, threshold
        self.steps = 0
        self.step = 0
        self.total = 0.0
        self.skipping = False
        self.skipped: list[int] = []
        #: What had added up after each step.
        self.totals: list[float] = []
        self.kept: dict[Any, Any] = {}

    def run(self, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        levels = sigmas.tolist()
        self.steps = len(levels) - 1
        for self.step, (sigma, sigma_next) in enumerate(pairwise(levels)):
            x = self.with_image(x)
            found = {branch: self.evaluate(branch, x, sigma) for branch in self.prompts}
            velocity = found["positive"]
            if "negative" in found:
                velocity = velocity + (self.cfg - 1) * (found["positive"] - found["negative"])
            if self.skipping:
                self.skipped.append(self.step)
            x = self.with_image(x + velocity * (sigma_next - sigma))
        return x

    def with_image(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.image is None else torch.cat((self.image, x[:, :, 1:]), dim=2)

    @property
    def frame(self) -> int:
        """The first frame that is not given."""
        return 0 if self.image is None else 1

    def decide(self, known: bool, change: float) -> None:
        """Add up a predicted change; only where the first evaluation of a step asks."""
        if known and 1 <= self.step < self.steps - 1:
            self.total += change
            self.skipping = self.total < self.threshold
        else:
            self.skipping = False
        if not self.skipping:
            self.total = 0.0
        self.totals.append(self.total)

    def evaluate(self, branch: str, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.forward(branch, x, sigma, lambda inner: lambda stream: self.blocks(branch, stream, inner))

    def blocks(self, branch: str, stream: Stream, inner: Any) -> None:
        inner(stream)

    def forward(self, branch: str, x: torch.Tensor, sigma: float, around: Any) -> torch.Tensor:
        prompt, batch = self.prompts[branch], len(x)
        scale = embedded_guidance(6.0, batch, torch.float32, x.device) if self.dit.config.guidance_embed else None
        with torch.inference_mode():
            return self.dit(
                x,
                torch.full((batch,), sigma * 1000),
                prompt.text,
                prompt.text_mask,
                prompt.pooled,
                scale,
                token_replace=self.image is not None,
                seams=Seams(blocks=around),
            )

    def moving(self, stream: Stream, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens [B, L, D] of the frames that are not given."""
        return tokens[:, 4 * self.frame :]


def relative_l1(now: torch.Tensor, before: torch.Tensor) -> float:
    now, before = now.double(), before.double()
    return ((now - before).abs().mean() / before.abs().mean()).item()


class NaiveTeaCache(Naive):
    coefficients: Sequence[float] = ()

    def blocks(self, branch: str, stream: Stream, inner: Any) -> None:
        tokens = stream.video.clone()
        if branch == "positive":
            before = self.kept.get("input")
            self.kept["input"] = now = self.moving(stream, self.modulated(stream))
            known = before is not None
            estimate = float(np.polyval(self.coefficients, relative_l1(now, before))) if known else 0.0
            self.decide(known, max(0.0, estimate))
        if self.skipping:
            stream.video.add_(self.kept[branch])
            return
        inner(stream)
        self.kept[branch] = stream.video - tokens

    def modulated(self, stream: Stream) -> torch.Tensor:
        shift, scale = self.dit.double_blocks[0].img_mod.linear(F.silu(stream.vec)).chunk(6, dim=-1)[:2]
        normed = F.layer_norm(stream.video, stream.video.shape[-1:], eps=1e-6)
        return normed * (1 + scale[:, None]) + shift[:, None]


class NaiveFirstBlockCache(Naive):
    def blocks(self, branch: str, stream: Stream, inner: Any) -> None:
        tokens = stream.video.clone()
        first, *others = (*self.dit.double_blocks, *self.dit.single_blocks)
        first(stream)
        after_first = stream.video.clone()
        if branch == "positive":
            now, before = self.moving(stream, after_first - tokens), self.kept.get("first")
            self.total = 0.0  # nothing adds up here
            self.decide(before is not None, 0.0 if before is None else relative_l1(now, before))
            if not self.skipping:
                self.kept["first"] = now
        if self.skipping:
            stream.video.add_(self.kept[branch])
            return
        for block in others:
            block(stream)
        self.kept[branch] = stream.video - after_first


class NaiveEasyCache(Naive):
    def evaluate(self, branch: str, x: torch.Tensor, sigma: float) -> torch.Tensor:
        if branch == "positive":
            before, self.kept["x"] = self.kept.get("x"), x
            rate = self.kept.get("rate")
            change = 0.0
            if rate is not None:
                change = rate * self.mean(x - before) / self.mean(self.kept["full"][1])
            self.decide(rate is not None, change)
        if self.skipping:
            return x + self.kept[branch]
        velocity = super().evaluate(branch, x, sigma)
        if branch == "positive":
            if "full" in self.kept:
                x_then, velocity_then = self.kept["full"]
                self.kept["rate"] = self.mean(velocity - velocity_then) / self.mean(x - x_then)
            self.kept["full"] = x, velocity
        self.kept[branch] = velocity - x
        return velocity

    def mean(self, x: torch.Tensor) -> float:
        return x[:, :, self.frame :].double().abs().mean().item()
