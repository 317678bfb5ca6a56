"""Old samplers: from width, height and frames, from a video, from an image, and by inversion."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import GeometryError, HyVideoError
from hyvideo_core.extensions import FirstFrame, ImageConcat, ImageToVideo, Keyframes, RFInversion
from hyvideo_core.model import DiT
from hyvideo_core.sample import SOLVERS, Guidance, Step, sample
from hyvideo_core.sample.checkpoint import Checkpoint
from hyvideo_core.sample.inversion import check_inversion, invert
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.schedule import flow_sigmas, noised
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import Conditioning, Geometry

from .. import host, running, transformer
from ..adapt import host_latent, latent_samples
from ..handles import ModelHandle
from . import settings, sockets
from .sockets import CATEGORY, result, unused

SCALE = HUNYUAN_VIDEO_VAE.scaling_factor


def _model_inputs() -> list[io.Input]:
    return [
        sockets.Model.Input("model", tooltip="From HunyuanVideo Model Loader."),
        sockets.Embeds.Input("hyvid_embeds", tooltip="The encoded prompt."),
    ]


def _seed_input() -> io.Input:
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="The same seed, the same video.")


def _step_inputs(guidance: float, shift: float, least: float, most: float) -> list[io.Input]:
    return [
        io.Int.Input("steps", default=30, min=1, tooltip="More is finer and slower."),
        io.Float.Input(
            "embedded_guidance_scale",
            default=guidance,
            min=0.0,
            max=30.0,
            step=0.01,
            tooltip="guidance of HyVideo Sampler.",
        ),
        io.Float.Input(
            "flow_shift", default=shift, min=least, max=most, step=0.01, tooltip="shift of HyVideo Sampler."
        ),
    ]


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
                *_model_inputs(),
                *(
                    io.Int.Input(name, default=512, min=64, max=4096, step=16, tooltip="Pixels, a multiple of 16.")
                    for name in ("width", "height")
                ),
                io.Int.Input("num_frames", default=49, min=1, max=1024, step=4, tooltip="Frames, 4n+1."),
                *_step_inputs(6.0, 9.0, 0.0, 1000.0),
                _seed_input(),
                unused("BOOLEAN", "force_offload", True),
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
        hyvid_embeds: settings.Embeds,
        width: int,
        height: int,
        num_frames: int,
        steps: int,
        embedded_guidance_scale: float,
        flow_shift: float,
        seed: int,
        denoise_strength: float = 1.0,
        scheduler: str = "FlowMatchDiscreteScheduler",
        i2v_mode: str = "dynamic",
        **inputs: Any,
    ) -> io.NodeOutput:
        geometry = Geometry(settings.aligned(width), settings.aligned(height), num_frames)
        sigmas = settings.levels(steps, flow_shift, denoise_strength)
        options, remarks = _options(hyvid_embeds.cfg, inputs)
        if scheduler in settings.NEARLY:
            remarks.append(f"scheduler {scheduler} has no counterpart: {settings.SCHEDULERS[scheduler]} is nearest.")
        added = [each for option in options for each in option.features(len(sigmas) - 1, seed)]
        image = _image(model, inputs.get("image_cond_latents"), i2v_mode == "stability")
        first = _leapfusion(inputs.get("samples"), geometry, denoise_strength)
        model = dataclasses.replace(model, extensions=(*model.extensions, *image, *first, *added))
        clip = None if first else _clip(inputs, geometry, denoise_strength, seed)
        if clip is not None and any(isinstance(each, ImageConcat) for each in image):
            # Its first latent frame is left out at the end.
            clip = torch.cat((clip[:, :, :1], clip), dim=2)[:, :, : clip.shape[2]]
        model, x = _start(model, clip, inputs.get("mask"), geometry, float(sigmas[0]), seed)
        guidance = _guidance(hyvid_embeds.cfg, embedded_guidance_scale, len(sigmas) - 1, inputs.get("slg_args"))
        solver = settings.SCHEDULERS[scheduler]
        x = sampled(model, x, hyvid_embeds, sigmas, guidance, solver, seed, cls.hidden.unique_id)
        if any(isinstance(each, ImageConcat | Keyframes) for each in image):
            # The old sampler left it out wherever the image was beside the latent.
            x = x[:, :, 1:]
        return result(host_latent(x / SCALE), remarks=remarks)


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
    def option(socket: Any, name: str, node: str) -> io.Input:
        return socket.Input(name, optional=True, tooltip=f"From {node}.")

    return [
        option(sockets.Stg, "stg_args", "HunyuanVideo STG"),
        option(sockets.Context, "context_options", "HunyuanVideo Context Options"),
        option(sockets.Enhance, "feta_args", "HunyuanVideo Enhance A Video"),
        option(sockets.Tea, "teacache_args", "HunyuanVideo TeaCache"),
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
        option(sockets.Loop, "loop_args", "HyVideo Loop Args"),
        option(sockets.Fresca, "fresca_args", "HunyuanVideo Fresca"),
        option(sockets.Slg, "slg_args", "HunyuanVideo SLG"),
        io.Mask.Input("mask", optional=True, tooltip="What is white is made anew, the rest is that of samples."),
    ]


def _options(cfg: settings.Cfg, inputs: dict[str, Any]) -> tuple[list[settings.Setting], list[str]]:
    """What is connected and set, and what to remark on it."""
    names = ("stg_args", "context_options", "feta_args", "teacache_args", "loop_args", "fresca_args", "slg_args")
    found: list[settings.Setting] = [cfg, *(inputs[name] for name in names if inputs.get(name) is not None)]
    if inputs.get("context_options") is None:
        # Windows are no longer than the model's own length, and the old sampler left them alone.
        found.append(settings.RiflexIndex(int(inputs.get("riflex_freq_index") or 0)))
    remarks = [remark for each in found for remark in each.remarks()]
    if cfg.cfg <= 1 and any(inputs.get(name) is not None for name in ("fresca_args", "slg_args")):
        remarks.append("fresca_args and slg_args act on cfg, which is off: connect HunyuanVideo CFG with cfg above 1.")
    return found, remarks


def _guidance(cfg: settings.Cfg, embedded: float, steps: int, slg: settings.Slg | None) -> Guidance:
    """Guidance of a run of so many steps. Blocks can be left out of the negative prompt's evaluation if it is alone."""
    interval = settings.part(cfg.start, cfg.end, steps)
    return Guidance(embedded, max(1.0, cfg.cfg), interval, batched=cfg.batched and slg is None)


