"""What may be done to a model before it samples: LoRAs, memory; and what sampling with it would take."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io, ui

from hyvideo_core.errors import HyVideoError
from hyvideo_core.weights import Lora

from . import host, memory, models, planning, text
from .adapt import latent_samples
from .handles import CATEGORY, FileVersion, HyvModel, HyvTextEncoders, ModelHandle, TextEncodersHandle


class HyvLora(io.ComfyNode):
    """A LoRA on a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvLora",
            display_name="HyVideo LoRA",
            category=f"{CATEGORY}/model",
            description="Applies a LoRA; chain several. A change of strength reads nothing again unless it is merged.",
            search_aliases=["lora loader", "hunyuan lora", "HyVideoLoraSelect", "HyVideoLoraBlockEdit"],
            inputs=[
                HyvModel.Input("model", tooltip="From HyVideo Load Model or another HyVideo LoRA."),
                io.Combo.Input(
                    "lora",
                    options=models.files("loras"),
                    tooltip="A file from models/loras, in any of the published key formats.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How strongly it acts; 0 is off, negative turns its effect around.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    tooltip="Factors for single blocks, such as: double 0-9: 0.5, double 12: 0, single: 0.8, other: 0. "
                    "What is not named has factor 1.",
                    advanced=True,
                    optional=True,
                ),
                io.Combo.Input(
                    "apply",
                    options=["while running", "merged"],
                    default="while running",
                    tooltip="While running costs a little time and no reload; merged adds it to the weights when they "
                    "are read, which suits many LoRAs that do not change. GGUF weights cannot be merged into.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler or another HyVideo LoRA.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **_: Any) -> str:
        return str(FileVersion.of(models.file("loras", lora)))

    @classmethod
    def execute(
        cls, model: ModelHandle, lora: str, strength: float, blocks: str = "", apply: str = "while running"
    ) -> io.NodeOutput:
        path = models.file("loras", lora)
        try:
            added = Lora(path, strength, blocks)
        except ValueError as error:
            raise HyVideoError(f"blocks: {error}") from error
        field = "merged" if apply == "merged" else "loras"
        return io.NodeOutput(dataclasses.replace(model, **{field: (*getattr(model, field), added)}))


class HyvMemory(io.ComfyNode):
    """How a model shares the card."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvMemory",
            display_name="HyVideo Memory",
            category=f"{CATEGORY}/model",
            description="Sets by hand how much of the transformer stays on the card. Without this node a plan decides "
            "from the size of the video and the memory that is free.",
            search_aliases=["block swap", "low vram", "HyVideoBlockSwap", "HyVideoTorchCompileSettings"],
            inputs=[
                HyvModel.Input("model", tooltip="From HyVideo Load Model."),
                io.Int.Input(
                    "resident_blocks",
                    default=-1,
                    min=-1,
                    max=1000,
                    tooltip="Blocks of the transformer that stay on the card; the others stream from the computer's "
                    "memory while it computes. -1 lets the plan decide. Fewer make room; for long videos streaming "
                    "costs next to nothing, for images it does.",
                ),
                io.Boolean.Input(
                    "compile_blocks",
                    default=False,
                    tooltip="Compile what lies between the matrix products (torch.compile). Takes a minute at the "
                    "first step of each new size; needs Triton on a GPU.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[HyvModel.Output("model", tooltip="For HyVideo Sampler.")],
        )

    @classmethod
    def execute(cls, model: ModelHandle, resident_blocks: int, compile_blocks: bool = False) -> io.NodeOutput:
        resident = None if resident_blocks < 0 else resident_blocks
        return io.NodeOutput(dataclasses.replace(model, resident_blocks=resident, compile_blocks=compile_blocks))


class HyvPlan(io.ComfyNode):
    """What sampling would take, before anything runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvPlan",
            display_name="HyVideo Plan",
            category=f"{CATEGORY}/model",
            description="Tells from headers and sizes alone what sampling will take of the card and how it will be "
            "made to fit. Nothing is loaded.",
            search_aliases=["vram estimate", "memory planner", "will it fit"],
            inputs=[
                HyvModel.Input("model", tooltip="From HyVideo Load Model."),
                io.Latent.Input("latent", tooltip="The size: from HyVideo Empty Latent."),
                io.Float.Input(
                    "memory_gb",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Plan for a card with so much free memory; 0 is what is free on this one now.",
                ),
                HyvTextEncoders.Input(
                    "text_encoders",
                    optional=True,
                    tooltip="From HyVideo Load Text Encoders, to plan these too.",
                ),
            ],
            outputs=[io.String.Output("plan", tooltip="The plan in words.")],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        latent: dict[str, Any],
        memory_gb: float,
        text_encoders: TextEncodersHandle | None = None,
    ) -> io.NodeOutput:
        room = planning.Room.of(memory_gb)
        shape = tuple(latent_samples(latent, "latent").shape)
        plans = planning.sampling(model, shape, room), planning.decoding(planning.Decoder(), shape[2:], room)
        lines = [plan.describe() for plan in plans]
        if text_encoders is not None:
            free = room.decoding_bytes if room.is_given else memory.available_bytes(host.transformer_device())
            lines.insert(0, text.placement(text_encoders, free))
        told = "\n".join(lines)
        return io.NodeOutput(told, ui=ui.PreviewText(told))
