"""A short prompt made long by a language model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io, ui

from hyvideo_core.text.rewrite import MAX_NEW_TOKENS, MODES, rewrite, rewrite_prompt

from . import host, memory, models
from .handles import CATEGORY, FileVersion
from .text import held_bytes

logger = logging.getLogger(__name__)

#: The choice of no language model: the request is handed out instead.
NO_MODEL = "none"
#: Room for what a rewriting model computes.
REWRITE_ACTIVATION_BYTES = 2**30


class HyvRewritePrompt(io.ComfyNode):
    """A short prompt as a long one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvRewritePrompt",
            display_name="HyVideo Rewrite Prompt",
            category=f"{CATEGORY}/text",
            description="Has a language model write the prompt as the video model was trained on them: long and plain. "
            "Without a model it gives the whole request as text, for a chat of yours.",
            search_aliases=["prompt rewrite", "prompt enhancer", "prompt upsampling", "Hunyuan-Large", "llm prompt"],
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="A cat walks on the grass.",
                    tooltip="What the video shows, in a few words and any language.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="normal keeps to what you wrote and says it clearly; master composes a richer shot with "
                    "light and camera, and may lose some of it.",
                ),
                io.Combo.Input(
                    "llm",
                    options=models.language_models(first=(NO_MODEL,)),
                    default=NO_MODEL,
                    tooltip="A folder in models/LLM with an instruction-following language model as Hugging Face has "
                    "them, such as Qwen3-4B-Instruct-2507. none: copy the request into any chat.",
                ),
                io.Int.Input(
                    "wording",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    tooltip="0 takes the likeliest words; each other number gives another wording, always the same.",
                    optional=True,
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=MAX_NEW_TOKENS,
                    min=1,
                    max=8192,
                    tooltip="Where the model is stopped. 256 is enough; models that think first need some thousands.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompt", tooltip="The rewritten prompt, for HyVideo Encode Prompt; without a model, the prompt."
                ),
                io.String.Output("request", tooltip="The whole text that a language model is asked with."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, llm: str, **_: Any) -> str:
        return NO_MODEL if llm == NO_MODEL else str(FileVersion.of(models.text_encoder(llm)))

    @classmethod
    def execute(
        cls, prompt: str, mode: str, llm: str, wording: int = 0, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> io.NodeOutput:
        request = rewrite_prompt(prompt, mode)
        if llm == NO_MODEL:
            return io.NodeOutput(prompt, request, ui=ui.PreviewText(request))
        path, dtype = models.text_encoder(llm), torch.bfloat16
        device = _rewriting_device(path, dtype)
        found = rewrite(
            prompt, mode, path, device, dtype, max_new_tokens, seed=wording or None, check=host.check_interrupt
        )
        return io.NodeOutput(found, request, ui=ui.PreviewText(found))


def _rewriting_device(folder: Path, dtype: torch.dtype) -> torch.device:
    """Where the language model runs: with the text encoders, room made for it, or on the CPU if there is none."""
    device, needed = host.text_device(), held_bytes(folder, dtype) + REWRITE_ACTIVATION_BYTES
    if device.type == "cpu":
        return device
    if needed > memory.available_bytes(device):
        logger.warning("%s needs %.1f GB, which %s has not free: it runs on the CPU", folder.name, needed / 1e9, device)
        return torch.device("cpu")
    memory.make_room(needed, device)
    return device
