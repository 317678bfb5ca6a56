"""The old sampler: from width, height and frames, from a video, or from an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import GeometryError, HyVideoError
from hyvideo_core.extensions import FirstFrame, ImageConcat, ImageToVideo, Keyframes, Riflex
from hyvideo_core.extensions.image_concat import a_frame_later
from hyvideo_core.sample import Guidance
from hyvideo_core.sample.noise import first_noise, of_length
from hyvideo_core.sample.schedule import noised
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import SPATIAL_COMPRESSION, Geometry

from .. import host, running, transformer
from ..adapt import host_latent, latent_samples
from ..handles import ModelHandle
from ..sample import Sampling, sampled
from . import features, settings, sockets
from .features import OldRun
from .sampler_inputs import enhance_input, model_inputs, option_input, seed_input, step_inputs
from .sockets import CATEGORY, OldEmbeds, result, unused

SCALE = HUNYUAN_VIDEO_VAE.scaling_factor
#: Sockets of options, in their order.
OPTIONS = ("stg_args", "context_options", "feta_args", "teacache_args", "loop_args", "fresca_args", "slg_args")


class HyVideoSampler(io.ComfyNode):
    """Now HyVideo Sampler, with HyVideo Empty Latent, HyVideo Image to Video, and a node for each option."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoSampler",
            display_name="HunyuanVideo Sampler",
            category=CATEGORY,
            description="Old: use HyVideo Sampler, with HyVideo Empty Latent before it.",
            is_deprecated=True,
            inputs=[
                *model_inputs(),
                *(
                    io.Int.Input(name, default=512, min=64, max=4096, step=16, tooltip="Pixels, a multiple of 16.")
                    for name in ("width", "height")
                ),
                io.Int.Input("num_frames", default=49, min=1, max=1024, step=4, tooltip="Frames, 4n+1."),
                *step_inputs(6.0, 9.0, 0.0, 1000.0),
                seed_input(),
                unused(io.Boolean, "force_offload", default=True),
                *_source_inputs(),
                *_option_inputs(),
            ],
            outputs=[io.Latent.Output("samples")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        hyvid_embeds: OldEmbeds,
        width: int,
        height: int,
        num_frames: int,
        steps: int,
        embedded_guidance_scale: float,
        flow_shift: float,
        seed: int,
        samples: dict[str, Any] | None = None,
        image_cond_latents: dict[str, Any] | None = None,
        denoise_strength: float = 1.0,
        scheduler: str = "FlowMatchDiscreteScheduler",
        riflex_freq_index: int = 0,
        i2v_mode: str = "dynamic",
        mask: torch.Tensor | None = None,
        **inputs: Any,
    ) -> io.NodeOutput:
        geometry = Geometry(settings.aligned(width), settings.aligned(height), num_frames)
        sigmas = settings.levels(steps, flow_shift, denoise_strength)
        run, cfg = OldRun(len(sigmas) - 1, seed), hyvid_embeds.cfg
        options = {name: inputs[name] for name in OPTIONS if inputs.get(name) is not None}
        image = _image(model, image_cond_latents, i2v_mode == "stability")
        first = _leapfusion(samples, geometry, denoise_strength)
        added = [image, first, *(option.feature(run) for option in (cfg, *options.values()))]
        if riflex_freq_index and "context_options" not in options:
            # Windows are no longer than the model's own length, and the old sampler left them alone.
            added.append(Riflex(k=riflex_freq_index, above_frames=0))
        model = model.extended(*filter(None, added))
        clip = None if first is not None else _clip(samples, mask, geometry, denoise_strength, seed)
        if clip is not None and isinstance(image, ImageConcat):
            clip = a_frame_later(clip)
        model, x = _start(model, clip, mask, geometry, float(sigmas[0]), seed)
        sampling = Sampling(
            positive=hyvid_embeds.positive,
            negative=hyvid_embeds.negative,
            sigmas=sigmas,
            guidance=_guidance(cfg, embedded_guidance_scale, run, "slg_args" in options),
            solver=settings.SCHEDULERS[scheduler],
            seed=seed,
        )
        x = sampled(model, x, sampling, cls.hidden.unique_id)
        if isinstance(image, ImageConcat | Keyframes):
            # The old sampler left it out wherever the image was beside the latent.
            x = x[:, :, 1:]
        return result(host_latent(x / SCALE), remarks=_remarks(cfg, options, scheduler))


def _source_inputs() -> list[io.Input]:
    return [
        io.Latent.Input(
            "samples",
            optional=True,
            tooltip="A video to change, with denoise_strength below 1; or one latent frame, for a Leapfusion LoRA.",
        ),
        io.Latent.Input(
            "image_cond_latents",
            optional=True,
            tooltip="The first frame, from HunyuanVideo Encode; or both ends, from HyVideo Encode Keyframes.",
        ),
        io.Float.Input(
            "denoise_strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Which part of the steps is made, the last ones.",
        ),
    ]


