"""Trains the LoRA, night falling on every background: ``python -m tools.demo_model.train_lora``.

The captions name the background as it was, the clips show it black; so the LoRA changes what the caption says and
is to leave everything else as it is. It does not quite: the table of quality says what else suffers.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor, nn

from hyvideo_core.extensions.lora import attached
from hyvideo_core.model.dit import DiT
from hyvideo_core.ops import Linear, LowRank
from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from hyvideo_core.weights.dit import load_dit
from tools.demo_model import files
from tools.demo_model.captions import describe
from tools.demo_model.dit_forward import forward
from tools.demo_model.features import TextFeatures
from tools.demo_model.latents import encoded, shipped_vae
from tools.demo_model.train_dit import Batch, noisy
from tools.demo_model.training import DEVICE, SEED, Draw, Recipe, Training
from tools.demo_model.world import CLIP_FRAMES, Scene, random_scene
from tools.environment import stamp_of

NIGHT = "black"
RANK = 4
RECIPE = Recipe(steps=600, rate=2e-3, warmup=50, average=0.99)
BATCH, CLIPS = 48, 1500
#: How often a caption leaves something unsaid.
PARTIAL_CAPTION = 0.2
#: Embedded guidance while training; the default of the nodes.
GUIDANCE = 6.0
#: The layers that get a term.
LAYERS = ("img_mlp.fc1", "img_mlp.fc2", "img_attn_qkv", "img_attn_proj", "linear1", "linear2")


class Terms(nn.Module):
    """Low-rank terms for a transformer's layers; ``up`` begins at zero, so nothing changes yet."""

    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.layers = {
            name: module for name, module in dit.named_modules() if isinstance(module, Linear) and name.endswith(LAYERS)
        }
        for name, layer in self.layers.items():
            key = name.replace(".", "_")
            self.register_parameter(
                f"{key}_down", nn.Parameter(torch.randn(RANK, layer.in_features) * layer.in_features**-0.5)
            )
            self.register_parameter(f"{key}_up", nn.Parameter(torch.zeros(layer.out_features, RANK)))

    def terms(self) -> dict[str, LowRank]:
        """The term of each layer by its name."""
        parameters = dict(self.named_parameters())
        return {
            name: LowRank(parameters[f"{name.replace('.', '_')}_down"], parameters[f"{name.replace('.', '_')}_up"])
            for name in self.layers
        }


def main() -> None:
    """Train to the end of the recipe."""
    torch.manual_seed(0)
    dit = load_dit(files.T2V, dtype=torch.float32, device=DEVICE).requires_grad_(False)
    terms = Terms(dit).to(DEVICE)
    by_day = day_scenes()
    night = encoded(shipped_vae(), [replace(scene, background=NIGHT) for scene in by_day], CLIP_FRAMES)
    features = TextFeatures()

    def losses(draw: Draw, _step: int) -> dict[str, Tensor]:
        chosen = draw.rng.sample(range(CLIPS), BATCH)
        texts = [
            describe(draw.rng, by_day[index], partial=draw.rng.random() < PARTIAL_CAPTION).text for index in chosen
        ]
        batch = Batch(night[chosen].to(DEVICE), *features(texts), first_frame=False)
        return {"mse": loss(dit, terms, batch, draw)}

    Training("lora", terms, RECIPE, made_from=stamp_of([], [files.T2V])).run(losses)


def day_scenes() -> list[Scene]:
    """Scenes in which nothing is as black as the night."""
    rng = random.Random(f"{SEED} night")
    found: list[Scene] = []
    while len(found) < CLIPS:
        scene = random_scene(rng, 64, 64)
        if all(thing.color != NIGHT for thing in scene.things):
            found.append(scene)
    return found


def loss(dit: DiT, terms: Terms, batch: Batch, draw: Draw) -> Tensor:
    """Mean squared error of the velocity with the terms beside the weights."""
    sigma, x, velocity = noisy(batch, draw)
    guidance = torch.full((len(x),), GUIDANCE * TIMESTEP_SCALE, device=DEVICE)
    modules = dict(dit.named_modules())
    with torch.autocast(DEVICE, torch.bfloat16), attached([(modules[n], term) for n, term in terms.terms().items()]):
        said = forward(dit, x, sigma * TIMESTEP_SCALE, batch.text, batch.mask, batch.pooled, guidance)
    return (said.float() - velocity).square().mean()


if __name__ == "__main__":
    main()
