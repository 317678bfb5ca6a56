"""The sampler."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError
from hyvideo_core.model import DiT
from hyvideo_core.sample import SOLVERS, Guidance, Step, sample
from hyvideo_core.sample.checkpoint import Checkpoint, fingerprint
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.schedule import noised, partial_sigmas
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import Conditioning, Interval

from . import pace, running, transformer
from .adapt import HostConditioning, from_host_conditioning
from .handles import CATEGORY, HyvModel, ModelHandle
from .resume import Saved, identity
from .schedule import checked_sigmas, denoise_input, shift_input, sigmas_input, steps_input

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
                io.Latent.Input(
                    "latent",
                    tooltip="Size and length, or a video to change (with denoise below 1). With a noise mask, from Set "
                    "Latent Noise Mask, only what is white is made anew.",
                ),
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
                _checkpoint_input(),
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
        checkpoint_every: int = 0,
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
        if not add_noise:
            if latent.get("noise_mask") is not None:
                raise HyVideoError(
                    "latent has a noise mask and add_noise is off, but what the mask keeps is known only where the "
                    "sampler adds the noise. Use one sampler for all steps, or take the mask away."
                )
            model = running.keeping_noise(model, "add_noise is off, the latent has its noise")
        run = Sampling(
            positive=prompt,
            negative=against,
            sigmas=partial_sigmas(steps, shift, denoise) if sigmas is None else checked_sigmas(sigmas),
            guidance=Guidance(guidance, cfg, Interval(cfg_start, cfg_end), guidance_rescale, batched_cfg),
            solver=solver,
            seed=seed,
            numbers=running.clip_numbers(latent),
        )
        x = running.model_space(latent)
        if add_noise:
            noise = running.noise_for(latent, seed)
            model = running.with_mask(model, latent, noise)
            x = noised(x, noise, float(run.sigmas[0]))
        x = sampled(model, x, run, cls.hidden.unique_id, checkpoint_every)
        return io.NodeOutput(running.finished(x, latent))


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
        sigmas_input("steps, shift and denoise"),
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


def _checkpoint_input() -> io.Int.Input:
    return io.Int.Input(
        "checkpoint_every",
        default=0,
        min=0,
        max=1000,
        advanced=True,
        optional=True,
        tooltip="Above 0, every so many steps the run is saved in the output folder (hyvideo_checkpoints). Queue the "
        "same job again after a crash or a stop, and it goes on from there to the very same result. The file is "
        "deleted when the run is finished. For runs that take hours.",
    )


@dataclass(frozen=True)
class Sampling:
    """What ``sample`` takes beside the transformer, the latent and the extensions; ``solver`` by its name."""

    positive: Conditioning
    negative: Conditioning | None
    sigmas: torch.Tensor
    guidance: Guidance
    solver: str
    seed: int
    numbers: Sequence[int] | None = None


def sampled(
    model: ModelHandle, x: torch.Tensor, sampling: Sampling, node_id: str | None, checkpoint_every: int = 0
) -> torch.Tensor:
    """The latent after all steps of a run that begins with x [B, C, T, H, W], both in model space."""
    # Whatever is wrong with the inputs is said before 25 GB are read for them.
    config = transformer.checked_config(model)
    check_run(config, x, sampling.positive, sampling.negative, sampling.guidance, model.extensions)
    options = {**vars(sampling), "solver": SOLVERS[sampling.solver]}

    shape = (len(x) * sampling.guidance.prompts_at_once, *x.shape[1:])

    def begin(dit: DiT, extensions: Sequence[Extension], resume: Checkpoint | None) -> Iterator[Step]:
        return sample(dit, x, **options, extensions=extensions, resume=resume)

    saved = None
    if checkpoint_every:
        saved = Saved(fingerprint(x, **vars(sampling), identity=identity(model)), checkpoint_every)
    style = pace.style(model, sampling.guidance, sampling.solver)
    steps = range(len(sampling.sigmas) - 1)
    return running.run(model, shape, steps, begin, node_id, saved=saved, style=style)
