"""Features of guidance side by side: finite, in one order whatever the graph's, each keeping what it promises."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from dit_data import prompt, randn, random_dit

from golden_data import rel_l2
from hyvideo_core.extensions import ImageToVideo
from hyvideo_core.extensions.apg import PAPER_ELEMENTS, AdaptiveProjectedGuidance
from hyvideo_core.extensions.cfg_zero_star import CfgZeroStar
from hyvideo_core.extensions.fresca import FreSca
from hyvideo_core.extensions.skip_guidance import SkipGuidance
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.seams import Conditional, Extension

DIT = random_dit()
NOISE = randn(1, 4, 3, 4, 6, seed=3)
STEPS = 3
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=4, rescale=0.5)}
FRESCA = FreSca(low=0.5, high=3.0, cutoff=1)
APG = AdaptiveProjectedGuidance(eta=0.0, momentum=-0.5, norm_threshold=20.0)
ZERO_STAR = CfgZeroStar()
STG = SkipGuidance(blocks="single 0", scale=0.7, disturbance="attention")
SLG = SkipGuidance(blocks="double 1", scale=0.5)
ALL: list[Extension] = [FRESCA, APG, ZERO_STAR, STG, SLG]


def run(*extensions: Extension, **options: Any) -> list[Step]:
    given_options = {"sigmas": flow_sigmas(STEPS, 7.0), "positive": prompt(), **options}
    return list(sample(DIT, options.pop("x", NOISE), extensions=extensions, **given_options))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


@dataclass(frozen=True)
class Added(Extension):
    """Notes what guidance adds of each branch, after all others."""

    rank: ClassVar[int] = 10_000
    found: list[tuple[str, torch.Tensor, Conditional]] = field(default_factory=list, compare=False)

    def difference(self, difference: torch.Tensor, name: str, conditional: Conditional, state: Any) -> torch.Tensor:
        self.found.append((name, difference, conditional))
        return difference


@pytest.mark.parametrize(
    "two", [*itertools.combinations(ALL, 2)], ids=lambda two: " ".join(type(e).__name__ for e in two)
)
def test_of_any_two_the_order_is_irrelevant_and_each_shows(two: tuple[Extension, Extension]) -> None:
    together = final(*two, **CFG)
    assert bool(torch.isfinite(together).all())
    assert torch.equal(together, final(*reversed(two), **CFG))
    for one in two:
        assert rel_l2(together, final(one, **CFG)) > 1e-3


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("batched", [False, True])
def test_all_of_them_work_together_with_every_solver(solver: str, batched: bool) -> None:
    options = {**CFG, "guidance": replace(CFG["guidance"], batched=batched), "solver": SOLVERS[solver]}
    image = randn(1, 4, 1, 4, 6, seed=7)
    given_image = ImageToVideo(image=image)
    first = run(given_image, *ALL, **options)
    assert all(bool(torch.isfinite(step.x).all()) for step in first)
    assert torch.equal(first[-1].x, final(*reversed(ALL), given_image, **options))
    assert torch.equal(first[-1].x[:, :, :1], image)


def test_apgs_promises_hold_for_what_is_added_whatever_fresca_did() -> None:
    added = Added()
    run(FRESCA, APG, STG, added, **CFG)
    negative = [each for each in added.found if each[0] == "negative"]
    assert len(negative) == STEPS
    limit = APG.norm_threshold * (NOISE.numel() / PAPER_ELEMENTS) ** 0.5
    for _, difference, conditional in negative:
        evaluation = conditional.evaluation
        assert evaluation.sigma * difference.norm().item() <= limit * 1.0001
        clean = evaluation.x - evaluation.sigma * conditional.velocity
        assert abs((difference * clean).sum()) <= 1e-5 * difference.norm() * clean.norm()


def test_what_is_for_true_guidance_leaves_disturbed_branches_alone() -> None:
    plain, together = Added(), Added()
    sigmas = flow_sigmas(1, 7.0)
    run(STG, SLG, plain, sigmas=sigmas, **CFG)
    run(*(each for each in ALL if each is not ZERO_STAR), CfgZeroStar(zero_steps=0), together, sigmas=sigmas, **CFG)
    for (name, expected, _), (other, found, _) in zip(plain.found, together.found, strict=True):
        assert name == other
        assert torch.equal(found, expected) == (name != "negative")


def test_in_a_zeroed_step_nothing_of_the_others_moves_x() -> None:
    steps = run(*ALL, **CFG)
    assert torch.equal(steps[0].x, NOISE)
    assert rel_l2(steps[1].x, NOISE) > 1e-3


def test_all_of_them_neutral_are_bit_identical_to_none() -> None:
    neutral: list[Extension] = [
        FreSca(low=1, high=1),
        AdaptiveProjectedGuidance(eta=1, momentum=0, norm_threshold=0),
        CfgZeroStar(optimized_scale=False, zero_steps=0),
        replace(STG, scale=0),
        replace(SLG, scale=0),
    ]
    assert torch.equal(final(*neutral, **CFG), final(**CFG))
