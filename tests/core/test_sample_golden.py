"""Schedules, trajectories and whole sampling loops reproduce the original's."""

from __future__ import annotations

import re

import pytest
import torch
from dit_data import config_of

from golden_data import GOLDEN, assert_close, golden, of_case
from hyvideo_core.sample import Guidance, flow_sigmas, sample
from hyvideo_core.sample.schedule import TIMESTEP_SCALE
from hyvideo_core.sample.solvers import Estimate, euler
from hyvideo_core.types import Conditioning
from hyvideo_core.weights import load_dit, load_vae

SCHEDULER, _ = golden("scheduler")
PIPELINE, META = golden("pipeline_t2v")
LATENTS = {"rel": 3e-5, "max_abs": 2e-4}


def schedule_of(name: str) -> torch.Tensor:
    """The sigmas of a case such as ``steps30_shift7_reverse1``."""
    steps, shift, reverse = map(int, re.findall(r"\d+", name))
    return flow_sigmas(steps, shift, reverse=bool(reverse))


@pytest.mark.parametrize("name", sorted(key.removesuffix("/sigmas") for key in SCHEDULER if key.endswith("/sigmas")))
def test_sigmas_and_timesteps_are_the_originals(name: str) -> None:
    sigmas = schedule_of(name)
    assert sigmas.dtype == torch.float32
    assert_close(sigmas, SCHEDULER[f"{name}/sigmas"], rel=1e-6, max_abs=1e-6)
    assert_close(TIMESTEP_SCALE * sigmas[:-1], SCHEDULER[f"{name}/timesteps"], rel=1e-6, max_abs=1e-3)


@pytest.mark.parametrize("name", sorted({key.split("/")[1] for key in SCHEDULER if key.startswith("traj/steps")}))
def test_euler_follows_the_originals_trajectory(name: str) -> None:
    x, c, sigmas = SCHEDULER["traj/x_init"], SCHEDULER["traj/c"], schedule_of(name)
    states = []
    for sigma, sigma_next in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        t = TIMESTEP_SCALE * torch.tensor(sigma)
        velocity = torch.tanh(0.7 * x + c) * (0.5 + t / 1000) - 0.3 * x * torch.cos(3 * t / 1000) + 0.2 * c
        states.append(x := euler(Estimate(sigma, x, velocity, x), sigma_next))
    assert_close(states[0], SCHEDULER[f"traj/{name}/after_step1"], rel=1e-5, max_abs=1e-4)
    assert_close(states[-1], SCHEDULER[f"traj/{name}/final"], rel=1e-5, max_abs=1e-4)


def conditioning(data: dict[str, torch.Tensor], start: str = "") -> Conditioning:
    return Conditioning(data[f"{start}text_states"], data[f"{start}text_states_2"], data[f"{start}text_mask"])


def run_case(case: str) -> list[torch.Tensor]:
    """The latents after every step of a reference pipeline."""
    data, stated = of_case(PIPELINE, case), META["cases"][case]
    config = config_of(golden("dit_weights")[1], guidance_embed=stated["guidance_embed"])
    guidance = Guidance(
        embedded=stated["embedded_guidance_scale"] or 1.0,
        cfg=stated["cfg_scale"],
        rescale=stated["guidance_rescale"],
    )
    steps = sample(
        load_dit(GOLDEN / "dit_weights.safetensors", config=config, dtype=torch.float32),
        data["noise"],
        conditioning(data),
        sigmas=flow_sigmas(stated["steps"], stated["shift"], stated["reverse"]),
        negative=conditioning(data, "neg_"),
        guidance=guidance,
    )
    return [step.x for step in steps]


@pytest.mark.parametrize("case", META["cases"])
def test_whole_sampling_loops_give_the_originals_latents(case: str) -> None:
    data, latents = of_case(PIPELINE, case), run_case(case)
    assert len(latents) == META["cases"][case]["steps"]
    for found, expected in zip(latents, data["latents_after_steps"], strict=True):
        assert_close(found, expected, **LATENTS)
    assert_close(latents[-1], data["latents_final"], **LATENTS)


def test_the_decoded_video_is_the_originals() -> None:
    vae = load_vae(GOLDEN / "vae_weights.safetensors")
    decoded = vae.decode(run_case("t2v_distilled")[-1] / vae.config.scaling_factor)
    assert_close((decoded / 2 + 0.5).clamp(0, 1), PIPELINE["t2v_distilled/video"], rel=3e-5, max_abs=2e-4)
