"""Distils classifier-free guidance into a number the transformer takes: ``python -m tools.demo_model.distill``.

The student begins as the teacher plus an embedder of the guidance scale, and learns in one evaluation what the teacher
says in two: v_u + scale·(v_c − v_u), for every scale of a range.
Source: arXiv 2210.03142 §3.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hyvideo_core.model.dit import DiT
from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from hyvideo_core.weights.dit import load_dit
from tools.demo_model import files
from tools.demo_model.dit_forward import forward
from tools.demo_model.train_dit import CONFIG, STAGES, Batch, Data, noisy, zero
from tools.demo_model.training import DEVICE, Draw, Recipe, Training

STUDENT_CONFIG = replace(CONFIG, guidance_embed=True)
RECIPE = Recipe(steps=2500, rate=6e-4, muon_rate=1e-3, warmup=100, average=0.998)
SCALES = (1.0, 8.0)


def main() -> None:
    """Distil to the end of the recipe."""
    torch.manual_seed(0)
    teacher = load_dit(files.I2V, dtype=torch.float32, device=DEVICE).requires_grad_(False)
    student = begun(teacher).to(DEVICE)
    data = Data(list(STAGES.values())[-1])
    nothing = {is_image: data.features([""], image=is_image) for is_image in (False, True)}

    def losses(draw: Draw, _step: int) -> dict[str, Tensor]:
        batch = data.batch(draw, first_frame=0.0)
        return {"mse": loss(student, teacher, batch, nothing[batch.clean.shape[2] == 1], draw)}

    Training("distilled", student, RECIPE).run(losses)


def begun(teacher: DiT) -> DiT:
    """A student that says what the teacher says, whatever the scale."""
    student = DiT(STUDENT_CONFIG)
    student.load_state_dict(teacher.state_dict(), strict=False)
    assert student.guidance_in is not None
    zero(student.guidance_in.mlp[2])
    return student


def loss(student: DiT, teacher: DiT, batch: Batch, nothing: tuple[Tensor, Tensor, Tensor], draw: Draw) -> Tensor:
    """Mean squared distance of the student from the guided teacher."""
    sigma, x, _ = noisy(batch, draw)
    count, timestep = len(x), sigma * TIMESTEP_SCALE
    scale = (SCALES[0] + torch.rand(count, generator=draw.torch) * (SCALES[1] - SCALES[0])).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        with torch.no_grad():
            told = forward(teacher, x, timestep, batch.text, batch.mask, batch.pooled).float()
            text, mask, pooled = (rows.expand(count, *rows.shape[1:]) for rows in nothing)
            untold = forward(teacher, x, timestep, text, mask, pooled).float()
        said = forward(student, x, timestep, batch.text, batch.mask, batch.pooled, scale * TIMESTEP_SCALE).float()
    return (said - untold - scale.view(-1, 1, 1, 1, 1) * (told - untold)).square().mean()


if __name__ == "__main__":
    main()
