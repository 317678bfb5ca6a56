"""The guided velocity of a run: the transformer, the prompts, guidance and what extensions make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from hyvideo_core.errors import NumericsError
from hyvideo_core.model.dit import DiT, Seams
from hyvideo_core.sample.guidance import Guidance, embedded_guidance, rescaled
from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from hyvideo_core.sample.seams import BOTH, Branch, Conditional, Evaluation, Predict, Running, compose, passed
from hyvideo_core.types import Conditioning


class Flow:
    """What a solver asks for the velocity; extensions are those of one run, started; ``side`` as in ``Evaluation``.

    A run from clean to noise goes ``backwards``: what acts at the beginning of other runs, acts at its end.
    """

    def __init__(
        self,
        dit: DiT,
        prompts: Mapping[str, Conditioning],
        guidance: Guidance,
        running: Sequence[Running],
        steps: int,
        side: str = "",
        backwards: bool = False,
    ) -> None:
        self.dit, self.prompts, self.guidance, self.running, self.steps = dit, prompts, guidance, running, steps
        self.side, self.backwards = side, backwards
        self._composed: dict[tuple[bool, ...], Predict] = {}
        # All of them now and in the order of steps, also of steps that a resumed run need not make again: extensions
        # may then tell one set from another by its number, which is the same in both runs.
        for step in range(steps):
            self._predict(self.active(step))

    def active(self, step: int) -> list[Running]:
        """The extensions that act in a step."""
        place = self.steps - 1 - step if self.backwards else step
        return [pair for pair in self.running if pair[0].when.contains(place, self.steps)]

    def held(self, x: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
        """x [B, C, T, H, W] at σ with what the extensions hold in a step put back."""
        return passed("hold", self.active(step), x, sigma)

    def velocity(self, x: torch.Tensor, sigma: float, step: int, stage: int = 0) -> torch.Tensor:
        """The guided velocity at x [B, C, T, H, W] and σ. Raises ``NumericsError`` where it is not finite."""
        active = self.active(step)
        positive = Evaluation(
            x, sigma, step, self.steps, self.prompts["positive"], "positive", stage=stage, side=self.side
        )
        branches = [each for extension, state in active for each in extension.branches(positive, state)]
        if self.guidance.uses_negative(step, self.steps):
            branches.insert(0, Branch("negative", self.guidance.cfg - 1, self.prompts["negative"]))
        velocity = self._guided(self._predict(active), positive, branches, active)
        self._check_finite(velocity, step)
        return velocity

    def _guided(
        self, predict: Predict, positive: Evaluation, branches: Sequence[Branch], active: Sequence[Running]
    ) -> torch.Tensor:
        found = self._evaluated(predict, positive, branches)
        conditional = Conditional(positive, found["positive"])
        out = conditional.velocity
        for branch in branches:
            other = passed("other", active, found[branch.name], branch.name, conditional)
            difference = passed("difference", active, conditional.velocity - other, branch.name, conditional)
            out = out + branch.weight * difference
        if branches:
            out = rescaled(out, conditional.velocity, self.guidance.rescale)
        return passed("velocity", active, out, conditional)

    def _evaluated(
        self, predict: Predict, positive: Evaluation, branches: Sequence[Branch]
    ) -> Mapping[str, torch.Tensor]:
        """The velocity of each branch by its name."""
        found, rest = {}, list(branches)
        if self.guidance.batched and rest and rest[0].name == "negative":
            negative = rest.pop(0).conditioning
            assert negative is not None
            both = predict(
                replace(
                    positive,
                    x=torch.cat((positive.x, positive.x)),
                    conditioning=joined(negative, positive.conditioning),
                    branch=BOTH,
                )
            )
            found["negative"], found["positive"] = both.chunk(2)
        else:
            found["positive"] = predict(positive)
        for branch in rest:
            found[branch.name] = predict(
                replace(positive, conditioning=branch.conditioning or positive.conditioning, branch=branch.name)
            )
        return found

    def _predict(self, active: Sequence[Running]) -> Predict:
        # Once per active set, so that compiled blocks see few graphs.
        on = tuple(any(each is extension for each, _ in active) for extension, _ in self.running)
        if on not in self._composed:
            self._composed[on] = compose(partial(_evaluate, self.dit, self.guidance), active)
        return self._composed[on]

    def _check_finite(self, velocity: torch.Tensor, step: int) -> None:
        if bool(torch.isfinite(velocity).all()):
            return
        dit = self.dit
        other = "" if dit.attention == "chunked" else "Choose attention 'chunked' in the loader; if it stays, "
        raise NumericsError(
            f"The transformer returned NaN or infinity in step {step + 1} of {self.steps} ({dit.dtype}, attention "
            f"'{dit.attention}'). The video would be black. {other}the checkpoint or the text encoder's output is "
            "damaged: download the file again, or try another prompt."
        )


def fitted(prompt: Conditioning, x: torch.Tensor) -> Conditioning:
    """The prompt on the latent's device, one row for each sample."""
    prompt = prompt.to(x.device)
    batch = x.shape[0]
    if prompt.text.shape[0] == batch:
        return prompt
    mask = None if prompt.text_mask is None else prompt.text_mask.expand(batch, -1)
    return Conditioning(prompt.text.expand(batch, -1, -1), prompt.pooled.expand(batch, -1), mask)


def fitted_prompts(
    x: torch.Tensor, positive: Conditioning, negative: Conditioning | None, guidance: Guidance
) -> dict[str, Conditioning]:
    """The prompts that guidance asks for, by their branches' names, each fitted to x."""
    prompts = {"positive": fitted(positive, x)}
    if guidance.cfg > 1 and negative is not None:
        prompts["negative"] = fitted(negative, x)
    return prompts


def joined(*prompts: Conditioning) -> Conditioning:
    """Prompts of equal batches as one batch, their texts padded to the longest."""
    length = max(prompt.text.shape[1] for prompt in prompts)
    texts, masks = [], []
    for prompt in prompts:
        missing = length - prompt.text.shape[1]
        mask = prompt.text_mask
        if mask is None:
            mask = torch.ones(prompt.text.shape[:2], dtype=torch.long, device=prompt.text.device)
        texts.append(F.pad(prompt.text, (0, 0, 0, missing)))
        masks.append(F.pad(mask, (0, missing)))
    return Conditioning(torch.cat(texts), torch.cat([prompt.pooled for prompt in prompts]), torch.cat(masks))


def _evaluate(dit: DiT, guidance: Guidance, evaluation: Evaluation, seams: Seams) -> torch.Tensor:
    batch, device = evaluation.x.shape[0], evaluation.x.device
    timestep = torch.full((batch,), evaluation.sigma, dtype=torch.float32, device=device) * TIMESTEP_SCALE
    scale = None
    if dit.config.guidance_embed:
        scale = embedded_guidance(guidance.embedded, batch, dit.dtype, device)
    prompt = evaluation.conditioning
    with torch.inference_mode():
        return dit(
            evaluation.x,
            timestep,
            prompt.text,
            prompt.text_mask,
            prompt.pooled,
            scale,
            token_replace=evaluation.token_replace,
            seams=seams,
        )
