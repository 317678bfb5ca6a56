"""Prompts that change over a run: each branch of guidance gets the prompt of its step, whatever evaluates it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit

from golden_data import rel_l2
from hyvideo_core.extensions.prompt_schedule import ScheduledPrompts
from hyvideo_core.model.ragged import crop_text
from hyvideo_core.sample import SOLVERS, Guidance, flow_sigmas, sample
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.seams import INVERSION, SOURCE, TARGET, Branch, Evaluation, Extension, Predict, Run
from hyvideo_core.text.blends import PromptSchedule, Turn, blended
from hyvideo_core.types import Conditioning, Interval

DIT = random_dit()
STEPS = 4
POSITIVE, NEGATIVE = prompt(length=5), prompt(length=4, seed=30)
LATER, LAST, AGAINST = prompt(length=7, seed=50), prompt(length=2, seed=60), prompt(length=3, seed=70)
TWO = ScheduledPrompts(positive=PromptSchedule((Turn(0.5, LATER), Turn(0.75, LAST))))
BOTH = replace(TWO, negative=PromptSchedule((Turn(0.25, AGAINST),)))
CFG = Guidance(cfg=3)
BATCHED = Guidance(cfg=3, batched=True)


@dataclass(frozen=True)
class Spy(Extension):
    """Notes what reaches the transformer: branch, step, stage, and the valid text rows of each clip."""

    rank: ClassVar[int] = 2000
    seen: list[tuple[str, int, int, list[torch.Tensor], torch.Tensor]] = field(default_factory=list, compare=False)

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            now = evaluation.conditioning
            text, lengths = crop_text(now.text, now.text_mask)
            rows = [text[clip, :length] for clip, length in enumerate(lengths)]
            self.seen.append((evaluation.branch, evaluation.step, evaluation.stage, rows, now.pooled))
            return inner(evaluation)

        return predict

    def of(self, branch: str) -> list[tuple[int, torch.Tensor]]:
        """Step and text of each evaluation of a branch, for the first clip."""
        return [(step, rows[0]) for name, step, _, rows, _ in self.seen if name == branch]


@dataclass(frozen=True)
class Instead(Extension):
    """A model that takes no time: what it finds depends on x, and on each clip's valid text and pooled text."""

    rank: ClassVar[int] = 3000

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            x, now = evaluation.x, evaluation.conditioning
            text, lengths = crop_text(now.text.expand(len(x), -1, -1), now.text_mask)
            read = [text[clip, :length].mean(dim=0).cos().sum() for clip, length in enumerate(lengths)]
            means = torch.stack(read) + now.pooled.sin().sum(dim=1)
            return 0.3 * x + 0.1 * means[:, None, None, None, None] * x.cos()

        return predict


def noise(batch: int = 1) -> torch.Tensor:
    return randn(batch, 4, 1, 4, 4, seed=3)


def final(*extensions: Extension, batch: int = 1, positive: Conditioning = POSITIVE, **options: Any) -> torch.Tensor:
    """The end of a run with ``Instead``, or with the real transformer ``dit``."""
    options = {"sigmas": flow_sigmas(STEPS, 7.0), "negative": NEGATIVE, **options}
    dit = options.pop("dit", None)
    model = [Instead()] if dit is None else []
    return list(sample(dit or DIT, noise(batch), positive, extensions=[*extensions, *model], **options))[-1].x


def by_hand(prompts: Sequence[Conditioning], negatives: Sequence[Conditioning], cfg: float) -> torch.Tensor:
    """Euler's method, with a prompt for each step."""
    x, sigmas = noise(), flow_sigmas(STEPS, 7.0).tolist()
    for (sigma, after), positive, negative in zip(itertools.pairwise(sigmas), prompts, negatives, strict=True):
        found = [
            DIT(x, torch.full((1,), sigma * 1000), each.text, None, each.pooled, torch.full((1,), 6000.0))
            for each in (positive, negative)
        ]
        x = x + (found[1] + cfg * (found[0] - found[1])) * (after - sigma)
    return x


