"""What guidance may do beside cfg: features on the way from a model to the sampler."""

from __future__ import annotations

from comfy_api.latest import io

from hyvideo_core.extensions import AdaptiveProjectedGuidance, CfgZeroStar, FreSca, SkipGuidance
from hyvideo_core.extensions.skip_guidance import ATTENTION, SKIP
from hyvideo_core.types import Interval

from .handles import CATEGORY, ModelHandle, with_feature
from .length import interval, interval_inputs, model_input, model_output

GUIDANCE = f"{CATEGORY}/guidance"
WHOLE = Interval()
#: The usual settings are those of the core.
ZERO_STAR, FRESCA, APG, STG = CfgZeroStar(), FreSca(), AdaptiveProjectedGuidance(), SkipGuidance()
#: The layers are those of Stability AI's Stable Diffusion 3.5; scale and steps are what ComfyUI's node for that has.
SLG = SkipGuidance(blocks="double 7-9", scale=3.0, when=Interval(0.01, 0.15))
#: What may be done to a block, in the words of the paper on spatio-temporal guidance.
MODES = {"residual (STG-R)": SKIP, "attention (STG-A)": ATTENTION}
NEEDS_CFG = "It acts on true guidance alone: with cfg above 1 and a negative prompt in HyVideo Sampler."


class HyvCfgZeroStar(io.ComfyNode):
    """CFG-Zero★."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvCfgZeroStar",
            display_name="HyVideo CFG-Zero★",
            category=GUIDANCE,
            description="Leaves out the first steps, which go astray while all is noise, and scales the negative "
            "prompt's part of true guidance to fit the positive one. For checkpoints that are not distilled; for "
            "distilled ones at cfg 1 the left out steps are all that it does.",
            search_aliases=["cfg zero star", "CFGZeroStar", "CFGZeroStarAndInit", "zero init", "guidance"],
            inputs=[
                model_input(),
                io.Boolean.Input(
                    "optimized_scale",
                    default=ZERO_STAR.optimized_scale,
                    tooltip="Scale the negative prompt's part. Without effect while cfg is 1. Off to leave out steps "
                    "alone.",
                ),
                io.Int.Input(
                    "zero_steps",
                    default=ZERO_STAR.zero_steps,
                    min=0,
                    max=100,
                    tooltip="How many of the first steps do nothing: 1 for 30 steps, 2 for 50; 0 for few-step "
                    "checkpoints, which cannot do without any. Only runs that begin with pure noise leave out steps.",
                ),
                *interval_inputs(WHOLE),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        optimized_scale: bool,
        zero_steps: int,
        start: float = WHOLE.start,
        end: float = WHOLE.end,
    ) -> io.NodeOutput:
        feature = CfgZeroStar(optimized_scale=optimized_scale, zero_steps=zero_steps, when=interval(start, end))
        if not optimized_scale and not zero_steps:
            return io.NodeOutput(model)
        return io.NodeOutput(with_feature(model, feature, "HyVideo CFG-Zero★"))


class HyvSTG(io.ComfyNode):
    """Spatio-temporal guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSTG",
            display_name="HyVideo STG",
            category=GUIDANCE,
            description="Spatio-temporal guidance: steers away from what the model makes of the prompt with some of "
            "its blocks disturbed, for sharper pictures and steadier things. Needs no negative prompt, so it suits "
            "distilled checkpoints. Each step evaluates the model once more.",
            search_aliases=["spatiotemporal skip guidance", "HyVideoSTG", "STG-A", "STG-R", "perturbed attention"],
            inputs=[
                model_input(),
                _scale_input(STG, "1 is usual. Lower if the colours or the contrast become too strong"),
                _blocks_input(STG, "'double 2' is its authors' for HunyuanVideo"),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    tooltip="How the blocks are disturbed. residual: they are left out, as its authors do for "
                    "HunyuanVideo. attention: in them frames and places do not see each other; milder.",
                ),
                *interval_inputs(STG.when),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        scale: float,
        blocks: str,
        mode: str,
        start: float = STG.when.start,
        end: float = STG.when.end,
    ) -> io.NodeOutput:
        return io.NodeOutput(_skipping(model, blocks, scale, MODES[mode], interval(start, end), "HyVideo STG"))


