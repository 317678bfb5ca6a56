"""The sampler."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import BlockSwap, Loras
from hyvideo_core.sample import SOLVERS, Guidance, Solver, sample
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.schedule import noised, partial_sigmas
from hyvideo_core.sample.seams import OnBlock
from hyvideo_core.sampling_plan import SamplingPlan, retrying
from hyvideo_core.types import Conditioning, Interval

from . import host, transformer
from .adapt import HostConditioning, from_host_conditioning, host_latent, latent_samples
from .handles import CATEGORY, HyvModel, ModelHandle
from .schedule import denoise_input, shift_input, steps_input

logger = logging.getLogger(__name__)


class HyvSampler(io.ComfyNode):
    """From noise, or from a latent, to a finished latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSampler",
            display_name="HyVideo Sampler",
            category=f"{CATEGORY}/sample",
            description="Makes the video's latent from noise, guided by the prompt.",
            search_aliases=["hunyuan sampler", "ksampler", "flow matching", "HyVideoSampler"],
            inputs=[
                HyvModel.Input(
                    "model",
                    tooltip="From HyVideo Load Model; an image-to-video model by way of HyVideo Image to Video.",
                ),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Latent.Input("latent", tooltip="Size and length, or a video to change (with denoise below 1)."),
                steps_input(),
                shift_input(),
                *_guidance_inputs(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same video.",
                ),
                denoise_input(),
                io.Conditioning.Input("negative", optional=True, tooltip="What to avoid; needed if cfg is above 1."),
                *_advanced_guidance_inputs(),
                *_solver_inputs(),
            ],
            outputs=[io.Latent.Output("latent", tooltip="The finished latent, for HyVideo Decode or VAE Decode.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        positive: HostConditioning,
        latent: dict[str, Any],
        steps: int,
        shift: float,
        guidance: float,
        cfg: float,
        seed: int,
        denoise: float,
        negative: HostConditioning | None = None,
        cfg_start: float = 0.0,
        cfg_end: float = 1.0,
        guidance_rescale: float = 0.0,
        solver: str = "euler",
        sigmas: torch.Tensor | None = None,
        add_noise: bool = True,
        batched_cfg: bool = False,
    ) -> io.NodeOutput:
        prompt, from_prompt = from_host_conditioning(positive, "positive")
        against = None if negative is None else from_host_conditioning(negative, "negative")[0]
        if from_prompt is not None and from_prompt != guidance:
            logger.info("guidance %.2f of the positive prompt replaces the sampler's %.2f", from_prompt, guidance)
            guidance = from_prompt
        if cfg_start > cfg_end:
            raise HyVideoError(
                f"cfg_start is {cfg_start} and cfg_end is {cfg_end}, but cfg must start before it ends. Lower "
                "cfg_start or raise cfg_end."
            )
        run = Sampling(
            positive=prompt,
            negative=against,
            sigmas=partial_sigmas(steps, shift, denoise) if sigmas is None else _checked(sigmas),
            guidance=Guidance(guidance, cfg, Interval(cfg_start, cfg_end), guidance_rescale, batched_cfg),
            solver=SOLVERS[solver],
            seed=seed,
        )
        start = _start(latent, seed, float(run.sigmas[0]) if add_noise else 0.0)
        x = _run(model, start, run, cls.hidden.unique_id)
        return io.NodeOutput(host_latent(x / HUNYUAN_VIDEO_VAE.scaling_factor))


def _guidance_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "guidance",
            default=6.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Embedded guidance of distilled checkpoints: how closely to follow the prompt, at no extra "
            "time. A value that FluxGuidance put into the positive prompt wins.",
        ),
        io.Float.Input(
            "cfg",
            default=1.0,
            min=1.0,
            max=100.0,
            step=0.1,
            tooltip="True guidance against the negative prompt; above 1 each step takes twice the time. Leave "
            "at 1 for distilled checkpoints.",
        ),
    ]


