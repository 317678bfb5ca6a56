"""Old nodes that only hold options, for the sampler, the loader and the text encoders."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from hyvideo_core.text import VIDEO, Template
from hyvideo_core.weights import Lora

from .. import models
from ..handles import FileVersion
from . import settings, sockets
from .sockets import CATEGORY, percent_inputs, result, unused

NEGATIVE = (
    "Aerial view, aerial view, overexposed, low quality, deformation, a poor composition, bad hands, bad teeth, bad "
    "eyes, bad limbs, distortion"
)
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
                unused("BOOLEAN", "offload_txt_in", False),
                unused("BOOLEAN", "offload_img_in", False),
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
        none = "Without effect here: kept for old workflows."
        return io.Schema(
            node_id="HyVideoTorchCompileSettings",
            display_name="HunyuanVideo Torch Compile Settings",
            category=CATEGORY,
            description="Old: use HyVideo Memory. Of these settings only those for blocks count.",
            is_deprecated=True,
            inputs=[
                io.Combo.Input("backend", options=["inductor", "cudagraphs"], default="inductor", tooltip=none),
                unused("BOOLEAN", "fullgraph", False),
                io.Combo.Input("mode", options=modes, default="default", tooltip=none),
                unused("BOOLEAN", "dynamic", False),
                unused("INT", "dynamo_cache_size_limit", 64, min=0, max=1024, step=1),
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


class HyVideoCFG(io.ComfyNode):
    """Now the negative prompt, and cfg of HyVideo Sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoCFG",
            display_name="HunyuanVideo CFG",
            category=CATEGORY,
            description="Old: use the negative prompt of HyVideo Encode Prompt and cfg of HyVideo Sampler.",
            is_deprecated=True,
            inputs=[
                io.String.Input("negative_prompt", default=NEGATIVE, multiline=True, tooltip="What to avoid."),
                io.Float.Input("cfg", default=2.0, min=0.0, max=100.0, step=0.01, tooltip="How strongly; 1 is off."),
                *percent_inputs("it"),
                io.Boolean.Input("batched_cfg", default=False, tooltip="Both prompts in one evaluation."),
                io.Boolean.Input("use_cfg_zero_star", default=False, tooltip="The scale of CFG-Zero★."),
            ],
            outputs=[sockets.Cfg.Output("hyvid_cfg")],
        )

    @classmethod
    def execute(
        cls,
        negative_prompt: str,
        cfg: float,
        start_percent: float,
        end_percent: float,
        batched_cfg: bool,
        use_cfg_zero_star: bool,
    ) -> io.NodeOutput:
        return result(settings.Cfg(negative_prompt, cfg, start_percent, end_percent, batched_cfg, use_cfg_zero_star))


class HyVideoCustomPromptTemplate(io.ComfyNode):
    """Now the custom template of HyVideo Encode Prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoCustomPromptTemplate",
            display_name="HunyuanVideo Custom Prompt Template",
            category=CATEGORY,
            description="Old: choose template custom in HyVideo Encode Prompt.",
            is_deprecated=True,
            inputs=[
                io.String.Input(
                    "custom_prompt_template",
                    default=VIDEO.text,
                    multiline=True,
                    tooltip="The language model's whole input; {} marks the place of the prompt.",
                ),
                io.Int.Input("crop_start", default=95, tooltip="Leading tokens to drop; 0 or less drops none."),
            ],
            outputs=[sockets.PromptTemplate.Output("hyvid_prompt_template")],
        )

    @classmethod
    def execute(cls, custom_prompt_template: str, crop_start: int) -> io.NodeOutput:
        return result(Template("custom", custom_prompt_template, crop_start=max(0, crop_start)))


class HyVideoSTG(io.ComfyNode):
    """Now HyVideo STG."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoSTG",
            display_name="HunyuanVideo STG",
            category=CATEGORY,
            description="Old: use HyVideo STG.",
            is_deprecated=True,
            inputs=[
                io.Combo.Input("stg_mode", options=["STG-A", "STG-R"], tooltip="How the block is disturbed."),
                io.Int.Input(
                    "stg_block_idx", default=0, min=-1, max=39, step=1, tooltip="Which single block; -1 is none."
                ),
                io.Float.Input("stg_scale", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="How strongly."),
                *percent_inputs("it", ("stg_start_percent", "stg_end_percent")),
            ],
            outputs=[sockets.Stg.Output("stg_args")],
        )

    @classmethod
    def execute(
        cls, stg_mode: str, stg_block_idx: int, stg_scale: float, stg_start_percent: float, stg_end_percent: float
    ) -> io.NodeOutput:
        return result(settings.Stg(stg_mode, stg_block_idx, stg_scale, stg_start_percent, stg_end_percent))


