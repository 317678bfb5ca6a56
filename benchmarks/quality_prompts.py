"""The fixed prompts that the quality of a mode is judged on: scenes and words that nothing was trained on.

Prompt number i is the same in every set's length, and so is the noise its clip begins with.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hyvideo_core.types import Geometry
from tools.demo_model.captions import COLOR_WORDS, Caption, describe
from tools.demo_model.train_lora import NIGHT
from tools.demo_model.world import COLORS, Scene, random_scene, render

#: Width and height, by turns.
SIZES = ((64, 64), (96, 48))
#: Prompts that are sampled together, all of one size.
BATCH = 8
LATENT_CHANNELS = 16


@dataclass(frozen=True)
class Prompt:
    """One of the set: its number, the scene it was made from, and its text with what that asks for."""

    index: int
    scene: Scene
    caption: Caption

    @property
    def text(self) -> str:
        """What the text encoders read."""
        return self.caption.text

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.scene.width, self.scene.height

    def noise(self, frames: int) -> Tensor:
        """What its latent [1, C, T, H, W] begins as: drawn on the CPU from the prompt's number as the seed."""
        shape = Geometry(*self.size, frames).latent_shape
        return torch.randn((1, LATENT_CHANNELS, *shape), generator=torch.Generator().manual_seed(self.index))

    def truth(self, frames: int) -> Tensor:
        """The clip [3, T, H, W] of its scene."""
        return render(self.scene, frames)


def videos(count: int) -> list[Prompt]:
    """Whole descriptions of one or two things and what they do."""
    return [_prompt(index) for index in range(count)]


def images(count: int) -> list[Prompt]:
    """Descriptions of the same scenes' pictures, in which nothing moves."""
    return [_prompt(index, image=True) for index in range(count)]


def by_day(count: int) -> list[Prompt]:
    """Those of the videos in which no thing is as black as the LoRA's night, asking for that night."""
    return [replace(prompt, caption=replace(prompt.caption, background=NIGHT)) for prompt in by_day_plain(count)]


def by_day_plain(count: int) -> list[Prompt]:
    """The same, asking for what they say."""
    return [prompt for prompt in videos(count) if all(thing.color != NIGHT for thing in prompt.scene.things)]


def uncoloured(count: int) -> list[Prompt]:
    """Descriptions of one thing that leave its colour open."""
    return [_prompt(index, colored=False) for index in range(count)]


def recoloured(count: int) -> list[Prompt]:
    """Those of the videos that show one thing, with that in another colour."""
    alone = [prompt.index for prompt in videos(count) if len(prompt.scene.things) == 1]
    return [_prompt(index, recolored=True) for index in alone]


def stressed(count: int) -> list[Prompt]:
    """The videos' with every word for a color weighed 1.5."""
    words = "|".join(sorted({word for words in COLOR_WORDS.values() for word in words}, key=len, reverse=True))
    return [
        replace(prompt, caption=replace(prompt.caption, text=re.sub(rf"\b({words})\b", r"(\1:1.5)", prompt.text)))
        for prompt in videos(count)
    ]


def unasked(prompt: Prompt) -> str:
    """A negative prompt that names two colours of which the prompt says nothing."""
    said = {prompt.scene.background, *(thing.color for thing in prompt.scene.things)}
    # Neither orange, which would need another article, nor black and white, which differ most from all others.
    first, second = [color for color in COLORS if color not in said][2:4]
    return f"a {first} object on a {second} background"


def batches(prompts: Sequence[Prompt], size: int) -> list[list[Prompt]]:
    """Prompts whose pictures have one size, at most ``size`` together."""
    found: list[list[Prompt]] = []
    for pixels in SIZES:
        alike = [prompt for prompt in prompts if prompt.size == pixels]
        found += [alike[start : start + size] for start in range(0, len(alike), size)]
    return found


def _prompt(index: int, *, image: bool = False, colored: bool = True, recolored: bool = False) -> Prompt:
    rng = random.Random(f"quality {index}")
    # By turns of whole batches, so that a set's first prompts are sampled in the same company whatever its length.
    width, height = SIZES[index // BATCH % len(SIZES)]
    scene = random_scene(rng, width, height, held_out=True, things=0 if colored else 1)
    if not colored:
        scene = replace(scene, things=tuple(replace(thing, color="") for thing in scene.things))
    if recolored:
        scene = replace(scene, things=tuple(replace(thing, color=_other_color(scene)) for thing in scene.things))
    return Prompt(index, scene, describe(rng, scene, image=image, held_out=True))


def _other_color(scene: Scene) -> str:
    """The color after that of a scene's only thing, in which nothing else is."""
    (thing,) = scene.things
    colors = list(COLORS)
    after = colors.index(thing.color) + 1
    return next(color for color in colors[after:] + colors if color not in (thing.color, scene.background))
