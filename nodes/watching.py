"""A run as it is watched: its steps, times, plan, what caches skipped, and a preview of the clip that is coming."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import folder_paths
import torch
from comfy.cli_args import args
from PIL import Image

from hyvideo_core.errors import CheckpointError
from hyvideo_core.preview import Clip, LatentRGB, Previewer, Taehv, load_taehv, own_rows
from hyvideo_core.preview.budget import SHARE
from hyvideo_core.preview.latent_rgb import Rows
from hyvideo_core.sample import Step
from hyvideo_core.sampling_plan import SamplingPlan

from . import host, http, panel, planning, viewers
from .panel import Panel
from .progress import Progress

logger = logging.getLogger(__name__)

#: Where the host keeps tiny decoders.
FOLDER = "vae_approx"
#: Files of the same name with something after it are for other models.
FILES = ("taehv.safetensors", "taehv.pth")

Json = dict[str, Any]


class Watching:
    """Who watches a run, and by which previews; outlives attempts that run out of memory."""

    def __init__(
        self, node_id: str | None, transformer_file: Path, latent_shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.viewer, self.node_id, self.device = viewers.viewer(), node_id, device
        self.has_panel = self.viewer.has_panel and node_id is not None
        self.remarks: list[Json] = []
        self.previewer: Previewer | None = None
        if self.viewer.choice != viewers.OFF:
            rows = self._own_rows(transformer_file)
            quick = LatentRGB() if rows is None else LatentRGB(rows)
            self.previewer = Previewer(quick, self._fine(device, has_own_latents=rows is not None))
            self.previewer.rehearse(*latent_shape[3:], device)

    def attempt(self, progress: Progress, plan: SamplingPlan) -> Watch:
        """One attempt at the run, for a ``with`` block."""
        return Watch(self, progress, plan)

    def _fine(self, device: torch.device, has_own_latents: bool) -> Taehv | None:
        """Previews by TAEHV where they are wanted and there is a file that works; the log says why not."""
        if self.viewer.choice not in (viewers.AUTO, viewers.TAEHV):
            return None
        if has_own_latents:
            if self.viewer.choice == viewers.TAEHV:
                self._remark("taehv_other_latents", "this transformer's latents are not HunyuanVideo's")
            return None
        name, folder = FILES[0], f"models/{FOLDER}"
        try:
            path = taehv_file()
            if path is None:
                if self.viewer.choice == viewers.TAEHV:
                    self._remark("taehv_missing", f"{name} is not in {folder}", file=name, folder=folder)
                return None
            name = path.name
            return load_taehv(path, dtype=torch.float32 if device.type == "cpu" else torch.float16, device=device)
        except Exception as error:
            # A preview is no reason to fail, whatever is wrong: the file, or a card that is full.
            words = http.words(error)
            reason = f"{name} in {folder} cannot be used: {words}"
            self._remark("taehv_unusable", reason, file=name, folder=folder, error=words)
            return None

    def _own_rows(self, transformer_file: Path) -> Rows | None:
        try:
            return own_rows(transformer_file)
        except CheckpointError as error:
            logger.warning("Previews have HunyuanVideo's own colours: %s", error)
            return None

    def _remark(self, code: str, reason: str, **values: str) -> None:
        text = f"TAEHV is left out: {reason}"
        self.remarks.append({"code": code, "text": text, **values})
        logger.warning("Previews are made by latent-to-RGB, %s", text)


def taehv_file() -> Path | None:
    """The file of the tiny decoder for HunyuanVideo, if there is one."""
    found = {Path(name).name: name for name in reversed(folder_paths.get_filename_list(FOLDER))}
    name = next((found[file] for file in FILES if file in found), None)
    return None if name is None else Path(folder_paths.get_full_path_or_raise(FOLDER, name))


class Watch(AbstractContextManager["Watch"]):
    """One attempt at a run, shown step by step."""

    def __init__(self, watching: Watching, progress: Progress, plan: SamplingPlan) -> None:
        self._watching, self._progress, self._plan = watching, progress, plan
        client_id, node_id = watching.viewer.client_id, watching.node_id
        self._panel = Panel(client_id, node_id) if watching.has_panel else None
        self._peak_bytes: int | None = None
        self._caches: list[Json] = []
        self._preview: Json | None = None

    def __enter__(self) -> Watch:
        self._tell(panel.RUNNING)
        if self._watching.previewer is not None:
            self._watching.previewer.start()
        return self

    def after(self, step: Step, done: int) -> None:
        """Show a step, with which ``done`` steps are finished; also where a stop takes effect."""
        # Before it has finished on the device, too, neither its time nor that of its preview can be told.
        host.finish(step.denoised.device)
        clip = self._clip(step)
        self._caches = [asdict(note) for note in step.notes()]
        if clip is not None:
            self._preview = {"step": done, "method": clip.method, "frames": len(clip.frames)}
        if self._panel is None:
            self._progress.update(done, still=None if clip is None else _still(clip))
            return
        if clip is not None:
            assert self._watching.previewer is not None
            self._panel.show(clip, self._watching.previewer.encoded)
        try:
            self._progress.update(done)
        finally:
            self._tell(panel.RUNNING)

    def measured(self, peak_bytes: int) -> None:
        """Show the peak that was measured."""
        self._peak_bytes = peak_bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._panel is None:
            return
        self._panel.close()
        if kind is None:
            self._tell(panel.FINISHED)
        elif host.is_stop(kind):
            self._tell(panel.STOPPED)
        else:
            self._tell(panel.FAILED, next(iter(str(error).splitlines()), ""))

    def _clip(self, step: Step) -> Clip | None:
        previewer, viewer = self._watching.previewer, self._watching.viewer
        if previewer is None or not viewer.is_there or (self._panel is not None and self._panel.is_busy):
            return None
        return previewer.after_step(step.denoised)

    def _tell(self, state: str, error: str | None = None) -> None:
        if self._panel is None:
            return
        values = {
            "error": error,
            "steps": asdict(self._progress.standing),
            "device": str(self._watching.device),
            "sampling": planning.sampling_values(self._plan),
            "measured_peak_bytes": self._peak_bytes,
            "caches": self._caches,
            "preview": self._preview,
            "awaited": self._awaited(),
            "remarks": self._watching.remarks,
        }
        self._panel.tell(state, values)

    def _awaited(self) -> Json | None:
        previewer = self._watching.previewer
        if previewer is None or not previewer.awaited:
            return None
        return {"method": previewer.awaited, "share": SHARE}


def _still(clip: Clip) -> tuple[str, Image.Image, int]:
    """The middle frame, as the host's preview takes it."""
    return "JPEG", Image.fromarray(clip.frames[len(clip.frames) // 2]), args.preview_size
