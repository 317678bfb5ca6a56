"""Trains the VAE on clips of the world: ``python -m tools.demo_model.train_vae``.

Small crops teach the convolutions, whole clips the group norms and the attention, whose statistics depend on size.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hyvideo_core.configs import VAEConfig
from hyvideo_core.vae import VAE
from hyvideo_core.vae.blocks import ResnetBlock
from tools.demo_model import vae_forward
from tools.demo_model.latents import channels_last
from tools.demo_model.training import DEVICE, Draw, Recipe, Training, stack
from tools.demo_model.world import CLIP_FRAMES, EDGE_PX, Scene, random_scene, render

CONFIG = VAEConfig(block_out_channels=(16, 32, 32, 32), norm_groups=4)


@dataclass(frozen=True)
class Stage:
    """A part of the training: each begins at the averaged weights of the one before.

    ``kl_weight`` weighs the latent's divergence from a normal distribution: enough to keep it smooth. From the part
    ``whole_from`` (0–1) of the stage on, only whole clips are seen. Objects have edges of ``edge_px`` pixels. Batches
    are small and therefore noisy: much higher rates end in worse weights.
    """

    recipe: Recipe
    kl_weight: float = 1e-4
    whole_from: float = 0.7
    edge_px: float = 1.0


STAGES = {
    "vae": Stage(Recipe(steps=2400, rate=8e-4, average=0.998)),
    "vae_fine": Stage(Recipe(steps=4200, rate=3e-4, warmup=50, average=0.998)),
    "vae_sharp": Stage(Recipe(steps=4000, rate=3e-4, warmup=50, average=0.998), kl_weight=3e-5, whole_from=0.4),
    "vae_soft": Stage(Recipe(steps=2000, rate=2e-4, warmup=50, average=0.998), whole_from=0.2, edge_px=EDGE_PX),
}
CROP_PX = 32
#: The VAE sees objects anywhere.
scene_of = partial(random_scene, anywhere=True)
L1_WEIGHT = 0.1


def main() -> None:
    """Train to the end of the recipe."""
    torch.manual_seed(0)
    vae = channels_last(initialised(VAE(CONFIG)).to(DEVICE))
    for name, stage in STAGES.items():
        Training(name, vae, stage.recipe).run(partial(step_losses, vae, stage))


def step_losses(vae: VAE, stage: Stage, draw: Draw, step: int) -> dict[str, Tensor]:
    """The losses of one step of a stage."""
    only_whole = step > stage.whole_from * stage.recipe.steps
    clips = batch(draw, only_whole=only_whole, edge_px=stage.edge_px)
    return losses(vae, clips, draw.torch, stage.kl_weight)


def initialised(vae: VAE) -> VAE:
    """Weights that keep the variance, and residual blocks that add nothing yet: five times as fast as torch's own."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, ResnetBlock):
            nn.init.zeros_(module.conv2.conv.weight)
    return vae


def batch(draw: Draw, *, only_whole: bool, edge_px: float = EDGE_PX) -> Tensor:
    """Clips [B, 3, T, H, W] of one of several sizes, or crops of them."""
    rng = draw.rng
    kind = rng.choices(("crop", "square", "wide", "image"), weights=(6, 1, 1, 1))[0]
    if kind == "crop" and only_whole:
        kind = rng.choice(("square", "wide"))
    if kind == "image":
        size = rng.choice(((64, 64), (96, 48)))
        return stack(render(scene_of(rng, *size), 1, edge_px) for _ in range(12))
    if kind == "crop":
        frames = rng.choice((9, 17))
        return stack(crop(rng, scene_of(rng, 64, 64), frames, edge_px) for _ in range(8 * CLIP_FRAMES // frames))
    size = (64, 64) if kind == "square" else (96, 48)
    frames = rng.choice((9, 17))
    return stack(render(scene_of(rng, *size), frames, edge_px) for _ in range(2 * CLIP_FRAMES // frames))


def crop(rng: random.Random, scene: Scene, frames: int, edge_px: float) -> Tensor:
    """A window on the clip that shows a part of one object in one of its frames."""
    clip = render(scene, frames, edge_px)
    x, y, radius = rng.choice(scene.things).path(frames)
    frame = rng.randrange(frames)
    left, top = (int(float(at[frame]) + float(radius[frame]) * rng.uniform(-1, 1)) - CROP_PX // 2 for at in (x, y))
    left, top = (max(0, min(start, 64 - CROP_PX)) for start in (left, top))
    return clip[:, :, top : top + CROP_PX, left : left + CROP_PX]


def losses(vae: VAE, clips: Tensor, generator: torch.Generator, kl_weight: float) -> dict[str, Tensor]:
    """Distance of the reconstruction, and of the latent from a normal distribution."""
    device = vae.quant_conv.weight.device
    # oneDNN's bfloat16 convolution gives weight gradients of NaN where there are few frames.
    fast = partial(torch.autocast, device.type, torch.bfloat16, enabled=clips.shape[2] >= 5)
    clips = clips.to(device, memory_format=torch.channels_last_3d)
    with fast():
        posterior = vae_forward.encode(vae, clips)
    moments = posterior.moments.float()
    mean, logvar = moments.chunk(2, dim=1)
    logvar = logvar.clamp(-12.0, 4.0)
    latent = mean + torch.randn(mean.shape, generator=generator).to(device) * (0.5 * logvar).exp()
    with fast():
        rebuilt = vae_forward.decode(vae, latent)
    error = rebuilt.float() - clips
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return {
        "mse": error.square().mean(),
        "l1": L1_WEIGHT * error.abs().mean(),
        "kl": kl_weight * divergence,
    }


if __name__ == "__main__":
    main()
