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
PACKAGES = ("torch", "transformers", "safetensors", "imageio-ffmpeg", "av", "comfyui-frontend-package")
REQUIRED = ("torch", "transformers", "safetensors", "imageio-ffmpeg")
GIB = 1024**3
#: Of the transformer.
HEAD_DIM = 128
#: 12.8 billion parameters in bfloat16.
TRANSFORMER_BYTES = 25.6e9
#: Width, height and frames of the first video that the README leads to.
FIRST_VIDEO = (960, 544, 129)


def run() -> int:
    """Print the report; 0 if a first video is possible here, 1 otherwise."""
    host = section("ComfyUI", report_comfyui)
    software = section("Software", lambda: report_software(host))
    without = missing_torch()
    section("Devices", report_devices, without)
    kernels = section("Attention kernels", report_attention, without)
    fits = section("Memory", report_memory, without)
    models = section("Model files", lambda: report_models(host))
    demo = section("Demo model", report_demo)
    print("\nVerdict")
    return verdict(bool(host and software and kernels), bool(models), bool(fits), bool(demo))


def verdict(works: bool, models: bool, fits: bool, demo: bool) -> int:
    """Print what is possible and return the exit code."""
    if not works:
        say(BAD, f"No video is possible yet, see the lines marked {BAD} above")
        return 1
    problems = [
        text for text, good in (("the files are missing", models), ("no GPU has enough memory", fits)) if not good
    ]
    found = f"not possible here, since {' and '.join(problems)}, see above" if problems else "possible"
    say(BAD if problems else GOOD, f"Videos with the real model: {found}")
    state = "ready" if demo else "not built; " + dev_command("demo")
    say(GOOD if demo else INFO, f"The demo with a toy model: {state}")
    return 0 if demo or not problems else 1


def dev_command(name: str) -> str:
    """The words that tell the user to run one of ``dev.py``'s commands."""
    script = Path("tools") / "dev.py"
    return f"run: {environment.this_python()} {script if Path.cwd() == ROOT else ROOT / script} {name}"


def missing_torch() -> str:
    """Why nothing that needs torch can be examined; empty if it can."""
    if installed_version("torch") is None:
        return "torch is missing"
    return "torch cannot be imported" if import_problem("torch") else ""


def say(sign: str, text: str) -> None:
    """One line of the report."""
    print(f"  {sign} {text}")


def section(name: str, report: Callable[[], Any], without: str = "") -> Any:
    """Run one part of the report and return its result; None from a part that cannot run or fails, after saying why."""
    print(f"\n{name}")
    if without:
        say(INFO, f"not examined: {without}")
        return None
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
        say(BAD, f"none found; {dev_command('demo')} (or set {comfyui.VARIABLE} to the folder of yours)")
        return None
    say(GOOD, f"ComfyUI {comfyui.version(host)} in {host}")
    return host


def report_software(host: Path | None) -> bool:
    """Versions of system and packages; False if a needed one is missing."""
    say(INFO, f"{platform.platform()}, {os.cpu_count()} CPUs")
    say(INFO, f"Python {platform.python_version()} ({sys.executable}), {whose_python()}")
    say(INFO, f"HyVideo Studio {pack_version()}")
    missing = [name for name in REQUIRED if installed_version(name) is None]
    for name in PACKAGES:
        say(BAD if name in missing else INFO, f"{name} {installed_version(name) or 'is not installed'}")
    broken = [name for name in ("torch", "torchvision", "torchaudio", "transformers") if installed_version(name)]
    broken = [f"{name} cannot be imported: {problem}" for name in broken if (problem := import_problem(name))]
    for text in broken:
        say(BAD, text)
    if missing:
        say(INFO, f"for what is missing, {software_remedy(missing, host)}")
    return not missing and not broken


def whose_python() -> str:
    """What the Python that is examined is for, in words."""
    if environment.inside_venv():
        other = "; to examine your ComfyUI's, start the doctor with that" if comfyui.is_users_own() else ""
        return f"that of this clone's demo, test and serve{other}"
    if comfyui.is_users_own():
        return "which must be the one that runs ComfyUI"
    return "examined since this clone has no environment of its own yet"


