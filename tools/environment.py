"""The clone's own virtual environment, made once and then recognised by a stamp in a fraction of a second."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tools import comfyui, compiled_ops, model_files
from tools.console import ToolError, clean_environment, run_logged
from tools.paths import CACHE, HOST_BASE, LOGS, ROOT, TOOLS, VENV, venv_python

OLDEST_PYTHON = (3, 10)
NEEDED_BYTES = 4 * 10**9
CONSTRAINTS = TOOLS / "constraints.txt"
REQUIREMENTS = (TOOLS / "requirements-dev.txt", ROOT / "requirements.txt")
STAMP = VENV / "hyvideo-stamp.txt"
#: Installed by steps of their own, see ``install``.
TORCH_PACKAGES = ("torch", "torchvision", "torchaudio")


def check_python() -> None:
    """Raise ``ToolError`` when this interpreter is too old."""
    if sys.version_info < OLDEST_PYTHON:
        raise ToolError(
            f"This is Python {platform.python_version()} ({sys.executable}), but "
            f"{'.'.join(map(str, OLDEST_PYTHON))} or newer is needed. Start the command with a newer one, "
            "for example: python3.12 tools/dev.py demo"
        )


def ensure() -> Path:
    """Set up everything that is not set up yet and return the root of the ComfyUI to use."""
    python = venv_python()
    if not works(python):
        create_venv()
    host = comfyui.ensure(python)
    wanted = fingerprint(host)
    if not STAMP.is_file() or STAMP.read_text(encoding="ascii") != wanted:
        STAMP.unlink(missing_ok=True)
        install(python, host)
        STAMP.write_text(wanted, encoding="ascii")
    model_files.make_folders(HOST_BASE / "models")
    return host


def is_ready() -> bool:
    """Whether a complete environment exists, without making one."""
    return STAMP.is_file() and works(venv_python())


def inside_venv() -> bool:
    """Whether this process already runs in the clone's environment."""
    return Path(sys.prefix).resolve() == VENV.resolve()


def this_python() -> str:
    """How the user calls the Python in use; where the clone's was started in its place, what the PATH has."""
    name = sys.orig_argv[0]
    if inside_venv():
        name = "python" if shutil.which("python") else "python3"
    return f'"{name}"' if " " in name else name


def works(python: Path) -> bool:
    """Whether the environment's interpreter starts (it does not after the system's Python was replaced)."""
    if not python.exists():
        return False
    probe = subprocess.run([str(python), "-I", "-c", "import pip"], capture_output=True)
    return probe.returncode == 0


def create_venv() -> None:
    """Make ``.venv`` afresh with this interpreter."""
    remedy = (
        f"On Debian and Ubuntu install it with: sudo apt install python3.{sys.version_info.minor}-venv\n"
        "Elsewhere use a Python from python.org, conda or your system's full Python package."
    )
    if importlib.util.find_spec("ensurepip") is None:
        raise ToolError(f"{sys.executable} cannot make virtual environments: ensurepip is missing.\n{remedy}")
    check_disk()
    if VENV.exists():
        shutil.rmtree(VENV)
    try:
        command = [sys.executable, "-m", "venv", VENV]
        run_logged(command, title="Making the virtual environment", log=LOGS / "venv.log")
    except ToolError as error:
        raise ToolError(f"{error}\n{remedy}") from error


def check_disk() -> None:
    """Raise ``ToolError`` when the packages cannot fit."""
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED_BYTES:
        raise ToolError(
            f"Only {free / 1e9:.1f} GB are free on the disk of {ROOT}, but the set-up needs about "
            f"{NEEDED_BYTES / 1e9:.0f} GB without a GPU and 9 GB with one. Free some space and run it again."
        )


def fingerprint(host: Path) -> str:
    """Hash of everything the installed packages depend on."""
    files = [CONSTRAINTS, *REQUIREMENTS, host / "requirements.txt", compiled_ops.SCHEMAS_SOURCE, Path(__file__)]
    parts = [str(ROOT), str(host), (VENV / "pyvenv.cfg").read_text(encoding="utf-8")]
    return stamp_of(parts, files)


def stamp_of(parts: Iterable[str], files: Iterable[Path]) -> str:
    """SHA-256 over texts and file contents, in their order."""
    digest = hashlib.sha256()
    for content in [*(part.encode() for part in parts), *(file.read_bytes() for file in files)]:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def install(python: Path, host: Path) -> None:
    """Install torch, ComfyUI's requirements, ours, and the library itself, in the order that keeps torch."""
    check_disk()
    host_requirements = CACHE / "host-requirements.txt"
    host_requirements.parent.mkdir(parents=True, exist_ok=True)
    text = (host / "requirements.txt").read_text(encoding="utf-8")
    host_requirements.write_text(without_torch(text), encoding="utf-8")

    pip(python, "Installing PyTorch (0.2 GB, with CUDA 3 GB)", "torch", "torch")
    listed = [argument for file in (host_requirements, *REQUIREMENTS) for argument in ("-r", file)]
    pip(python, "Installing the packages of ComfyUI and of the tests", "packages", *listed)
    companions = TORCH_PACKAGES[1:]
    pip(python, "Installing torchvision and torchaudio", "torchvision", "--no-deps", *companions)
    pip(python, "Installing hyvideo_core", "hyvideo-core", "--no-deps", "-e", ROOT)
    compiled_ops.repair(python)


def pip(python: Path, title: str, log_name: str, *arguments: str | Path) -> None:
    """One ``pip install`` under the constraints, with its output in a log file."""
    command = [python, "-I", "-m", "pip", "install", "--disable-pip-version-check", "-c", CONSTRAINTS, *arguments]
    run_logged(command, title=title, log=LOGS / f"pip-{log_name}.log")


def without_torch(requirements: str) -> str:
    """The requirement lines except those for torch, torchvision and torchaudio."""

    def name(line: str) -> str:
        match = re.match(r"[A-Za-z0-9._-]+", line.strip())
        return match.group().lower() if match else ""

    return "".join(f"{line}\n" for line in requirements.splitlines() if name(line) not in TORCH_PACKAGES)


def has_gpu(python: Path) -> bool:
    """Whether the environment's torch sees a device that ComfyUI can use."""
    code = (
        "import torch; xpu = getattr(torch, 'xpu', None); "
        "print(torch.cuda.is_available() or torch.backends.mps.is_available() or bool(xpu and xpu.is_available()))"
    )
    probe = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env=clean_environment())
    if probe.returncode:
        raise ToolError(f"PyTorch cannot be imported from {VENV}:\n{probe.stderr.strip()}\nDelete .venv and retry.")
    return probe.stdout.strip() == "True"
