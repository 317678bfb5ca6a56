"""Frames to a video file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui

from hyvideo_core.errors import HyVideoError
from hyvideo_core.video import FORMATS, H264, Format, Image, Number, Option, Saved, Sound, Switch, Video, write

from . import host
from .handles import CATEGORY
from .pictures import PicturesVideo

#: Longest part of a path; the usual limit of 255 bytes less the number and the suffix.
MAX_PART_BYTES = 200
#: What Windows allows in no name, and the names that it keeps for devices.
WINDOWS_SIGNS = frozenset('<>:"|?*') | {chr(code) for code in range(32)}
WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


class HyvSaveVideo(io.ComfyNode):
    """An mp4 in the output folder, shown in the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvSaveVideo",
            display_name="HyVideo Save Video",
            category=f"{CATEGORY}/video",
            description="Saves frames as a video with the workflow inside: drop the file on ComfyUI to open it again.",
            search_aliases=[
                "save mp4",
                "video combine",
                "export video",
                "VHS_VideoCombine",
                "save gif",
                "save webp",
                "prores",
                "save webm",
                "png sequence",
            ],
            inputs=[
                io.Image.Input("images", tooltip="The frames, in order."),
                *saving_inputs(),
                *format_inputs(),
            ],
            outputs=[saved_output()],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        fps: float,
        crf: int,
        filename_prefix: str,
        format: dict[str, Any] | None = None,
        audio: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        height, width = images.shape[1:3]
        place = Place.find(filename_prefix, width, height)
        return place.saved(_images(images), video_of(cls.hidden, fps, crf, format, audio))


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
            tooltip="Quality of H.264: lower is better and larger; 16 looks lossless, 23 is small. Other formats have "
            "their own quality below format.",
        ),
        io.String.Input(
            "filename_prefix",
            default="video/HyVideo",
            tooltip="Name, and folder inside the output folder. A number is appended; nothing is overwritten.",
        ),
    ]


def format_inputs() -> list[io.Input]:
    """What a video is saved as; optional and last, as workflows older than these inputs have none of them."""
    return [
        io.DynamicCombo.Input(
            "format",
            options=[_format_option(entry) for entry in FORMATS.values()],
            optional=True,
            tooltip="H.264 plays everywhere. HEVC, AV1: smaller, and smoother gradients by 10 bits. VP9: for the web. "
            "ProRes: for editing. FFV1, H.264 lossless, PNG: every pixel as it is. WebP, GIF: moving pictures; a GIF "
            "has 256 colours. Browsers do not play HEVC, ProRes, lossless ones and pictures: the node shows a small "
            "H.264 instead.",
        ),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="Sound of the video: cut, or with silence at the end, as the video is long. Of a batch the first. "
            "WebP, GIF and PNG hold no sound.",
        ),
    ]


def _format_option(entry: Format) -> io.DynamicCombo.Option:
    # crf stands above the formats, where workflows from before them have it.
    return io.DynamicCombo.Option(entry.name, [] if entry is H264 else [_input(option) for option in entry.options])


def _input(option: Option) -> io.Input:
    """All optional: a prompt from before an option was there gets its default."""
    told: dict[str, Any] = {"default": option.default, "tooltip": option.tooltip, "optional": True}
    if isinstance(option, Switch):
        return io.Boolean.Input(option.name, **told)
    if isinstance(option, Number):
        return io.Int.Input(option.name, min=option.least, max=option.most, **told)
    return io.Combo.Input(option.name, options=list(option.words), **told)


def saved_output() -> io.Output:
    """The socket of a saved video."""
    return io.Video.Output("video", tooltip="The saved file, for ComfyUI's own video nodes.")


