"""The host's devices, interruption and tokenizers. ``memory`` has its memory manager, ``progress`` its clients."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import torch

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


def finish(device: torch.device) -> None:
    """Wait for what a device was told to compute; a CPU computes at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_interrupt() -> None:
    """Raise the host's own exception if the user pressed stop."""
    mm.throw_exception_if_processing_interrupted()


def host_tokenizer(name: str) -> Path:
    """Folder of a tokenizer that the host ships: ``llama`` or ``clip``."""
    comfy_folder = Path(comfy.utils.__file__).parent
    folders = {"llama": comfy_folder / "text_encoders" / "llama_tokenizer", "clip": comfy_folder / "sd1_tokenizer"}
    return folders[name]