def _image(model: ModelHandle, latent: dict[str, Any] | None, is_stable: bool) -> list[Extension]:
    """What gives the model its image, or the video's two ends, if there is one."""
    if latent is None:
        return []
    image = latent_samples(latent, "image_cond_latents") * SCALE
    if model.kind == transformer.TOKEN_REPLACE:
        return [ImageToVideo(image=image, stability=is_stable)]
    if model.kind in (transformer.LATENT_CONCAT, transformer.SKYREELS):
        return [ImageConcat(image=image, marked=model.kind == transformer.LATENT_CONCAT, stability=is_stable)]
    if image.shape[2] == 1:
        raise HyVideoError(
            f"image_cond_latents is connected, but {model.file.path.name} is taken for a text-to-video model. If it is "
            "for image-to-video v2, its file's name must hold 'i2v'; if not, take image_cond_latents away."
        )
    return [Keyframes(clip=image)]


def _leapfusion(samples: dict[str, Any] | None, geometry: Geometry, denoise: float) -> list[Extension]:
    """What holds the first frame of a video at the one frame of ``samples``, if that is what it has."""
    if samples is None or geometry.frames == 1:
        return []
    image = latent_samples(samples, "samples")
    if image.shape[2] != 1:
        return []
    if denoise < 1:
        raise HyVideoError(
            f"samples is one latent frame, which a Leapfusion LoRA begins a video with, but denoise_strength is "
            f"{denoise}. Set it to 1, or num_frames to 1 to change an image."
        )
    return [FirstFrame(image=image * SCALE)]


def _clip(inputs: dict[str, Any], geometry: Geometry, denoise: float, seed: int) -> torch.Tensor | None:
    """The video [B, C, T, H, W] to change, in model space, as long as asked for; None if the run begins with noise.

    Where it is too short, noise stands before it, as the old sampler had it. Raises ``HyVideoError`` for none where one
    is needed, ``GeometryError`` for another size.
    """
    samples, mask = inputs.get("samples"), inputs.get("mask")
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
        height, width = (side * 8 for side in clip.shape[3:])
        raise GeometryError(
            f"samples is {width}×{height} px, but width and height are {geometry.width} and {geometry.height}. Make "
            "them the same."
        )
    lacking = frames - clip.shape[2]
    if lacking > 0:
        noise = torch.randn(*clip.shape[:2], lacking, *size, generator=torch.Generator().manual_seed(seed))
        clip = torch.cat((noise.to(clip), clip), dim=2)
    return clip[:, :, :frames]


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
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=host.DTYPES[model.dtype]).float()
    if mask is not None and clip is not None:
        model = running.with_mask(model, {"samples": clip / SCALE, "noise_mask": mask}, noise)
    return model, noise if clip is None else noised(clip, noise, sigma)