class HunyuanVideoSLG(io.ComfyNode):
    """Blocks left out for the negative prompt; HyVideo SLG does it with an evaluation of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        numbers = "Numbers of blocks, separated by commas, that are left out where the negative prompt is evaluated."
        return io.Schema(
            node_id="HunyuanVideoSLG",
            display_name="HunyuanVideo SLG",
            category=CATEGORY,
            description="Old: use HyVideo SLG, which needs no negative prompt. Acts only with cfg above 1.",
            is_deprecated=True,
            inputs=[
                io.String.Input("double_blocks", default="", tooltip=numbers),
                io.String.Input("single_blocks", default="20", tooltip=numbers),
                *percent_inputs("it", start=0.4, end=0.8),
            ],
            outputs=[sockets.Slg.Output("slg_args")],
        )

    @classmethod
    def execute(cls, double_blocks: str, single_blocks: str, start_percent: float, end_percent: float) -> io.NodeOutput:
        return result(settings.Slg(settings.named_blocks(double_blocks, single_blocks), start_percent, end_percent))


class HunyuanVideoFresca(io.ComfyNode):
    """Now HyVideo FreSca."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HunyuanVideoFresca",
            display_name="HunyuanVideo Fresca",
            category=CATEGORY,
            description="Old: use HyVideo FreSca. Acts only with cfg above 1.",
            is_deprecated=True,
            inputs=[
                io.Float.Input(
                    "fresca_scale_low", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="Factor for coarse shapes."
                ),
                io.Float.Input(
                    "fresca_scale_high", default=1.25, min=0.0, max=10.0, step=0.01, tooltip="Factor for fine detail."
                ),
                io.Int.Input(
                    "fresca_freq_cutoff", default=20, min=0, max=10000, step=1, tooltip="Where fine detail begins."
                ),
            ],
            outputs=[sockets.Fresca.Output("fresca_args")],
        )

    @classmethod
    def execute(cls, fresca_scale_low: float, fresca_scale_high: float, fresca_freq_cutoff: int) -> io.NodeOutput:
        return result(settings.Fresca(fresca_scale_low, fresca_scale_high, fresca_freq_cutoff))


class HyVideoContextOptions(io.ComfyNode):
    """Now HyVideo Context Windows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoContextOptions",
            display_name="HunyuanVideo Context Options",
            category=CATEGORY,
            description="Old: use HyVideo Context Windows.",
            is_deprecated=True,
            inputs=[
                io.Combo.Input(
                    "context_schedule", options=list(settings.Context.SCHEDULES), tooltip="How windows move."
                ),
                io.Int.Input("context_frames", default=65, min=2, max=1000, step=1, tooltip="Frames of a window."),
                io.Int.Input(
                    "context_stride", default=4, min=4, max=100, step=1, tooltip="4: frames follow on each other."
                ),
                io.Int.Input(
                    "context_overlap", default=4, min=4, max=100, step=1, tooltip="Frames that windows share."
                ),
                io.Boolean.Input("freenoise", default=True, tooltip="Later windows begin with the first one's noise."),
            ],
            outputs=[sockets.Context.Output("context_options")],
        )

    @classmethod
    def execute(
        cls, context_schedule: str, context_frames: int, context_stride: int, context_overlap: int, freenoise: bool
    ) -> io.NodeOutput:
        return result(settings.Context(context_schedule, context_frames, context_stride, context_overlap, freenoise))


class HyVideoEnhanceAVideo(io.ComfyNode):
    """Now HyVideo Enhance A Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoEnhanceAVideo",
            display_name="HunyuanVideo Enhance A Video",
            category=CATEGORY,
            description="Old: use HyVideo Enhance A Video.",
            is_deprecated=True,
            inputs=[
                io.Float.Input("weight", default=2.0, min=0, max=100, step=0.01, tooltip="How much."),
                io.Boolean.Input("single_blocks", default=True, tooltip="Off together with the other: no effect."),
                io.Boolean.Input("double_blocks", default=True, tooltip="Off together with the other: no effect."),
                *percent_inputs("it"),
            ],
            outputs=[sockets.Enhance.Output("feta_args")],
        )

    @classmethod
    def execute(
        cls, weight: float, single_blocks: bool, double_blocks: bool, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        return result(settings.Enhance(weight, single_blocks, double_blocks, start_percent, end_percent))


class HyVideoTeaCache(io.ComfyNode):
    """Now HyVideo TeaCache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoTeaCache",
            display_name="HunyuanVideo TeaCache",
            category=CATEGORY,
            description="Old: use HyVideo TeaCache.",
            is_deprecated=True,
            inputs=[
                io.Float.Input(
                    "rel_l1_thresh", default=0.15, min=0.0, max=1.0, step=0.01, tooltip="Higher skips more steps."
                ),
                io.Combo.Input(
                    "cache_device",
                    options=["main_device", "offload_device"],
                    default="offload_device",
                    tooltip="Where results are kept: on the card, or in the computer's memory.",
                ),
                io.Int.Input("start_step", default=0, min=0, max=100, step=1, tooltip="The first step, from 0."),
                io.Int.Input("end_step", default=-1, min=-1, max=100, step=1, tooltip="The last step; -1 is the last."),
            ],
            outputs=[sockets.Tea.Output("teacache_args")],
        )

    @classmethod
    def execute(cls, rel_l1_thresh: float, cache_device: str, start_step: int, end_step: int) -> io.NodeOutput:
        return result(settings.Tea(rel_l1_thresh, cache_device, start_step, end_step))


class HyVideoLoopArgs(io.ComfyNode):
    """Now HyVideo Seamless Loop."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoLoopArgs",
            display_name="HyVideo Loop Args",
            category=CATEGORY,
            description="Old: use HyVideo Seamless Loop, and loop in HyVideo Decode.",
            is_deprecated=True,
            inputs=[
                io.Int.Input("shift_skip", default=6, min=0, tooltip="Latent frames a step turns the video by."),
                *percent_inputs("it"),
            ],
            outputs=[sockets.Loop.Output("loop_args")],
        )

    @classmethod
    def execute(cls, shift_skip: int, start_percent: float, end_percent: float) -> io.NodeOutput:
        return result(settings.Loop(shift_skip, start_percent, end_percent))
