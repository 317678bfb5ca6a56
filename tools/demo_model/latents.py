"""The clips that the transformer learns from, as latents: ``python -m tools.demo_model.latents``.

Clip i of a geometry is made from the seed, the geometry and i alone, so only the latents are stored; the scenes are
drawn again. Encoding them once takes minutes, in every training step it would take most of the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hyvideo_core.vae import VAE
from hyvideo_core.weights.vae import load_vae
from tools.demo_model import files, vae_forward, world
from tools.demo_model.training import DEVICE, SEED, TRAINING, stack
from tools.demo_model.world import CLIP_FRAMES, Scene, random_scene, render
from tools.environment import stamp_of

ENCODED_AT_ONCE = 16


@dataclass(frozen=True)
class Geometry:
    """Clips of one size, how many there are for training, and whether objects are anywhere or near their homes."""

    name: str
    width: int
    height: int
    frames: int
    count: int
    anywhere: bool = False

    def scene(self, index: int) -> Scene:
        """Scene number ``index``."""
        rng = random.Random(f"{SEED} {self.name} {index}")
        return random_scene(rng, self.width, self.height, anywhere=self.anywhere)

    @property
    def file(self) -> Path:
        """Where the latents are kept."""
        return TRAINING / f"latents_{self.name}.pt"


GEOMETRIES = (
    Geometry("square", 64, 64, CLIP_FRAMES, 12000),
    Geometry("wide", 96, 48, CLIP_FRAMES, 6000),
    Geometry("square_image", 64, 64, 1, 4000),
    Geometry("wide_image", 96, 48, 1, 2000),
)
ANYWHERE = tuple(replace(each, name=f"{each.name}_anywhere", anywhere=True) for each in GEOMETRIES)

Decorate = Callable[[Scene], Scene]


def encoded(vae: VAE, scenes: list[Scene], frames: int) -> Tensor:
    """Scaled latents [N, 16, t, h, w] of scenes of one size, as the transformer sees them."""
    parts, device = [], vae.quant_conv.weight.device
    for start in range(0, len(scenes), ENCODED_AT_ONCE):
        clips = stack(render(scene, frames) for scene in scenes[start : start + ENCODED_AT_ONCE]).to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            mode = vae_forward.encode(vae, clips.contiguous(memory_format=torch.channels_last_3d)).mode()
        parts.append(mode.float().cpu() * vae.scaling_factor)
    return torch.cat(parts)


def channels_last(vae: VAE) -> VAE:
    """The layout that convolutions are fastest in."""
    for parameter in vae.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


def shipped_vae() -> VAE:
    """The VAE as it is shipped, for encoding many clips."""
    return channels_last(load_vae(files.VAE, device=DEVICE))


def latents(geometry: Geometry) -> Tensor:
    """The latents of a geometry [N, 16, t, h, w] in half precision, encoded if none of this VAE and world are there."""
    stamp = stamp_of([str(geometry)], [files.VAE, Path(world.__file__)])
    if geometry.file.is_file():
        kept = torch.load(geometry.file, weights_only=True)
        if kept["stamp"] == stamp:
            return kept["latents"]
    scenes = [geometry.scene(index) for index in range(geometry.count)]
    TRAINING.mkdir(parents=True, exist_ok=True)
    found = encoded(shipped_vae(), scenes, geometry.frames).half()
    torch.save({"stamp": stamp, "latents": found}, geometry.file)
    return found


def main() -> None:
    """Encode what is missing."""
    for geometry in (*ANYWHERE, *GEOMETRIES):
        found = latents(geometry)
        print(
            geometry.name,
            list(found.shape),
            f"mean {found.float().mean():.3f}, std {found.float().std():.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
