"""The loop that all trainings of the demo model share: schedule, averaged weights, checkpoints, curves.

What a step sees is drawn from the seed and the step's number alone, so a run that was stopped and goes on from its
checkpoint ends in the weights of one that was not, on the same machine with as many threads.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tools.paths import CACHE

#: Checkpoints and curves of the trainings.
TRAINING = CACHE / "training"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEED = 20241203  # the day the model was published


@dataclass(frozen=True)
class Recipe:
    """How long and how fast: the learning rate rises over ``warmup`` steps and falls to nothing along a cosine.

    With a ``muon_rate`` the matrices inside blocks are trained by Muon at that rate, all else by AdamW at ``rate``.
    """

    steps: int
    rate: float
    muon_rate: float = 0.0
    warmup: int = 200
    weight_decay: float = 0.0
    average: float = 0.999
    clip: float = 1.0
    save_every: int = 100
    log_every: int = 25

    def part_at(self, step: int) -> float:
        """The part of the learning rates that a step has."""
        rise = min(1.0, (step + 1) / self.warmup)
        return rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def decay_at(self, step: int) -> float:
        """Decay of the weights' running average; lower at first, so that the beginning is forgotten."""
        return min(self.average, (1 + step) / (10 + step))


@dataclass(frozen=True)
class Draw:
    """The chance of one step: a generator for Python's choices and one for tensors."""

    rng: random.Random
    torch: torch.Generator

    @classmethod
    def of(cls, name: str, step: int) -> Draw:
        """For step ``step`` of the training ``name``."""
        rng = random.Random(f"{SEED} {name} {step}")
        return cls(rng, torch.Generator().manual_seed(rng.getrandbits(62)))


#: The losses of a step by name; their sum is minimised.
Losses = Callable[[Draw, int], dict[str, Tensor]]


class Training:
    """A training of the parameters of ``module`` that require gradients.

    ``made_from`` stands for all else that it depends on, such as its data and the networks it learns from: a checkpoint
    that was made from something else is refused. None does not ask.
    """

    def __init__(
        self, name: str, module: nn.Module, recipe: Recipe, folder: Path = TRAINING, made_from: str | None = None
    ) -> None:
        self.name, self.module, self.recipe, self.folder, self.made_from = name, module, recipe, folder, made_from
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.averaged = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimisers = optimisers(self.parameters, recipe)
        self.step = 0
        if self.checkpoint.is_file():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """Where the state is kept."""
        return self.folder / f"{self.name}.pt"

    @property
    def curve(self) -> Path:
        """Where the losses are kept, a JSON object a line."""
        return self.folder / f"{self.name}.jsonl"

    def run(self, losses: Losses) -> None:
        """Train to the end of the recipe, from where the checkpoint is; leaves the averaged weights in the module."""
        sums: dict[str, float] = {}
        began, first = time.monotonic(), self.step
        self._cut_curve()
        while self.step < self.recipe.steps:
            for name, value in self._train(losses(Draw.of(self.name, self.step), self.step)).items():
                sums[name] = sums.get(name, 0.0) + value
            self.step += 1
            if self.step % self.recipe.log_every == 0:
                pace = (time.monotonic() - began) / (self.step - first)
                self._log({name: value / self.recipe.log_every for name, value in sums.items()}, pace)
                sums = {}
            if self.step % self.recipe.save_every == 0 or self.step == self.recipe.steps:
                self.save()
        self.use_average()

    def use_average(self) -> None:
        """Put the averaged weights into the module."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.averaged[name])

    def save(self) -> None:
        """Keep the state, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        state: dict[str, Any] = {
            "step": self.step,
            "recipe": asdict(self.recipe),
            "made_from": self.made_from,
            "weights": {n: p.detach() for n, p in self.parameters.items()},
            "averaged": self.averaged,
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
        }
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=DEVICE, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise SystemExit(
                f"{self.checkpoint} was begun with another recipe, {state['recipe']}: move it away to begin anew."
            )
        before = state.get("made_from")
        if None not in (before, self.made_from) and before != self.made_from:
            raise SystemExit(
                f"{self.checkpoint} was made from other data or networks ({before}) than there are now "
                f"({self.made_from}): move it away to begin anew."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["weights"][name])
        self.averaged, self.step = state["averaged"], state["step"]
        for (optimiser, _), kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)

    def _cut_curve(self) -> None:
        """Forget what a stopped run logged after its last checkpoint."""
        if self.curve.is_file():
            kept = [
                line for line in self.curve.read_text("ascii").splitlines() if json.loads(line)["step"] <= self.step
            ]
            self.curve.write_text("".join(f"{line}\n" for line in kept), encoding="ascii")

    def _train(self, losses: dict[str, Tensor]) -> dict[str, float]:
        for parameter in self.parameters.values():
            parameter.grad = None
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip)
        if not math.isfinite(norm):
            raise FloatingPointError(f"{self.name}: the gradient is not finite in step {self.step}.")
        for optimiser, rate in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * self.recipe.part_at(self.step)
            optimiser.step()
        weight = 1 - self.recipe.decay_at(self.step)
        averaged = [self.averaged[name] for name in self.parameters]
        torch._foreach_lerp_(averaged, [p.detach() for p in self.parameters.values()], weight)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _log(self, means: dict[str, float], pace: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = {"step": self.step, **{name: float(f"{value:.5g}") for name, value in means.items()}}
        with self.curve.open("a", encoding="ascii") as file:
            file.write(json.dumps(entry) + "\n")
        left = pace * (self.recipe.steps - self.step)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(
            f"{self.name} {self.step}/{self.recipe.steps}  {shown}  {pace:.2f} s/step, {left / 60:.0f} min left",
            flush=True,
        )


def optimisers(parameters: Mapping[str, nn.Parameter], recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """What trains the parameters, each with its learning rate.

    On this transformer Muon needs 600 steps where AdamW needs 950 (to a loss of 0.35, by the first 600 and 1000 steps
    of one run each), and a step takes 1.15 times as long. Source: K. Jordan et al., "Muon: an optimizer for hidden
    layers in neural networks" (2024).
    """
    hidden = {name: p for name, p in parameters.items() if recipe.muon_rate and p.ndim == 2 and "block" in name}
    rest = [p for name, p in parameters.items() if name not in hidden]
    decay = recipe.weight_decay
    found: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.AdamW(rest, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=decay), recipe.rate)
    ]
    if hidden:
        muon = torch.optim.Muon(
            list(hidden.values()), lr=recipe.muon_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
        found.append((muon, recipe.muon_rate))
    return found


def stack(clips: Iterable[Tensor]) -> Tensor:
    """Clips [C, T, H, W] as a batch."""
    return torch.stack(list(clips))
