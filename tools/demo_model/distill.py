"""Distils classifier-free guidance into a number the transformer takes: ``python -m tools.demo_model.distill``.

The student begins as the teacher plus an embedder of the guidance, and learns in one evaluation what the teacher says
in two: v_u + cfg·(v_c − v_u), for every guidance of a range, each of which stands for a cfg (``cfg_of``).
Source: arXiv 2210.03142 §3.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from hyvideo_core.model.dit import DiT
from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from hyvideo_core.weights.dit import load_dit
from tools.demo_model import files
from tools.demo_model.dit_forward import compiled, forward
from tools.demo_model.train_dit import CONFIG, STAGES, Batch, Data, noisy, zero
from tools.demo_model.training import DEVICE, Draw, Recipe, Training
from tools.environment import stamp_of

STUDENT_CONFIG = replace(CONFIG, guidance_embed=True)
RECIPE = Recipe(steps=2500, rate=6e-4, muon_rate=1e-3, warmup=100, average=0.998)
GUIDANCES = (1.0, 8.0)
#: A cfg at which the teacher obeys more than at 1 and at 5 (the table of quality), and the guidance that is to mean
#: it: the default of the real model.
BEST_CFG, USUAL_GUIDANCE = 3.0, 6.0


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

    Training("distilled", student, RECIPE, made_from=stamp_of([], [files.I2V])).run(losses)


def begun(teacher: DiT) -> DiT:
    """A student that says what the teacher says, whatever the scale."""
    student = DiT(STUDENT_CONFIG)
    student.load_state_dict(teacher.state_dict(), strict=False)
    assert student.guidance_in is not None
    zero(student.guidance_in.mlp[2])
    return student


def cfg_of(guidance: Tensor) -> Tensor:
    """The cfg that a guidance stands for: 1 is 1, and ``USUAL_GUIDANCE`` is ``BEST_CFG``."""
    return 1 + (guidance - 1) * (BEST_CFG - 1) / (USUAL_GUIDANCE - 1)


def loss(student: DiT, teacher: DiT, batch: Batch, nothing: tuple[Tensor, Tensor, Tensor], draw: Draw) -> Tensor:
    """Mean squared distance of the student from the guided teacher."""
    sigma, x, _ = noisy(batch, draw)
    count, timestep = len(x), sigma * TIMESTEP_SCALE
    low, high = GUIDANCES
    guidance = (low + torch.rand(count, generator=draw.torch) * (high - low)).to(DEVICE)
    run, told_text = partial(forward, blocks=compiled()), (batch.text, batch.mask, batch.pooled)
    with torch.autocast(DEVICE, torch.bfloat16):
        with torch.no_grad():
            told = run(teacher, x, timestep, *told_text).float()
            untold = run(teacher, x, timestep, *(rows.expand(count, *rows.shape[1:]) for rows in nothing)).float()
        said = run(student, x, timestep, *told_text, guidance * TIMESTEP_SCALE).float()
    return (said - untold - cfg_of(guidance).view(-1, 1, 1, 1, 1) * (told - untold)).square().mean()


if __name__ == "__main__":
    main()
