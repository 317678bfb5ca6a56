"""The judge sees in a clip of the synthetic world what is in it: no less, no more."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from world_data import SCENES, scene_of

from tools.demo_model.captions import describe
from tools.demo_model.judge import Seen, SeenThing, Verdict, obedience, see
from tools.demo_model.world import (
    CLIP_FRAMES,
    COLORS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Scene,
    Thing,
    render,
)

JUDGED = tuple(field.name for field in fields(Verdict))
CLIPS = 1000
#: Damage: width of the blur in pixels, noise and colour shift in the clip's −1…1, about 30 dB without the shift.
BLUR_PX, NOISE, SHIFT = 0.6, 0.055, 0.1
RED_LEFT = Scene(64, 64, "white", (Thing("red", "circle", "left", "fast", (44.0, 32.0), 11.0),))
TWO = Scene(
    96,
    48,
    "black",
    (
        Thing("yellow", "square", "up", "slow", (20.0, 30.0), 9.0),
        Thing("blue", "triangle", "shrink", "fast", (70.0, 24.0), 9.0),
    ),
)


def blurred(clip: Tensor, width: float = BLUR_PX) -> Tensor:
    line = torch.exp(-(torch.arange(-3, 4) ** 2) / (2 * width**2))
    line /= line.sum()
    frames = F.pad(clip, (3, 3, 3, 3), mode="replicate").flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(frames, line.view(1, 1, 1, 7)), line.view(1, 1, 7, 1)).view(clip.shape)


def damaged(clip: Tensor, seed: int) -> tuple[Tensor, float]:
    """The clip as a mediocre VAE might give it back, and its PSNR before the colours shift."""
    draw = torch.Generator().manual_seed(seed)
    noisy = blurred(clip) + NOISE * torch.randn(clip.shape, generator=draw)
    error = float((noisy - clip).square().mean())
    sign = torch.randint(0, 2, (3, 1, 1, 1), generator=draw) * 2 - 1
    return noisy + SHIFT * sign, 10 * math.log10(4 / error)


def wrong_in(verdict: Verdict) -> set[str]:
    return {name for name in JUDGED if not getattr(verdict, name)}


def accuracy(clips: Iterator[tuple[Scene, Tensor]]) -> dict[str, float]:
    """Share of clips in which each part of the verdict, and all, is true."""
    verdicts = [obedience(see(clip), scene) for scene, clip in clips]
    return {name: sum(getattr(v, name) for v in verdicts) / len(verdicts) for name in (*JUDGED, "all")}


@pytest.mark.slow
def test_the_judge_is_right_about_clean_clips() -> None:
    found = accuracy((scene_of(seed), render(scene_of(seed))) for seed in range(CLIPS))
    assert min(found.values()) >= 0.99, found


@pytest.mark.slow
def test_the_judge_is_right_about_damaged_clips() -> None:
    quality: list[float] = []

    def clips() -> Iterator[tuple[Scene, Tensor]]:
        for seed in range(CLIPS, 2 * CLIPS):
            clip, psnr = damaged(render(scene_of(seed)), seed)
            quality.append(psnr)
            yield scene_of(seed), clip

    found = accuracy(clips())
    assert min(found.values()) >= 0.97, found
    assert 29 < sum(quality) / CLIPS < 31


X, Y, RADIUS = RED_LEFT.things[0].path(CLIP_FRAMES)
BLUE = torch.tensor(COLORS["blue"]) * 2 - 1


def without(*frames: slice) -> Tensor:
    """The red circle's clip with nothing in these frames."""
    clip = render(RED_LEFT).clone()
    for part in frames:
        clip[:, part] = clip[:, :1, :1, :1]
    return clip


def with_core() -> Tensor:
    clip = render(RED_LEFT).clone()
    y, x = (torch.arange(64) + 0.5).view(-1, 1), torch.arange(64) + 0.5
    for frame in range(CLIP_FRAMES):
        clip[:, frame, torch.hypot(x - X[frame], y - Y[frame]) < 6] = BLUE[:, None]
    return clip


