"""Old nodes for what goes into the old model loader: memory, compilation, LoRAs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from hyvideo_core.weights import Lora

from .. import models
from ..handles import FileVersion
from . import settings, sockets
from .sockets import CATEGORY, result, unused

#: The names of the blocks of a LoRA, as its old widgets have them.
LORA_BLOCKS = [
    *(f"double_blocks.{number}." for number in range(settings.DOUBLE_BLOCKS)),
    *(f"single_blocks.{number}." for number in range(settings.SINGLE_BLOCKS)),
]


class HyVideoBlockSwap(io.ComfyNode):
    """Now resident_blocks of HyVideo Memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoBlockSwap",
            display_name="HunyuanVideo BlockSwap",
            category=CATEGORY,
            description="Old: use HyVideo Memory, or leave it out: a plan decides by itself.",
            is_deprecated=True,
            inputs=[
                io.Int.Input(
                    "double_blocks_to_swap", default=20, min=0, max=20, step=1, tooltip="Double blocks that wait."
                ),
                io.Int.Input(
                    "single_blocks_to_swap", default=0, min=0, max=40, step=1, tooltip="Single blocks that wait."
                ),
                unused(io.Boolean, "offload_txt_in", default=False),
                unused(io.Boolean, "offload_img_in", default=False),
            ],
            outputs=[sockets.Swap.Output("block_swap_args")],
        )

    @classmethod
    def execute(cls, double_blocks_to_swap: int, single_blocks_to_swap: int, **_: bool) -> io.NodeOutput:
        return result(settings.Swap(double_blocks_to_swap, single_blocks_to_swap))


class HyVideoTorchCompileSettings(io.ComfyNode):
    """Now compile_blocks of HyVideo Memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        parts = {
            "single_blocks": True,
            "double_blocks": True,
            "txt_in": False,
            "vector_in": False,
            "final_layer": False,
        }
        modes = ["default", "max-autotune", "max-autotune-no-cudagraphs", "reduce-overhead"]
        return io.Schema(
            node_id="HyVideoTorchCompileSettings",
            display_name="HunyuanVideo Torch Compile Settings",
            category=CATEGORY,
            description="Old: use HyVideo Memory. Of these settings only those for blocks count.",
            is_deprecated=True,
            inputs=[
                unused(io.Combo, "backend", options=["inductor", "cudagraphs"], default="inductor"),
                unused(io.Boolean, "fullgraph", default=False),
                unused(io.Combo, "mode", options=modes, default="default"),
                unused(io.Boolean, "dynamic", default=False),
                unused(io.Int, "dynamo_cache_size_limit", default=64, min=0, max=1024, step=1),
                *(
                    io.Boolean.Input(f"compile_{name}", default=default, tooltip="Only blocks are compiled.")
                    for name, default in parts.items()
                ),
            ],
            outputs=[sockets.Compile.Output("torch_compile_args")],
        )

    @classmethod
    def execute(cls, compile_single_blocks: bool, compile_double_blocks: bool, **_: Any) -> io.NodeOutput:
        return result(settings.Compile(compile_single_blocks or compile_double_blocks))


class HyVideoLoraSelect(io.ComfyNode):
    """Now HyVideo LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoLoraSelect",
            display_name="HunyuanVideo Lora Select",
            category=CATEGORY,
            description="Old: use HyVideo LoRA.",
            is_deprecated=True,
            inputs=[
                io.Combo.Input("lora", options=models.files("loras"), tooltip="A file from models/loras."),
                io.Float.Input(
                    "strength", default=1.0, min=-10.0, max=10.0, step=0.0001, tooltip="How strongly it acts."
                ),
                sockets.Lora.Input("prev_lora", optional=True, tooltip="Another one, which acts as well."),
                sockets.Blocks.Input(
                    "blocks", optional=True, tooltip="The blocks it acts in; without, all of it acts."
                ),
            ],
            outputs=[sockets.Lora.Output("lora")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **_: Any) -> str:
        return str(FileVersion.of(models.file("loras", lora)))

    @classmethod
    def execute(
        cls, lora: str, strength: float, prev_lora: tuple[Lora, ...] | None = None, blocks: str | None = None
    ) -> io.NodeOutput:
        added = Lora(models.file("loras", lora), strength, blocks or "")
        return result((*(prev_lora or ()), added))


class HyVideoLoraBlockEdit(io.ComfyNode):
    """Now the blocks of HyVideo LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoLoraBlockEdit",
            display_name="HunyuanVideo Lora Block Edit",
            category=CATEGORY,
            description="Old: use blocks in HyVideo LoRA.",
            is_deprecated=True,
            inputs=[
                io.Boolean.Input(name, default=True, tooltip="Whether the LoRA acts here.") for name in LORA_BLOCKS
            ],
            outputs=[sockets.Blocks.Output("blocks")],
        )

    @classmethod
    def execute(cls, **chosen: bool) -> io.NodeOutput:
        return result(settings.selected_blocks(chosen))
