"""Long videos, loops, and what steadies or speeds up attention: features on the way from a model to the sampler."""

from __future__ import annotations

from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions import ContextWindows, EnhanceAVideo, Riflex, SeamlessLoop, SlidingTileAttention
from hyvideo_core.extensions.context_windows import BLENDS, SCHEDULES
from hyvideo_core.extensions.enhance_a_video import NEUTRAL_WEIGHT
from hyvideo_core.types import Interval

from .handles import CATEGORY, HyvModel, ModelHandle, with_feature

LENGTH = f"{CATEGORY}/length"
QUALITY = f"{CATEGORY}/quality"
#: The usual settings are those of the core.
WINDOWS, RIFLEX, ENHANCE, LOOP = ContextWindows(), Riflex(), EnhanceAVideo(), SeamlessLoop()
TILES = SlidingTileAttention()


def model_input() -> io.Input:
    """What a feature is added to."""
    return HyvModel.Input("model", tooltip="From HyVideo Load Model or any node that adds to the model, in any order.")


def model_output() -> io.Output:
    """The same with the feature."""
    return HyvModel.Output("model", tooltip="For HyVideo Sampler or another node that adds to the model.")


def interval_inputs(usual: Interval) -> list[io.Input]:
    """Where in the run a feature acts."""
    ends = [("start", usual.start, "begins"), ("end", usual.end, "ends")]
    return [
        io.Float.Input(
            name,
            default=default,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            optional=True,
            tooltip=f"Part of the steps at which this {does}: 0 is before the first step, 1 after the last. Of the "
            "sampler's own steps: with denoise below 1, or a schedule in two samplers, these are other noise levels.",
        )
        for name, default, does in ends
    ]


def interval(start: float, end: float) -> Interval:
    """The part of the run that the two inputs mean. Raises ``HyVideoError`` where it ends before it starts."""
    if start > end:
        raise HyVideoError(
            f"start is {start} and end is {end}, but a feature must start before it ends. Lower start or raise end."
        )
    return Interval(start, end)


class HyvContextWindows(io.ComfyNode):
    """Long videos in windows of time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvContextWindows",
            display_name="HyVideo Context Windows",
            category=LENGTH,
            description="Makes videos longer than the model's own: every step looks at one window of time after the "
            "other and blends them where they overlap. Memory is that of one window.",
            search_aliases=["context options", "sliding context", "freenoise", "long video", "HyVideoContextOptions"],
            inputs=[
                model_input(),
                io.Int.Input(
                    "window_frames",
                    default=WINDOWS.window_frames,
                    min=5,
                    max=1025,
                    step=4,
                    tooltip="Frames of a window, 4n+1. 129 is what the model was trained on; less where memory is "
                    "short. Videos no longer than this are left alone.",
                ),
                io.Int.Input(
                    "overlap_frames",
                    default=WINDOWS.overlap_frames,
                    min=0,
                    max=1024,
                    step=4,
                    tooltip="Frames that neighbours share, a multiple of 4 below window_frames. More for smoother "
                    "passages from one to the next, at the price of more windows.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=WINDOWS.schedule,
                    tooltip="static: the same windows in every step. uniform: they move from step to step, if seams "
                    "show. looped: they also go on at the beginning where the video ends, for loops.",
                ),
                io.Combo.Input(
                    "blend",
                    options=list(BLENDS),
                    default=WINDOWS.blend,
                    tooltip="pyramid: the middle of a window counts most. flat: all of it alike; blurs more.",
                ),
                io.Boolean.Input(
                    "freenoise",
                    default=WINDOWS.freenoise,
                    tooltip="On: later windows begin with the noise of the first one, shuffled, so that they show the "
                    "same things. Off for videos that shall change.",
                ),
                io.Int.Input(
                    "seed",
                    default=WINDOWS.seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    advanced=True,
                    optional=True,
                    tooltip="Of freenoise's shuffling. Another one if the video visibly repeats.",
                ),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        window_frames: int,
        overlap_frames: int,
        schedule: str,
        blend: str,
        freenoise: bool,
        seed: int = 0,
    ) -> io.NodeOutput:
        windows = ContextWindows(
            window_frames=window_frames,
            overlap_frames=overlap_frames,
            schedule=schedule,
            blend=blend,
            freenoise=freenoise,
            seed=seed,
        )
        return io.NodeOutput(with_feature(model, windows, "HyVideo Context Windows"))


class HyvRiflex(io.ComfyNode):
    """Longer videos without repetition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvRiflex",
            display_name="HyVideo RIFLEx",
            category=LENGTH,
            description="Lets a video be about twice as long as the model's own, in one piece, without beginning "
            "again. It takes the memory and the time of that length.",
            search_aliases=["riflex", "rope", "long video", "repetition", "HyVideoRiflex"],
            inputs=[
                model_input(),
                io.Int.Input(
                    "k",
                    default=RIFLEX.k,
                    min=1,
                    max=8,
                    tooltip="Which frequency of the model's sense of time is slowed down. 4 is HunyuanVideo's; try 5 "
                    "or 6 if a much longer video still repeats.",
                ),
                io.Int.Input(
                    "above_frames",
                    default=RIFLEX.above_frames,
                    min=0,
                    max=10000,
                    tooltip="Acts on videos of more frames than this only, which shorter ones do not need. With "
                    "context windows the frames of a window count.",
                ),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model: ModelHandle, k: int, above_frames: int) -> io.NodeOutput:
        return io.NodeOutput(with_feature(model, Riflex(k=k, above_frames=above_frames), "HyVideo RIFLEx"))