def with_stripes() -> Tensor:
    clip = render(RED_LEFT).clone()
    empty = (clip - clip[:, :1, :1, :1]).abs().sum(0) < 0.1
    striped = empty & (torch.arange(64) % 8 < 2)
    clip[:, striped] = BLUE[:, None]
    return clip


def with_flash() -> Tensor:
    clip = render(RED_LEFT).clone()
    clip[:, 5, 2:15, 2:15] = BLUE.view(3, 1, 1)
    return clip


def with_a_jump() -> Tensor:
    clip = render(RED_LEFT).clone()
    clip[:, 8:] = clip[:, 8:].roll(-8, dims=-1)
    return clip


@pytest.mark.parametrize(
    ("clip", "wrong"),
    [
        (without(slice(6, 17)), "motion"),
        (without(slice(0, 17, 2)), "motion"),
        (without(slice(3, 8), slice(11, 17)), "motion"),
        (with_a_jump(), "motion"),
        (with_core(), "count"),
        (with_stripes(), "background"),
        (with_flash(), "background"),
    ],
    ids=["vanishes", "blinks", "comes and goes", "jumps", "has a blue core", "stripes", "flash"],
)
def test_what_is_nearly_what_was_asked_for_is_not_it(clip: Tensor, wrong: str) -> None:
    assert obedience(see(render(RED_LEFT)), RED_LEFT).all
    assert wrong in wrong_in(obedience(see(clip), RED_LEFT))


@pytest.mark.parametrize("frames", [1, 5, 33, 65])
def test_pictures_short_and_long_clips_are_judged_too(frames: int) -> None:
    """In long ones, things leave the picture or grow to fill it."""
    count = 60 if frames < 30 else 20
    found = accuracy((scene_of(seed), damaged(render(scene_of(seed), frames), seed)[0]) for seed in range(count))
    assert min(found.values()) >= 0.97, found


@given(scene=SCENES)
@settings(max_examples=30)
def test_place_and_size_are_measured_to_a_fraction_of_a_pixel(scene: Scene) -> None:
    seen = {thing.color: thing for thing in see(render(scene)).things}
    for thing in scene.things:
        x, y, radius = (float(part[0]) for part in thing.path(1))
        assert seen[thing.color].start == pytest.approx((x, y), abs=0.2)
        first = radius if thing.motion != "grow" else float(thing.path(CLIP_FRAMES)[2][0])
        assert seen[thing.color].radius == pytest.approx(first, abs=0.2)


@cache
def seen_in(scene: Scene) -> Seen:
    return see(damaged(render(scene), 0)[0])


def asked_wrong(scene: Scene, name: str) -> Iterator[Scene]:
    """The scene with one part of what is asked replaced by everything else it could be."""
    values = {"color": [*COLORS], "shape": [*SHAPES], "motion": [*MOTIONS], "speed": ["slow", "fast"]}[name]
    for index, thing in enumerate(scene.things):
        for value in values:
            if value != getattr(thing, name):
                part: dict[str, Any] = {name: value}
                things = list(scene.things)
                things[index] = replace(thing, **part)
                yield replace(scene, things=tuple(things))


@pytest.mark.parametrize("scene", [RED_LEFT, TWO], ids=["one thing", "two things"])
@pytest.mark.parametrize("name", ["color", "shape", "motion", "speed"])
def test_a_clip_is_wrong_in_exactly_what_differs(scene: Scene, name: str) -> None:
    assert wrong_in(obedience(seen_in(scene), scene)) == set()
    for asked in asked_wrong(scene, name):
        verdict = obedience(seen_in(scene), asked)
        assert wrong_in(verdict) == {name}
        assert verdict.all == (name == "speed")


@pytest.mark.parametrize("motion", [motion for motion in MOTIONS if motion not in ("still", "grow", "shrink")])
def test_every_direction_is_told_from_every_other_motion(motion: str) -> None:
    dx, dy = DIRECTIONS[motion]
    thing = Thing("green", "cross", motion, "slow", (32 - 5 * dx, 32 - 5 * dy), 11.0)
    (seen,) = see(render(Scene(64, 64, "purple", (thing,)))).things
    assert (seen.motion, seen.speed) == (motion, "slow")