def sampled(
    model: ModelHandle,
    x: torch.Tensor,
    embeds: settings.Embeds,
    sigmas: torch.Tensor,
    guidance: Guidance,
    solver: str,
    seed: int,
    node_id: str | None,
) -> torch.Tensor:
    """The latent after all steps, in model space; what is wrong with the inputs is said before anything is loaded."""
    config = transformer.checked_config(model)
    check_run(config, x, embeds.positive, embeds.negative, guidance, model.extensions)

    def begin(dit: DiT, extensions: Sequence[Extension], resume: Checkpoint | None) -> Iterator[Step]:
        return sample(
            dit,
            x,
            embeds.positive,
            sigmas=sigmas,
            negative=embeds.negative,
            guidance=guidance,
            extensions=extensions,
            solver=SOLVERS[solver],
            seed=seed,
            resume=resume,
        )

    shape = (len(x) * guidance.prompts_at_once, *x.shape[1:])
    return running.run(model, shape, range(len(sigmas) - 1), begin, node_id)


class HyVideoInverseSampler(io.ComfyNode):
    """Now HyVideo Invert."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoInverseSampler",
            display_name="HunyuanVideo Inverse Sampler",
            category=CATEGORY,
            description="Old: use HyVideo Invert.",
            is_deprecated=True,
            inputs=[
                *_model_inputs(),
                io.Latent.Input("samples", tooltip="The video, from HunyuanVideo Encode."),
                *_step_inputs(0.0, 1.0, 1.0, 30.0),
                _seed_input(),
                unused("BOOLEAN", "force_offload", True),
                io.Float.Input("gamma", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="How far to plain noise."),
                *_range_inputs("gamma"),
                io.Combo.Input(
                    "gamma_trend", options=list(settings.TRENDS), default="constant", tooltip="How gamma changes."
                ),
                _curve_input(default=0.0, min=0.0, max=1.0, step=0.01),
            ],
            outputs=[io.Latent.Output("samples")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        hyvid_embeds: settings.Embeds,
        samples: dict[str, Any],
        steps: int,
        embedded_guidance_scale: float,
        flow_shift: float,
        seed: int,
        gamma: float,
        start_step: int,
        end_step: int,
        gamma_trend: str,
        interpolation_curve: Any = None,
        **_: Any,
    ) -> io.NodeOutput:
        _no_curve(interpolation_curve)
        sigmas = flow_sigmas(steps, flow_shift)
        clean, noise = running.model_space(samples), running.noise_for(samples, seed)
        check_inversion(
            transformer.checked_config(model), clean, noise, hyvid_embeds.positive, sigmas, gamma, model.extensions
        )
        rising = sigmas.flip(0).tolist()
        gammas = settings.trended(gamma, gamma_trend, rising[:-1], start_step, end_step)

        def begin(dit: DiT, extensions: Sequence[Extension], resume: Checkpoint | None) -> Iterator[Step]:
            return _inverted(
                dit, clean, noise, hyvid_embeds.positive, rising, gammas, embedded_guidance_scale, extensions
            )

        x = running.run(model, tuple(clean.shape), range(steps), begin, cls.hidden.unique_id, what="inversion")
        return result(running.finished(x, samples))


def _inverted(
    dit: DiT,
    x: torch.Tensor,
    noise: torch.Tensor,
    prompt: Conditioning,
    rising: Sequence[float],
    gammas: Sequence[float],
    guidance: float,
    extensions: Sequence[Extension],
) -> Iterator[Step]:
    """An inversion whose gamma is another in each step: each is an inversion of its own."""
    for index, gamma in enumerate(gammas):
        sigmas = torch.tensor([rising[index + 1], rising[index]])
        options = {"gamma": gamma, "embedded_guidance": guidance, "extensions": extensions}
        for step in invert(dit, x, noise, prompt, sigmas=sigmas, **options):
            x = step.x
            yield dataclasses.replace(step, index=index)


def _range_inputs(what: str) -> list[io.Input]:
    return [
        io.Int.Input("start_step", default=0, min=0, tooltip=f"The first step, from 0, in which {what} acts."),
        io.Int.Input("end_step", default=18, min=0, tooltip=f"The first step in which {what} does not act any more."),
    ]


def _curve_input(**numbers: float) -> io.Input:
    return io.Float.Input(
        "interpolation_curve", optional=True, force_input=True, tooltip="Has no counterpart: leave it out.", **numbers
    )


def _no_curve(curve: Any) -> None:
    """Raise ``HyVideoError`` for a strength of its own for each frame."""
    if curve is not None:
        raise HyVideoError(
            "interpolation_curve gives each frame a strength of its own, which has no counterpart in this pack. Take "
            "it away: the strength is then the same for all frames."
        )


class HyVideoReSampler(io.ComfyNode):
    """Now HyVideo RF Inversion before HyVideo Sampler with add_noise off."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoReSampler",
            display_name="HunyuanVideo ReSampler",
            category=CATEGORY,
            description="Old: use HyVideo RF Inversion, and HyVideo Sampler with add_noise off.",
            is_deprecated=True,
            inputs=[
                *_model_inputs(),
                io.Latent.Input("samples", tooltip="The video, from HunyuanVideo Encode."),
                io.Latent.Input("inversed_latents", tooltip="From HunyuanVideo Inverse Sampler."),
                *_step_inputs(6.0, 1.0, 1.0, 30.0),
                unused("BOOLEAN", "force_offload", True),
                *_range_inputs("eta"),
                io.Float.Input("eta_base", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="How strongly."),
                io.Combo.Input(
                    "eta_trend", options=list(settings.TRENDS), default="constant", tooltip="How eta changes."
                ),
                _curve_input(),
                sockets.Enhance.Input("feta_args", optional=True, tooltip="From HunyuanVideo Enhance A Video."),
            ],
            outputs=[io.Latent.Output("samples")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        hyvid_embeds: settings.Embeds,
        samples: dict[str, Any],
        inversed_latents: dict[str, Any],
        steps: int,
        embedded_guidance_scale: float,
        flow_shift: float,
        start_step: int,
        end_step: int,
        eta_base: float,
        eta_trend: str,
        interpolation_curve: Any = None,
        feta_args: settings.Enhance | None = None,
        **_: Any,
    ) -> io.NodeOutput:
        _no_curve(interpolation_curve)
        when = settings.step_range(start_step, end_step, steps)
        steering = RFInversion(
            when=when, clean=running.model_space(samples), eta=eta_base, trend=settings.TRENDS[eta_trend]
        )
        enhanced = () if feta_args is None else feta_args.features(steps, 0)
        model = dataclasses.replace(model, extensions=(*model.extensions, steering, *enhanced))
        x, sigmas = running.model_space(inversed_latents), flow_sigmas(steps, flow_shift)
        guidance = Guidance(embedded_guidance_scale)
        x = sampled(model, x, hyvid_embeds, sigmas, guidance, "euler", 0, cls.hidden.unique_id)
        remarks = () if feta_args is None else feta_args.remarks()
        return result(running.finished(x, inversed_latents), remarks=remarks)


