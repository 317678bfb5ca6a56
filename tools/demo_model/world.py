"""The synthetic world: seeded clips of coloured shapes that move over a coloured background.

A ``Scene`` is the whole truth about a clip; ``render`` draws it, ``captions`` describes it, ``judge`` measures it.
Lengths are pixels; motion is what happens in one clip of ``CLIP_FRAMES`` frames.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CLIP_FRAMES = 17

#: RGB in 0–1, far enough from one another that a blurred picture still tells them apart.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.92, 0.15),
    "green": (0.10, 0.60, 0.15),
    "cyan": (0.20, 0.85, 0.90),
    "blue": (0.10, 0.20, 0.85),
    "purple": (0.55, 0.15, 0.70),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.04),
}

_DIAGONAL = math.sqrt(0.5)
#: Unit vectors in picture coordinates: x to the right, y down.
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up-left": (-_DIAGONAL, -_DIAGONAL),
    "up-right": (_DIAGONAL, -_DIAGONAL),
    "down-left": (-_DIAGONAL, _DIAGONAL),
    "down-right": (_DIAGONAL, _DIAGONAL),
}
MOTIONS = (*DIRECTIONS, "still", "grow", "shrink")
#: Way of a moving object, and factor of a growing one, by speed.
TRAVEL_PX = {"slow": 10.0, "fast": 22.0}
GROWTH = {"slow": 1.45, "fast": 2.1}
#: Half the extent of an object at its largest, when it is alone and when there are two.
RADII_PX = {1: (10.0, 13.0), 2: (7.5, 9.5)}
#: How many pixels an object's edge fades over: what is this soft moves smoothly, also in a small VAE's latents.
EDGE_PX = 2.0
#: Room between objects, and between an object and the picture's edge.
GAP_PX, MARGIN_PX = 3.0, 0.5
#: Where objects are halfway, as parts of the picture's width and height: one in the middle, two side by side or one
#: above the other, in the order in which they are named; and how far from there. A network this small, left to choose
#: where to put an object, chooses twice and draws two.
HOMES = {1: (((0.5, 0.5),),), 2: (((0.25, 0.5), (0.75, 0.5)), ((0.5, 0.25), (0.5, 0.75)))}
STRAY_PX = 4.0
#: Of the combinations of colour, shape and motion one in so many is never trained on; see ``Thing.is_held_out``.
HELD_OUT = 11
TRIES, ANYWHERE_TRIES, SCENE_TRIES = 20, 200, 2000


def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.hypot(x, y) - r


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.9 * r


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum((2 * x.abs() - y - r) / math.sqrt(5), y - r)


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    wide, narrow = r, 0.36 * r
    bar = torch.maximum(x.abs() - wide, y.abs() - narrow)
    return torch.minimum(bar, torch.maximum(x.abs() - narrow, y.abs() - wide))


#: Signed distance in pixels of points (x, y) from the edge of a shape that reaches r from its middle.
SHAPES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}


@dataclass(frozen=True)
class Thing:
    """One object: what it is, what it does, where it starts (x, y) and half its extent at the largest."""

    color: str
    shape: str
    motion: str
    speed: str
    start: tuple[float, float] = (0.0, 0.0)
    radius: float = 0.0

    @property
    def is_held_out(self) -> bool:
        """Whether this combination of colour, shape and motion is kept for tests.

        Spread evenly, like a Latin square: some of every colour, of every shape and of every motion are.
        """
        places = list(COLORS).index(self.color), list(SHAPES).index(self.shape), MOTIONS.index(self.motion)
        return sum(weight * place for weight, place in zip((1, 3, 5), places, strict=True)) % HELD_OUT == 0

    def path(self, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and radius [frames] of the object."""
        progress = torch.arange(frames, dtype=torch.float32) / (CLIP_FRAMES - 1)
        dx, dy = DIRECTIONS.get(self.motion, (0.0, 0.0))
        travel = TRAVEL_PX[self.speed] * progress
        radius = torch.full((frames,), self.radius)
        if self.motion in ("grow", "shrink"):
            smallest = self.radius / GROWTH[self.speed]
            done = progress if self.motion == "grow" else 1 - progress
            radius = smallest + (self.radius - smallest) * done
        return self.start[0] + dx * travel, self.start[1] + dy * travel, radius


@dataclass(frozen=True)
class Scene:
    """A clip: its picture size, its background and its one or two objects, of different colours."""

    width: int
    height: int
    background: str
    things: tuple[Thing, ...]