def test_another_background_is_wrong_and_nothing_else() -> None:
    for background in COLORS.keys() - {"black"}:
        verdict = obedience(seen_in(TWO), replace(TWO, background=background))
        assert wrong_in(verdict) == {"background"}
        assert not verdict.all


def test_one_thing_more_is_a_wrong_count_and_one_less_is_wrong_in_all_of_it() -> None:
    for thing in TWO.things:
        more = obedience(seen_in(TWO), replace(TWO, things=(thing,)))
        assert wrong_in(more) == {"count"}
        less = obedience(seen_in(replace(TWO, things=(thing,))), TWO)
        assert wrong_in(less) == {"count", "color", "shape", "motion", "speed"}
        assert not more.all
        assert not less.all


def test_things_are_paired_by_color_so_exchanged_shapes_are_wrong_shapes() -> None:
    first, second = TWO.things
    exchanged = (replace(first, shape=second.shape), replace(second, shape=first.shape))
    assert wrong_in(obedience(seen_in(TWO), replace(TWO, things=exchanged))) == {"shape"}
    assert wrong_in(obedience(seen_in(TWO), replace(TWO, things=(second, first)))) == set()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_a_caption_asks_for_what_it_says_and_no_more(seed: int) -> None:
    caption = describe(random.Random(seed), RED_LEFT, partial=True)
    assert wrong_in(obedience(seen_in(RED_LEFT), caption)) == set()
    other = Seen("green", (SeenThing("blue", "cross", "grow", "slow", (32.0, 32.0), 9.0),), CLIP_FRAMES)
    (said,) = caption.things
    parts = {"background": caption.background, "color": said.color, "shape": said.shape, "motion": said.motion}
    asked = {name for name, value in (parts | {"speed": said.speed}).items() if value}
    assert wrong_in(obedience(other, caption)) == asked


def test_motion_and_speed_of_a_picture_are_not_judged() -> None:
    seen = see(render(RED_LEFT, 1))
    assert (seen.things[0].motion, seen.things[0].speed) == ("", "")
    for asked in (*asked_wrong(RED_LEFT, "motion"), *asked_wrong(RED_LEFT, "speed")):
        assert wrong_in(obedience(seen, asked)) == set()
    for asked in asked_wrong(RED_LEFT, "shape"):
        assert wrong_in(obedience(seen, asked)) == {"shape"}


def noise(frames: int) -> Tensor:
    return torch.randn(3, frames, 64, 64, generator=torch.Generator().manual_seed(0))


NOTHING: dict[str, Callable[[int], Tensor]] = {
    "flat": lambda frames: render(Scene(64, 64, "white", ()), frames),
    "grey": lambda frames: torch.zeros(3, frames, 64, 64),
    "noise": noise,
    "blurred noise": lambda frames: 4 * blurred(noise(frames), 2.0),
    "noise on white": lambda frames: 1 + 0.5 * noise(frames),
    "not a number": lambda frames: torch.full((3, frames, 64, 64), math.nan),
    "one infinite value": lambda frames: render(RED_LEFT, frames).index_fill(1, torch.tensor([0]), math.inf),
    "a single pixel": lambda frames: torch.zeros(3, frames, 1, 1),
}


@pytest.mark.parametrize("frames", [1, CLIP_FRAMES])
@pytest.mark.parametrize("name", NOTHING)
def test_what_shows_nothing_obeys_nothing(name: str, frames: int) -> None:
    seen = see(NOTHING[name](frames))
    assert seen == Seen("white" if name == "flat" else "", (), frames)
    for seed in range(20):
        assert wrong_in(obedience(seen, scene_of(seed))) >= {"color", "shape", "motion", "count", "speed"}