def _advanced_guidance_inputs() -> list[io.Input]:
    ends = [("cfg_start", 0.0, "begins"), ("cfg_end", 1.0, "ends")]
    return [
        *(
            io.Float.Input(
                name,
                default=default,
                min=0.0,
                max=1.0,
                step=0.01,
                advanced=True,
                optional=True,
                tooltip=f"Part of the steps at which cfg {does}.",
            )
            for name, default, does in ends
        ),
        io.Float.Input(
            "guidance_rescale",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            optional=True,
            tooltip="Brings over-saturated results of high cfg back; 0 is off, 0.7 is usual.",
        ),
    ]


def _solver_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "solver",
            options=list(SOLVERS),
            default="euler",
            optional=True,
            tooltip="How a step is made. euler is the original's; dpm++ 2m and unipc look back, for fewer steps; heun "
            "takes two evaluations a step; euler stochastic and lcm add noise, lcm for few-step checkpoints.",
        ),
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="Noise levels from 1 down, from HyVideo Schedule or a native scheduler node. They replace "
            "steps, shift and denoise.",
        ),
        io.Boolean.Input(
            "add_noise",
            default=True,
            advanced=True,
            optional=True,
            tooltip="Off if the latent has its noise already: the second sampler of a schedule that was split.",
        ),
        io.Boolean.Input(
            "batched_cfg",
            default=False,
            advanced=True,
            optional=True,
            tooltip="With cfg above 1, both prompts in one evaluation, with the memory of twice as many clips. The "
            "result is the same but for rounding.",
        ),
    ]


@dataclass(frozen=True)
class Sampling:
    """What ``sample`` takes beside the transformer, the latent and the extensions."""

    positive: Conditioning
    negative: Conditioning | None
    sigmas: torch.Tensor
    guidance: Guidance
    solver: Solver
    seed: int


def _checked(sigmas: torch.Tensor) -> torch.Tensor:
    """Levels of a native node, if they are some of a flow's."""
    levels = sigmas.detach().cpu().float()
    is_falling = levels.ndim == 1 and len(levels) > 1 and bool((levels.diff() < 0).all())
    if not is_falling or not 0 <= float(levels[-1]) < float(levels[0]) <= 1:
        raise HyVideoError(
            f"sigmas are {', '.join(f'{level:.3g}' for level in levels.flatten()[:4].tolist())} …, but two or more "
            "falling levels between 1 and 0 are needed. Use HyVideo Schedule, or a scheduler made for flow models."
        )
    return levels


def _start(latent: dict[str, Any], seed: int, sigma: float) -> torch.Tensor:
    """The latent in model space at the first noise level; noise is drawn on the CPU, the same for every device."""
    samples = latent_samples(latent, "latent")
    if latent.get("noise_mask") is not None:
        raise HyVideoError(
            "latent has a noise mask, but HyVideo Sampler changes the whole latent. Connect the latent without "
            "Set Latent Noise Mask."
        )
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    return noised(samples * HUNYUAN_VIDEO_VAE.scaling_factor, noise, sigma)


def _run(
    model: ModelHandle,
    x: torch.Tensor,
    sampling: Sampling,
    node_id: str | None,
) -> torch.Tensor:
    # Whatever is wrong with the inputs is said before 25 GB are read for them.
    config = transformer.checked_config(model)
    check_run(config, x, sampling.positive, sampling.negative, sampling.guidance, model.extensions)
    hosted = transformer.loaded(model, (len(x) * sampling.guidance.prompts_at_once, *x.shape[1:]))
    extensions = [
        OnBlock(check=host.check_interrupt),
        BlockSwap(waiting=hosted.waiting),
        Loras(loras=model.loras),
        *model.extensions,
    ]

    def attempt(plan: SamplingPlan) -> torch.Tensor:
        dit = transformer.following(hosted, plan, model)
        run = sample(dit, x, **vars(sampling), extensions=extensions)
        progress = host.Progress(len(sampling.sigmas) - 1, "step", node_id)
        with transformer.peak_reported(hosted, plan), closing(run):  # type: ignore[type-var]
            for step in run:
                progress.update(step.index + 1)
        progress.close("sampling")
        return step.x

    return retrying(transformer.plan_of(hosted), attempt, logger.warning)
