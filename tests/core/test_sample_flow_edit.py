"""FlowEdit: the published algorithm, what must come of it at its ends, and both sides kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from dit_data import OneByOne, prompt, randn, random_dit

from golden_data import rel_l2
from hyvideo_core.extensions.image_to_video import ImageToVideo
from hyvideo_core.extensions.inpainting import Inpainting
from hyvideo_core.sample import Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.flow_edit import Extent, Side, flow_edit
from hyvideo_core.sample.run import level_noise
from hyvideo_core.sample.schedule import noised
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run
from hyvideo_core.types import Conditioning, Interval

DIT = random_dit()
SHAPE = (1, 4, 2, 4, 4)
CLIP = randn(*SHAPE, seed=1)
STEPS = 4
SIGMAS = flow_sigmas(STEPS, 3.0)
SOURCE, TARGET = prompt(), prompt(seed=30, length=4)
NEGATIVE = prompt(seed=20, length=3)
USUAL: dict[str, Any] = {
    "source": Side(SOURCE, guidance=Guidance(embedded=6)),
    "target": Side(TARGET, guidance=Guidance(embedded=12)),
    "sigmas": SIGMAS,
    "extent": Extent(n_max=3, n_min=1, n_avg=2),
    "seed": 5,
}


def start(*extensions: Extension, **options: Any) -> Iterator[Step]:
    given = {"clip": CLIP, **USUAL, **options}
    return flow_edit(DIT, given.pop("clip"), given.pop("source"), given.pop("target"), extensions=extensions, **given)


def edited(*extensions: Extension, **options: Any) -> torch.Tensor:
    """The result, as a caller has it: the clip where there is no step to make."""
    x = options.get("clip", CLIP)
    for step in start(*extensions, **options):
        x = step.x
    return x


def asked(x: torch.Tensor, sigma: float, said: Conditioning, guidance: float) -> torch.Tensor:
    """The model's velocity, without any of what is tested."""
    timestep, scale = torch.tensor([1000.0 * sigma]), torch.tensor([1000.0 * guidance])
    return DIT(x, timestep, said.text, said.text_mask, said.pooled, scale)


# --- the algorithm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_max", "n_min", "n_avg"), [(4, 0, 1), (3, 0, 2), (3, 1, 1), (4, 2, 3), (2, 2, 1)])
def test_every_step_follows_the_published_algorithm(n_max: int, n_min: int, n_avg: int) -> None:
    edit, x, levels = CLIP, CLIP, SIGMAS.tolist()
    steps = list(start(extent=Extent(n_max, n_min, n_avg)))
    assert [step.index for step in steps] == list(range(STEPS - n_max, STEPS))
    for step in steps:
        sigma, change = levels[step.index], levels[step.index + 1] - levels[step.index]
        left = STEPS - step.index
        if left > n_min:
            total = torch.zeros(SHAPE)
            for draw in range(n_avg):
                noise = level_noise(CLIP, 5, sigma, draw)
                of_source = (1 - sigma) * CLIP + sigma * noise
                of_target = edit + of_source - CLIP
                total += asked(of_target, sigma, TARGET, 12) - asked(of_source, sigma, SOURCE, 6)
            edit = expected = edit + total / n_avg * change
            assert rel_l2(step.denoised, edit) <= 1e-5
        else:
            if left == n_min:
                x = edit + (1 - sigma) * CLIP + sigma * level_noise(CLIP, 5, sigma) - CLIP
            velocity = asked(x, sigma, TARGET, 12)
            assert rel_l2(step.denoised, x - sigma * velocity) <= 1e-5
            x = expected = x + velocity * change
        assert step.sigma == sigma
        assert rel_l2(step.x, expected) <= 1e-5


@pytest.mark.parametrize("n_avg", [1, 3])
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(cfg=3, rescale=0.5)], ids=["plain", "cfg"])
def test_nothing_to_edit_gives_back_the_clip_to_the_last_bit(n_avg: int, guidance: Guidance) -> None:
    side = Side(SOURCE, NEGATIVE, guidance)
    assert torch.equal(edited(source=side, target=side, extent=Extent(STEPS, 0, n_avg)), CLIP)


def test_no_steps_give_back_the_clip() -> None:
    assert list(start(extent=Extent(0))) == []