@pytest.mark.parametrize("guidance", [Guidance(), CFG, BATCHED])
def test_each_step_has_its_prompt_as_if_each_were_a_run_of_its_own(guidance: Guidance) -> None:
    expected = by_hand([POSITIVE, POSITIVE, LATER, LAST], [NEGATIVE, AGAINST, AGAINST, AGAINST], guidance.cfg)
    assert rel_l2(final(BOTH, guidance=guidance, dit=DIT), expected) < 1e-4


@pytest.mark.parametrize("guidance", [Guidance(), CFG, BATCHED])
@pytest.mark.parametrize(
    "idle",
    [
        ScheduledPrompts(),
        replace(BOTH, when=Interval(0.5, 0.5)),
        ScheduledPrompts(positive=PromptSchedule((Turn(0.99, LATER),))),
        # The same prompts again.
        ScheduledPrompts(
            positive=PromptSchedule((Turn(0.3, POSITIVE),)), negative=PromptSchedule((Turn(0.0, NEGATIVE),))
        ),
    ],
    ids=["none", "never", "too late", "the same"],
)
def test_a_schedule_that_changes_no_prompt_changes_no_bit(guidance: Guidance, idle: ScheduledPrompts) -> None:
    for batch in (1, 2):
        assert torch.equal(final(idle, guidance=guidance, batch=batch), final(guidance=guidance, batch=batch))


@pytest.mark.parametrize("guidance", [Guidance(), BATCHED])
def test_the_same_prompts_again_change_no_bit_of_what_the_transformer_makes(guidance: Guidance) -> None:
    again = ScheduledPrompts(
        positive=PromptSchedule((Turn(0.3, POSITIVE),)), negative=PromptSchedule((Turn(0.0, NEGATIVE),))
    )
    assert torch.equal(final(again, guidance=guidance, dit=DIT), final(guidance=guidance, dit=DIT))


def test_a_prompt_from_the_beginning_is_a_run_with_that_prompt() -> None:
    schedule = ScheduledPrompts(positive=PromptSchedule((Turn(0.0, LATER),)))
    for guidance in (Guidance(), CFG, BATCHED):
        assert torch.equal(final(schedule, guidance=guidance), final(positive=LATER, guidance=guidance))


@pytest.mark.parametrize(
    "changed",
    [
        ScheduledPrompts(positive=PromptSchedule((Turn(0.25, LATER),))),
        ScheduledPrompts(positive=PromptSchedule((Turn(0.5, LATER),))),
        ScheduledPrompts(positive=PromptSchedule((Turn(0.25, LAST),))),
        ScheduledPrompts(positive=PromptSchedule((Turn(0.25, LATER, 0.5),))),
        ScheduledPrompts(negative=PromptSchedule((Turn(0.25, LATER),))),
        ScheduledPrompts(positive=PromptSchedule((Turn(0.25, LATER),)), when=Interval(0.0, 0.5)),
        ScheduledPrompts(positive=PromptSchedule((Turn(0.25, Conditioning(POSITIVE.text, LATER.pooled)),))),
        ScheduledPrompts(positive=PromptSchedule((Turn(0.25, Conditioning(LATER.text, POSITIVE.pooled)),))),
    ],
)
def test_every_setting_changes_the_video_and_each_in_its_own_way(changed: ScheduledPrompts) -> None:
    others = [final(guidance=CFG), final(TWO, guidance=CFG), final(BOTH, guidance=CFG)]
    found = final(changed, guidance=CFG)
    assert all(rel_l2(found, other) > 1e-4 for other in others)


def test_a_negative_schedule_needs_guidance_that_evaluates_a_negative_prompt() -> None:
    schedule = ScheduledPrompts(negative=PromptSchedule((Turn(0.25, AGAINST),)))
    assert torch.equal(final(schedule), final())
    late = Guidance(cfg=3, interval=Interval(0.0, 0.25))
    assert torch.equal(final(schedule, guidance=late), final(guidance=late))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("schedule", [TWO, BOTH], ids=["positive", "both"])
