"""A small H.264 beside a format that browsers do not play."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from hyvideo_core.errors import HyVideoError
from hyvideo_core.video import colours, ffmpeg
from hyvideo_core.video.finish import Draft, Wanted

logger = logging.getLogger(__name__)

LONGEST_SIDE_PX = 720


def made(draft: Draft, saved: Path, wanted: Wanted, path: Path) -> Path | None:
    """Write the preview of a video that is ``saved`` to ``path``; None and a line in the log if it fails."""
    try:
        ffmpeg.need(["libx264"], "the preview in the node")
        sound = ["-codec:a", "aac"] if wanted.sound is not None and wanted.format.finish == "remux" else ["-an"]
        arguments = [*_source(draft, saved, wanted), "-codec:v", "libx264", "-preset", "veryfast", "-crf", "23"]
        arguments += colours.arguments("yuv420p", scale=_size(draft))
        ffmpeg.run([*arguments, *sound, "-movflags", "+faststart", "preview.mp4"], draft.folder, wanted.stop)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(draft.folder / "preview.mp4", path)
    except (HyVideoError, OSError) as error:
        logger.warning("no preview in the node, but the video is saved: %s", error)
        return None
    return path


def _source(draft: Draft, saved: Path, wanted: Wanted) -> list[str]:
    if wanted.format.finish == "pictures":
        folder = str(saved.resolve()).replace("%", "%%")
        return ["-framerate", str(wanted.rate), "-i", f"{folder}/frame_%05d.png"]
    return ["-i", str(saved.resolve()) if wanted.format.finish == "remux" else draft.name]


def _size(draft: Draft) -> str:
    """Even sides, the longer of at most ``LONGEST_SIDE_PX``."""
    factor = min(1.0, LONGEST_SIDE_PX / max(draft.width_px, draft.height_px))
    width, height = (max(2, round(side * factor / 2) * 2) for side in (draft.width_px, draft.height_px))
    return f"w={width}:h={height}"
