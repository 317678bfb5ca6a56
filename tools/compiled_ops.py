"""Makes torchvision and torchaudio importable where their compiled parts do not match the installed torch.

A CPU build of torch from another index than theirs is the usual case. ComfyUI and transformers import both
packages but, for this pack, call none of their compiled operators. Where they load, nothing is changed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.console import ToolError, clean_environment
from tools.paths import TOOLS

SCHEMAS_MODULE = "hyvideo_op_schemas"
SCHEMAS_SOURCE = TOOLS / "venv_files" / f"{SCHEMAS_MODULE}.py"
LIBRARY_SUFFIXES = (".so", ".pyd", ".dll", ".dylib")


def import_error(python: Path, module: str) -> str:
    """The last line of the error that importing ``module`` raises in a fresh process; empty if it works."""
    probe = subprocess.run(
        [str(python), "-c", f"import {module}"], capture_output=True, text=True, env=clean_environment()
    )
    if probe.returncode == 0:
        return ""
    return (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]


def repair(python: Path) -> None:
    """Probe both packages and repair the one that does not import; ``ToolError`` if that does not help."""
    for module, remedy in (("torchvision", declare_schemas), ("torchaudio", remove_libraries)):
        if import_error(python, module):
            remedy(site_packages(python))
            if reason := import_error(python, module):
                raise ToolError(
                    f"{module} cannot be imported with the installed torch: {reason}\n"
                    "Delete .venv and run the command again; if it stays so, this torch build is not supported."
                )


def site_packages(python: Path) -> Path:
    """Where the environment's pure Python packages lie."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def declare_schemas(site: Path) -> None:
    """Install the start-up module that declares torchvision's operators."""
    shutil.copyfile(SCHEMAS_SOURCE, site / SCHEMAS_SOURCE.name)
    (site / f"{SCHEMAS_MODULE}.pth").write_text(f"import {SCHEMAS_MODULE}\n", encoding="ascii")


def remove_libraries(site: Path) -> None:
    """Delete torchaudio's compiled libraries, without which it falls back to its Python parts."""
    for library in (site / "torchaudio" / "lib").iterdir():
        if library.suffix in LIBRARY_SUFFIXES:
            library.unlink()