def test_both_prompts_at_once_are_the_same_as_one_by_one(schedule: ScheduledPrompts, batch: int) -> None:
    once, spies = [], (Spy(), Spy())
    for guidance, spy in zip((CFG, BATCHED), spies, strict=True):
        once.append(final(schedule, spy, guidance=guidance, batch=batch))
    assert rel_l2(once[1], once[0]) < 1e-5
    for at in range(STEPS):
        positive = spies[0].of("positive")[at][1]
        negative = spies[0].of("negative")[at][1]
        _, _, _, rows, pooled = spies[1].seen[at]
        assert all(torch.equal(each, negative) for each in rows[:batch])
        assert all(torch.equal(each, positive) for each in rows[batch:])
        assert len(rows) == len(pooled) == 2 * batch


def test_a_batch_may_have_a_prompt_for_each_clip() -> None:
    pair, later = prompt(batch=2), prompt(batch=2, length=3, seed=80)
    schedule = ScheduledPrompts(positive=PromptSchedule((Turn(0.5, later),)))
    for guidance in (Guidance(), CFG, BATCHED):
        found = final(schedule, batch=2, positive=pair, guidance=guidance)
        for clip in range(2):
            own, after = (Conditioning(e.text[clip : clip + 1], e.pooled[clip : clip + 1]) for e in (pair, later))
            alone = ScheduledPrompts(positive=PromptSchedule((Turn(0.5, after),)))
            x = noise(2)[clip : clip + 1]
            options: dict[str, Any] = {"sigmas": flow_sigmas(STEPS, 7.0), "extensions": [alone, Instead()]}
            run = sample(DIT, x, own, negative=NEGATIVE, guidance=guidance, **options)
            assert rel_l2(found[clip : clip + 1], list(run)[-1].x) < 1e-5


def test_padded_prompts_are_scheduled_without_their_padding() -> None:
    padded = Conditioning(
        torch.cat((LATER.text, torch.full((1, 2, 16), 9.0)), dim=1), LATER.pooled, torch.tensor([[1] * 7 + [0] * 2])
    )
    for guidance in (Guidance(), BATCHED):
        plain = final(ScheduledPrompts(positive=PromptSchedule((Turn(0.5, LATER),))), guidance=guidance)
        assert torch.equal(
            final(ScheduledPrompts(positive=PromptSchedule((Turn(0.5, padded),))), guidance=guidance), plain
        )


def test_a_fade_gives_each_step_its_mixture() -> None:
    spy = Spy()
    final(ScheduledPrompts(positive=PromptSchedule((Turn(0.25, LATER, 0.5),))), spy)
    expected = [POSITIVE, POSITIVE, blended([(POSITIVE, 0.5), (LATER, 0.5)]), LATER]
    assert [torch.equal(text, each.text[0]) for (_, text), each in zip(spy.of("positive"), expected, strict=True)] == [
        True
    ] * STEPS


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "euler"])
def test_all_evaluations_of_a_step_have_the_same_prompt(solver: str) -> None:
    spy = Spy()
    final(TWO, spy, solver=SOLVERS[solver])
    for step, text in spy.of("positive"):
        assert torch.equal(text, (POSITIVE, POSITIVE, LATER, LAST)[step].text[0])


def test_the_second_evaluation_of_a_step_is_among_them() -> None:
    spy = Spy()
    final(TWO, spy, solver=SOLVERS["heun"])
    assert {stage for _, _, stage, _, _ in spy.seen} == {0, 1}


@dataclass(frozen=True)
class Disturbing(Extension):
    """Guides away from the positive prompt, and from one of its own."""

    def branches(self, evaluation: Evaluation, state: Any) -> Sequence[Branch]:
        return [Branch("disturbed", 0.5), Branch("other", 0.5, AGAINST)]


@pytest.mark.parametrize("guidance", [Guidance(), CFG, BATCHED])
def test_what_disturbs_the_positive_prompt_has_that_of_its_step_and_others_keep_theirs(guidance: Guidance) -> None:
    spy = Spy()
    final(TWO, Disturbing(), spy, guidance=guidance)
    for step, text in spy.of("disturbed"):
        assert torch.equal(text, (POSITIVE, POSITIVE, LATER, LAST)[step].text[0])
    assert all(torch.equal(text, AGAINST.text[0]) for _, text in spy.of("other"))
    assert len(spy.of("disturbed")) == len(spy.of("other")) == STEPS