def random_scene(
    rng: random.Random, width: int, height: int, *, held_out: bool = False, things: int = 0, anywhere: bool = False
) -> Scene:
    """A scene of ``things`` objects (0: one or two); with ``held_out`` every object is of an untrained combination.

    Objects are near their ``HOMES``, or ``anywhere``. Raises ``ValueError`` for a picture with no room for any.
    """
    count = things or rng.choice((1, 1, 2))
    for _ in range(SCENE_TRIES):
        colors = rng.sample(list(COLORS), count + 1)
        found = [
            Thing(color, rng.choice(list(SHAPES)), rng.choice(MOTIONS), rng.choice(list(TRAVEL_PX)))
            for color in colors[1:]
        ]
        if all(thing.is_held_out == held_out for thing in found):
            placed = (place_anywhere if anywhere else place)(rng, found, width, height)
            if placed:
                return Scene(width, height, colors[0], placed)
    raise ValueError(f"No scene of {count} objects was found that fits {width}×{height} pixels.")


def place(rng: random.Random, things: list[Thing], width: int, height: int) -> tuple[Thing, ...] | None:
    """The objects with starts and sizes near their homes, in the picture and apart; None where none were found."""
    for homes in HOMES[len(things)]:
        for _ in range(TRIES):
            placed = [
                _at_home(rng, *each, RADII_PX[len(things)], width, height) for each in zip(things, homes, strict=True)
            ]
            if all(_stays(thing, width, height) for thing in placed) and are_apart(placed):
                return tuple(placed)
    return None


def place_anywhere(rng: random.Random, things: list[Thing], width: int, height: int) -> tuple[Thing, ...] | None:
    """The same without homes."""
    for _ in range(ANYWHERE_TRIES):
        placed: list[Thing] = []
        for thing in things:
            radius = rng.uniform(*RADII_PX[len(things)])
            dx, dy = (d * TRAVEL_PX[thing.speed] for d in DIRECTIONS.get(thing.motion, (0.0, 0.0)))
            edge = radius + MARGIN_PX
            ranges = [(edge - min(d, 0), size - edge - max(d, 0)) for d, size in ((dx, width), (dy, height))]
            if any(low > high for low, high in ranges):
                break
            placed.append(replace(thing, start=(rng.uniform(*ranges[0]), rng.uniform(*ranges[1])), radius=radius))
        else:
            if are_apart(placed):
                return tuple(placed)
    return None


def _at_home(
    rng: random.Random, thing: Thing, home: tuple[float, float], radii: tuple[float, float], width: int, height: int
) -> Thing:
    """The object with a size, halfway near its home."""
    middle = [part * size + rng.uniform(-STRAY_PX, STRAY_PX) for part, size in zip(home, (width, height), strict=True)]
    half = TRAVEL_PX[thing.speed] / 2
    dx, dy = DIRECTIONS.get(thing.motion, (0.0, 0.0))
    return replace(thing, start=(middle[0] - half * dx, middle[1] - half * dy), radius=rng.uniform(*radii))


def _stays(thing: Thing, width: int, height: int) -> bool:
    """Whether the object is always in the picture."""
    x, y, radius = thing.path(CLIP_FRAMES)
    edge = radius + MARGIN_PX
    return bool(((x >= edge) & (x <= width - edge) & (y >= edge) & (y <= height - edge)).all())


def are_apart(things: list[Thing]) -> bool:
    """Whether the objects' boxes never come close."""
    if len(things) < 2:
        return True
    (x1, y1, r1), (x2, y2, r2) = (thing.path(CLIP_FRAMES) for thing in things)
    distance = torch.maximum((x1 - x2).abs(), (y1 - y2).abs())
    return bool((distance > r1 + r2 + GAP_PX).all())


def opacity(distance: Tensor, edge_px: float = EDGE_PX) -> Tensor:
    """How much of a pixel is an object's, by its distance from the edge; 0–1."""
    return (0.5 - distance / edge_px).clamp(0, 1)


def render(scene: Scene, frames: int = CLIP_FRAMES, edge_px: float = EDGE_PX) -> Tensor:
    """The clip [3, frames, height, width] in −1…1."""
    y = (torch.arange(scene.height) + 0.5).view(1, -1, 1)
    x = (torch.arange(scene.width) + 0.5).view(1, 1, -1)
    clip = _rgb(scene.background).expand(3, frames, scene.height, scene.width)
    for thing in scene.things:
        at_x, at_y, radius = (part.view(-1, 1, 1) for part in thing.path(frames))
        inside = opacity(SHAPES[thing.shape](x - at_x, y - at_y, radius), edge_px)
        clip = clip + (_rgb(thing.color) - clip) * inside
    return clip * 2 - 1


def _rgb(color: str) -> Tensor:
    return torch.tensor(COLORS[color]).view(3, 1, 1, 1)
