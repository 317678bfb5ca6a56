"""Scenes of the demo model's world for tests."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from tools.demo_model.world import Scene, random_scene

SIZES = ((64, 64), (96, 48), (80, 56), (48, 96))


def scene_of(seed: int, **wanted: int) -> Scene:
    """Scene number ``seed``: sizes take turns, some are of untrained combinations, some have things anywhere."""
    return random_scene(random.Random(seed), *SIZES[seed % 4], held_out=seed % 8 > 3, anywhere=seed % 16 > 7, **wanted)


SCENES = st.integers(0, 2**32).map(scene_of)
