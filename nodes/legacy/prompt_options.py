"""Old nodes for what goes into the old text encoders: the negative prompt with its guidance, and a template."""

from __future__ import annotations

from comfy_api.latest import io

from hyvideo_core.text import VIDEO, Template

from . import features, sockets
from .sockets import CATEGORY, percent_inputs, result

NEGATIVE = (
    "Aerial view, aerial view, overexposed, low quality, deformation, a poor composition, bad hands, bad teeth, bad "
    "eyes, bad limbs, distortion"
)


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
        return result(features.Cfg(negative_prompt, cfg, start_percent, end_percent, batched_cfg, use_cfg_zero_star))


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