def software_remedy(missing: Sequence[str], host: Path | None) -> str:
    """How to get packages: into the user's ComfyUI by pip, into the clone by its own command."""
    if environment.inside_venv() or host is None or not comfyui.is_users_own():
        return dev_command("demo")
    if "torch" in missing:
        return "start the doctor with the Python that runs ComfyUI: it has torch, so this one is another"
    owners = {ROOT if name == "imageio-ffmpeg" else host for name in missing}
    files = " ".join(f"-r {owner / 'requirements.txt'}" for owner in sorted(owners))
    return f"run: {environment.this_python()} -m pip install {files}"


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

    from hyvideo_core import attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernels = attention.available(device, torch.bfloat16, HEAD_DIM)
    for kernel in kernels:
        sign = GOOD if kernel.ok else BAD if kernel.wrong else INFO
        say(sign, f"{kernel.name} on {device}{'' if kernel.ok else ': ' + kernel.reason}")
    say(INFO, f"auto is {attention.choose(device, torch.bfloat16, HEAD_DIM)}")
    return any(kernel.ok for kernel in kernels)


def report_memory() -> bool:
    """Whether the transformer and what it needs beside it fit the GPU, for the first video."""
    import torch

    from hyvideo_core.configs import HUNYUAN_VIDEO
    from hyvideo_core.plan import dit_activation_bytes
    from hyvideo_core.types import Geometry

    width, height, frames = FIRST_VIDEO
    latent_shape = (1, HUNYUAN_VIDEO.in_channels, *Geometry(width, height, frames).latent_shape)
    beside = dit_activation_bytes(HUNYUAN_VIDEO, latent_shape, torch.bfloat16.itemsize)
    needed = TRANSFORMER_BYTES + beside
    parts = f"{TRANSFORMER_BYTES / GIB:.1f} for the transformer in bfloat16, {beside / GIB:.1f} beside it"
    say(INFO, f"{width}×{height}, {frames} frames takes {needed / GIB:.1f} GiB by arithmetic: {parts}")
    memory = gpu_bytes()
    if memory is None:
        say(BAD, "there is no GPU: the CPU would need that much RAM, and far too long to be of use")
        return False
    fits = memory >= needed
    say(GOOD if fits else BAD, f"GPU 0 has {memory / GIB:.1f} GiB: {'enough' if fits else 'too little'}")
    return fits


def gpu_bytes() -> int | None:
    """Memory of the GPU that ComfyUI takes by default; None without one."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(0)[1])
    if (xpu := getattr(torch, "xpu", None)) is not None and xpu.is_available():
        return int(xpu.get_device_properties(0).total_memory)
    return int(torch.mps.recommended_max_memory()) if torch.backends.mps.is_available() else None


def report_models(host: Path | None) -> bool:
    """The files found and the parts still missing; True if all four parts are there."""
    folders = model_files.comfyui_folders(host) if host else []
    folders += [HOST_BASE / "models" / name for name in model_files.FOLDERS]
    folders = model_files.existing(folders)
    try:
        describe = model_files.loaders()
    except Exception as error:  # a broken package may raise anything at import
        say(INFO, f"told by the names inside alone, since the loaders cannot run here ({error})")
        describe = None
    found = model_files.scan(folders, describe)
    for file in found:
        damaged = file.note.startswith("damaged")
        say(BAD if damaged else GOOD if file.kind else INFO, f"{file.kind or 'file'}: {file.path} ({file.note})")
    missing = missing_kinds(found)
    target = (HOST_BASE if host == comfyui.HOST_COMFYUI else host or HOST_BASE) / "models"
    for kind in missing:
        repository, name, folder = model_files.SOURCES[kind]
        say(BAD, f"{kind} is missing: put {name} of https://huggingface.co/{repository} into {target / folder}")
        if alternative := model_files.ALTERNATIVES.get(kind):
            say(INFO, f"or {alternative}")
    return not missing


def missing_kinds(found: Sequence[Found]) -> list[str]:
    """The parts of which no file was found."""
    present = {file.kind for file in found}
    return [kind for kind in model_files.KINDS if kind not in present]


def report_demo() -> bool:
    """Whether the toy model is built."""
    current = build.is_current()
    say(GOOD if current else INFO, "built" if current else "not built yet")
    return current