@dataclass(frozen=True)
class Halves(Extension):
    """Evaluates top and bottom on their own, as windows do, the bottom with a prompt of its own."""

    own: Conditioning | None = field(default=None, repr=False, compare=False)

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            top, bottom = evaluation.x.chunk(2, dim=-2)
            own = evaluation.conditioning if self.own is None else self.own
            parts = (replace(evaluation, x=top), replace(evaluation, x=bottom, conditioning=own))
            return torch.cat([inner(part) for part in parts], dim=-2)

        return predict


def test_prompts_that_parts_of_a_video_have_of_their_own_stay() -> None:
    spy = Spy()
    final(Halves(own=AGAINST), TWO, spy)
    texts = [text for _, text in spy.of("positive")]
    assert all(torch.equal(text, AGAINST.text[0]) for text in texts[1::2])
    for text, each in zip(texts[::2], (POSITIVE, POSITIVE, LATER, LAST), strict=True):
        assert torch.equal(text, each.text[0])


def test_the_order_of_extensions_is_irrelevant() -> None:
    results = [final(*order, guidance=CFG) for order in itertools.permutations([Halves(), Disturbing(), BOTH])]
    assert all(torch.equal(result, results[0]) for result in results)


def test_head_groups_and_chunks_change_nothing() -> None:
    grouped = random_dit(head_groups=2, chunk_tokens=3)
    assert rel_l2(final(BOTH, guidance=BATCHED, dit=grouped), final(BOTH, guidance=BATCHED, dit=DIT)) < 1e-5


def test_state_is_not_shared_between_runs() -> None:
    options: dict[str, Any] = {"sigmas": flow_sigmas(STEPS, 7.0), "extensions": [TWO, Disturbing(), Instead()]}
    runs = [sample(DIT, noise(), own, **options) for own in (POSITIVE, NEGATIVE)]
    interleaved = list(zip(*runs, strict=True))[-1]
    for step, own in zip(interleaved, (POSITIVE, NEGATIVE), strict=True):
        assert torch.equal(step.x, final(TWO, Disturbing(), positive=own))


def test_prompts_for_another_batch_are_refused_before_loading() -> None:
    schedule = ScheduledPrompts(negative=PromptSchedule((Turn(0.5, prompt(batch=3)),)))
    with pytest.raises(ValueError, match=r"A scheduled negative prompt has 3 rows for a batch of 2 latents"):
        final(schedule, batch=2)
    schedule.check_latent(noise(3))


@pytest.mark.parametrize("field", ["positive", "negative"])
def test_prompts_of_other_text_encoders_are_refused_before_loading(field: str) -> None:
    wide = ScheduledPrompts(**{field: PromptSchedule((Turn(0.5, prompt(replace(TINY, text_dim=20))),))})
    with pytest.raises(
        ValueError, match=rf"{field} prompt is \(20, 8\) wide .* expects \(16, 8\). Use the text encoders"
    ):
        check_run(TINY, noise(), POSITIVE, extensions=[wide])


def test_the_clip_of_an_edit_or_an_inversion_keeps_its_prompt() -> None:
    state = TWO.start(Run(DIT, flow_sigmas(STEPS, 7.0), ExitStack(), tuple(noise().shape)))
    seen: list[Conditioning] = []

    def inner(evaluation: Evaluation) -> torch.Tensor:
        seen.append(evaluation.conditioning)
        return evaluation.x

    for side in (SOURCE, TARGET, INVERSION):
        evaluation = Evaluation(noise(), 0.5, 3, STEPS, POSITIVE, "positive", side=side)
        TWO.branches(evaluation, state)
        TWO.wrap_predict(inner, state)(evaluation)
    assert torch.equal(seen[0].text, POSITIVE.text)
    assert torch.equal(seen[1].text, LAST.text)
    assert torch.equal(seen[2].text, POSITIVE.text)