@pytest.mark.parametrize("n", range(1, STEPS + 1))
def test_plain_steps_alone_are_a_run_from_there_to_the_last_bit(n: int) -> None:
    first, said = STEPS - n, Side(TARGET, NEGATIVE, Guidance(cfg=2))
    x = noised(CLIP, level_noise(CLIP, 5, SIGMAS[first].item()), SIGMAS[first].item())
    plain = sample(DIT, x, TARGET, sigmas=SIGMAS[first:], negative=NEGATIVE, guidance=said.guidance)
    for step, expected in zip(start(target=said, extent=Extent(n, n)), plain, strict=True):
        assert torch.equal(step.x, expected.x)


def test_every_setting_changes_the_edit() -> None:
    usual = edited()
    guided = Side(SOURCE, NEGATIVE, Guidance(embedded=6, cfg=3))
    for change in (
        {"extent": Extent(4, 1, 2)},
        {"extent": Extent(3, 0, 2)},
        {"extent": Extent(3, 1, 1)},
        {"source": Side(prompt(seed=11), guidance=Guidance(embedded=6))},
        {"source": Side(SOURCE, guidance=Guidance(embedded=7))},
        {"source": guided},
        {"source": replace(guided, negative=prompt(seed=21))},
        {"target": Side(prompt(seed=31), guidance=Guidance(embedded=12))},
        {"target": Side(TARGET, guidance=Guidance(embedded=11))},
        {"target": Side(TARGET, NEGATIVE, Guidance(embedded=12, cfg=3))},
        {"sigmas": flow_sigmas(STEPS, 7.0)},
        {"seed": 6},
        {"clip": -CLIP},
    ):
        assert rel_l2(edited(**change), usual) > 1e-4, change
    assert rel_l2(edited(source=guided), edited(source=replace(guided, negative=prompt(seed=21)))) > 1e-4


def test_the_same_seed_gives_the_same_edit() -> None:
    assert torch.equal(edited(), edited())


def test_noise_is_fresh_in_every_draw_of_every_step() -> None:
    drawn = [level_noise(CLIP, 5, sigma, draw) for sigma in (0.5, 0.25) for draw in range(2)]
    assert all(rel_l2(one, other) > 0.5 for i, one in enumerate(drawn) for other in drawn[:i])
    assert rel_l2(level_noise(CLIP, 5, 0.5, 1), level_noise(CLIP, 5, 0.5, 11)) > 0.5


def test_a_batch_of_clips_is_edited() -> None:
    clips = torch.cat((CLIP, randn(*SHAPE, seed=2)))
    both = Side(Conditioning(torch.cat((SOURCE.text, SOURCE.text)), torch.cat((SOURCE.pooled, SOURCE.pooled))))
    found = edited(clip=clips, source=both)
    assert found.shape == clips.shape
    assert torch.equal(edited(clip=clips, source=both, target=both, extent=Extent(3)), clips)


@pytest.mark.parametrize("extent", [Extent(3, 1, 2), Extent(2, 2)], ids=["edited", "plain"])
def test_a_clip_alone_is_edited_as_the_one_of_its_number_in_a_batch_to_the_last_bit(extent: Extent) -> None:
    clips = torch.cat((CLIP, randn(*SHAPE, seed=2), CLIP))
    whole = edited(OneByOne(), clip=clips, extent=extent)
    assert rel_l2(whole[2], whole[0]) > 1e-3
    for k in range(3):
        alone = edited(OneByOne(), clip=clips[k : k + 1], extent=extent, numbers=[k])
        assert torch.equal(alone, whole[k : k + 1])
    assert torch.equal(edited(OneByOne(), clip=clips[1:], extent=extent, numbers=[1, 2]), whole[1:])


def test_a_resumed_edit_draws_the_noise_of_its_clips_numbers() -> None:
    steps = start(numbers=[2])
    first = next(steps).checkpoint()
    whole = list(steps)[-1].x
    assert torch.equal(edited(numbers=[2], resume=first), whole)
    assert not torch.equal(edited(), whole)


# --- extensions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inertia(Extension):
    """Mixes into each velocity the last one of the same key; notes the keys and branches, and that it was undone."""

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
            self.seen.append((evaluation.key[:2], evaluation.branch))
            key = str(evaluation.key)
            state[key] = inner(evaluation) + 0.25 * state.get(key, 0)
            return state[key]

        return predict


