"""Inputs that the old samplers share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import sockets


def model_inputs() -> list[io.Input]:
    """The transformer and the prompt."""
    return [
        sockets.Model.Input("model", tooltip="From HunyuanVideo Model Loader."),
        sockets.Embeds.Input("hyvid_embeds", tooltip="The encoded prompt."),
    ]


def seed_input() -> io.Input:
    """What the noise is drawn by."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="The same seed, the same video.")


def step_inputs(guidance: float, shift: float, least: float, most: float) -> list[io.Input]:
    """How many steps, and what goes with them; ``least`` and ``most`` are of the shift."""
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


def curve_input(**numbers: float) -> io.Input:
    """A strength of its own for each frame, which there is not."""
    return io.Float.Input(
        "interpolation_curve", optional=True, force_input=True, tooltip="Has no counterpart: leave it out.", **numbers
    )


def option_input(socket: Any, name: str, node: str) -> io.Input:
    """An option, from the node of that name."""
    return socket.Input(name, optional=True, tooltip=f"From {node}.")


def enhance_input() -> io.Input:
    """Enhance-A-Video, which nearly all of them take."""
    return option_input(sockets.Enhance, "feta_args", "HunyuanVideo Enhance A Video")
