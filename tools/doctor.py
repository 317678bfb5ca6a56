"""What works on this machine, what is missing, and where to get it. Looks only; installs and changes nothing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools import comfyui, environment, model_files
from tools.console import ToolError
from tools.demo_model import build
from tools.model_files import Found
from tools.paths import HOST_BASE, ROOT

GOOD, BAD, INFO = "✓", "✗", "·"
PACKAGES = ("torch", "transformers", "safetensors", "av", "imageio-ffmpeg", "comfyui-frontend-package")
REQUIRED = ("torch", "transformers", "safetensors")
GIB = 1024**3
#: Of the transformer.
HEAD_DIM = 128
SETUP_REMEDY = "run: python tools/dev.py demo"


def run() -> int:
    """Print the report; 0 if a first video is possible here, 1 otherwise."""
    host = section("ComfyUI", report_comfyui)
    software = section("Software", report_software)
    section("Devices", report_devices)
    kernels = section("Attention kernels", report_attention)
    models = section("Model files", lambda: report_models(host))
    demo = section("Demo model", report_demo)
    print("\nVerdict")
    return verdict(bool(host), bool(software), bool(kernels), bool(models), bool(demo))


def verdict(host: bool, software: bool, kernels: bool, models: bool, demo: bool) -> int:
    """Print what is possible and return the exit code."""
    works = host and software and kernels
    if not works:
        say(BAD, f"No video is possible yet: see the lines marked {BAD} above, or {SETUP_REMEDY}")
        return 1
    say(
        GOOD if models else BAD,
        f"Videos with the real model: {'possible' if models else 'files are missing, see above'}",
    )
    say(GOOD if demo else BAD, f"The demo: {'ready' if demo else SETUP_REMEDY}")
    return 0 if models or demo else 1


def say(sign: str, text: str) -> None:
    """One line of the report."""
    print(f"  {sign} {text}")


def section(name: str, report: Callable[[], Any]) -> Any:
    """Run one part of the report and return its result; None from a part that fails, after saying why."""
    print(f"\n{name}")
    try:
        return report()
    except ToolError as error:
        say(BAD, str(error))
    except Exception as error:  # a doctor must survive every broken installation it looks at
        say(BAD, f"{type(error).__name__}: {error}")
    return None


def report_comfyui() -> Path | None:
    """Which ComfyUI is used."""
    host = comfyui.locate()
    if host is None:
        say(BAD, f"none found: {SETUP_REMEDY}, or set {comfyui.VARIABLE} to the folder of yours")
        return None
    say(GOOD, f"ComfyUI {comfyui.version(host)} in {host}")
    return host


def report_software() -> bool:
    """Versions of system and packages; False if a needed one is missing."""
    say(INFO, f"{platform.platform()}, {os.cpu_count()} CPUs")
    say(INFO, f"Python {platform.python_version()} ({sys.executable})")
    say(INFO, f"HyVideo Studio {pack_version()}")
    if not environment.is_ready():
        say(INFO, f"no environment of this clone yet, so this Python is examined; to make one, {SETUP_REMEDY}")
    complete = True
    for name in PACKAGES:
        version = installed_version(name)
        needed = version is None and name in REQUIRED
        complete = complete and not needed
        say(BAD if needed else INFO, f"{name} {version or 'is not installed'}")
    for name in ("torch", "torchvision", "torchaudio", "transformers"):
        if installed_version(name) and (problem := import_problem(name)):
            say(BAD, f"{name} cannot be imported: {problem}")
            complete = False
    return complete


def pack_version() -> str:
    """This clone's version as pyproject.toml has it."""
    for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("version"):
            return line.split("=", 1)[1].strip().strip('"')
    return "of unknown version"


def installed_version(name: str) -> str | None:
    """A package's version, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def import_problem(name: str) -> str:
    """Why a package cannot be imported; empty if it can."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def report_devices() -> None:
    """Every GPU with its total and free memory, and the RAM."""
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        say(GOOD, f"GPU {index}: {name}, {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free")
    if torch.backends.mps.is_available():
        say(GOOD, "Apple GPU (MPS)")
    elif not torch.cuda.is_available():
        build_name = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        say(INFO, f"no GPU that this PyTorch ({build_name}) can use: everything runs on the CPU, slowly")
    try:
        import psutil
    except ImportError:
        say(INFO, "RAM: unknown (psutil is not installed)")
        return
    memory = psutil.virtual_memory()
    say(INFO, f"RAM: {memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB free")


def report_attention() -> bool:
    """Which attention kernels give right results here, and which one auto means; False if none does."""
    import torch

    sys.path.insert(0, str(ROOT))
    from hyvideo_core import attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernels = attention.available(device, torch.bfloat16, HEAD_DIM)
    for kernel in kernels:
        sign = GOOD if kernel.ok else BAD if kernel.wrong else INFO
        say(sign, f"{kernel.name} on {device}{'' if kernel.ok else ': ' + kernel.reason}")
    say(INFO, f"auto is {attention.choose(device, torch.bfloat16, HEAD_DIM)}")
    return any(kernel.ok for kernel in kernels)


def report_models(host: Path | None) -> bool:
    """The files found and the parts still missing; True if all four parts are there."""
    folders = model_files.comfyui_folders(host) if host else []
    folders += [HOST_BASE / "models" / name for name in model_files.FOLDERS]
    folders = model_files.existing(folders)
    found = model_files.scan(folders)
    for file in found:
        damaged = file.note.startswith("damaged")
        say(BAD if damaged else GOOD if file.kind else INFO, f"{file.kind or 'file'}: {file.path} ({file.note})")
    missing = missing_kinds(found)
    target = (HOST_BASE if host == comfyui.HOST_COMFYUI else host or HOST_BASE) / "models"
    for kind in missing:
        repository, name, folder = model_files.SOURCES[kind]
        alternative = model_files.ALTERNATIVES.get(kind)
        say(BAD, f"{kind} is missing: put {name} of https://huggingface.co/{repository} into {target / folder}")
        if alternative:
            say(INFO, f"  {alternative}")
    return not missing


def missing_kinds(found: Sequence[Found]) -> list[str]:
    """The parts of which no file was found."""
    present = {file.kind for file in found}
    return [kind for kind in model_files.KINDS if kind not in present]


def report_demo() -> bool:
    """Whether the toy model is built."""
    current = build.is_current()
    say(GOOD if current else INFO, "built" if current else f"not built yet: {SETUP_REMEDY}")
    return current
