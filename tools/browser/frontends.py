"""ComfyUI's newest frontends, of which each release of ComfyUI is tied to an older one.

Users who update see them months before the pinned ComfyUI of this project does. They come from the package index,
each held to its hash. To take a newer one: ``pip index versions comfyui-frontend-package``, ``pip download --no-deps``
and ``pip hash`` of the wheel, and see that the browser tests pass.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.comfyui import verify
from tools.console import run_logged, step
from tools.paths import CACHE, LOGS

PACKAGE = "comfyui-frontend-package"
FOLDER = CACHE / "frontends"
#: What the wheel holds for ``--front-end-root``.
STATIC = "comfyui_frontend_package/static/"


@dataclass(frozen=True)
class Frontend:
    """A release of the frontend and the hash of its wheel."""

    version: str
    sha256: str

    @property
    def wheel(self) -> str:
        """The wheel's name."""
        return f"comfyui_frontend_package-{self.version}-py3-none-any.whl"


#: The two newest that start with the pinned ComfyUI.
NEWEST = (
    Frontend("1.58.1", "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"),
    Frontend("1.57.5", "0e8bef2710ab54168fc59d6099a23e9cd32807f50b682bd93ad7ace523ffbadb"),
)


def ensure(frontend: Frontend) -> Path:
    """The folder of the frontend's files, fetched and unpacked if it is not there. Raises ``ToolError``."""
    root = FOLDER / frontend.version
    if not root.is_dir():
        wheel = CACHE / "downloads" / frontend.wheel
        if not wheel.is_file():
            download(frontend, wheel)
        verify(wheel, frontend.sha256)
        with step(f"Unpacking ComfyUI's frontend {frontend.version}"):
            unpack(wheel, root)
        wheel.unlink()
    return root


def download(frontend: Frontend, wheel: Path) -> None:
    """Fetch the wheel with pip, which compares the hash."""
    wheel.parent.mkdir(parents=True, exist_ok=True)
    pinned = wheel.parent / f"frontend-{frontend.version}.txt"
    pinned.write_text(f"{PACKAGE}=={frontend.version} --hash=sha256:{frontend.sha256}\n", encoding="ascii")
    command = [sys.executable, "-I", "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", pinned]
    run_logged(
        [*command, "-d", wheel.parent],
        title=f"Downloading ComfyUI's frontend {frontend.version} (29 MB)",
        log=LOGS / f"frontend-{frontend.version}.log",
    )


def unpack(wheel: Path, root: Path) -> None:
    """Unpack what the browser loads of a wheel; its translations' source maps and Python files stay out."""
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(STATIC) and not name.endswith(("/", ".map")):
                target = partial / PurePosixPath(name).relative_to(STATIC)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    partial.rename(root)