@given(seed=st.integers(0, 2**32), size=st.tuples(*[st.integers(1, 40)] * 2), strength=st.sampled_from([0, 0.3, 1e30]))
@settings(max_examples=100)
def test_any_patchwork_is_judged(seed: int, size: tuple[int, int], strength: float) -> None:
    rng, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    frames = rng.choice((1, 2, 5))
    clip = torch.tensor(COLORS[rng.choice(list(COLORS))]).view(3, 1, 1, 1).repeat(1, frames, *size)
    for _ in range(rng.randint(0, 8)):
        y, x, extent = rng.randrange(size[0]), rng.randrange(size[1]), rng.randint(2, 20)
        clip[:, rng.randrange(frames) :, y : y + extent, x : x + extent] = torch.rand(3, 1, 1, 1, generator=draw)
    seen = see(clip * 2 - 1 + strength * torch.randn(clip.shape, generator=draw))
    assert seen.background in ("", *COLORS)
    for thing in seen.things:
        assert thing.color in ("", *COLORS)
        assert thing.shape in ("", *SHAPES)
        assert thing.motion in ("", *MOTIONS)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 17, 64, 64), (3, 0, 64, 64), (2, 3, 17, 64, 64)])
def test_what_is_no_clip_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[3, frames, height, width\]"):
        see(torch.zeros(shape))


def joined(*parts: tuple[Scene, int]) -> Tensor:
    """A clip of so many frames of each scene's clip, each going on where the one before it ends."""
    clips, at = [], 0
    for scene, count in parts:
        clips.append(render(scene)[:, at : at + count])
        at += count
    return torch.cat(clips, dim=1)


STILL = replace(RED_LEFT, things=(replace(RED_LEFT.things[0], motion="still"),))


@pytest.mark.parametrize(("background", "first", "then"), [("white", "red", "blue"), ("red", "orange", "yellow")])
def test_a_thing_that_changes_its_color_is_two(background: str, first: str, then: str) -> None:
    """On red, orange is nearly a faded yellow, but only nearly."""
    was, became = (
        replace(STILL, background=background, things=(replace(STILL.things[0], color=color),))
        for color in (first, then)
    )
    assert {thing.color for thing in see(damaged(joined((was, 8), (became, 9)), 0)[0]).things} == {first, then}


def test_a_background_that_changes_is_none() -> None:
    yellow = replace(STILL, background="yellow")
    assert see(joined((STILL, 12), (yellow, 5))).background == ""


def test_a_thing_that_vanishes_does_nothing_for_sure() -> None:
    (thing,) = see(joined((STILL, 5), (replace(STILL, things=()), 12))).things
    assert (thing.color, thing.shape, thing.motion) == ("red", "circle", "")


def test_ways_that_are_no_line_and_sizes_that_come_back_are_no_motion() -> None:
    back = render(RED_LEFT)[:, [*range(0, 17, 2), *range(14, -1, -2)]]
    grow = replace(STILL, things=(replace(STILL.things[0], motion="grow"),))
    pulse = render(grow)[:, [*range(0, 17, 2), *range(14, -1, -2)]]
    assert [see(clip).things[0].motion for clip in (back, pulse)] == ["", ""]


def test_what_comes_after_the_length_of_a_clip_is_not_judged() -> None:
    moving = render(RED_LEFT)
    assert see(torch.cat([moving, moving[:, -1:].expand(-1, 32, -1, -1)], dim=1)).things == see(moving).things


def test_a_thing_that_grows_to_fill_the_picture_is_still_one_on_its_background() -> None:
    thing = Thing("blue", "square", "grow", "fast", (32.0, 32.0), 13.0)
    seen = see(render(Scene(64, 64, "green", (thing,)), 49))
    assert (seen.background, len(seen.things), seen.things[0].motion) == ("green", 1, "grow")


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_thing_that_leaves_the_picture_early_is_known_while_it_is_there(motion: str) -> None:
    dx, dy = DIRECTIONS.get(motion, (0.0, 0.0))
    thing = Thing("green", "square", motion, "fast", (32 + 10 * dx, 32 + 10 * dy), 11.0)
    scene = Scene(64, 64, "black", (thing,))
    assert wrong_in(obedience(see(render(scene)), scene)) == set()


