"""Videos changed by a prompt: by inversion to noise and back, and by editing without inversion."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import RFInversion
from hyvideo_core.extensions.rf_inversion import TRENDS
from hyvideo_core.extensions.step_cache import StepCache
from hyvideo_core.model import DiT
from hyvideo_core.sample import Guidance, Step
from hyvideo_core.sample.checkpoint import Checkpoint
from hyvideo_core.sample.flow_edit import Extent, Side, check_edit, flow_edit
from hyvideo_core.sample.inversion import check_inversion, invert
from hyvideo_core.sample.schedule import flow_sigmas
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import Conditioning, Interval

from . import running, transformer
from .adapt import HostConditioning, from_host_conditioning
from .handles import CATEGORY, HyvModel, ModelHandle, with_feature
from .length import interval, interval_inputs, model_input, model_output
from .schedule import checked_sigmas, shift_input, sigmas_input, steps_input

logger = logging.getLogger(__name__)

VIDEO_TO_VIDEO = f"{CATEGORY}/video to video"


class HyvInvert(io.ComfyNode):
    """A video to the noise it comes of."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvInvert",
            display_name="HyVideo Invert",
            category=VIDEO_TO_VIDEO,
            description="Carries a video to noise that holds its structure. HyVideo Sampler finds back from it, with "
            "another prompt, the same steps and shift, add_noise off, and HyVideo RF Inversion on its model.",
            search_aliases=["rf inversion", "unsampler", "inverse sampler", "HyVideoInverseSampler"],
            inputs=[
                HyvModel.Input("model", tooltip="From HyVideo Load Model, without HyVideo RF Inversion."),
                io.Conditioning.Input(
                    "prompt",
                    tooltip="What the model is told on the way to noise. Best an empty prompt: the negative of HyVideo "
                    "Encode Prompt, left empty.",
                ),
                io.Latent.Input("latent", tooltip="The video, from HyVideo Encode."),
                steps_input(),
                shift_input(),
                io.Float.Input(
                    "gamma",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0 follows the model alone: closest to the video. Higher is easier to edit; at 1 nothing "
                    "of the video is left.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise that gamma leads to.",
                ),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    advanced=True,
                    optional=True,
                    tooltip="Embedded guidance on the way to noise; 0 for the empty prompt.",
                ),
                sigmas_input("steps and shift"),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The noise, for HyVideo Sampler with add_noise off."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        prompt: HostConditioning,
        latent: dict[str, Any],
        steps: int,
        shift: float,
        gamma: float,
        seed: int,
        guidance: float = 0.0,
        sigmas: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        _without_steering(model, "HyVideo Invert")
        model = running.keeping_noise(model, "an inversion begins with the video")
        if latent.get("noise_mask") is not None:
            raise HyVideoError(
                "latent has a noise mask, but HyVideo Invert takes the whole video to noise. Take the mask away."
            )
        said, _ = from_host_conditioning(prompt, "prompt")
        levels = flow_sigmas(steps, shift) if sigmas is None else checked_sigmas(sigmas)
        return io.NodeOutput(inverted(model, latent, said, levels, gamma, guidance, seed, cls.hidden.unique_id))


def inverted(
    model: ModelHandle,
    latent: dict[str, Any],
    prompt: Conditioning,
    sigmas: torch.Tensor,
    gamma: float | Sequence[float],
    guidance: float,
    seed: int,
    node_id: str | None,
) -> dict[str, Any]:
    """The LATENT of the noise that a clip comes of; arguments as in ``invert``, with ``seed`` for its noise."""
    clean, noise = running.model_space(latent), running.noise_for(latent, seed)
    check_inversion(transformer.checked_config(model), clean, noise, prompt, sigmas, gamma, model.extensions)

    def begin(dit: DiT, extensions: Sequence[Extension], resume: Checkpoint | None) -> Iterator[Step]:
        options = {"gamma": gamma, "embedded_guidance": guidance, "extensions": extensions, "resume": resume}
        return invert(dit, clean, noise, prompt, sigmas=sigmas, **options)

    x = running.run(model, tuple(clean.shape), range(len(sigmas) - 1), begin, node_id, what="inversion")
    return running.finished(x, latent)


