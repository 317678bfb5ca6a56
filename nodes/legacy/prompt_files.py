"""Old nodes for encoded prompts as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from safetensors.torch import save

from hyvideo_core.errors import CheckpointError
from hyvideo_core.text.embeddings_file import SUFFIX, write_whole
from hyvideo_core.types import Conditioning

from .. import models
from ..handles import FileVersion
from ..video import Place, metadata_of
from . import features, sockets
from .sockets import CATEGORY, OldEmbeds, result

#: Where encoded prompts were saved, in the output folder, and the host's name for the list of them.
SAVED = "hyvid_embeds"

if SAVED not in folder_paths.folder_names_and_paths:
    folder_paths.add_model_folder_path(SAVED, str(Path(folder_paths.get_output_directory()) / SAVED))


class HyVideoTextEmbedsSave(io.ComfyNode):
    """Now HyVideo Save Prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoTextEmbedsSave",
            display_name="HunyuanVideo TextEmbeds Save",
            category=CATEGORY,
            description="Old: use HyVideo Save Prompt.",
            is_deprecated=True,
            inputs=[
                sockets.Embeds.Input("hyvid_embeds", tooltip="The encoded prompt."),
                io.String.Input("filename_prefix", default=f"{SAVED}/hyvid_embed", tooltip="Name, and folder."),
            ],
            outputs=[io.String.Output("output_path")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, hyvid_embeds: OldEmbeds, filename_prefix: str) -> io.NodeOutput:
        place = Place.find(filename_prefix, 0, 0)
        path = place.free(SUFFIX)
        tensors = {name: tensor.contiguous() for name, tensor in _tensors(hyvid_embeds).items()}
        metadata = {name: json.dumps(value) for name, value in metadata_of(cls.hidden).items()}
        write_whole(path, save(tensors, metadata))
        return result(str(path))


class HyVideoTextEmbedsLoad(io.ComfyNode):
    """Now HyVideo Load Prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyVideoTextEmbedsLoad",
            display_name="HunyuanVideo TextEmbeds Load",
            category=CATEGORY,
            description="Old: use HyVideo Load Prompt. Reads what the old pack saved.",
            is_deprecated=True,
            inputs=[io.Combo.Input("embeds", options=models.files(SAVED), tooltip=f"A file of output/{SAVED}.")],
            outputs=[sockets.Embeds.Output("hyvid_embeds")],
        )

    @classmethod
    def fingerprint_inputs(cls, embeds: str) -> str:
        return str(FileVersion.of(models.file(SAVED, embeds)))

    @classmethod
    def execute(cls, embeds: str) -> io.NodeOutput:
        path = models.file(SAVED, embeds)
        return result(_from_tensors(comfy.utils.load_torch_file(str(path), safe_load=True), embeds))


def _tensors(embeds: OldEmbeds) -> dict[str, torch.Tensor]:
    """What is saved, by the names that the old pack gave it."""
    found = {"prompt_embeds": embeds.positive.text, "prompt_embeds_2": embeds.positive.pooled}
    if embeds.negative is not None:
        found |= {"negative_prompt_embeds": embeds.negative.text, "negative_prompt_embeds_2": embeds.negative.pooled}
    for name, prompt in (("attention_mask", embeds.positive), ("negative_attention_mask", embeds.negative)):
        if prompt is not None and prompt.text_mask is not None:
            found[name] = prompt.text_mask
    if embeds.negative is not None:
        cfg = embeds.cfg
        numbers = {"cfg": cfg.cfg, "start_percent": cfg.start, "end_percent": cfg.end}
        switches = {"batched_cfg": cfg.batched, "use_cfg_zero_star": cfg.zero_star}
        found |= {name: torch.tensor(value) for name, value in {**numbers, **switches}.items()}
    return found


def _from_tensors(tensors: Mapping[str, torch.Tensor], name: str) -> OldEmbeds:
    """The encoded prompt of a saved file. Raises ``CheckpointError`` for a file that holds none."""

    def prompt(prefix: str) -> Conditioning | None:
        text, pooled = (tensors.get(f"{prefix}prompt_embeds{end}") for end in ("", "_2"))
        if text is None or pooled is None:
            return None
        mask = tensors.get(f"{prefix}attention_mask")
        if mask is None or bool(mask.all()):
            return Conditioning(text.float(), pooled.float())
        # Files of earlier versions are padded; what is not valid comes last.
        return Conditioning(text[:, : int(mask.sum(dim=1).max())].float(), pooled.float())

    positive = prompt("")
    if positive is None:
        raise CheckpointError(
            f"{name} holds no prompt with both of its encodings (prompt_embeds, prompt_embeds_2). Choose a file that "
            "HunyuanVideo TextEmbeds Save wrote; for one of HyVideo Save Prompt use HyVideo Load Prompt."
        )
    plain = features.Cfg()
    cfg = features.Cfg(
        "",
        *(
            float(tensors.get(key, default))
            for key, default in (("cfg", 1.0), ("start_percent", 0.0), ("end_percent", 1.0))
        ),
        *(bool(tensors.get(key, False)) for key in ("batched_cfg", "use_cfg_zero_star")),
    )
    return OldEmbeds(positive, prompt("negative_"), cfg if "cfg" in tensors else plain)
