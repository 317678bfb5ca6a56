"""RF inversion: up to noise, and steered back to the clip."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.errors import GeometryError, NumericsError
from hyvideo_core.extensions.image_to_video import ImageToVideo
from hyvideo_core.extensions.prompt_schedule import ScheduledPrompts
from hyvideo_core.extensions.rf_inversion import CONSTANT, FALLING, RISING, TRENDS, RFInversion, trend_shares, trended
from hyvideo_core.sample import Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.inversion import invert
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.schedule import noised, partial_sigmas
from hyvideo_core.sample.seams import Conditional, Evaluation, Extension, Predict, Run
from hyvideo_core.sample.solvers import SOLVERS
from hyvideo_core.text import PromptSchedule, Turn
from hyvideo_core.types import Conditioning, Interval

DIT = random_dit()
SHAPE = (1, 4, 3, 4, 4)
CLEAN, NOISE = randn(*SHAPE, seed=1), randn(*SHAPE, seed=3)
STEPS = 4
SIGMAS = flow_sigmas(STEPS, 3.0)
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3, rescale=0.5)}


def asked(x: torch.Tensor, sigma: float, said: Conditioning, guidance: float) -> torch.Tensor:
    """The model's velocity, without any of what is tested."""
    timestep, scale = torch.tensor([1000.0 * sigma]), torch.tensor([1000.0 * guidance])
    return DIT(x, timestep, said.text, said.text_mask, said.pooled, scale)


# --- the way up ----------------------------------------------------------------------------------------------


def up(**options: Any) -> Iterator[Step]:
    given = {"clean": CLEAN, "noise": NOISE, "prompt": prompt(), "sigmas": SIGMAS, **options}
    return invert(DIT, given.pop("clean"), given.pop("noise"), given.pop("prompt"), **given)


def noise_of(**options: Any) -> torch.Tensor:
    return list(up(**options))[-1].x


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, [0.0, 0.3, 1.0, 0.5]])
def test_every_step_follows_the_published_equation(gamma: float | list[float]) -> None:
    x, levels = CLEAN, [(0.0, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 1.0)]
    gammas = gamma if isinstance(gamma, list) else [gamma] * STEPS
    for step, (sigma, after), share in zip(up(gamma=gamma), levels, gammas, strict=True):
        velocity = asked(x, sigma, prompt(), 0.0)
        assert rel_l2(step.denoised, x - sigma * velocity) <= 1e-5
        x = x + (velocity + share * ((NOISE - x) / (1 - sigma) - velocity)) * (after - sigma)
        assert step.sigma == pytest.approx(sigma)
        assert rel_l2(step.x, x) <= 1e-5


def test_without_gamma_it_is_plain_euler_to_the_last_bit() -> None:
    plain = sample(DIT, CLEAN, prompt(), sigmas=SIGMAS.flip(0), guidance=Guidance(embedded=0))
    for step, expected in zip(up(gamma=0.0), plain, strict=True):
        assert torch.equal(step.x, expected.x)


@given(steps=st.integers(1, 12), shift=st.floats(0.5, 17))
@settings(max_examples=15)
def test_with_all_of_gamma_it_ends_at_the_noise_to_the_last_bit(steps: int, shift: float) -> None:
    assert torch.equal(noise_of(gamma=1.0, sigmas=flow_sigmas(steps, shift)), NOISE)


def test_an_inversion_to_a_lower_level_goes_straight_to_it() -> None:
    sigmas = partial_sigmas(3, 3.0, 0.5)
    assert rel_l2(noise_of(gamma=1.0, sigmas=sigmas), noised(CLEAN, NOISE, sigmas[0].item())) <= 1e-6


def test_every_setting_changes_the_noise() -> None:
    usual = noise_of()
    assert torch.equal(noise_of(gamma=0.5, embedded_guidance=0.0), usual)
    for change in (
        {"gamma": 0.6},
        {"embedded_guidance": 6.0},
        {"prompt": prompt(seed=11)},
        {"noise": -NOISE},
        {"clean": -CLEAN},
        {"sigmas": flow_sigmas(STEPS, 7.0)},
    ):
        assert rel_l2(noise_of(**change), usual) > 1e-3, change