class HyvRFInversion(io.ComfyNode):
    """A run steered to the video that was inverted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvRFInversion",
            display_name="HyVideo RF Inversion",
            category=VIDEO_TO_VIDEO,
            description="Steers a run to a video, so that its structure stays while the prompt says what it shows. "
            "The run begins with what HyVideo Invert made of that video.",
            search_aliases=["rf inversion", "eta", "reverse ode", "HyVideoReSampler"],
            inputs=[
                model_input(),
                io.Latent.Input("latent", tooltip="The video to steer to, from HyVideo Encode: the inverted one."),
                io.Float.Input(
                    "eta",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How strongly; 0 is off, 1 gives the video back. Lower it if the prompt does not show.",
                ),
                io.Combo.Input(
                    "trend",
                    options=list(TRENDS),
                    default=TRENDS[0],
                    tooltip="constant: eta all the time. rising: from 0 to eta, for a freer layout. falling: from eta "
                    "to 0, for freer details.",
                ),
                *interval_inputs(Interval(0.0, 0.6)),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        latent: dict[str, Any],
        eta: float,
        trend: str,
        start: float = 0.0,
        end: float = 0.6,
    ) -> io.NodeOutput:
        when = interval(start, end)
        if not eta:
            return io.NodeOutput(model)
        steering = RFInversion(when=when, clean=running.model_space(latent), eta=eta, trend=trend)
        return io.NodeOutput(with_feature(model, steering, "HyVideo RF Inversion"))


class HyvFlowEdit(io.ComfyNode):
    """A video edited from one prompt to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvFlowEdit",
            display_name="HyVideo FlowEdit",
            category=VIDEO_TO_VIDEO,
            description="Edits a video from what one prompt says to what another says, without inverting it. With a "
            "noise mask on the latent only what is white changes.",
            search_aliases=["flow edit", "flowedit", "video editing", "HYFlowEditSampler", "Hunyuan Loom"],
            inputs=[
                model_input(),
                io.Conditioning.Input("source", tooltip="What the video shows: its own prompt."),
                io.Conditioning.Input(
                    "target",
                    tooltip="What it shall show: best the same prompt with the words changed that shall change.",
                ),
                io.Latent.Input("latent", tooltip="The video, from HyVideo Encode."),
                steps_input(),
                shift_input(),
                *_extent_inputs(),
                *_side_inputs(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same edit.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="What to avoid on a side whose cfg is above 1, and needed there."
                ),
                sigmas_input("steps and shift"),
            ],
            outputs=[io.Latent.Output("latent", tooltip="The edited video, for HyVideo Decode.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        source: HostConditioning,
        target: HostConditioning,
        latent: dict[str, Any],
        steps: int,
        shift: float,
        n_max: int,
        n_min: int,
        n_avg: int,
        source_guidance: float,
        target_guidance: float,
        seed: int,
        source_cfg: float = 1.0,
        target_cfg: float = 1.0,
        negative: HostConditioning | None = None,
        sigmas: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        _without_steering(model, "HyVideo FlowEdit")
        model = _without_caches(running.keeping_noise(model, "an edit begins with the video"))
        sides = (
            _side("source", source, negative, source_guidance, source_cfg),
            _side("target", target, negative, target_guidance, target_cfg),
        )
        levels = flow_sigmas(steps, shift) if sigmas is None else checked_sigmas(sigmas)
        extent = Extent(n_max, n_min, n_avg)
        clip, numbers = running.model_space(latent), running.clip_numbers(latent)
        model = running.with_mask(model, latent, running.noise_for(latent, seed))
        config = transformer.checked_config(model)
        check_edit(config, clip, *sides, levels, extent, model.extensions)

        def begin(dit: DiT, extensions: Sequence[Extension], resume: Checkpoint | None) -> Iterator[Step]:
            options = {"seed": seed, "numbers": numbers, "extensions": extensions, "resume": resume}
            return flow_edit(dit, clip, *sides, sigmas=levels, extent=extent, **options)

        count = len(levels) - 1
        made = range(count - n_max, count)
        x = running.run(model, tuple(clip.shape), made, begin, cls.hidden.unique_id, what="editing")
        return io.NodeOutput(running.finished(x, latent))


def _extent_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "n_max",
            default=26,
            min=1,
            max=1000,
            tooltip="How many of the steps are made, the last ones. Fewer stay closer to the video; all of them may "
            "change even its layout. At most steps.",
        ),
        io.Int.Input(
            "n_min",
            default=0,
            min=0,
            max=1000,
            tooltip="How many of these are plain sampling by the target, at the end: freer in texture and detail.",
        ),
        io.Int.Input(
            "n_avg",
            default=1,
            min=1,
            max=100,
            tooltip="Draws of noise a step averages over: steadier, at so many times the time.",
        ),
    ]


def _side_inputs() -> list[io.Input]:
    guidances = [("source", 6.0, "what the video shows"), ("target", 12.0, "what it shall show")]
    return [
        *(
            io.Float.Input(
                f"{side}_guidance",
                default=default,
                min=0.0,
                max=100.0,
                step=0.1,
                tooltip=f"Embedded guidance towards {what}. The farther target is above source, the stronger the edit. "
                "That of a FluxGuidance node on the prompt goes before.",
            )
            for side, default, what in guidances
        ),
        *(
            io.Float.Input(
                f"{side}_cfg",
                default=1.0,
                min=1.0,
                max=100.0,
                step=0.1,
                advanced=True,
                optional=True,
                tooltip=f"True guidance towards {what}, against the negative prompt; leave at 1 for distilled "
                "checkpoints.",
            )
            for side, _, what in guidances
        ),
    ]


def _side(name: str, prompt: HostConditioning, negative: HostConditioning | None, guidance: float, cfg: float) -> Side:
    """One side of an edit. Raises ``HyVideoError`` where its cfg lacks a negative prompt."""
    if cfg > 1 and negative is None:
        raise HyVideoError(
            f"{name}_cfg is {cfg}, but there is no negative prompt. Connect one to negative or set {name}_cfg to 1."
        )
    positive, own_guidance = from_host_conditioning(prompt, name)
    if own_guidance is not None and own_guidance != guidance:
        logger.info("guidance %.2f of the %s prompt replaces %s_guidance %.2f", own_guidance, name, name, guidance)
        guidance = own_guidance
    against = None if negative is None else from_host_conditioning(negative, "negative")[0]
    return Side(positive, against, Guidance(guidance, cfg))


def _without_caches(model: ModelHandle) -> ModelHandle:
    """The model without step caches: an edit draws new noise in each step, so they would keep results in vain."""
    for each in model.extensions:
        if isinstance(each, StepCache):
            logger.info("%s is left out: an edit draws new noise in each step, so nothing would be skipped", each.name)
    return replace(model, extensions=tuple(each for each in model.extensions if not isinstance(each, StepCache)))


def _without_steering(model: ModelHandle, node: str) -> None:
    """Raise ``HyVideoError`` for a model that is steered to a video, which this node does not take."""
    if any(isinstance(each, RFInversion) for each in model.extensions):
        raise HyVideoError(
            f"model went through HyVideo RF Inversion, which is for the run that follows an inversion. Connect {node} "
            "to the model before that node."
        )