def test_caches_can_tell_sides_and_draws_apart_and_branches_keep_their_names() -> None:
    inertia = Inertia()
    list(start(inertia, target=Side(TARGET, NEGATIVE, Guidance(cfg=2))))
    edit = [
        ((f"{side} {branch}", draw), branch)
        for draw in range(2)
        for side, branch in (("target", "positive"), ("target", "negative"), ("source", "positive"))
    ]
    plain = [(("target positive", 0), "positive"), (("target negative", 0), "negative")]
    assert inertia.seen == [*edit, *edit, *plain, "undone"]


def test_an_edit_without_a_difference_stays_one_where_extensions_look_back() -> None:
    side = Side(SOURCE)
    assert torch.equal(edited(Inertia(), source=side, target=side, extent=Extent(4, 0, 2)), CLIP)


def test_closing_and_failing_undo_what_was_set_up() -> None:
    @dataclass(frozen=True)
    class Fails(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            def predict(evaluation: Evaluation) -> torch.Tensor:
                raise ZeroDivisionError

            return predict

    inertia = Inertia()
    steps = start(inertia)
    next(steps)
    assert "undone" not in inertia.seen
    steps.close()
    assert inertia.seen[-1] == "undone"
    inertia.seen.clear()
    with pytest.raises(ZeroDivisionError):
        edited(inertia, Fails(when=Interval(0.5, 1)))
    assert inertia.seen[-1] == "undone"


def test_an_edit_keeps_what_a_mask_keeps() -> None:
    mask = torch.zeros(1, 1, 1, 4, 4)
    mask[..., 2:] = 1
    inpainting = Inpainting(mask=mask, clean=CLIP, noise=randn(*SHAPE, seed=3))
    for extent in (Extent(4), Extent(3, 1, 2)):
        found = edited(inpainting, extent=extent)
        assert torch.equal(found[..., :2], CLIP[..., :2])
        assert rel_l2(found[..., 2:], CLIP[..., 2:]) > 1e-3
    assert torch.equal(edited(replace(inpainting, mask=torch.ones(1, 1, 1, 4, 4))), edited())


def test_an_edit_begins_with_a_given_image_and_the_model_sees_it_on_both_sides() -> None:
    seen: list[str] = []

    @dataclass(frozen=True)
    class Spy(Extension):
        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            def predict(evaluation: Evaluation) -> torch.Tensor:
                assert torch.equal(evaluation.x[:, :, :1], image.image)
                seen.append(evaluation.side)
                return inner(evaluation)

            return predict

    image = ImageToVideo(image=randn(1, 4, 1, 4, 4, seed=7))
    for step in start(image, Spy()):
        assert torch.equal(step.x[:, :, :1], image.image)
    assert seen == [*["target", "source"] * 4, "target"]


@pytest.mark.parametrize("extent", [Extent(4), Extent(3, 1, 2), Extent(2, 2)])
def test_a_resumed_edit_is_the_uninterrupted_one_to_the_last_bit(extent: Extent) -> None:
    whole, made = [], []
    for step in start(Inertia(), extent=extent):
        made.append(step.checkpoint())
        whole.append(step.x)
    for i, last in enumerate(made):
        rest = [step.x for step in start(Inertia(), extent=extent, resume=last)]
        assert len(rest) == len(whole) - i - 1
        assert all(torch.equal(*pair) for pair in zip(rest, whole[i + 1 :], strict=True))


# --- what cannot work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extent", "words"),
    [
        ((2, 3), "n_min is 3 and n_max is 2"),
        ((2, -1), "n_min is -1"),
        ((-1, 0), "n_max is -1"),
        ((2, 0, 0), "n_avg is 0, but at least 1"),
    ],
)
def test_an_extent_that_cannot_be_is_refused(extent: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Extent(*extent)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extent": Extent(5)}, "n_max is 5, but the run has 4 steps"),
        ({"numbers": [0, 1]}, "numbers has 2 entries for a batch of 1 latents"),
        ({"sigmas": SIGMAS.flip(0)}, "sigmas must be two levels or more that fall"),
        ({"sigmas": SIGMAS[:1]}, "sigmas must be two levels"),
        ({"sigmas": SIGMAS[:3], "extent": Extent(2)}, "fall from noise to 0, which is clean"),
        ({"source": Side(SOURCE, guidance=Guidance(cfg=2))}, "cfg is 2, but there is no negative prompt"),
        ({"target": Side(prompt(batch=2))}, "prompt has 2 rows for a batch of 1"),
        ({"clip": CLIP[:, :2]}, "latent channels: got 2"),
        ({"clip": CLIP * float("nan")}, "holds NaN or infinity"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_at_the_call(options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, ArithmeticError), match=words):
        start(**options)
