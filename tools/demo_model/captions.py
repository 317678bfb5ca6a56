"""Descriptions of scenes in varied English, complete or partial.

A caption is put together from parts: how a thing is named, what it does, what lies behind it, in one of many frames.
Some frames, and some pairs of verb and direction, are kept for tests. A part may be left unsaid; ``Caption`` tells
what was said, so that a test asks for no more.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from tools.demo_model.world import DIRECTIONS, Scene, Thing

COLOR_WORDS = {
    "red": ("red", "red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "cyan": ("cyan", "cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "purple", "violet"),
    "white": ("white",),
    "black": ("black",),
}
SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "cross", "plus sign"),
}
UNNAMED = ("shape", "object", "thing")

#: A verb as in "it moves" and as in "a thing moving".
GO = (
    ("moves", "moving"),
    ("slides", "sliding"),
    ("glides", "gliding"),
    ("travels", "travelling"),
    ("drifts", "drifting"),
    ("goes", "going"),
)
STAY = (
    ("stays still", "staying still"),
    ("does not move", "not moving"),
    ("rests", "resting"),
    ("stands still", "standing still"),
    ("remains in place", "remaining in place"),
)
GROW = (
    ("grows", "growing"),
    ("gets bigger", "getting bigger"),
    ("expands", "expanding"),
    ("becomes larger", "becoming larger"),
)
SHRINK = (
    ("shrinks", "shrinking"),
    ("gets smaller", "getting smaller"),
    ("contracts", "contracting"),
    ("becomes smaller", "becoming smaller"),
)
CHANGES = {"still": STAY, "grow": GROW, "shrink": SHRINK}
WAYS = {
    "left": ("left", "to the left", "leftwards", "from right to left", "towards the left"),
    "right": ("right", "to the right", "rightwards", "from left to right", "towards the right"),
    "up": ("up", "upwards", "to the top", "towards the top"),
    "down": ("down", "downwards", "to the bottom", "towards the bottom"),
}
SPEED_WORDS = {"slow": ("slowly", "gently", "at a slow pace"), "fast": ("quickly", "fast", "rapidly")}

BEHIND = (
    "on a {} background",
    "on a {} background",
    "on a {} background",
    "against a {} background",
    "in front of a {} background",
    "with a {} background",
    "on a plain {} background",
    "against a solid {} background",
    "over a {} backdrop",
    "against a {} backdrop",
    "in front of a {} wall",
    "on {}",
)
BEHIND_ALONE = (
    "The background is {}.",
    "The backdrop is {}.",
    "Everything behind is {}.",
    "The background color is {}.",
    "Background: {}.",
)
OPENINGS = ("", "", "", "", "", "A video of ", "An animation of ", "A clip of ", "Footage of ", "A short film of ")
IMAGE_OPENINGS = ("", "", "", "A picture of ", "An image of ", "A drawing of ")
#: What is said before things, before clauses, and beside either, that says nothing of them.
SHOW = ("show", "show me", "here is", "this is", "draw", "imagine", "please make", "I want", "you can see", "look at")
NOW = ("now", "here", "in this scene", "watch how", "watch as", "look,", "it is simple:", "this time")
STYLES = ("flat colors", "simple animation", "minimal", "smooth motion", "high quality", "2D", "cartoon")

#: Frames of a caption: {things} are noun phrases, {deeds} whole clauses, {behind} the background as an adverbial,
#: {alone} as a sentence of its own, {plain} as keywords. There are many, so that words are learned and not places.
FRAMES = (
    *("{opening}{things} {behind}", "{opening}{things} {behind}.", "{deeds} {behind}", "{deeds} {behind}.") * 2,
    "{behind}, {deeds}.",
    "{behind} {deeds}.",
    "{behind}: {things}",
    "{behind} one finds {things}.",
    "{behind}, {show} {things}.",
    "{behind} we have {things}, {style}",
    "{opening}{things}. {alone}",
    "{deeds}. {alone}",
    "{alone} {deeds}.",
    "{alone} {now} {deeds}.",
    "{alone} {show} {things}.",
    "{opening}{things}, {plain}",
    "{plain}, {things}",
    "{plain}. {opening}{things}.",
    "{plain}: {deeds}",
    "{show} {things} {behind}.",
    "{show} {things}. {alone}",
    "{now} {deeds} {behind}.",
    "{now} {deeds}. {alone}",
    "{style}: {deeds} {behind}",
    "{style}, {things}, {plain}",
    "{things} {behind}, {style}",
    "{things} can be seen {behind}.",
    "The scene has {things} {behind}.",
    "{opening}{things}, all {behind}.",
    "What happens {behind}: {deeds}.",
)
HELD_OUT_FRAMES = ("{alone} {opening}{things}.", "{behind} there is {things}.", "We see how {deeds} {behind}.")
BARE_FRAMES = (
    *("{opening}{things}", "{deeds}", "{deeds}.", "{things}.") * 2,
    "{show} {things}.",
    "{now} {deeds}.",
    "{style}, {things}",
    "{deeds}, {style}",
)
#: Between two things, and between two clauses.
AND_THINGS = (" and ", " and ", " and ", ", and ", " next to ", " together with ", " beside ", " with ", ", ")
AND_DEEDS = (" and ", " and ", ", and ", ", while ", " while ", ". ", " as ", "; ")

#: How often a part of a partial caption is unsaid, and how often a thing has no article, as in a list of keywords.
UNSAID, NO_ARTICLE = 0.45, 0.1
#: How often a color stands behind what it is of: "a circle in red".
COLOR_BEHIND = 0.06


@dataclass(frozen=True)
class Caption:
    """The text, and what it says: the background and the things in the order they are named, with "" for unsaid.

    ``frame`` is the sentence frame that it was made from.
    """

    text: str
    background: str
    things: tuple[Thing, ...]
    frame: str = ""


def describe(
    rng: random.Random, scene: Scene, *, image: bool = False, partial: bool = False, held_out: bool = False
) -> Caption:
    """One of the many captions of a scene; of a still picture, with parts unsaid, or in words never trained on."""
    said = tuple(_said(rng, thing, image, partial) for thing in scene.things)
    background = "" if partial and rng.random() < UNSAID else scene.background
    frames = HELD_OUT_FRAMES if held_out else FRAMES
    frame = rng.choice(frames if background else BARE_FRAMES)
    parts = {
        "opening": rng.choice(IMAGE_OPENINGS if image else OPENINGS),
        "things": rng.choice(AND_THINGS).join(_thing(rng, thing, held_out) for thing in said),
        "deeds": rng.choice(AND_DEEDS).join(_deed(rng, thing, held_out) for thing in said),
        "behind": rng.choice(BEHIND).format(_word(rng, COLOR_WORDS, background)),
        "plain": f"{_word(rng, COLOR_WORDS, background)} background",
        "show": rng.choice(SHOW),
        "now": rng.choice(NOW),
        "style": rng.choice(STYLES),
        "alone": rng.choice(BEHIND_ALONE).format(_word(rng, COLOR_WORDS, background)),
    }
    return Caption(_sentence(rng, frame.format(**parts)), background, said, frame)


def _said(rng: random.Random, thing: Thing, image: bool, partial: bool) -> Thing:
    """What is said of a thing."""
    unsaid = {name: partial and rng.random() < UNSAID for name in ("color", "shape", "motion")}
    motion = "" if image or unsaid["motion"] else thing.motion
    speed = thing.speed if motion not in ("", "still") and rng.random() < 0.5 else ""
    return Thing("" if unsaid["color"] else thing.color, "" if unsaid["shape"] else thing.shape, motion, speed)


def _named(rng: random.Random, thing: Thing) -> str:
    shape = _word(rng, SHAPE_WORDS, thing.shape) or rng.choice(UNNAMED)
    color = _word(rng, COLOR_WORDS, thing.color)
    name = f"{shape} in {color}" if color and rng.random() < COLOR_BEHIND else f"{color} {shape}".strip()
    if rng.random() < NO_ARTICLE:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _thing(rng: random.Random, thing: Thing, held_out: bool) -> str:
    """A noun phrase: "a red circle moving left"."""
    does = _motion(rng, thing, 1, held_out)
    if does and rng.random() < 0.15:
        return f"{_named(rng, thing)} that {_motion(rng, thing, 0, held_out)}"
    return f"{_named(rng, thing)} {does}".strip()


def _deed(rng: random.Random, thing: Thing, held_out: bool) -> str:
    """A clause: "a red circle moves left"."""
    return f"{_named(rng, thing)} {_motion(rng, thing, 0, held_out) or 'is there'}"


def _motion(rng: random.Random, thing: Thing, form: int, held_out: bool) -> str:
    """What a thing does and how fast, as a verb (0) or a participle (1)."""
    if not thing.motion:
        return ""
    speed = _word(rng, SPEED_WORDS, thing.speed)
    if thing.motion in CHANGES:
        does = rng.choice(CHANGES[thing.motion])[form]
    else:
        pairs = [(verb[form], way) for verb in GO for way in ways(thing.motion)]
        kept = [pair for pair in pairs if is_kept(*pair) == held_out]
        does = " ".join(rng.choice(kept))
    if speed and " " not in speed and speed != "fast" and rng.random() < 0.4:
        return f"{speed} {does}"
    return f"{does} {speed}".strip()


def ways(motion: str) -> tuple[str, ...]:
    """All phrases for a direction."""
    if motion not in DIRECTIONS or motion in WAYS:
        return WAYS[motion]
    vertical, side = motion.split("-")
    upper = {"up": "upper", "down": "lower"}[vertical]
    return (
        f"{vertical} and to the {side}",
        f"diagonally {vertical} and {side}",
        f"to the {upper} {side}",
        f"towards the {upper} {side} corner",
        f"diagonally to the {upper} {side}",
        f"{vertical} and {side}",
    )


def is_kept(verb: str, way: str) -> bool:
    """Whether this pair of verb and direction is kept for tests; none that also begins another pair."""
    return (
        verb not in ("moves", "moving") and way not in ("up", "down") and zlib.crc32(f"{verb} {way}".encode()) % 7 == 1
    )


def pairs(motion: str) -> list[tuple[str, str]]:
    """All pairs of verb, in either form, and phrase for a direction."""
    return [(verb, way) for forms in GO for verb in forms for way in ways(motion)]


def _word(rng: random.Random, words: Mapping[str, tuple[str, ...]], key: str) -> str:
    return rng.choice(words[key]) if key else ""


def _sentence(rng: random.Random, text: str) -> str:
    """With capitals where sentences begin, mostly, and with the right article."""
    text = text.replace(" a orange", " an orange")
    if rng.random() < 0.3:
        return text
    return ". ".join(part[:1].upper() + part[1:] for part in text.split(". "))
