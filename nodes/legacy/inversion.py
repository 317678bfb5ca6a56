"""The old pair of samplers that carry a video to noise and back."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import RFInversion
from hyvideo_core.extensions.rf_inversion import trended
from hyvideo_core.sample import Guidance, flow_sigmas

from .. import running
from ..handles import ModelHandle
from ..sample import Sampling, sampled
from ..video_to_video import inverted
from . import features, settings
from .sampler_inputs import curve_input, enhance_input, model_inputs, seed_input, step_inputs
from .sockets import CATEGORY, OldEmbeds, result, unused


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
                *model_inputs(),
                io.Latent.Input("samples", tooltip="The video, from HunyuanVideo Encode."),
                *step_inputs(0.0, 1.0, 1.0, 30.0),
                seed_input(),
                unused(io.Boolean, "force_offload", default=True),
                io.Float.Input("gamma", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="How far to plain noise."),
                *_range_inputs("gamma"),
                io.Combo.Input(
                    "gamma_trend", options=list(settings.TRENDS), default="constant", tooltip="How gamma changes."
                ),
                curve_input(default=0.0, min=0.0, max=1.0, step=0.01),
            ],
            outputs=[io.Latent.Output("samples")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        hyvid_embeds: OldEmbeds,
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
        when = settings.step_range(start_step, end_step, steps)
        sigmas = flow_sigmas(steps, flow_shift)
        # Each step of an inversion starts at the level at which the one on the way back ends.
        gammas = trended(gamma, settings.TRENDS[gamma_trend], sigmas.flip(0)[:-1].tolist(), when)
        prompt, node_id = hyvid_embeds.positive, cls.hidden.unique_id
        return result(inverted(model, samples, prompt, sigmas, gammas, embedded_guidance_scale, seed, node_id))


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
                *model_inputs(),
                io.Latent.Input("samples", tooltip="The video, from HunyuanVideo Encode."),
                io.Latent.Input("inversed_latents", tooltip="From HunyuanVideo Inverse Sampler."),
                *step_inputs(6.0, 1.0, 1.0, 30.0),
                unused(io.Boolean, "force_offload", default=True),
                *_range_inputs("eta"),
                io.Float.Input("eta_base", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="How strongly."),
                io.Combo.Input(
                    "eta_trend", options=list(settings.TRENDS), default="constant", tooltip="How eta changes."
                ),
                curve_input(),
                enhance_input(),
            ],
            outputs=[io.Latent.Output("samples")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        hyvid_embeds: OldEmbeds,
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
        feta_args: features.Enhance | None = None,
        **_: Any,
    ) -> io.NodeOutput:
        _no_curve(interpolation_curve)
        when = settings.step_range(start_step, end_step, steps)
        steering = RFInversion(
            when=when, clean=running.model_space(samples), eta=eta_base, trend=settings.TRENDS[eta_trend]
        )
        enhanced = None if feta_args is None else feta_args.feature(features.OldRun(steps))
        model = model.extended(*filter(None, (steering, enhanced)))
        sampling = Sampling(
            positive=hyvid_embeds.positive,
            negative=hyvid_embeds.negative,
            sigmas=flow_sigmas(steps, flow_shift),
            guidance=Guidance(embedded_guidance_scale),
            solver="euler",
            seed=0,
        )
        x = sampled(model, running.model_space(inversed_latents), sampling, cls.hidden.unique_id)
        return result(running.finished(x, inversed_latents), remarks=() if feta_args is None else feta_args.remarks())


def _range_inputs(what: str) -> list[io.Input]:
    return [
        io.Int.Input("start_step", default=0, min=0, tooltip=f"The first step, from 0, in which {what} acts."),
        io.Int.Input("end_step", default=18, min=0, tooltip=f"The first step in which {what} does not act any more."),
    ]


def _no_curve(curve: Any) -> None:
    """Raise ``HyVideoError`` for a strength of its own for each frame."""
    if curve is not None:
        raise HyVideoError(
            "interpolation_curve gives each frame a strength of its own, which has no counterpart in this pack. Take "
            "it away: the strength is then the same for all frames."
        )
