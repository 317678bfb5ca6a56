"""Old nodes for what goes into the old sampler: one feature of sampling each."""

from __future__ import annotations

from comfy_api.latest import io

from . import features, settings, sockets
from .sockets import CATEGORY, percent_inputs, result


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
        return result(features.Stg(stg_mode, stg_block_idx, stg_scale, stg_start_percent, stg_end_percent))


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
        return result(features.Slg(settings.named_blocks(double_blocks, single_blocks), start_percent, end_percent))


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
        return result(features.Fresca(fresca_scale_low, fresca_scale_high, fresca_freq_cutoff))


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
                    "context_schedule", options=list(features.Context.SCHEDULES), tooltip="How windows move."
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
        return result(features.Context(context_schedule, context_frames, context_stride, context_overlap, freenoise))


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
        return result(features.Enhance(weight, single_blocks, double_blocks, start_percent, end_percent))


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
        return result(features.Tea(rel_l1_thresh, cache_device, start_step, end_step))


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
        return result(features.Loop(shift_skip, start_percent, end_percent))
