"""Measures what a clip shows, without knowing what was asked, and says whether that is what was asked.

The background is the median. Pixels that differ from it take the colour of the solid areas around them, so that a
smoothed edge is no third colour; what hangs together in space and time in one colour is one thing. A thing's shape is
the one towards which it departs from what all shapes have in common, its motion a straight line through its centres
and the square roots of its areas. Colours and distances between them are in the clip's −1…1; lengths are pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, reduce
from itertools import permutations
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tools.demo_model.world import CLIP_FRAMES, COLORS, DIRECTIONS, GROWTH, SHAPES, TRAVEL_PX, Thing, opacity

#: The colours as they are in a clip [9, 3].
PALETTE = torch.tensor(list(COLORS.values())) * 2 - 1
NAMES = tuple(COLORS)
#: What is farther from every colour has none of their names: grey, brown, pink.
NAMED_WITHIN = 0.6
#: A background is of the colour that it has in this part of the frames.
STEADY = 0.8
#: What differs less from the background belongs to it: half the distance between the two nearest colours.
DISTINCT = 0.38
#: Part of the 3×3 pixels around one that have its colour where it is inside a thing, not on an edge.
SOLID = 0.85
#: What fills less of the picture, as a mean over all frames, is a speck.
SPECK_PX, SOLID_SPECK_PX = 12.0, 3.0
#: How far beyond its pixels a thing's smoothed edge reaches.
EDGE_PX = 2
#: A thing most of which is no farther than this from a larger one is its blurred edge.
FRINGE_PX = 3
#: A faded colour is so near the line from the background to the full one; none of the world's own colours is.
PALE_WITHIN = 0.19
#: Below this part of its greatest opacity a thing is faded; above it in the outermost pixels, it leaves the picture.
OPAQUE = 0.75
#: A thing is no shape at all where it covers, and is covered, less than this.
OVERLAP = 0.66
#: A thing farther from its straight line, in place or as a part of its size (root mean square), does nothing of ours,
#: nor does one that jumps by more from a frame to the next, or that is not to be seen in this part of the frames.
WANDER_PX, WANDER_SIZE = 2.0, 0.08
JUMP_PX, PRESENT = 3.0, 0.8
#: A thing may take so many frames to appear or to go.
FADE_FRAMES = 4
#: Of a picture with a larger part that is neither background nor a thing, the background is no one colour.
UNEXPLAINED = 0.015
#: In units of a slow way or growth: what does less is still; what moves and changes size by more does neither.
STILL, BOTH = 0.5, 0.75
MOST_THINGS = 6


@dataclass(frozen=True)
class SeenThing:
    """One object; ``""`` for what is none of the world's. ``start`` is its middle (x, y) where it is first whole."""

    color: str
    shape: str
    motion: str
    speed: str
    start: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Seen:
    """What a clip of so many frames shows, the largest thing first; ``""`` where most of it is no one colour."""

    background: str
    things: tuple[SeenThing, ...]
    frames: int


class Asked(Protocol):
    """What is asked of a clip: a ``Scene``, or a ``Caption``, in which ``""`` asks for nothing."""

    @property
    def background(self) -> str:
        """A colour's name."""

    @property
    def things(self) -> tuple[Thing, ...]:
        """The objects, all of them."""


@dataclass(frozen=True)
class Verdict:
    """Which parts of what was asked are so, each in every thing that was asked for."""

    background: bool
    color: bool
    shape: bool
    motion: bool
    count: bool
    speed: bool

    @property
    def all(self) -> bool:
        """Everything but the speed, which half of the captions leave open."""
        return self.background and self.color and self.shape and self.motion and self.count


def obedience(seen: Seen, asked: Asked) -> Verdict:
    """Compare; things are paired so that most colours agree, then most shapes, then most motions.

    A single frame has no motion and no speed: whatever was asked, both are true of the things in it.
    """
    missing = [None] * len(asked.things)
    picture = seen.frames == 1
    pairings = [
        [_agreement(want, thing, picture) for want, thing in zip(asked.things, things, strict=True)]
        for things in permutations([*seen.things, *missing], len(asked.things))
    ]
    agreed = max([sum(pair[part] for pair in pairs) for part in range(4)] for pairs in pairings)
    color, shape, motion, speed = (count == len(asked.things) for count in agreed)
    count = len(seen.things) == len(asked.things)
    return Verdict(asked.background in ("", seen.background), color, shape, motion, count, speed)


