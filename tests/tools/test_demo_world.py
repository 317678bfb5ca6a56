"""The synthetic world keeps its laws."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from world_data import SCENES, SIZES

from tools.demo_model.captions import describe
from tools.demo_model.world import (
    CLIP_FRAMES,
    COLORS,
    GAP_PX,
    HELD_OUT,
    MARGIN_PX,
    MOTIONS,
    SHAPES,
    STRAY_PX,
    Scene,
    Thing,
    random_scene,
    render,
)


@given(scene=SCENES, frames=st.sampled_from([1, 5, CLIP_FRAMES, 33]))
@settings(max_examples=50)
def test_clips_are_within_their_range_and_shorter_ones_are_beginnings(scene: Scene, frames: int) -> None:
    clip = render(scene, frames)
    assert clip.shape == (3, frames, scene.height, scene.width)
    assert clip.abs().max() <= 1
    assert torch.equal(clip[:, :1], render(scene, 1))


@given(scene=SCENES)
@settings(max_examples=200)
def test_things_stay_in_the_picture_apart_and_of_colors_of_their_own(scene: Scene) -> None:
    paths = [thing.path(CLIP_FRAMES) for thing in scene.things]
    for x, y, radius in paths:
        for at, size in ((x, scene.width), (y, scene.height)):
            assert (at - radius).min() >= MARGIN_PX - 1e-4
            assert (at + radius).max() <= size - MARGIN_PX + 1e-4
    for (x1, y1, r1), (x2, y2, r2) in pairwise(paths):
        assert (torch.maximum((x1 - x2).abs(), (y1 - y2).abs()) - r1 - r2).min() > GAP_PX - 1e-4
    assert len({scene.background, *(thing.color for thing in scene.things)}) == len(scene.things) + 1


@given(seed=st.integers(0, 2**32), size=st.sampled_from(SIZES), held_out=st.booleans(), things=st.integers(0, 2))
def test_a_seed_gives_the_same_scene_again(seed: int, size: tuple[int, int], held_out: bool, things: int) -> None:
    first, again = (random_scene(random.Random(seed), *size, held_out=held_out, things=things) for _ in range(2))
    assert first == again
    assert len(first.things) == (things or len(first.things))
    assert {thing.is_held_out for thing in first.things} == {held_out}


def halfway(thing: Thing) -> tuple[float, float]:
    x, y, _ = thing.path(CLIP_FRAMES)
    return float(x[CLIP_FRAMES // 2]), float(y[CLIP_FRAMES // 2])


@given(seed=st.integers(0, 2**32), size=st.sampled_from(SIZES), things=st.sampled_from([1, 2]))
def test_halfway_things_are_near_their_homes_in_the_order_of_the_caption(
    seed: int, size: tuple[int, int], things: int
) -> None:
    scene = random_scene(random.Random(seed), *size, things=things)
    assert [thing.color for thing in describe(random.Random(seed), scene).things] == [t.color for t in scene.things]
    parts = [tuple(at / side for at, side in zip(halfway(thing), size, strict=True)) for thing in scene.things]
    homes = {1: [[(0.5, 0.5)]], 2: [[(0.25, 0.5), (0.75, 0.5)], [(0.5, 0.25), (0.5, 0.75)]]}[things]
    strays = [
        max(abs(a - b) * side for pair in zip(parts, home, strict=True) for a, b, side in zip(*pair, size, strict=True))
        for home in homes
    ]
    assert min(strays) <= STRAY_PX + 1e-4


def test_things_may_be_anywhere() -> None:
    scenes = [random_scene(random.Random(seed), 96, 48, things=1, anywhere=True) for seed in range(200)]
    ways = [halfway(scene.things[0])[0] for scene in scenes]
    assert min(ways) < 30
    assert max(ways) > 66


def test_one_combination_in_eleven_is_held_out_some_of_each_part_and_no_pair_is_unknown_to_training() -> None:
    every = [Thing(c, s, m, "slow") for c in COLORS for s in SHAPES for m in MOTIONS]
    trained = [thing for thing in every if not thing.is_held_out]
    kept = [thing for thing in every if thing.is_held_out]
    assert {t.color for t in kept} == set(COLORS)
    assert {t.shape for t in kept} == set(SHAPES)
    assert min(sum(t.motion == m for t in kept) for m in MOTIONS) >= 3
    assert 0.7 / HELD_OUT < 1 - len(trained) / len(every) < 1.3 / HELD_OUT
    assert {(t.color, t.shape) for t in trained} == {(c, s) for c in COLORS for s in SHAPES}
    assert {(t.shape, t.motion) for t in trained} == {(s, m) for s in SHAPES for m in MOTIONS}
