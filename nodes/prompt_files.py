"""Encoded prompts as files."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from hyvideo_core.text.embeddings_file import SUFFIX, Provenance, load_conditioning, save_conditioning

from .adapt import HostConditioning, from_host_conditioning, to_host_conditioning
from .handles import CATEGORY, FileVersion
from .video import Place

logger = logging.getLogger(__name__)

#: Where saved prompts are, in the output folder and in the input folder.
PROMPTS = "prompts"
OF_OUTPUT = " [output]"


class HyvSavePrompt(io.ComfyNode):
    """An encoded prompt as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSavePrompt",
            display_name="HyVideo Save Prompt",
            category=f"{CATEGORY}/text",
            description="Saves an encoded prompt as safetensors in output/prompts: HyVideo Load Prompt brings it back "
            "without any text encoder, on this machine or another.",
            search_aliases=["save conditioning", "save embeddings", "HyVideoTextEmbedsSave"],
            inputs=[
                io.Conditioning.Input(
                    "prompt",
                    tooltip="The encoded prompt. Guidance that FluxGuidance put there is not saved; set it after "
                    "loading.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="HyVideo",
                    tooltip="Name, and folder inside output/prompts. A number is appended; nothing is overwritten.",
                ),
                io.String.Input(
                    "note",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Saved in the file: best the prompt's own words, since an encoded prompt cannot be read.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, prompt: HostConditioning, filename_prefix: str, note: str = "") -> io.NodeOutput:
        conditioning, _ = from_host_conditioning(prompt, "prompt")
        place = Place.find(f"{PROMPTS}/{filename_prefix}", 0, 0)
        path = place.free(SUFFIX)
        save_conditioning(path, conditioning, Provenance(prompt=note))
        logger.info("saved the encoded prompt as %s", path.name)
        saved = ui.SavedResult(path.name, place.subfolder, io.FolderType.output)
        return io.NodeOutput(ui={"prompts": [saved]})


class HyvLoadPrompt(io.ComfyNode):
    """An encoded prompt from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvLoadPrompt",
            display_name="HyVideo Load Prompt",
            category=f"{CATEGORY}/text",
            description="Loads an encoded prompt that HyVideo Save Prompt saved; no text encoder is needed.",
            search_aliases=["load conditioning", "load embeddings", "HyVideoTextEmbedsLoad"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_saved_prompts(),
                    tooltip="A file of output/prompts, or one from elsewhere that was put into the input folder.",
                )
            ],
            outputs=[
                io.Conditioning.Output("prompt", tooltip="The encoded prompt, for HyVideo Sampler."),
                io.String.Output("note", tooltip="The note that was saved with it."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return str(FileVersion.of(folder_paths.get_annotated_filepath(file)))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        conditioning, provenance = load_conditioning(folder_paths.get_annotated_filepath(file))
        return io.NodeOutput(to_host_conditioning(conditioning), provenance.prompt)


def _saved_prompts() -> list[str]:
    """Files that may be saved prompts, as the host names files of its input and output folders."""
    given, made = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
    found = [*given.glob(f"*{SUFFIX}"), *(given / PROMPTS).rglob(f"*{SUFFIX}")]
    names = sorted(path.relative_to(given).as_posix() for path in found)
    saved = sorted(path.relative_to(made).as_posix() for path in (made / PROMPTS).rglob(f"*{SUFFIX}"))
    return [*(name + OF_OUTPUT for name in saved), *names]
