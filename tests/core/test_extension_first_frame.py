"""A first frame that is held without being marked, as the Leapfusion LoRA was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from dit_data import prompt, randn, random_dit

from golden_data import rel_l2
from hyvideo_core.extensions.image_to_video import FirstFrame, ImageToVideo
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from hyvideo_core.sample.seams import Evaluation, Extension, Predict
from hyvideo_core.types import Interval

DIT = random_dit()
NOISE = randn(1, 4, 3, 4, 4, seed=3)
IMAGE = randn(1, 4, 1, 4, 4, seed=7)
HELD = FirstFrame(image=IMAGE)
SIGMAS = flow_sigmas(3, 7.0)


def steps_of(*extensions: Extension, **options: Any) -> list[Step]:
    return list(sample(DIT, NOISE, prompt(), sigmas=SIGMAS, extensions=extensions, **options))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return steps_of(*extensions, **options)[-1].x


def test_the_other_frames_are_those_of_the_authors_loop() -> None:
    """Theirs puts the image into the model's input only, and lets the solver move frame 0 of the latent too."""
    x, text = NOISE, prompt()
    for sigma, sigma_next in zip(SIGMAS[:-1].tolist(), SIGMAS[1:].tolist(), strict=True):
        given = torch.cat((IMAGE, x[:, :, 1:]), dim=2)
        timestep = torch.tensor([TIMESTEP_SCALE * sigma])
        x = x + DIT(given, timestep, text.text, None, text.pooled, torch.tensor([6000.0])) * (sigma_next - sigma)
    assert rel_l2(final(HELD)[:, :, 1:], x[:, :, 1:]) <= 1e-5
    assert torch.equal(final(HELD)[:, :, :1], IMAGE)


def test_frame_0_is_held_in_every_evaluation_and_never_marked() -> None:
    seen: list[Evaluation] = []

    @dataclass(frozen=True)
    class Spy(Extension):
        rank: ClassVar[int] = 2000

        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            return lambda evaluation: (seen.append(evaluation), inner(evaluation))[1]

    steps = steps_of(HELD, Spy(), solver=SOLVERS["heun"], negative=prompt(seed=20), guidance=Guidance(cfg=3))
    assert {evaluation.key[:2] for evaluation in seen} >= {("positive", 0), ("positive", 1), ("negative", 0)}
    assert all(torch.equal(evaluation.x[:, :, :1], IMAGE) for evaluation in seen)
    assert not any(evaluation.token_replace for evaluation in seen)
    assert all(torch.equal(step.x[:, :, :1], IMAGE) for step in steps)
    assert rel_l2(final(HELD), final(ImageToVideo(image=IMAGE, stability=False))) > 1e-3


def test_never_active_it_is_bit_identical_to_none() -> None:
    assert torch.equal(final(FirstFrame(image=IMAGE, when=Interval(0.5, 0.5))), final())
    assert rel_l2(final(HELD)[:, :, 1:], final()[:, :, 1:]) > 1e-3
