"""The devices, their memory, and the kernels that run on them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tools.doctor.lines import BAD, GB, GOOD, INFO, say, say_whether, say_wrapped, shortened

if TYPE_CHECKING:
    import torch

#: Of the transformer.
HEAD_DIM = 128
#: What ComfyUI leaves to other programs. Source: ComfyUI ``comfy/model_management.py`` ``EXTRA_RESERVED_VRAM``.
RESERVED_BYTES = (700 if os.name == "nt" else 400) * 2**20


def report_devices() -> None:
    """Every GPU with its total and free memory, and the RAM."""
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        say(GOOD, f"GPU {index}: {name}, {total / GB:.1f} GB, {free / GB:.1f} GB free")
    if torch.backends.mps.is_available():
        say(GOOD, "Apple GPU (MPS)")
    elif not torch.cuda.is_available():
        build_name = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        say(INFO, f"no GPU that this PyTorch ({build_name}) can use: everything runs on the CPU, slowly")
    if (ram := ram_bytes()) is None:
        say(INFO, "RAM: unknown (psutil is not installed)")
    else:
        say(INFO, f"RAM: {ram[0] / GB:.1f} GB, {ram[1] / GB:.1f} GB free")


def report_kernels() -> bool:
    """Which kernels give right results here, and which one auto means; False if none for attention does."""
    import torch

    from hyvideo_core import attention
    from hyvideo_core.model.compiling import why_not_compile
    from hyvideo_core.ops import fp8

    device = best_device()
    kernels = attention.available(device, torch.bfloat16, HEAD_DIM)
    good = [kernel.name for kernel in kernels if kernel.ok]
    if good:
        auto = attention.choose(device, torch.bfloat16, HEAD_DIM)
        say(GOOD, f"attention on {device}: {', '.join(good)}; auto is {auto}")
    faults: dict[tuple[bool, str], list[str]] = {}
    for kernel in kernels:
        if not kernel.ok:
            faults.setdefault((kernel.wrong, kernel.reason), []).append(kernel.name)
    for (wrong, reason), names in faults.items():
        say_wrapped(BAD if wrong else INFO, f"not {', '.join(names)}: {shortened(reason)}")
    say_whether("torch.compile", why_not_compile(device))
    say_whether("fp8_products fast", fp8.why_not_fast(device))
    return bool(good)


def best_device() -> torch.device:
    """The device that ComfyUI takes by default."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.xpu.is_available():
        return torch.device("xpu")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def free_gpu_bytes() -> int | None:
    """What models may take of the GPU that ComfyUI takes by default; None without one."""
    import torch

    device = best_device()
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(0)[0]
    elif device.type == "xpu":
        free = torch.xpu.mem_get_info(0)[0]
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory()
    else:
        return None
    return int(free) - RESERVED_BYTES


def ram_bytes() -> tuple[int, int] | None:
    """The machine's memory and what of it is free; None where nobody tells."""
    try:
        import psutil
    except ImportError:
        return None
    memory = psutil.virtual_memory()
    return memory.total, memory.available