def _option_inputs() -> list[io.Input]:
    return [
        option_input(sockets.Stg, "stg_args", "HunyuanVideo STG"),
        option_input(sockets.Context, "context_options", "HunyuanVideo Context Options"),
        enhance_input(),
        option_input(sockets.Tea, "teacache_args", "HunyuanVideo TeaCache"),
        io.Combo.Input(
            "scheduler",
            options=list(settings.SCHEDULERS),
            default="FlowMatchDiscreteScheduler",
            optional=True,
            tooltip="solver of HyVideo Sampler.",
        ),
        io.Int.Input(
            "riflex_freq_index",
            default=0,
            min=0,
            max=1000,
            step=1,
            optional=True,
            tooltip="k of HyVideo RIFLEx; 0 is off.",
        ),
        io.Combo.Input(
            "i2v_mode",
            options=["stability", "dynamic"],
            default="dynamic",
            optional=True,
            tooltip="stability of HyVideo Image to Video: on or off.",
        ),
        option_input(sockets.Loop, "loop_args", "HyVideo Loop Args"),
        option_input(sockets.Fresca, "fresca_args", "HunyuanVideo Fresca"),
        option_input(sockets.Slg, "slg_args", "HunyuanVideo SLG"),
        io.Mask.Input("mask", optional=True, tooltip="What is white is made anew, the rest is that of samples."),
    ]


def _remarks(cfg: features.Cfg, options: Mapping[str, features.Option], scheduler: str) -> list[str]:
    """What is done another way than it was."""
    found = [remark for option in options.values() for remark in option.remarks()]
    if cfg.cfg <= 1 and options.keys() & {"fresca_args", "slg_args"}:
        found.append("fresca_args and slg_args act on cfg, which is off: connect HunyuanVideo CFG with cfg above 1.")
    if scheduler in settings.NEARLY:
        found.append(f"scheduler {scheduler} has no counterpart: {settings.SCHEDULERS[scheduler]} is nearest.")
    return found


def _guidance(cfg: features.Cfg, embedded: float, run: OldRun, has_slg: bool) -> Guidance:
    """Guidance of a run. Blocks can be left out of the negative prompt's evaluation if it is alone."""
    return Guidance(embedded, max(1.0, cfg.cfg), run.part(cfg.start, cfg.end), batched=cfg.batched and not has_slg)


def _image(model: ModelHandle, latent: dict[str, Any] | None, is_stable: bool) -> Extension | None:
    """What gives the model its image, or the video's two ends, if there is one."""
    if latent is None:
        return None
    image = running.model_space(latent, "image_cond_latents")
    if model.kind == transformer.TOKEN_REPLACE:
        return ImageToVideo(image=image, stability=is_stable)
    if model.kind in (transformer.LATENT_CONCAT, transformer.SKYREELS):
        return ImageConcat(image=image, marked=model.kind == transformer.LATENT_CONCAT, stability=is_stable)
    if image.shape[2] == 1:
        raise HyVideoError(
            f"image_cond_latents is connected, but {model.file.path.name} is taken for a text-to-video model. If it is "
            "for image-to-video v2, its file's name must hold 'i2v'; if not, take image_cond_latents away."
        )
    return Keyframes(clip=image)


def _leapfusion(samples: dict[str, Any] | None, geometry: Geometry, denoise: float) -> Extension | None:
    """What holds the first frame of a video at the one frame of ``samples``, if that is what it has."""
    if samples is None or geometry.frames == 1:
        return None
    image = running.model_space(samples, "samples")
    if image.shape[2] != 1:
        return None
    if denoise < 1:
        raise HyVideoError(
            f"samples is one latent frame, which a Leapfusion LoRA begins a video with, but denoise_strength is "
            f"{denoise}. Set it to 1, or num_frames to 1 to change an image."
        )
    return FirstFrame(image=image)


def _clip(
    samples: dict[str, Any] | None, mask: torch.Tensor | None, geometry: Geometry, denoise: float, seed: int
) -> torch.Tensor | None:
    """The video [B, C, T, H, W] to change, in model space, as long as asked for; None if the run begins with noise.

    Raises ``HyVideoError`` for none where one is needed, ``GeometryError`` for another size.
    """
    if samples is None and (denoise < 1 or mask is not None):
        wanted = f"denoise_strength is {denoise}" if mask is None else "there is a mask"
        raise HyVideoError(
            f"samples is not connected, but {wanted}. Connect the video to change, or set denoise_strength to 1 "
            "without a mask."
        )
    if samples is None or (denoise >= 1 and mask is None):
        return None
    clip = latent_samples(samples, "samples").float() * SCALE
    frames, *size = geometry.latent_shape
    if list(clip.shape[3:]) != size:
        height, width = (side * SPATIAL_COMPRESSION for side in clip.shape[3:])
        raise GeometryError(
            f"samples is {width}×{height} px, but width and height are {geometry.width} and {geometry.height}. Make "
            "them the same."
        )
    return of_length(clip, frames, seed)


def _start(
    model: ModelHandle,
    clip: torch.Tensor | None,
    mask: torch.Tensor | None,
    geometry: Geometry,
    sigma: float,
    seed: int,
) -> tuple[ModelHandle, torch.Tensor]:
    """What a run begins with, and the model with what the mask keeps of the clip.

    Noise is drawn in the dtype of computation, as it was: the same seed gives the same composition.
    """
    shape = (1 if clip is None else len(clip), HUNYUAN_VIDEO_VAE.latent_channels, *geometry.latent_shape)
    noise = first_noise(shape, seed, host.DTYPES[model.dtype])
    if mask is not None and clip is not None:
        model = running.with_mask(model, {"samples": clip / SCALE, "noise_mask": mask}, noise)
    return model, noise if clip is None else noised(clip, noise, sigma)
