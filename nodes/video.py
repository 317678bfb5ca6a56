"""Frames to a video file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui

from hyvideo_core.errors import HyVideoError
from hyvideo_core.video import Frame, frame, write_first_free

from . import host
from .handles import CATEGORY

#: Longest part of a path; the usual limit of 255 bytes less the number and the suffix.
MAX_PART_BYTES = 200


class HyvSaveVideo(io.ComfyNode):
    """An mp4 in the output folder, shown in the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSaveVideo",
            display_name="HyVideo Save Video",
            category=f"{CATEGORY}/video",
            description="Saves frames as an mp4 with the workflow inside: drop the file on ComfyUI to open it again.",
            search_aliases=["save mp4", "video combine", "export video", "VHS_VideoCombine"],
            inputs=[
                io.Image.Input("images", tooltip="The frames, in order."),
                *saving_inputs(),
            ],
            outputs=[saved_output()],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: torch.Tensor, fps: float, crf: int, filename_prefix: str) -> io.NodeOutput:
        height, width = images.shape[1:3]
        place = Place.find(filename_prefix, width, height)
        return place.saved(_frames(images), fps, crf, metadata_of(cls.hidden))


def saving_inputs() -> list[io.Input]:
    """How and where a video is saved."""
    return [
        io.Float.Input(
            "fps",
            default=24.0,
            min=1.0,
            max=240.0,
            step=0.01,
            tooltip="Frames a second; the model was trained on 24.",
        ),
        io.Int.Input(
            "crf",
            default=16,
            min=0,
            max=51,
            tooltip="Quality of H.264: lower is better and larger; 16 looks lossless, 23 is small.",
        ),
        io.String.Input(
            "filename_prefix",
            default="video/HyVideo",
            tooltip="Name, and folder inside the output folder. A number is appended; nothing is overwritten.",
        ),
    ]


def saved_output() -> io.Output:
    """The socket of a saved video."""
    return io.Video.Output("video", tooltip="The saved file, for ComfyUI's own video nodes.")


def metadata_of(hidden: Any) -> dict[str, Any]:
    """Prompt and workflow, under the names the frontend looks for."""
    if args.disable_metadata:
        return {}
    found = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        found["prompt"] = hidden.prompt
    return found


@dataclass(frozen=True)
class Place:
    """Where a new video goes: the output folder's ``subfolder``, and a name that gets the first free number."""

    folder: Path
    name: str
    counter: int
    subfolder: str

    @classmethod
    def find(cls, prefix: str, width_px: int, height_px: int) -> Place:
        """The place that ``prefix`` means. Raises ``HyVideoError`` for a prefix that is no such place."""
        return cls(*_destination(prefix, width_px, height_px))

    def saved(self, frames: Iterable[Frame], fps: float, crf: int, metadata: dict[str, Any]) -> io.NodeOutput:
        """Write ``frames`` as they come; the video, shown in the node. If they raise, nothing is written."""
        paths = (self.folder / f"{self.name}_{number:05}_.mp4" for number in count(self.counter))
        path = write_first_free(frames, paths, fps=fps, crf=crf, metadata=metadata)
        shown = ui.PreviewVideo([ui.SavedResult(path.name, self.subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=shown)


def _destination(prefix: str, width_px: int, height_px: int) -> tuple[Path, str, int, str]:
    """Folder, name, number and subfolder of a new file. Raises ``HyVideoError`` for a prefix that is no such place."""
    parts = prefix.replace("\\", "/").split("/")
    try:
        if any("\0" in part or len(part.encode()) > MAX_PART_BYTES for part in parts):
            raise ValueError(f"a part of it is longer than {MAX_PART_BYTES} bytes or holds a null character")
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            "/".join(parts), folder_paths.get_output_directory(), width_px, height_px
        )
        if not name.strip(" ."):
            raise ValueError("there is no name in it")
    except Exception as error:  # the host raises no narrower kind
        raise HyVideoError(
            f"filename_prefix is {prefix[:MAX_PART_BYTES]!r}, but must be a name, or folders and a name, inside the "
            f"output folder ({str(error).splitlines()[0]}). Use something like video/HyVideo."
        ) from error
    return Path(folder), name, counter, subfolder


def _frames(images: torch.Tensor) -> Iterator[Frame]:
    """8-bit RGB frames, one at a time."""
    for image in images:
        host.check_interrupt()
        yield frame(image[..., :3])