@dataclass(frozen=True)
class Inertia(Extension):
    """Mixes the last velocity into each; notes what it is asked and that it was undone."""

    seen: list[Any] = field(default_factory=list)

    def start(self, run: Run) -> dict[str, torch.Tensor]:
        run.stack.callback(self.seen.append, "undone")
        return {}

    def keep(self, state: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return dict(state)

    def restore(self, state: dict[str, torch.Tensor], kept: Mapping[str, torch.Tensor]) -> None:
        state.update(kept)

    def wrap_predict(self, inner: Predict, state: dict[str, torch.Tensor]) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            self.seen.append((evaluation.step, evaluation.steps, evaluation.key))
            state["last"] = inner(evaluation) + 0.25 * state.get("last", 0)
            return state["last"]

        return predict


def test_extensions_act_on_the_way_up_and_are_undone() -> None:
    inertia = Inertia()
    steps = up(extensions=[inertia, ImageToVideo(image=NOISE[:, :, :1])])
    assert torch.equal(next(steps).x[:, :, :1], NOISE[:, :, :1])
    steps.close()
    assert inertia.seen == [(0, STEPS, ("inversion positive", 0, ())), "undone"]


def test_extensions_act_at_the_levels_at_which_they_act_on_the_way_back() -> None:
    early = Inertia(when=Interval(0, 0.25))
    list(up(extensions=[early]))
    assert [seen[0] for seen in early.seen[:-1]] == [STEPS - 1], "the first step of a run is an inversion's last"


def test_an_inversion_keeps_its_prompt_whatever_is_scheduled() -> None:
    later = ScheduledPrompts(positive=PromptSchedule((Turn(0.0, prompt(seed=9)),)))
    assert torch.equal(noise_of(extensions=[later]), noise_of())


def test_a_resumed_inversion_is_the_uninterrupted_one_to_the_last_bit() -> None:
    whole, made = [], []
    for step in up(extensions=[Inertia()]):
        made.append(step.checkpoint())
        whole.append(step.x)
    assert rel_l2(noise_of(), whole[-1]) > 1e-3
    for last in made:
        rest = [step.x for step in up(extensions=[Inertia()], resume=last)]
        assert len(rest) == STEPS - 1 - last.index
        assert all(torch.equal(*pair) for pair in zip(rest, whole[last.index + 1 :], strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": -0.1}, "gamma is -0.1, but must lie between 0"),
        ({"gamma": 1.1}, "gamma is 1.1"),
        ({"gamma": math.nan}, "gamma is nan"),
        ({"gamma": [0.5, 0.5, 1.1, 0.5]}, "gamma is 1.1"),
        ({"gamma": [0.5, 0.5]}, "gamma is a list of 2 for 4 steps"),
        ({"sigmas": SIGMAS.flip(0)}, "sigmas must be two levels or more that fall"),
        ({"sigmas": SIGMAS[:1]}, "sigmas must be two levels"),
        ({"noise": NOISE[:, :, :1]}, r"noise is \[1, 4, 1, 4, 4\], but the clip's latent \[1, 4, 3, 4, 4\]"),
        ({"clean": CLEAN[:, :2], "noise": NOISE[:, :2]}, "latent channels: got 2"),
        ({"embedded_guidance": math.inf}, "embedded is inf"),
    ],
)
def test_an_inversion_that_cannot_be_is_refused_at_the_call(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        up(**options)


# --- the way down --------------------------------------------------------------------------------------------


def run(*extensions: Extension, x: torch.Tensor = NOISE, solver: str = "euler", **options: Any) -> list[Step]:
    given = {"sigmas": SIGMAS, "solver": SOLVERS[solver], **options}
    return list(sample(DIT, x, prompt(), **given, extensions=extensions))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


@pytest.mark.parametrize("options", [{}, CFG], ids=["plain", "cfg"])
@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_without_eta_it_is_bit_identical_to_none(solver: str, trend: str, options: dict[str, Any]) -> None:
    steered = final(RFInversion(clean=CLEAN, eta=0.0, trend=trend), solver=solver, **options)
    assert torch.equal(steered, final(solver=solver, **options))


def test_never_active_it_is_bit_identical_to_none() -> None:
    assert torch.equal(final(RFInversion(clean=CLEAN, eta=1.0, when=Interval(0.5, 0.5))), final())


@pytest.mark.parametrize("options", [{}, CFG], ids=["plain", "cfg"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_with_all_of_eta_the_clip_comes_back(solver: str, options: dict[str, Any]) -> None:
    assert rel_l2(final(RFInversion(clean=CLEAN, eta=1.0), solver=solver, **options), CLEAN) <= 1e-5


def test_every_step_follows_the_published_equation_on_the_way_down() -> None:
    x, levels = NOISE, SIGMAS.tolist()
    for step, eta in zip(
        run(RFInversion(clean=CLEAN, eta=0.6, when=Interval(0, 0.75))), [0.6, 0.6, 0.6, 0], strict=True
    ):
        sigma, after = levels[step.index], levels[step.index + 1]
        velocity = asked(x, sigma, prompt(), 6.0)
        # In the paper's terms: t = 1 − σ, the model's vector field turned around, and the step is t′ − t.
        field_, to_clip = -velocity, (CLEAN - x) / (1 - (1 - sigma))
        x = x + (field_ + eta * (to_clip - field_)) * (sigma - after)
        assert rel_l2(step.x, x) <= 1e-5


def test_every_setting_changes_the_video() -> None:
    usual = final(RFInversion(clean=CLEAN))
    assert torch.equal(final(RFInversion(clean=CLEAN, eta=0.5, trend=CONSTANT, when=Interval())), usual)
    for other in (
        RFInversion(clean=CLEAN, eta=0.6),
        RFInversion(clean=CLEAN, trend=RISING),
        RFInversion(clean=CLEAN, trend=FALLING),
        RFInversion(clean=CLEAN, when=Interval(0, 0.5)),
        RFInversion(clean=-CLEAN),
    ):
        assert rel_l2(final(other), usual) > 1e-3, other


def test_more_eta_comes_nearer_to_the_clip() -> None:
    distances = [rel_l2(final(RFInversion(clean=CLEAN, eta=eta)), CLEAN) for eta in (0.0, 0.4, 0.8, 1.0)]
    assert distances == sorted(distances, reverse=True)


def test_up_and_down_with_both_is_nearer_to_the_clip_than_from_any_noise() -> None:
    steered = RFInversion(clean=CLEAN, eta=0.5, when=Interval(0, 0.5))
    assert rel_l2(final(steered, x=noise_of()), CLEAN) < rel_l2(final(x=NOISE), CLEAN)


@dataclass(frozen=True)
class Faster(Extension):
    """Another that changes the velocity."""

    rank: ClassVar[int] = 0

    def velocity(self, velocity: torch.Tensor, conditional: Conditional, state: Any) -> torch.Tensor:
        return 2 * velocity


def test_it_has_the_last_word_on_the_velocity_in_every_order() -> None:
    steered = RFInversion(clean=CLEAN, eta=1.0)
    for order in ([steered, Faster()], [Faster(), steered]):
        assert rel_l2(final(*order), CLEAN) <= 1e-5
    half = RFInversion(clean=CLEAN)
    assert torch.equal(final(half, Faster()), final(Faster(), half))
    assert rel_l2(final(half, Faster()), final(half)) > 1e-2


@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_equals_its_clips_alone(rows: int) -> None:
    x, clean = randn(2, *SHAPE[1:], seed=4), randn(rows, *SHAPE[1:], seed=6)
    together = final(RFInversion(clean=clean), x=x)
    for i in range(2):
        own = clean[i % rows, None]
        assert rel_l2(together[i : i + 1], final(RFInversion(clean=own), x=x[i : i + 1])) <= 1e-5


# --- trends --------------------------------------------------------------------------------------------------


def test_trends_are_in_proportion_to_the_level() -> None:
    levels = [1.0, 0.9, 0.6, 0.5]
    assert trend_shares(levels, CONSTANT) == [1, 1, 1, 1]
    assert trend_shares(levels, RISING) == pytest.approx([0, 0.2, 0.8, 1])
    assert trend_shares(levels, FALLING) == pytest.approx([1, 0.8, 0.2, 0])


def test_a_trend_begins_and_ends_with_the_active_steps() -> None:
    rising = RFInversion(clean=CLEAN, eta=0.8, trend=RISING, when=Interval(0.25, 1))
    state = rising.start(Run(DIT, SIGMAS, None, SHAPE))  # type: ignore[arg-type]
    assert state.strengths == pytest.approx([0, 0, 0.8 * (0.9 - 0.75) / (0.9 - 0.5), 0.8])


def test_a_trend_goes_by_the_level_on_the_way_up_too_and_outside_its_steps_is_nothing() -> None:
    levels = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert trended(0.5, CONSTANT, levels, Interval(0.2, 0.6)) == [0, 0.5, 0.5, 0, 0]
    assert trended(1.0, RISING, levels, Interval()) == levels
    assert trended(1.0, FALLING, levels, Interval(0.4, 1)) == [0, 0, 1, 0.5, 0]


@pytest.mark.parametrize("trend", TRENDS)
@given(levels=st.lists(st.floats(0.01, 1), unique=True).map(lambda each: sorted(each, reverse=True)))
def test_shares_are_parts_that_go_one_way_and_a_single_step_has_all(trend: str, levels: list[float]) -> None:
    shares = trend_shares(levels, trend)
    assert len(shares) == len(levels)
    assert all(0 <= share <= 1 for share in shares)
    assert shares == sorted(shares, reverse=trend == FALLING)
    if len(levels) == 1:
        assert shares == [1]
    elif levels and trend != CONSTANT:
        assert {shares[0], shares[-1]} == {0, 1}


# --- what cannot work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eta": -0.1}, "eta is -0.1, but must lie between 0"),
        ({"eta": 1.5}, "eta is 1.5"),
        ({"eta": math.nan}, "eta is nan"),
        ({"trend": "up"}, "trend is 'up', but must be one of constant, rising, falling"),
    ],
)
def test_a_setting_out_of_range_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RFInversion(clean=CLEAN, **changes)


@pytest.mark.parametrize("clean", [CLEAN[:, :, :1], torch.cat((CLEAN, CLEAN)), CLEAN[0]])
def test_a_clip_of_another_size_is_refused_before_anything_is_loaded(clean: torch.Tensor) -> None:
    with pytest.raises(GeometryError, match=r"clip to steer to is .*, but the latent to sample is \[1, 4, 3, 4, 4\]"):
        check_run(TINY, NOISE, prompt(), extensions=[RFInversion(clean=clean)])


def test_a_damaged_clip_is_refused() -> None:
    with pytest.raises(NumericsError, match="clip to steer to holds NaN or infinity"):
        check_run(TINY, NOISE, prompt(), extensions=[RFInversion(clean=CLEAN * math.nan)])


def test_the_way_up_cannot_be_steered() -> None:
    with pytest.raises(ValueError, match="only on the way from noise to clean"):
        next(up(extensions=[RFInversion(clean=CLEAN)]))
