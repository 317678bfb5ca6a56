"""The host's devices, progress and interruption. No other file but ``memory`` touches the host's own affairs."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import torch
from server import PromptServer

logger = logging.getLogger(__name__)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def transformer_device() -> torch.device:
    """Where the transformer runs."""
    return mm.get_torch_device()


def text_device() -> torch.device:
    """Where the text encoders run."""
    return mm.text_encoder_device()


def vae_device() -> torch.device:
    """Where the VAE runs."""
    return mm.vae_device()


def dtype_of(choice: str, device: torch.device, *, on_gpu: str, on_cpu: str) -> torch.dtype:
    """The dtype a loader's choice means; ``auto`` is ``on_gpu`` or ``on_cpu``."""
    if choice == "auto":
        choice = on_cpu if device.type == "cpu" else on_gpu
    return DTYPES[choice]


def offer(tensor: torch.Tensor) -> torch.Tensor:
    """A result where the host keeps results between nodes."""
    return tensor.to(mm.intermediate_device(), torch.float32)


def check_interrupt() -> None:
    """Raise the host's own exception if the user pressed stop."""
    mm.throw_exception_if_processing_interrupted()


def host_tokenizer(name: str) -> Path:
    """Folder of a tokenizer that the host ships: ``llama`` or ``clip``."""
    comfy_folder = Path(comfy.utils.__file__).parent
    folders = {"llama": comfy_folder / "text_encoders" / "llama_tokenizer", "clip": comfy_folder / "sd1_tokenizer"}
    return folders[name]


class Progress:
    """A node's progress bar with the time per unit and the time left beside it."""

    def __init__(self, total: int, unit: str, node_id: str | None, done: int = 0) -> None:
        """``done`` units need not be made any more."""
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)
        self._total, self._unit, self._node_id = total, unit, node_id
        self._first = done
        self._started = self._last = time.perf_counter()

    def update(self, done: int) -> None:
        """Show that ``done`` units are finished; also where a stop takes effect."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        mean = (now - self._started) / (done - self._first)
        text = f"{self._unit} {done}/{self._total} · {seconds:.2f} s · {mean * (self._total - done):.0f} s left"
        if self._node_id is not None and PromptServer.instance.client_id is not None:
            PromptServer.instance.send_progress_text(text, self._node_id, PromptServer.instance.client_id)
        self._bar.update_absolute(done, self._total)
        check_interrupt()

    def close(self, what: str) -> None:
        """Log how long the whole took."""
        seconds, units = time.perf_counter() - self._started, self._total - self._first
        logger.info("%s: %d × %s in %.2f s (%.2f s each)", what, units, self._unit, seconds, seconds / units)