def _agreement(want: Thing, thing: SeenThing | None, picture: bool) -> tuple[bool, bool, bool, bool]:
    """Whether colour, shape, motion and speed are as wanted; of what was not found, nothing is."""
    if thing is None:
        return False, False, False, False
    return (
        want.color in ("", thing.color),
        want.shape in ("", thing.shape),
        picture or want.motion in ("", thing.motion),
        picture or want.motion == "still" or want.speed in ("", thing.speed),
    )


def see(clip: Tensor) -> Seen:
    """What a clip [3, T, H, W] shows; one that is not finite shows nothing. Raises ``ValueError`` for other shapes."""
    if clip.ndim != 4 or clip.shape[0] != 3 or 0 in clip.shape:
        raise ValueError(f"The clip is {list(clip.shape)}, expected [3, frames, height, width], none of them 0.")
    nothing = Seen("", (), clip.shape[1])
    if not clip.isfinite().all():
        return nothing
    clip = clip.detach().float().cpu()
    backgrounds, steady = _backgrounds(clip)
    offset = clip - backgrounds[:, :, None, None]
    differs = offset.square().sum(0) > DISTINCT**2
    background = backgrounds.median(dim=1).values
    name = _name(background)
    if not name or not steady or differs.float().mean() > 0.5:
        return nothing
    masks = _joined(_connected(_by_color(clip, differs)), offset)
    reach = (_share(masks, 2 * EDGE_PX + 1) > 0) & (masks | ~masks.any(0))
    if _unexplained(differs, masks) > UNEXPLAINED:
        name = ""
    things = tuple(_measure(offset, background, *regions) for regions in zip(masks, reach, strict=True))
    return Seen(name, things, clip.shape[1])


def _unexplained(differs: Tensor, masks: Tensor) -> float:
    """The largest part of a picture that differs from the background where no thing is, nor one fades in or out."""
    explained = (_share(masks, 2 * FRINGE_PX + 1) > 0).any(0)
    explained = (
        F.max_pool1d(explained.float().flatten(1).T, 2 * FADE_FRAMES + 1, 1, FADE_FRAMES).T.view(differs.shape) > 0
    )
    return float((differs & ~explained).float().mean((1, 2)).max())


def _backgrounds(clip: Tensor) -> tuple[Tensor, bool]:
    """The background of every frame [3, T], and whether it is the same in most; half of the lines are enough to tell.

    It may flicker. Where it is another altogether, a thing fills the picture: there it is that of the other frames.
    """
    sample = clip[:, :, ::2, ::2].flatten(2)
    overall = sample.flatten(1).median(dim=1, keepdim=True).values
    frames = sample.median(dim=2).values
    near = (frames - overall).norm(dim=0) < DISTINCT
    return torch.where(near, frames, overall), float(near.float().mean()) >= STEADY


def _name(color: Tensor) -> str:
    """The nearest colour's name."""
    distance, index = (PALETTE - color).norm(dim=1).min(dim=0)
    return NAMES[int(index)] if float(distance) < NAMED_WITHIN else ""


def _by_color(clip: Tensor, differs: Tensor) -> Tensor:
    """The pixels that differ from the background [K, T, H, W], split by the colours of which there are solid areas."""
    few = SOLID_SPECK_PX * clip.shape[1]
    found = torch.cdist(clip[:, differs].T, PALETTE).argmin(1)
    nearest = torch.full(differs.shape, -1)
    nearest[differs] = found
    pixels = nearest == (torch.bincount(found, minlength=len(NAMES)) >= few).nonzero().view(-1, 1, 1, 1)
    solid = _share(pixels, 3) > SOLID
    kept = solid.sum((1, 2, 3)) >= few
    if not kept.any():
        return pixels[:0]
    most, color = _share(solid[kept], 5).max(dim=0)
    return (color == torch.arange(int(kept.sum())).view(-1, 1, 1, 1)) & differs & (most > 0)


