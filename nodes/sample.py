"""The sampler."""

from __future__ import annotations

import logging
from contextlib import closing
from functools import partial
from typing import Any

import comfy.sample
import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import HyVideoError
from hyvideo_core.model.dit import DiT
from hyvideo_core.plan import dit_activation_bytes
from hyvideo_core.sample import Guidance, sample
from hyvideo_core.sample.schedule import noised, partial_sigmas
from hyvideo_core.sample.seams import OnBlock
from hyvideo_core.types import Conditioning, Interval
from hyvideo_core.weights import detect_dit, load_dit, parameter_count

from . import host
from .adapt import HostConditioning, from_host_conditioning, host_latent, latent_samples
from .handles import CATEGORY, HyvModel, ModelHandle

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
                HyvModel.Input("model", tooltip="From HyVideo Load Model."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Latent.Input("latent", tooltip="Size and length, or a video to change (with denoise below 1)."),
                io.Int.Input(
                    "steps",
                    default=30,
                    min=1,
                    max=1000,
                    tooltip="More is finer and slower; 30 to 50. Fast checkpoints take 6.",
                ),
                io.Float.Input(
                    "shift",
                    default=7.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="More steps go to the coarse structure when higher: 7 to 9, and 17 for Fast ones.",
                ),
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
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same video.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the latent to replace: 1 starts from pure noise, lower keeps more of it.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="What to avoid; needed if cfg is above 1."),
                io.Float.Input(
                    "cfg_start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    optional=True,
                    tooltip="Part of the steps at which cfg begins.",
                ),
                io.Float.Input(
                    "cfg_end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    optional=True,
                    tooltip="Part of the steps at which cfg ends.",
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
    ) -> io.NodeOutput:
        prompt, from_prompt = from_host_conditioning(positive, "positive")
        against = None if negative is None else from_host_conditioning(negative, "negative")[0]
        if from_prompt is not None and from_prompt != guidance:
            logger.info("guidance %.2f of the positive prompt replaces the sampler's %.2f", from_prompt, guidance)
            guidance = from_prompt
        settings = Guidance(guidance, cfg, Interval(cfg_start, cfg_end), guidance_rescale)
        sigmas = partial_sigmas(steps, shift, denoise)
        start = _start(latent, seed, float(sigmas[0]))
        x = _run(model, start, prompt, against, sigmas, settings, cls.hidden.unique_id)
        return io.NodeOutput(host_latent(x / HUNYUAN_VIDEO_VAE.scaling_factor))


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
    positive: Conditioning,
    negative: Conditioning | None,
    sigmas: torch.Tensor,
    guidance: Guidance,
    node_id: str | None,
) -> torch.Tensor:
    dit = _dit(model, x)
    steps = len(sigmas) - 1
    progress = host.Progress(steps, "step", node_id)
    run = sample(
        dit,
        x,
        positive,
        negative=negative,
        sigmas=sigmas,
        guidance=guidance,
        extensions=[OnBlock(check=host.check_interrupt)],
    )
    with closing(run):
        for step in run:
            x = step.x
            progress.update(step.index + 1)
    progress.close("sampling")
    return x


def _dit(handle: ModelHandle, x: torch.Tensor) -> DiT:
    device = host.transformer_device()
    dtype = host.dtype_of(handle.dtype, device, on_gpu="bfloat16", on_cpu="bfloat16")
    config = detect_dit(handle.file.path)
    module = host.loaded(
        "transformer",
        (handle.file, dtype),
        partial(_read, handle, dtype),
        device=device,
        size_bytes=parameter_count(handle.file.path) * dtype.itemsize,
        activation_bytes=dit_activation_bytes(config, tuple(x.shape), dtype.itemsize),
    )
    assert isinstance(module, DiT)
    module.attention = handle.attention
    return module


def _read(handle: ModelHandle, dtype: torch.dtype, device: torch.device) -> DiT:
    return load_dit(handle.file.path, dtype=dtype, device=device)
