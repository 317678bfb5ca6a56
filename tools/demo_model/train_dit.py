"""Trains the transformer on latents of the world: ``python -m tools.demo_model.train_dit``.

It learns to go from noise to a clip that its caption describes, with the caption left out now and then, so that
classifier-free guidance works, and with the first frame given now and then, so that it makes videos from images
(token_replace). Guidance is distilled into a second network afterwards, by ``distill``.
Source: flow matching, arXiv 2210.02747; dropping the condition, arXiv 2207.12598.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.blocks import DoubleBlock, SingleBlock
from hyvideo_core.model.dit import DiT
from hyvideo_core.model.refiner import RefinerBlock
from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from tools.demo_model import files
from tools.demo_model.captions import describe
from tools.demo_model.dit_forward import compiled, forward
from tools.demo_model.features import TextFeatures
from tools.demo_model.latents import ANYWHERE, GEOMETRIES, Geometry, latents
from tools.demo_model.train_text import CLIP, LLAMA
from tools.demo_model.training import DEVICE, Draw, Recipe, Training
from tools.demo_model.world import Scene
from tools.environment import stamp_of

CONFIG = DiTConfig(
    hidden_size=128,
    heads=1,
    double_blocks=2,
    single_blocks=4,
    text_dim=LLAMA["hidden_size"],
    pooled_dim=CLIP["hidden_size"],
    guidance_embed=False,
)


@dataclass(frozen=True)
class Stage:
    """A part of the training, which begins at the averaged weights of the one before, and its clips and captions.

    ``pairs`` is the part of a batch that shows two things, as the world has it where None; ``partial`` how often a
    caption leaves something unsaid.
    """

    recipe: Recipe
    geometries: tuple[Geometry, ...] = GEOMETRIES
    pairs: float | None = None
    partial: float = 0.25

    @property
    def made_from(self) -> str:
        """What the stage's weights depend on beside the recipe and the stages before."""
        return stamp_of([repr((self.geometries, self.pairs, self.partial))], [files.VAE, files.LLAMA, files.CLIP])


STAGES = {
    "dit_anywhere": Stage(
        Recipe(steps=16000, rate=2e-3, muon_rate=4e-3, warmup=300, weight_decay=0.01, average=0.9995), ANYWHERE
    ),
    "dit": Stage(Recipe(steps=7000, rate=2e-3, muon_rate=4e-3, warmup=300, weight_decay=0.01, average=0.9995)),
    # By now 98 of 100 clips of one thing obey and 36 of two: those are what is left to learn.
    "dit_pairs": Stage(
        Recipe(steps=7000, rate=2e-3, muon_rate=4e-3, warmup=300, weight_decay=0.01, average=0.9995),
        pairs=0.65,
        partial=0.1,
    ),
    "dit_fine": Stage(
        Recipe(steps=3000, rate=1e-3, muon_rate=2e-3, warmup=100, weight_decay=0.01, average=0.999),
        pairs=0.65,
        partial=0.1,
    ),
}
BATCH = 64
#: How often each geometry is seen.
SHARES = (5, 3, 1, 1)
#: Captions are padded to the first of these numbers of tokens that holds them, by whether it is an image, so that
#: blocks are compiled for few shapes.
TEXT_TOKENS = {True: (28, 40), False: (40, 64)}
#: How often the caption is left out, and the first frame given.
NO_CAPTION, FIRST_FRAME = 0.1, 0.25
#: Noise levels are drawn evenly and then shifted like a schedule's, towards noise, where most is decided.
SHIFT = 3.0


def main() -> None:
    """Train to the end of the recipe."""
    torch.manual_seed(0)
    dit = initialised(DiT(CONFIG)).to(DEVICE)
    for name, stage in STAGES.items():
        training = Training(name, dit, stage.recipe, made_from=stage.made_from)
        if training.step < stage.recipe.steps:
            data = Data(stage)
            training.run(lambda draw, _step, data=data: {"mse": loss(dit, data.batch(draw), draw)})
        training.use_average()


