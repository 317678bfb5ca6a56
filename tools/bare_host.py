"""A Python with ComfyUI's own packages and no others, and what installing this pack there changes.

    python -m tools.bare_host

installs the requirements as ComfyUI-Manager does, one line at a time, and prints which packages are new and which were
touched. It needs the clone's environment and the package index. Packages are links to those of the environment, so it
takes seconds; pip is asked first what it would do, and does nothing if that is more than adding packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import comfyui, compiled_ops
from tools.console import ToolError
from tools.paths import ROOT


def make(folder: Path, host: Path, also: Iterable[str] = ()) -> Path:
    """The interpreter of a new environment in ``folder`` that has what the host's requirements bring, and ``also``."""
    venv.create(folder, symlinks=sys.platform != "win32")
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    site = compiled_ops.site_packages(python)
    for name in sorted({*packages(host), *also}):
        found = distribution(name)
        for entry in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / entry).exists():
                (site / entry).symlink_to(Path(str(found.locate_file(entry))).resolve())
    if (compiled_ops.site_packages(Path(sys.executable)) / compiled_ops.SCHEMAS_SOURCE.name).exists():
        compiled_ops.declare_schemas(site)
    return python


def packages(host: Path) -> set[str]:
    """Names of everything that comes with the host's own requirements."""
    waiting, found = requirements(host / "requirements.txt"), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            found.add(name)
            waiting += needed(requirement)
    return found


def requirements(path: Path) -> list[Requirement]:
    """The lines of a requirements file."""
    texts = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [Requirement(text) for text in texts if text]


def needed(requirement: Requirement) -> Iterator[Requirement]:
    """What an installed package needs in its turn, without its extras."""
    for text in requires(requirement.name) or []:
        found = Requirement(text)
        if found.marker is None or found.marker.evaluate({"extra": ""}):
            yield found


def main() -> None:
    """Make a bare host, install the pack's requirements there, and print what changed."""
    host = comfyui.locate()
    if host is None:
        raise ToolError("There is no ComfyUI: run python tools/dev.py demo once, or set COMFYUI_PATH.")
    with tempfile.TemporaryDirectory() as folder:
        python = make(Path(folder), host)
        before = installed(python)
        for requirement in requirements(ROOT / "requirements.txt"):
            install(python, str(requirement), before)
        after = installed(python)
    added = {name: after[name] for name in after.keys() - before.keys()}
    changed = {name: (before[name], after.get(name)) for name in before if after.get(name) != before[name]}
    print(f"packages of ComfyUI {comfyui.version(host)}: {len(before)}")
    print("added: " + (", ".join(f"{name} {number}" for name, number in sorted(added.items())) or "none"))
    print("changed or removed: " + (", ".join(f"{name} {numbers}" for name, numbers in changed.items()) or "none"))


def install(python: Path, requirement: str, present: dict[str, str]) -> None:
    """Install one line. Raises ``ToolError``, and installs nothing, if that would replace a package that is there."""
    plan = json.loads(pip(python, "install", "--dry-run", "--quiet", "--report", "-", requirement))
    names = {canonicalize_name(each["metadata"]["name"]) for each in plan["install"]}
    if touched := names & present.keys():
        raise ToolError(f"{requirement} would replace {', '.join(sorted(touched))}. Loosen it in requirements.txt.")
    pip(python, "install", "--quiet", requirement)


def installed(python: Path) -> dict[str, str]:
    """Versions by name."""
    listed = json.loads(pip(python, "list", "--format", "json"))
    return {canonicalize_name(each["name"]): each["version"] for each in listed}


def pip(python: Path, *arguments: str) -> str:
    """What this environment's pip prints when it works on another Python's packages."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
