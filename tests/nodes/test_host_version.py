"""A ComfyUI that is too old, or not whole, is told in one sentence and starts all the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_cli.registry.config_parser import extract_node_configuration

from tools import comfyui
from tools.paths import ROOT
from tools.server import Server

SENTENCE = "HyVideo Studio needs ComfyUI 0.30.0 or newer, but this one is {}: update ComfyUI, as you"
#: Imports the pack as the host does, and prints what the host would find in it.
IMPORT = """
import importlib.util, logging, sys
logging.basicConfig(format="%(message)s")
spec = importlib.util.spec_from_file_location("pack", sys.argv[1], submodule_search_locations=[])
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
spec.loader.exec_module(module)
print(*(name for name in ("comfy_entrypoint", "NODE_CLASS_MAPPINGS", "WEB_DIRECTORY") if hasattr(module, name)))
"""
WHOLE = """
class io:
    Schema = DynamicCombo = Autogrow = None
ComfyExtension = Input = InputImpl = Types = ui = None
"""


def imported(host: Path) -> subprocess.CompletedProcess[str]:
    """The pack in a Python whose ComfyUI is in this folder."""
    command = [sys.executable, "-c", IMPORT, str(ROOT / "__init__.py")]
    environment = {**os.environ, "PYTHONPATH": str(host)}
    return subprocess.run(command, cwd=host, capture_output=True, text=True, env=environment)


def a_host(folder: Path, version: str | None, api: str | None) -> Path:
    """A ComfyUI as far as the pack asks about it."""
    if version is not None:
        (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    if api is not None:
        (folder / "comfy_api").mkdir()
        (folder / "comfy_api" / "latest.py").write_text(api)
    return folder


@pytest.mark.parametrize(
    ("version", "api", "told"),
    [
        ("0.3.64", None, "0.3.64"),
        ("0.29.9", WHOLE, "0.29.9"),
        (None, None, "older than its own version numbers"),
        ("0.30.0", None, "0.30.0, changed or not whole (No module named 'comfy_api')"),
        ("0.45.2", WHOLE.replace("DynamicCombo = ", ""), "0.45.2, changed or not whole (type object 'io' has no"),
        ("1.0.0", WHOLE.replace("Types = ", ""), "1.0.0, changed or not whole (cannot import name 'Types'"),
    ],
)
def test_an_unfit_host_is_told_in_one_sentence(tmp_path, version, api, told):
    done = imported(a_host(tmp_path, version, api))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(SENTENCE.partition("{}")[0] + told), line
    assert line.endswith("and start it again.")


@pytest.mark.parametrize("version", ["0.30.0", "0.30.0rc1", "0.45.2", "1.0"])
def test_a_fit_host_is_not(tmp_path, version):
    """What stops the import here is the first module of a real ComfyUI that this one lacks."""
    done = imported(a_host(tmp_path, version, WHOLE))
    assert "HyVideo Studio needs" not in done.stderr
    assert "ModuleNotFoundError" in done.stderr


def test_the_manifest_names_the_same_version():
    (needed,) = re.findall(r'^OLDEST_HOST = "(.+)"$', (ROOT / "__init__.py").read_text("utf-8"), re.MULTILINE)
    manifest = extract_node_configuration(str(ROOT / "pyproject.toml"))
    assert manifest.project.supported_comfyui_version == f">={needed}"


@pytest.fixture
def old_host(tmp_path):
    """The real ComfyUI, which calls itself an older one."""
    host, real = tmp_path / "ComfyUI", comfyui.locate()
    host.mkdir()
    for path in real.iterdir():
        if path.name in ("main.py", "comfyui_version.py"):
            shutil.copy(path, host)
        else:
            (host / path.name).symlink_to(path)
    (host / "comfyui_version.py").write_text('__version__ = "0.3.64"\n')
    return host


@pytest.mark.server
def test_an_old_comfyui_starts_and_says_it(old_host, tmp_path):
    with Server(old_host, tmp_path / "base", python=Path(sys.executable)) as server, server.client() as client:
        assert not any(name.startswith("Hyv") for name in client.object_info())
        log = server.log.read_text("utf-8", errors="replace")
    assert log.count(SENTENCE.format("0.3.64")) == 1
    assert "Traceback" not in log
    assert re.search(r"\(IMPORT FAILED\): .*hyvideo-studio", log)