def video_of(
    hidden: Any, fps: float, crf: int, choice: Mapping[str, Any] | None, audio: Mapping[str, Any] | None
) -> Video:
    """How a saving node's inputs say that its frames are saved. Raises ``HyVideoError`` for an unknown format."""
    if choice is None:  # the host passes nothing for a format it does not know, and where none is chosen
        choice = {"format": _asked_for(hidden) or H264.name}
    entry = FORMATS.get(choice["format"])
    if entry is None:
        known = ", ".join(FORMATS)
        raise HyVideoError(f"format is {choice['format']!r}, but must be one of {known}. Choose one of them.")
    # The host passes None for options that a prompt does not name.
    named = {key: value for key, value in choice.items() if key != "format" and value is not None}
    chosen = {"crf": crf} if entry is H264 else named
    preview = Path(folder_paths.get_temp_directory()) / f"hyvideo_{uuid.uuid4().hex}.mp4"
    sound = None if audio is None else _sound(audio)
    return Video(entry, chosen, fps, metadata_of(hidden), sound, preview, host.check_interrupt)


def _asked_for(hidden: Any) -> str | None:
    """The format in the prompt itself."""
    node = (hidden.prompt or {}).get(hidden.unique_id) or {}
    return node.get("inputs", {}).get("format")


def _sound(audio: Mapping[str, Any]) -> Sound:
    """The first sound of an AUDIO. Raises ``GeometryError`` for what is none."""
    waveform = audio["waveform"]
    return Sound(waveform[0] if waveform.ndim == 3 else waveform, int(audio["sample_rate"]))


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
    """Where a new file goes: the output folder's ``subfolder``, and a name that gets the first free number."""

    folder: Path
    name: str
    counter: int
    subfolder: str

    @classmethod
    def find(cls, prefix: str, width_px: int, height_px: int) -> Place:
        """The place that ``prefix`` means. Raises ``HyVideoError`` for a prefix that is no such place."""
        return cls(*_destination(prefix, width_px, height_px))

    def paths(self, suffix: str) -> Iterator[Path]:
        """Paths with one number after the other, whether there is such a file or not."""
        return (self.folder / f"{self.name}_{number:05}_{suffix}" for number in count(self.counter))

    def free(self, suffix: str) -> Path:
        """The first of these paths that is not taken."""
        return next(path for path in self.paths(suffix) if not path.exists())

    def saved(self, images: Iterable[Image], video: Video) -> io.NodeOutput:
        """Write ``images`` as they come; the video, shown in the node. If they raise, nothing is written."""
        saved = write(images, self.paths(video.format.suffix), video)
        return io.NodeOutput(_for_native_nodes(saved, video), ui=self._shown(saved))

    def _shown(self, saved: Saved) -> dict[str, Any]:
        """What the frontend plays; where that is not the file itself, the file beside it, for the queue and the API."""
        file = ui.SavedResult(saved.path.name, self.subfolder, io.FolderType.output)
        if saved.preview is None:
            return ui.PreviewVideo([file]).as_dict()
        small = ui.SavedResult(saved.preview.name, "", io.FolderType.temp)
        return ui.PreviewVideo([small]).as_dict() | {"files": [file]}


def _for_native_nodes(saved: Saved, video: Video) -> Any:
    """A VIDEO of what was saved, read when it is asked for."""
    if PicturesVideo.reads(saved.path):
        sound = video.sound
        audio = None if sound is None else {"waveform": sound.samples[None], "sample_rate": sound.rate}
        return PicturesVideo(saved.path, video.fps, saved.count, audio)
    return InputImpl.VideoFromFile(str(saved.path))


def _destination(prefix: str, width_px: int, height_px: int) -> tuple[Path, str, int, str]:
    """Folder, name, number and subfolder of a new file. Raises ``HyVideoError`` for a prefix that is no such place."""
    parts = prefix.replace("\\", "/").split("/")
    try:
        if any("\0" in part or len(part.encode()) > MAX_PART_BYTES for part in parts):
            raise ValueError(f"a part of it is longer than {MAX_PART_BYTES} bytes or holds a null character")
        if os.name == "nt" and any(windows_refuses(part) for part in parts if part not in ("", ".", "..")):
            raise ValueError("Windows has no such name")
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


def _images(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """RGB images, one at a time."""
    for image in images:
        host.check_interrupt()
        yield image[..., :3]


def windows_refuses(part: str) -> bool:
    """Whether Windows has no file or folder of this name."""
    device = part.split(".")[0].rstrip(" ").upper()
    return bool(WINDOWS_SIGNS & set(part)) or device in WINDOWS_DEVICES or part != part.rstrip(" .")
