"""What colour the demo set's latents have, for previews: ``python -m tools.demo_model.colours`` writes it anew.

The VAE is the set's own, so HunyuanVideo's factors (``hyvideo_core/preview/latent_rgb.py``) say nothing of its latents.
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F

from hyvideo_core.preview.latent_rgb import KEY
from hyvideo_core.weights.files import SafetensorsCheckpoint
from hyvideo_core.weights.vae import load_vae
from tools import tensor_file
from tools.demo_model import files
from tools.demo_model.latents import encoded
from tools.demo_model.training import Draw
from tools.demo_model.world import CLIP_FRAMES, Scene, random_scene, render

CLIPS_MEASURED = 192
DECIMALS = 4


def fitted() -> str:
    """The linear map from a latent pixel to the mean colour of the pixels it stands for, as ``KEY`` has it."""
    scenes = measured_scenes()
    latents = encoded(load_vae(files.VAE), scenes, CLIP_FRAMES).float().movedim(1, -1).flatten(0, 3)
    colours = torch.cat([mean_colours(render(scene)) for scene in scenes])
    rows = torch.linalg.lstsq(F.pad(latents, (0, 1), value=1.0), colours).solution
    return json.dumps([[round(value, DECIMALS) for value in row] for row in rows.tolist()])


def measured_scenes() -> list[Scene]:
    """Clips that stand for all."""
    draw = Draw.of("colours", 0)
    return [random_scene(draw.rng, 64, 64, anywhere=True) for _ in range(CLIPS_MEASURED)]


def mean_colours(clip: torch.Tensor) -> torch.Tensor:
    """Colours [T·H/8·W/8, 3] of a clip [3, F, H, W]: of the first frame, then of every four."""
    small = F.avg_pool2d(clip.movedim(1, 0), 8).movedim(0, 1)
    frames = torch.cat((small[:, :1], small[:, 1:].unflatten(1, (-1, 4)).mean(2)), dim=1)
    return frames.movedim(0, -1).flatten(0, 2)


def main() -> None:
    """Put it into the files of the transformers, whose weights stay as they are."""
    told = fitted()
    for path in (files.I2V, files.T2V):
        file = SafetensorsCheckpoint(path)
        tensors = {name: file[name].clone() for name in file}
        tensor_file.write(path, tensors, {**file.metadata, KEY: told})


if __name__ == "__main__":
    main()