class HyvEnhanceAVideo(io.ComfyNode):
    """Steadier, richer videos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvEnhanceAVideo",
            display_name="HyVideo Enhance A Video",
            category=QUALITY,
            description="Strengthens attention where frames look at each other: steadier motion and more detail, for "
            "little time.",
            search_aliases=["enhance a video", "feta", "cross frame attention", "HyVideoEnhanceAVideo"],
            inputs=[
                model_input(),
                io.Float.Input(
                    "weight",
                    default=ENHANCE.weight,
                    min=NEUTRAL_WEIGHT,
                    max=100.0,
                    step=0.1,
                    tooltip="How much; -1 is off, 4 is its authors'. Lower it if the picture gets harsh.",
                ),
                *interval_inputs(ENHANCE.when),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model: ModelHandle, weight: float, start: float = 0.0, end: float = 1.0) -> io.NodeOutput:
        when = interval(start, end)
        if weight <= NEUTRAL_WEIGHT:
            return io.NodeOutput(model)
        return io.NodeOutput(with_feature(model, EnhanceAVideo(when, weight), "HyVideo Enhance A Video"))


class HyvSeamlessLoop(io.ComfyNode):
    """Videos whose end goes on at their beginning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSeamlessLoop",
            display_name="HyVideo Seamless Loop",
            category=LENGTH,
            description="Makes a video that loops: its end goes on at its beginning. Switch on loop in HyVideo Decode "
            "too. Not with a given image.",
            search_aliases=["loop", "looping video", "mobius", "latent shift", "HyVideoLoopArgs"],
            inputs=[
                model_input(),
                io.Int.Input(
                    "shift_latent_frames",
                    default=LOOP.shift_latent_frames,
                    min=0,
                    max=1000,
                    tooltip="How far the video is turned from step to step, in latent frames of four pictures; 0 is "
                    "off. 6 is usual, if it shares no divisor with the latent's length, frames / 4 rounded up; else "
                    "only some of the frames ever come first: take 5 or 7 for 129 frames.",
                ),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model: ModelHandle, shift_latent_frames: int) -> io.NodeOutput:
        if not shift_latent_frames:
            return io.NodeOutput(model)
        loop = SeamlessLoop(shift_latent_frames=shift_latent_frames)
        return io.NodeOutput(with_feature(model, loop, "HyVideo Seamless Loop"))


class HyvSlidingTileAttention(io.ComfyNode):
    """Attention to what is near."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        axes = ("frames", "height", "width")
        windows = [
            io.Int.Input(
                f"window_{axis}",
                default=tiles,
                min=1,
                max=99,
                tooltip=f"How many tiles are looked at along the {axis}, its own in the middle. Fewer take less time "
                "and lose more; as many as there are in the video changes nothing.",
            )
            for axis, tiles in zip(axes, TILES.window, strict=True)
        ]
        tile_sides = [
            io.Int.Input(
                f"tile_{axis}",
                default=tokens,
                min=1,
                max=99,
                advanced=True,
                optional=True,
                tooltip=f"Size of a tile along the {axis}, in {unit}. Leave it unless you compare.",
            )
            for axis, tokens, unit in zip(axes, TILES.tile, ("latent frames", "16 px", "16 px"), strict=True)
        ]
        return io.Schema(
            node_id="HyvSlidingTileAttention",
            display_name="HyVideo Sliding Tile Attention",
            category=QUALITY,
            description="After the first steps each part of the video looks only at what is near in space and time, "
            "which saves time in large and long videos. The log tells how much is left out.",
            search_aliases=["sta", "sparse attention", "sliding tile attention", "faster attention"],
            inputs=[model_input(), *windows, *interval_inputs(TILES.when), *tile_sides],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        window_frames: int,
        window_height: int,
        window_width: int,
        start: float = TILES.when.start,
        end: float = TILES.when.end,
        tile_frames: int = TILES.tile[0],
        tile_height: int = TILES.tile[1],
        tile_width: int = TILES.tile[2],
    ) -> io.NodeOutput:
        tiles = SlidingTileAttention(
            when=interval(start, end),
            tile=(tile_frames, tile_height, tile_width),
            window=(window_frames, window_height, window_width),
        )
        return io.NodeOutput(with_feature(model, tiles, "HyVideo Sliding Tile Attention"))
