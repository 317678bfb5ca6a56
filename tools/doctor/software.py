"""Which ComfyUI, Python and packages are here, and how to get what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from tools import comfyui, environment
from tools.doctor.lines import BAD, GOOD, INFO, dev_command, say, say_list
from tools.paths import ROOT

PACKAGES = ("torch", "transformers", "safetensors", "imageio-ffmpeg", "av", "comfyui-frontend-package")
REQUIRED = ("torch", "transformers", "safetensors", "imageio-ffmpeg")
#: By the names under which they are imported; each helps and none is needed.
OPTIONAL = {
    "gguf": " (for GGUF files only)",
    "triton": "",
    "sageattention": "",
    "flash_attn": "",
    "flash_attn_interface": "",
}


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
    say_list(INFO, [f"{name} {version}" for name in PACKAGES if (version := installed_version(name))])
    for name in [name for name in PACKAGES if installed_version(name) is None]:
        say(BAD if name in missing else INFO, f"{name} is not installed")
    say_list(INFO, [f"{name} {module_version(name) or 'absent'}{use}" for name, use in OPTIONAL.items()])
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


def missing_torch() -> str:
    """Why nothing that needs torch can be examined; empty if it can."""
    if installed_version("torch") is None:
        return "torch is missing"
    return "torch cannot be imported" if import_problem("torch") else ""


def installed_version(name: str) -> str | None:
    """A package's version, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def module_version(name: str) -> str | None:
    """The version of the package that a module comes with, whatever that is called; None without the module."""
    if importlib.util.find_spec(name) is None:
        return None
    package = next(iter(importlib.metadata.packages_distributions().get(name, ())), None)
    return (package and installed_version(package)) or "of unknown version"


def import_problem(name: str) -> str:
    """Why a package cannot be imported; empty if it can."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