def drawn(inside: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A red thing at rest on white, of the shape where ``inside`` is true of pixels from its middle."""
    at = torch.arange(64) - 31.5
    shape = inside(at.view(1, -1), at.view(-1, 1)).float()
    white, red = (torch.tensor(COLORS[name]).view(3, 1, 1, 1) for name in ("white", "red"))
    return (white + (red - white) * shape).expand(3, CLIP_FRAMES, -1, -1) * 2 - 1


def test_a_cross_without_its_corners_is_a_cross_and_rings_and_bars_are_no_shape() -> None:
    star = see(drawn(lambda x, y: x.abs() ** 0.8 + y.abs() ** 0.8 < 12**0.8))
    ring = see(drawn(lambda x, y: (torch.hypot(x, y) - 10).abs() < 2.5))
    bar = see(drawn(lambda x, y: (x.abs() < 12) & (y.abs() < 5)))
    assert [seen.things[0].shape for seen in (star, ring, bar)] == ["cross", "", ""]
    assert {seen.things[0].motion for seen in (star, ring, bar)} == {"still"}


def test_a_pixel_of_any_value_is_only_a_speck() -> None:
    clip = render(RED_LEFT)
    clip[:, 8, 60, 60] = torch.tensor([3e38, -3e38, 3e38])
    assert see(clip) == see(render(RED_LEFT))


@pytest.mark.parametrize(("gap", "within"), [(0.0, 0.3), (0.5, 0.5), (1.0, 0.5), (1.5, 0.3), (2.0, 0.3)])
def test_things_that_touch_for_a_while_are_told_apart(gap: float, within: float) -> None:
    """Yellow has much of green in it: what reaches over from a yellow thing would make a green one larger."""
    still = Thing("green", "square", "still", "slow", (32.0, 32.0), 9.0)
    passing = Thing("yellow", "square", "right", "fast", (32.0, 32.0 + 2 * 8.1 + gap), 9.0)
    scene = Scene(96, 64, "black", (still, passing))
    seen = see(damaged(render(scene), 0)[0])
    assert wrong_in(obedience(seen, scene)) == set()
    radius = {thing.color: thing.radius for thing in seen.things}
    assert radius["green"] == pytest.approx(9.0, abs=within)


def test_two_things_of_one_color_are_two() -> None:
    left, right = (Thing("red", "circle", "still", "slow", (x, 24.0), 9.0) for x in (20.0, 70.0))
    assert len(see(render(Scene(96, 48, "white", (left, right)))).things) == 2


@pytest.mark.parametrize("seed", range(20))
def test_a_thing_that_begins_faded_is_one(seed: int) -> None:
    scene = scene_of(seed, things=1)
    empty = render(replace(scene, things=()))
    strength = torch.ones(CLIP_FRAMES)
    strength[:4] = torch.tensor([0.2, 0.4, 0.6, 0.8])
    clip = empty + (render(scene) - empty) * strength.view(1, -1, 1, 1)
    assert wrong_in(obedience(see(damaged(clip, seed)[0]), scene)) == set()


@pytest.mark.parametrize("seed", range(20))
def test_specks_and_a_flickering_light_change_nothing(seed: int) -> None:
    scene, rng = scene_of(seed), random.Random(seed)
    clip = damaged(render(scene), seed)[0]
    clip += 0.08 * torch.randn(1, CLIP_FRAMES, 1, 1, generator=torch.Generator().manual_seed(seed))
    for _ in range(6):
        t, y, x = rng.randrange(14), rng.randrange(scene.height - 3), rng.randrange(scene.width - 3)
        clip[:, t : t + 4, y : y + 3, x : x + 3] = torch.tensor(COLORS[rng.choice(list(COLORS))]).view(3, 1, 1, 1)
    assert wrong_in(obedience(see(clip), scene)) == set()


def test_a_blurred_edge_is_no_third_color() -> None:
    """Between red and yellow lies orange."""
    for shape in SHAPES:
        thing = Thing("red", shape, "still", "slow", (32.0, 32.0), 12.0)
        seen = see(blurred(render(Scene(64, 64, "yellow", (thing,))), 1.6))
        assert [thing.color for thing in seen.things] == ["red"]


def test_half_precision_is_seen_alike() -> None:
    assert see(render(TWO).bfloat16()) == see(render(TWO).bfloat16().float())