class HyvSLG(io.ComfyNode):
    """Skip layer guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSLG",
            display_name="HyVideo SLG",
            category=GUIDANCE,
            description="Skip layer guidance: early in the run, steers away from what the model makes of the prompt "
            "without some of its blocks, for bodies and hands that hold together. Each step in its part of the run "
            "evaluates the model once more.",
            search_aliases=["skip layer guidance", "SkipLayerGuidanceDiT", "SkipLayerGuidanceSD3", "slg"],
            inputs=[
                model_input(),
                _scale_input(SLG, "3 is usual; lower if the picture falls apart"),
                _blocks_input(SLG, "Those in the first half of the double ones show most"),
                *interval_inputs(SLG.when),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        scale: float,
        blocks: str,
        start: float = SLG.when.start,
        end: float = SLG.when.end,
    ) -> io.NodeOutput:
        return io.NodeOutput(_skipping(model, blocks, scale, SKIP, interval(start, end), "HyVideo SLG"))


class HyvFreSca(io.ComfyNode):
    """FreSca."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvFreSca",
            display_name="HyVideo FreSca",
            category=GUIDANCE,
            description=f"Makes guidance stronger or weaker for fine detail and for coarse shapes apart. {NEEDS_CFG}",
            search_aliases=["frequency scaling", "fresca", "detail", "sharpness"],
            inputs=[
                model_input(),
                io.Float.Input(
                    "low",
                    default=FRESCA.low,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Factor for coarse shapes. 1 leaves them; higher for more contrast between them.",
                ),
                io.Float.Input(
                    "high",
                    default=FRESCA.high,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Factor for fine detail. 1 leaves it; 1.25 to 1.5 for more of it, below 1 for softer "
                    "pictures.",
                ),
                io.Int.Input(
                    "cutoff",
                    default=FRESCA.cutoff,
                    min=1,
                    max=1000,
                    advanced=True,
                    optional=True,
                    tooltip="Where fine detail begins, in waves across the picture. Higher leaves less of it to high.",
                ),
                *interval_inputs(FRESCA.when),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        low: float,
        high: float,
        cutoff: int = FRESCA.cutoff,
        start: float = FRESCA.when.start,
        end: float = FRESCA.when.end,
    ) -> io.NodeOutput:
        feature = FreSca(low=low, high=high, cutoff=cutoff, when=interval(start, end))
        if low == high == 1:
            return io.NodeOutput(model)
        return io.NodeOutput(with_feature(model, feature, "HyVideo FreSca"))


class HyvAPG(io.ComfyNode):
    """Adaptive projected guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvAPG",
            display_name="HyVideo APG",
            category=GUIDANCE,
            description="Adaptive projected guidance: lets cfg be high without burnt colours, by taking away the part "
            f"of guidance that only makes everything stronger. {NEEDS_CFG}",
            search_aliases=["adaptive projected guidance", "APG", "oversaturation", "perp neg"],
            inputs=[
                model_input(),
                io.Float.Input(
                    "eta",
                    default=APG.eta,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much stays of the part that saturates: 0 takes all of it away, 1 leaves it.",
                ),
                io.Float.Input(
                    "momentum",
                    default=APG.momentum,
                    min=-0.99,
                    max=0.99,
                    step=0.01,
                    tooltip="What earlier steps count: below 0 steers away from what they did already, 0 is off. -0.5 "
                    "is the paper's for SDXL.",
                ),
                io.Float.Input(
                    "norm_threshold",
                    default=APG.norm_threshold,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="The most that guidance may add in a step, the same for every size of video; 0 is no "
                    "limit. 15 is the paper's for SDXL. Lower for calmer pictures.",
                ),
                *interval_inputs(APG.when),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        eta: float,
        momentum: float,
        norm_threshold: float,
        start: float = APG.when.start,
        end: float = APG.when.end,
    ) -> io.NodeOutput:
        feature = AdaptiveProjectedGuidance(
            eta=eta, momentum=momentum, norm_threshold=norm_threshold, when=interval(start, end)
        )
        if eta == 1 and not momentum and not norm_threshold:
            return io.NodeOutput(model)
        return io.NodeOutput(with_feature(model, feature, "HyVideo APG"))


def _scale_input(usual: SkipGuidance, advice: str) -> io.Input:
    return io.Float.Input(
        "scale",
        default=usual.scale,
        min=0.0,
        max=100.0,
        step=0.01,
        tooltip=f"How strongly to steer away; 0 is off. {advice}.",
    )


def _blocks_input(usual: SkipGuidance, advice: str) -> io.Input:
    return io.String.Input(
        "blocks",
        default=usual.blocks,
        tooltip="Which blocks of the transformer, such as: double 2, single 10-12. HunyuanVideo has double 0-19 and "
        f"single 0-39. {advice}.",
    )


def _skipping(
    model: ModelHandle, blocks: str, scale: float, disturbance: str, when: Interval, node: str
) -> ModelHandle:
    """The model with one more guidance of its own evaluation; as it is at scale 0, if the blocks can be read."""
    feature = SkipGuidance(blocks=blocks, scale=scale, disturbance=disturbance, when=when)
    return with_feature(model, feature, node, several=True) if scale else model