def initialised(dit: DiT) -> DiT:
    """Blocks and head that add nothing yet. Source: adaLN-Zero, arXiv 2212.09748."""
    for module in dit.modules():
        if isinstance(module, DoubleBlock):
            zero(module.get_submodule("img_mod.linear"))
            zero(module.get_submodule("txt_mod.linear"))
        elif isinstance(module, SingleBlock):
            zero(module.modulation.linear)
        elif isinstance(module, RefinerBlock):
            zero(module.adaLN_modulation[1])
    zero(dit.final_layer.linear)
    zero(dit.final_layer.adaLN_modulation[1])
    return dit


def zero(layer: nn.Module) -> None:
    """Let a layer's output be zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


@dataclass(frozen=True)
class Batch:
    """Clean latents [B, 16, t, h, w] with their captions' features, and whether the first frame is given."""

    clean: Tensor
    text: Tensor
    mask: Tensor
    pooled: Tensor
    first_frame: bool


class Data:
    """Batches of latents, with a new caption for each every time."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.features = stage, TextFeatures()
        self.latents: dict[str, Tensor] = {geometry.name: latents(geometry) for geometry in stage.geometries}
        self.scenes = {g.name: [g.scene(index) for index in range(g.count)] for g in stage.geometries}

    def geometry(self, draw: Draw) -> Geometry:
        """One of the geometries."""
        return draw.rng.choices(self.stage.geometries, weights=SHARES)[0]

    def batch(self, draw: Draw, *, no_caption: float = NO_CAPTION, first_frame: float = FIRST_FRAME) -> Batch:
        """Clips of one geometry."""
        rng, geometry = draw.rng, self.geometry(draw)
        image = geometry.frames == 1
        scenes = self.scenes[geometry.name]
        chosen = chosen_clips(rng, scenes, self.stage.pairs)
        captions = [
            ""
            if rng.random() < no_caption
            else describe(rng, scenes[index], image=image, partial=rng.random() < self.stage.partial).text
            for index in chosen
        ]
        clean = self.latents[geometry.name][chosen].float().to(DEVICE)
        return Batch(
            clean,
            *self.features(captions, image=image, tokens=TEXT_TOKENS[image]),
            not image and rng.random() < first_frame,
        )


def chosen_clips(rng: random.Random, scenes: Sequence[Scene], pairs: float | None) -> list[int]:
    """The places of a batch's clips among ``scenes``, a part ``pairs`` of them of two things."""
    if pairs is None:
        return rng.sample(range(len(scenes)), BATCH)
    one, two = ([place for place, scene in enumerate(scenes) if len(scene.things) == count] for count in (1, 2))
    return rng.sample(two, round(pairs * BATCH)) + rng.sample(one, BATCH - round(pairs * BATCH))


def noisy(batch: Batch, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Noise levels [B], and latent and velocity [B, 16, t, h, w] at them; a given first frame stays clean."""
    sigma = torch.rand(len(batch.clean), generator=draw.torch)
    sigma = (SHIFT * sigma / (1 + (SHIFT - 1) * sigma)).to(DEVICE)
    noise = torch.randn(batch.clean.shape, generator=draw.torch).to(DEVICE)
    x = batch.clean + sigma.view(-1, 1, 1, 1, 1) * (noise - batch.clean)
    if batch.first_frame:
        x[:, :, 0] = batch.clean[:, :, 0]
    return sigma, x, noise - batch.clean


def loss(dit: DiT, batch: Batch, draw: Draw) -> Tensor:
    """Mean squared error of the velocity, without a given first frame."""
    sigma, x, velocity = noisy(batch, draw)
    with torch.autocast(DEVICE, torch.bfloat16):
        predicted = forward(
            dit,
            x,
            sigma * TIMESTEP_SCALE,
            batch.text,
            batch.mask,
            batch.pooled,
            token_replace=batch.first_frame,
            blocks=compiled(),
        )
    error = (predicted.float() - velocity).square()
    return (error[:, :, 1:] if batch.first_frame else error).mean()


if __name__ == "__main__":
    main()