class HyVideoPromptMixSampler(io.ComfyNode):
    """Has no counterpart; opens, and says so when it runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        second = sockets.Embeds.Input("hyvid_embeds_2", tooltip="Another encoded prompt.")
        sizes = {"width": 512, "height": 512, "num_frames": 17}
        return io.Schema(
            node_id="HyVideoPromptMixSampler",
            display_name="HunyuanVideo Prompt Mix Sampler",
            category=CATEGORY,
            description="Old, and without a counterpart: use HyVideo Blend Prompts or HyVideo Prompt Schedule.",
            is_deprecated=True,
            inputs=[
                *_model_inputs(),
                second,
                *(
                    io.Int.Input(name, default=usual, min=1, tooltip="The video's size.")
                    for name, usual in sizes.items()
                ),
                *_step_inputs(6.0, 9.0, 1.0, 30.0),
                unused("BOOLEAN", "force_offload", True),
                _seed_input(),
                io.Float.Input("alpha", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="How sharply they change."),
                _curve_input(default=0.0, min=0.0, max=1.0, step=0.01),
                sockets.Enhance.Input("feta_args", optional=True, tooltip="From HunyuanVideo Enhance A Video."),
            ],
            outputs=[io.Latent.Output("samples")],
        )

    @classmethod
    def execute(cls, **_: Any) -> io.NodeOutput:
        raise HyVideoError(
            "HunyuanVideo Prompt Mix Sampler gives each frame its own share of two prompts, which has no counterpart "
            "in this pack. Use HyVideo Blend Prompts for one mixture in all frames, or HyVideo Prompt Schedule for a "
            "prompt that takes over while the video is made."
        )