def _share(masks: Tensor, size: int) -> Tensor:
    """Which part of the size × size pixels around each is in masks [..., H, W]; beyond the picture nothing is."""
    height, width = masks.shape[-2:]
    padded = F.pad(masks.float(), (size // 2,) * 4)
    rows = reduce(torch.add, (padded[..., at : at + width] for at in range(size)))
    return reduce(torch.add, (rows[..., at : at + height, :] for at in range(size))) / size**2


def _connected(masks: Tensor) -> Tensor:
    """What hangs together in masks [K, T, H, W], each as a mask [N, T, H, W], the largest first, without specks."""
    labels = torch.full(masks.shape, -1)
    labels[masks] = _labels(masks)
    found, counts = labels[masks].unique(return_counts=True)
    order = counts.argsort(descending=True)[:MOST_THINGS]
    large = found[order][counts[order] >= SPECK_PX * masks.shape[1]]
    return (labels == large.view(-1, 1, 1, 1, 1)).any(1)


def _labels(masks: Tensor) -> Tensor:
    """A label for each true pixel of masks [K, T, H, W], the same where a way leads through one mask in space or time.

    Labels spread to neighbours, the greater wins; all that bore one label follow it, so few rounds are needed.
    """
    number = masks.flatten().cumsum(0).view(masks.shape) - 1
    edges = []
    for axis, size in enumerate(masks.shape[1:], 1):
        ends = masks.narrow(axis, 0, size - 1) & masks.narrow(axis, 1, size - 1)
        edges.append(torch.stack([number.narrow(axis, start, size - 1)[ends] for start in (0, 1)]))
    one, other = torch.cat(edges, dim=1)
    labels = torch.arange(int(masks.sum()))
    while True:
        greater = torch.maximum(labels[one], labels[other])
        spread = labels.scatter_reduce(0, torch.cat([labels[one], labels[other]]), greater.repeat(2), "amax")
        spread = spread[spread]
        if torch.equal(spread, labels):
            return labels
        labels = spread


def _joined(masks: Tensor, offset: Tensor) -> Tensor:
    """Masks [N, T, H, W], the largest first, where those that are only a part of a larger one are put to it.

    Such a part lines the other towards the background as a blurred edge does (that of a red thing on yellow is orange),
    or is the other while it fades: a mixture of its colour and the background's, in other frames.
    """
    outside = _share(masks.any(0), 2 * FRINGE_PX + 1) < 0.99  # the background's, or beyond the picture
    things: list[Tensor] = []
    for mask in masks:
        for thing in things:
            lines = (mask & outside & (_share(thing, 2 * FRINGE_PX + 1) > 0)).sum() > 0.5 * mask.sum()
            if lines or (_is_pale(_color(offset, mask), _color(offset, thing)) and not _coexist(mask, thing)):
                thing |= mask
                break
        else:
            things.append(mask.clone())
    return torch.stack(things) if things else masks


def _is_pale(color: Tensor, full: Tensor) -> bool:
    """Whether a colour is on the line from the background to another, both less the background."""
    part = color @ full / full.square().sum()
    return float((color - part * full).norm()) < PALE_WITHIN


def _coexist(mask: Tensor, other: Tensor) -> bool:
    """Whether both have half their largest area in some frame."""
    areas = torch.stack([mask, other]).sum((2, 3))
    return bool((2 * areas >= areas.amax(1, keepdim=True)).all(0).any())


def _color(offset: Tensor, mask: Tensor) -> Tensor:
    """A thing's colour less the background, where it is solid."""
    solid = _share(mask, 3) > SOLID
    return offset[:, solid if solid.any() else mask].median(dim=1).values


def _measure(offset: Tensor, background: Tensor, mask: Tensor, reach: Tensor) -> SeenThing:
    """One thing, from the clip less its background [3, T, H, W], its pixels and where its edge may reach [T, H, W]."""
    color = _color(offset, mask)
    weight = color / color.square().sum().clamp(min=DISTINCT**2)
    alpha = (weight @ offset.flatten(1)).view(mask.shape) * reach
    area = alpha.sum((1, 2)).clamp(min=1e-3)
    y, x = ((torch.arange(size) + 0.5) for size in mask.shape[1:])
    center = torch.stack([(alpha.sum(1) * x).sum(1) / area, (alpha.sum(2) * y).sum(1) / area], dim=1)
    opaque = _opaque(alpha)
    frames = _whole(alpha, opaque)
    shape, at, radius = _shape(alpha[frames], area[frames], center[frames])
    present = float(opaque[:CLIP_FRAMES].float().mean()) >= PRESENT
    motion, speed = _motion(frames, center, area.sqrt()) if present else ("", "")
    return SeenThing(_name(background + color), shape, motion, speed, at, radius)


def _opaque(alpha: Tensor) -> Tensor:
    """Whether a thing is there, not faded, in each frame of its opacities [T, H, W]."""
    strength = alpha.flatten(1).topk(9).values.mean(1)
    return strength >= torch.minimum(strength.max(), OPAQUE * strength.max())


def _whole(alpha: Tensor, opaque: Tensor) -> Tensor:
    """Indices of the frames in which a thing is neither faded nor cut by the picture's edge, within one clip's length.

    If these are few, those in which it is not faded: a thing may lie at the edge.
    """
    edge = torch.cat([alpha[:, [0, -1]].flatten(1), alpha[:, :, [0, -1]].flatten(1)], dim=1).amax(1)
    whole = opaque & (edge < OPAQUE)
    frames = (opaque if _are_few(int(whole.sum()), len(alpha)) else whole).nonzero()[:, 0]
    return frames[frames < frames[0] + CLIP_FRAMES]


def _are_few(count: int, frames: int) -> bool:
    """Whether so many of a clip's frames tell too little: less than a third of what one clip's length has."""
    return 3 * count < min(frames, CLIP_FRAMES)


@cache
def _ideal(shape: str) -> tuple[float, float]:
    """Area, and how far below the middle the centre of mass is, of a shape of radius 1."""
    grid = (torch.arange(-200, 200) + 0.5) / 160
    inside = (SHAPES[shape](grid.view(1, -1), grid.view(-1, 1), torch.tensor(1.0)) < 0).float()
    return float(inside.sum()) / 160**2, float((inside * grid.view(-1, 1)).sum() / inside.sum())


def _shape(alpha: Tensor, area: Tensor, center: Tensor) -> tuple[str, tuple[float, float], float]:
    """The shape that opacities [T, H, W] have most of; its middle (x, y) and radius in the first frame.

    All shapes are drawn with the area and the centre that were measured. What they have in common is taken away, so
    that a cross with its corners smoothed is not a circle: it departs from the common towards the cross.
    """
    y, x = (torch.arange(size) + 0.5 for size in alpha.shape[1:])
    middles, radii, drawn = [], [], []
    for shape, distance in SHAPES.items():
        unit_area, below = _ideal(shape)
        radius = (area / unit_area).sqrt()
        middle = center - torch.stack([torch.zeros_like(radius), below * radius], dim=1)
        at_x, at_y = middle.view(-1, 2, 1, 1).unbind(1)
        drawn.append(opacity(distance(x - at_x, y.view(-1, 1) - at_y, radius.view(-1, 1, 1))))
        middles.append((float(middle[0, 0]), float(middle[0, 1])))
        radii.append(float(radius[0]))
    ideals = torch.stack(drawn)
    common = ideals.mean(0)
    apart = (ideals - common).flatten(1)
    best = int((apart @ (alpha - common).flatten() / apart.norm(dim=1)).argmax())
    overlap = torch.minimum(ideals[best], alpha).sum() / torch.maximum(ideals[best], alpha).sum()
    return list(SHAPES)[best] if float(overlap) > OVERLAP else "", middles[best], radii[best]


def _motion(frames: Tensor, center: Tensor, size: Tensor) -> tuple[str, str]:
    """Motion and speed by straight lines through centres [T, 2] and sizes [T], in the frames given by index."""
    if len(frames) < 2 or _are_few(len(frames), len(center)):
        return "", ""
    time = frames / (CLIP_FRAMES - 1)
    values = torch.cat([center, size[:, None]], dim=1)[frames]
    mean, about = values.mean(0), (time - time.mean())[:, None]
    slope = (about * values).sum(0) / about.square().sum()
    away = values - mean - about * slope
    wander = away.square().mean(0)
    if float(wander[:2].sum().sqrt()) > WANDER_PX or float(wander[2].sqrt() / mean[2]) > WANDER_SIZE:
        return "", ""
    if float(away[:, :2].diff(dim=0).norm(dim=1).max()) > JUMP_PX:
        return "", ""
    begin = min(int(frames[0]), max(0, len(center) - CLIP_FRAMES)) / (CLIP_FRAMES - 1)
    first, last = (float(mean[2] + (at - time.mean()) * slope[2]) for at in (begin, begin + 1))
    return _named_motion(slope[:2], max(last, 1e-3) / max(first, 1e-3))


def _named_motion(way: Tensor, factor: float) -> tuple[str, str]:
    """Motion and speed of what goes (x, y) pixels in a clip's length while its size becomes ``factor`` times itself."""
    travel, growth = float(way.norm()), abs(math.log(factor))
    moves, changes = travel / TRAVEL_PX["slow"], growth / math.log(GROWTH["slow"])
    if max(moves, changes) < STILL:
        return "still", ""
    if min(moves, changes) > BOTH:
        return "", ""
    if moves < changes:
        speed = "fast" if growth > math.log(GROWTH["slow"] * GROWTH["fast"]) / 2 else "slow"
        return "grow" if factor > 1 else "shrink", speed
    nearest = int((torch.tensor(list(DIRECTIONS.values())) @ way).argmax())
    speed = "fast" if travel > math.sqrt(TRAVEL_PX["slow"] * TRAVEL_PX["fast"]) else "slow"
    return list(DIRECTIONS)[nearest], speed
