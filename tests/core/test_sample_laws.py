"""Laws of sampling that hold for any model: schedules, guidance, batches, failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit
from hypothesis import given
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.errors import NumericsError
from hyvideo_core.model import DiT
from hyvideo_core.model.dit import RunBlocks
from hyvideo_core.sample import Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.guidance import rescaled
from hyvideo_core.sample.schedule import noised, partial_sigmas
from hyvideo_core.sample.seams import Branch, Evaluation, Extension, Predict
from hyvideo_core.types import Conditioning, Interval

DIT = random_dit()
NOISE = randn(1, 4, 1, 4, 4, seed=3)
POSITIVE, NEGATIVE = prompt(), prompt(seed=20, length=3)
STEPS = 4
SIGMAS = flow_sigmas(STEPS, 7.0)


class Spy(Extension):
    """Writes down every evaluation."""

    def __init__(self, seen: list[Evaluation]) -> None:
        super().__init__()
        object.__setattr__(self, "seen", seen)

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            self.seen.append(evaluation)
            return inner(evaluation)

        return predict


def run(dit: DiT = DIT, x: torch.Tensor = NOISE, positive: Conditioning = POSITIVE, **options: Any) -> list[Step]:
    return list(sample(dit, x, positive, **{"sigmas": SIGMAS, **options}))


def final(*args: Any, **options: Any) -> torch.Tensor:
    return run(*args, **options)[-1].x


# --- schedule -----------------------------------------------------------------------------------------------


@given(st.integers(1, 100), st.floats(0.1, 30), st.booleans())
def test_a_schedule_runs_monotonously_between_noise_and_clean(steps: int, shift: float, reverse: bool) -> None:
    sigmas = flow_sigmas(steps, shift, reverse)
    assert sigmas.shape == (steps + 1,)
    assert sigmas[[0, -1]].tolist() == pytest.approx([1, 0] if reverse else [0, 1], abs=1e-6)
    assert (sigmas.diff() < 0 if reverse else sigmas.diff() > 0).all()


@pytest.mark.parametrize(
    ("steps", "shift", "field"),
    [(0, 7, "steps"), (-3, 7, "steps"), (4, 0, "shift"), (4, -1, "shift"), (4, float("nan"), "shift")],
)
def test_an_impossible_schedule_names_its_field(steps: int, shift: float, field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        flow_sigmas(steps, shift)


@given(st.integers(1, 60), st.floats(1, 17))
def test_full_denoise_is_the_whole_schedule(steps: int, shift: float) -> None:
    assert torch.equal(partial_sigmas(steps, shift, 1.0), flow_sigmas(steps, shift))


@given(st.integers(1, 60), st.floats(0.05, 1))
def test_partial_denoise_keeps_the_number_of_steps_and_starts_lower(steps: int, denoise: float) -> None:
    sigmas = partial_sigmas(steps, 7.0, denoise)
    assert len(sigmas) == steps + 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    assert sigmas[0] <= 1
    # Unshifted, the first level is the share of the way, to within the step that rounding may add.
    assert partial_sigmas(steps, 1.0, denoise)[0].item() == pytest.approx(denoise, abs=denoise / steps + 1e-6)


def test_a_denoise_that_floats_cannot_hold_exactly_loses_no_step() -> None:
    assert len(partial_sigmas(7, 7.0, 0.07)) == 8
    assert partial_sigmas(7, 1.0, 0.07)[0].item() == pytest.approx(0.07, abs=1e-6)


@pytest.mark.parametrize("denoise", [0.0, -1.0, 1.5, float("nan")])
def test_an_impossible_denoise_is_an_error(denoise: float) -> None:
    with pytest.raises(ValueError, match=r"^denoise is"):
        partial_sigmas(10, 7.0, denoise)


def test_noising_goes_from_the_latent_to_the_noise() -> None:
    latent, noise = randn(2, 1, 4, 1, 2, 2)
    assert torch.equal(noised(latent, noise, 0.0), latent)
    assert torch.equal(noised(latent, noise, 1.0), noise)
    assert torch.allclose(noised(latent, noise, 0.25), latent * 0.75 + noise * 0.25)


# --- guidance -----------------------------------------------------------------------------------------------


def branches(**options: Any) -> list[tuple[int, str]]:
    seen: list[Evaluation] = []
    run(extensions=[Spy(seen)], **options)
    return [(evaluation.step, evaluation.branch) for evaluation in seen]


def test_cfg_1_never_evaluates_the_negative_and_is_bit_identical_without_it() -> None:
    assert branches(negative=NEGATIVE) == [(i, "positive") for i in range(STEPS)]
    assert torch.equal(final(negative=NEGATIVE), final())


def test_cfg_evaluates_both_prompts_in_every_step() -> None:
    assert branches(negative=NEGATIVE, guidance=Guidance(cfg=3)) == [
        (i, branch) for i in range(STEPS) for branch in ("positive", "negative")
    ]


def test_the_negative_prompt_is_evaluated_within_the_interval_only() -> None:
    seen = branches(negative=NEGATIVE, guidance=Guidance(cfg=3, interval=Interval(0.25, 0.75)))
    assert [step for step, branch in seen if branch == "negative"] == [1, 2]
    assert [step for step, branch in seen if branch == "positive"] == list(range(STEPS))


def test_an_empty_interval_is_no_guidance() -> None:
    guidance = Guidance(cfg=3, interval=Interval(0.5, 0.5))
    assert torch.equal(final(negative=NEGATIVE, guidance=guidance), final())


def test_cfg_with_the_prompt_itself_as_negative_changes_nothing() -> None:
    assert rel_l2(final(negative=POSITIVE, guidance=Guidance(cfg=5)), final()) <= 1e-6


def test_cfg_without_a_negative_prompt_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"cfg is 3.*negative"):
        run(guidance=Guidance(cfg=3))


@pytest.mark.parametrize("rescale", [-0.1, 1.1, float("nan")])
def test_an_impossible_rescale_is_an_error(rescale: float) -> None:
    with pytest.raises(ValueError, match="rescale"):
        Guidance(rescale=rescale)


@pytest.mark.parametrize("field", ["cfg", "embedded"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_an_error(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is {value}"):
        Guidance(**{field: value})


def test_rescale_0_is_neutral_and_1_restores_the_spread() -> None:
    guided, conditional = 3 * randn(2, 4, 1, 3, 3), randn(2, 4, 1, 3, 3, seed=5)
    assert rescaled(guided, conditional, 0.0) is guided
    spread = rescaled(guided, conditional, 1.0).flatten(1).std(dim=1)
    assert torch.allclose(spread, conditional.flatten(1).std(dim=1))


@dataclass(frozen=True)
class SteersAway(Extension):
    """One more branch, whose velocity is ``factor`` times that of the positive prompt."""

    weight: float = 1.0
    factor: float = 0.5

    @property
    def name(self) -> str:
        return f"×{self.factor}"

    def branches(self, evaluation: Evaluation, state: Any) -> Sequence[Branch]:
        return (Branch(self.name, self.weight),)

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        return lambda each: inner(each) * (self.factor if each.branch == self.name else 1.0)


def velocity_of_first_step(positive: Conditioning = POSITIVE, **options: Any) -> torch.Tensor:
    return NOISE - next(iter(sample(DIT, NOISE, positive, sigmas=SIGMAS, **options))).denoised


def test_guidance_is_one_formula_for_any_number_of_branches() -> None:
    v, negative = velocity_of_first_step(), velocity_of_first_step(positive=NEGATIVE)
    assert torch.equal(velocity_of_first_step(extensions=[SteersAway(weight=0.0)]), v)
    one, two = SteersAway(), SteersAway(weight=3.0, factor=0.8)
    assert torch.allclose(velocity_of_first_step(extensions=[one, two]), v * (1 + 0.5 + 3 * 0.2), atol=1e-4)
    cfg = {"negative": NEGATIVE, "guidance": Guidance(cfg=3)}
    expected = v + 2 * (v - negative) + 0.5 * v
    assert torch.allclose(velocity_of_first_step(extensions=[one], **cfg), expected, atol=1e-4)


@pytest.mark.parametrize("hook", ["other", "difference", "velocity"])
def test_a_hook_of_guidance_sees_each_branch_and_changes_the_video(hook: str) -> None:
    seen = []

    class Hooked(Extension):
        pass

    def change(self: Extension, x: torch.Tensor, *context: Any) -> torch.Tensor:
        seen.append(context[0] if hook != "velocity" else "velocity")
        return 0.9 * x

    setattr(Hooked, hook, change)
    cfg = {"negative": NEGATIVE, "guidance": Guidance(cfg=3)}
    changed = final(extensions=[Hooked(), SteersAway()], **cfg)
    assert rel_l2(changed, final(extensions=[SteersAway()], **cfg)) > 1e-3
    assert seen == (["velocity"] if hook == "velocity" else ["negative", "×0.5"]) * STEPS


@pytest.mark.parametrize("lengths", [(5, 3), (3, 5), (5, 5)], ids=str)
@pytest.mark.parametrize("rows", [1, 2])
def test_batched_guidance_equals_one_prompt_after_the_other(lengths: tuple[int, int], rows: int) -> None:
    positive, negative = (prompt(seed=20 + n, length=length) for n, length in enumerate(lengths))
    x = randn(rows, 4, 1, 4, 4)
    options = {"x": x, "positive": positive, "negative": negative}
    seen: list[Evaluation] = []
    both = final(**options, guidance=Guidance(cfg=3, batched=True), extensions=[Spy(seen)])
    assert rel_l2(both, final(**options, guidance=Guidance(cfg=3))) <= 1e-5
    assert [(each.branch, len(each.x)) for each in seen] == [("negative and positive", 2 * rows)] * STEPS


@pytest.mark.parametrize(
    ("guidance", "at_once"),
    [(Guidance(batched=True), 1), (Guidance(cfg=3), 1), (Guidance(cfg=3, batched=True), 2)],
    ids=["no cfg", "sequential", "batched"],
)
def test_guidance_says_how_much_larger_an_evaluation_is_than_the_batch(guidance: Guidance, at_once: int) -> None:
    seen: list[Evaluation] = []
    run(negative=NEGATIVE, guidance=guidance, extensions=[Spy(seen)])
    assert {len(each.x) for each in seen} == {at_once * len(NOISE)}
    assert guidance.prompts_at_once == at_once


BASE = Guidance(embedded=6.0, cfg=3.0)


@pytest.mark.parametrize(
    "changes",
    [{"embedded": 7.0}, {"cfg": 4.0}, {"cfg": 1.0}, {"interval": Interval(0, 0.5)}, {"rescale": 0.5}],
    ids=str,
)
def test_every_option_of_guidance_changes_the_video(changes: dict[str, Any]) -> None:
    changed = final(negative=NEGATIVE, guidance=replace(BASE, **changes))
    assert rel_l2(changed, final(negative=NEGATIVE, guidance=BASE)) > 1e-4


def test_embedded_guidance_is_ignored_by_a_model_without_it() -> None:
    dit = random_dit(replace(TINY, guidance_embed=False))
    assert torch.equal(final(dit, guidance=Guidance(embedded=9)), final(dit))


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, 6000.0), (torch.bfloat16, 6016.0)])
def test_embedded_guidance_is_multiplied_in_the_models_dtype(dtype: torch.dtype, expected: float) -> None:
    dit, seen = random_dit().to(dtype), []
    dit.final_layer.linear.float()
    dit.guidance_in.register_forward_pre_hook(lambda module, args: seen.append(args[0].item()))
    run(dit)
    assert seen == [expected] * STEPS


# --- the loop -----------------------------------------------------------------------------------------------


def test_steps_report_where_the_run_is() -> None:
    steps = run()
    assert [step.index for step in steps] == list(range(STEPS))
    assert [step.sigma for step in steps] == SIGMAS[:-1].tolist()
    assert torch.allclose(steps[-1].denoised, steps[-1].x, atol=1e-6)
    for before, step, sigma in zip([NOISE, *(s.x for s in steps)], steps, SIGMAS.tolist(), strict=False):
        velocity = (step.denoised - before) / (SIGMAS[-1].item() - sigma)
        after = before + velocity * (SIGMAS[step.index + 1].item() - sigma)
        assert torch.allclose(after, step.x, atol=1e-4)


def test_the_same_noise_gives_identical_bits_and_other_noise_another_video() -> None:
    kept = NOISE.clone()
    assert torch.equal(final(), final())
    assert torch.equal(NOISE, kept)
    assert rel_l2(final(x=NOISE.flip(-1)), final()) > 1e-3


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_batch_equals_its_samples_alone(cfg: float) -> None:
    noise = torch.cat((NOISE, randn(1, 4, 1, 4, 4, seed=4)))
    options = {"negative": NEGATIVE, "guidance": Guidance(cfg=cfg, rescale=0.5)}
    together = final(x=noise, **options)
    for i in range(2):
        assert rel_l2(together[i : i + 1], final(x=noise[i : i + 1], **options)) <= 1e-5


def test_a_prompt_for_each_sample_of_a_batch() -> None:
    noise, prompts = randn(2, 4, 1, 4, 4), prompt(batch=2)
    prompts = replace(prompts, text_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]))
    together = final(x=noise, positive=prompts)
    second = Conditioning(prompts.text[1:, :2], prompts.pooled[1:])
    assert rel_l2(together[1:], final(x=noise[1:], positive=second)) <= 1e-5


def test_prompts_that_do_not_fit_the_batch_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"positive prompt has 3 rows for a batch of 2"):
        run(x=randn(2, 4, 1, 4, 4), positive=prompt(batch=3))
    with pytest.raises(ValueError, match=r"negative prompt has 3 rows"):
        run(x=randn(2, 4, 1, 4, 4), negative=prompt(batch=3), guidance=Guidance(cfg=2))


def test_a_prompt_whose_parts_do_not_belong_together_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"1 rows of text, but 2 of pooled"):
        run(positive=Conditioning(POSITIVE.text, randn(2, 8)))


@pytest.mark.parametrize("levels", [0, 1])
def test_a_schedule_without_a_step_is_an_error(levels: int) -> None:
    with pytest.raises(ValueError, match=rf"sigmas has {levels} levels"):
        run(sigmas=SIGMAS[:levels])


def test_latents_are_float32_whatever_comes_in() -> None:
    steps = run(x=NOISE.half())
    assert {step.x.dtype for step in steps} == {step.denoised.dtype for step in steps} == {torch.float32}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_damaged_weight_is_a_numerics_error_that_names_step_and_remedy(bad: float) -> None:
    dit = random_dit()
    dit.single_blocks[1].linear2.weight[0, 0] = bad
    with pytest.raises(NumericsError, match=r"step 1 of 4.*float32.*'auto'.*chunked.*damaged"):
        run(dit)


def test_the_step_that_goes_wrong_is_named_and_those_before_it_are_kept() -> None:
    class Breaks(Extension):
        def wrap_blocks(self, inner: RunBlocks, state: Any) -> RunBlocks:
            return lambda stream: (inner(stream), stream.tokens.mul_(float("nan")))[0]

    steps = sample(DIT, NOISE, POSITIVE, sigmas=SIGMAS, extensions=[Breaks(when=Interval(0.5, 1))])
    assert [next(steps).index, next(steps).index] == [0, 1]
    with pytest.raises(NumericsError, match="step 3 of 4"):
        next(steps)
