"""What the registry and ComfyUI-Manager read: the manifest, the requirements, the archive, and the nodes' ids."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from comfy_cli.file_utils import zip_files
from comfy_cli.registry.config_parser import extract_node_configuration
from packaging.utils import canonicalize_name
from PIL import Image

import hyvideo_core
from tools import bare_host, comfyui
from tools.client import ComfyClient
from tools.paths import ROOT
from tools.server import PACK_NAME

RAW = "https://raw.githubusercontent.com/hyvideo-studio/hyvideo-studio/main/"
ARCHIVE_BYTES = 20_000_000
#: The rules that comfy-cli's ``node validate`` and the registry ask for: no exec, no eval, one statement a line.
REGISTRY_RULES = "S102,S307,E702"


@pytest.fixture(scope="module")
def manifest():
    return extract_node_configuration(str(ROOT / "pyproject.toml"))


def test_the_registrys_own_reader_takes_the_manifest_without_a_word(capsys):
    """It leaves out what it does not understand, and says so."""
    found = extract_node_configuration(str(ROOT / "pyproject.toml"))
    assert capsys.readouterr() == ("", "")
    assert (found.project.name, found.tool_comfy.publisher_id) == (PACK_NAME, "hyvideo-studio")
    assert found.tool_comfy.display_name == "HyVideo Studio"
    assert found.project.urls.repository
    assert found.project.urls.documentation
    assert found.project.urls.issues
    assert found.project.license.file == "LICENSE"
    assert found.project.supported_os == ["OS Independent"]
    assert found.project.supported_accelerators == ["GPU :: NVIDIA CUDA"]
    assert found.project.supported_comfyui_version.startswith(">=")
    assert found.project.supported_comfyui_frontend_version.startswith(">=")
    assert found.tool_comfy.includes == found.tool_comfy.models == []
    # WEB_DIRECTORY alone: both would load every script twice.
    assert not found.tool_comfy.web


def test_the_library_has_the_version_of_the_manifest(manifest):
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest.project.version)
    assert manifest.project.version == hyvideo_core.__version__


@pytest.mark.parametrize(("field", "size"), [("icon", (400, 400)), ("banner_url", (1680, 720))])
def test_the_pictures_are_in_the_repository_and_of_the_registrys_shape(manifest, field, size):
    """An icon is a square of at most 400 px, a banner 21:9."""
    url = getattr(manifest.tool_comfy, field)
    assert url.startswith(RAW)
    path = ROOT / url.removeprefix(RAW)
    assert path in tracked("*.png")
    with Image.open(path) as image:
        assert image.size == size


# --- requirements ---------------------------------------------------------------------------------------------


REQUIREMENTS = bare_host.requirements(ROOT / "requirements.txt")


def test_the_manifest_names_the_requirements(manifest):
    assert manifest.project.dependencies == [str(requirement) for requirement in REQUIREMENTS]


def test_no_requirement_touches_a_package_of_the_host():
    """ComfyUI-Manager installs them line by line: pip then changes nothing that is there already and suffices."""
    host = bare_host.packages(comfyui.locate())
    for requirement in REQUIREMENTS:
        assert canonicalize_name(requirement.name) not in host
        for dependency in bare_host.needed(requirement):
            assert canonicalize_name(dependency.name) in host, f"{requirement.name} would bring {dependency.name}"
            # No upper bound, which a later ComfyUI could be above.
            assert {each.operator for each in dependency.specifier} <= {">="}
            assert dependency.specifier.contains(version(dependency.name))


# --- the archive ----------------------------------------------------------------------------------------------


def tracked(pattern: str = "*") -> list[Path]:
    """Files in git."""
    told = subprocess.run(["git", "ls-files", "-z", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in told.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # comfy-cli's own
def test_the_archive_holds_what_runs_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    zip_files(tmp_path / "node.zip")
    with zipfile.ZipFile(tmp_path / "node.zip") as archive:
        names = archive.namelist()
    assert (tmp_path / "node.zip").stat().st_size < ARCHIVE_BYTES
    folders = {name.split("/")[0] for name in names}
    assert not folders & {"tests", "benchmarks", ".ci"}
    runs = {
        "__init__.py",
        "hyvideo_core",
        "nodes",
        "web",
        "locales",
        "workflows",
        "models",
        "requirements.txt",
        "tools",
    }
    assert folders >= runs | {"LICENSE", "README.md", "docs", "pyproject.toml"}
    for folder in ("hyvideo_core", "nodes", "web", "locales", "workflows", "models"):
        whole = {path.relative_to(ROOT).as_posix() for path in tracked(f"{folder}/*")}
        assert whole <= set(names)


def test_the_registrys_rules_find_nothing():
    command = [sys.executable, "-m", "ruff", "check", ".", "-q", "--isolated", "--select", REGISTRY_RULES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_no_folder_hides_the_templates():
    """ComfyUI serves templates of the first of these folders that is there, and lists those of all."""
    assert [name for name in ("example_workflows", "example", "examples", "workflow") if (ROOT / name).exists()] == []


# --- ids ------------------------------------------------------------------------------------------------------


def scanned(source: str) -> set[str]:
    """The ids that ComfyUI-Manager's scanner finds in a file.

    Source: ComfyUI-Manager ``scanner.py``: a class with ``ComfyNode`` among its direct bases counts by the literal
    ``node_id`` of a ``Schema`` in its ``define_schema``, else by its own name; mappings of older nodes by their keys.
    """
    found = set(re.findall(r'"(\w+)"\s*:\s*{"class":\s*\w+\s*', source))
    for mapping in re.findall(r"_CLASS_MAPPINGS\s*(?::\s*\w+\s*)?=\s*(?:\\\s*)?{([^}]*)}", source):
        found |= set(re.findall(r"[\"']([^\"']*)[\"']\s*:", mapping))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and any(last_name(base) == "ComfyNode" for base in node.bases):
            found.add(literal_id(node) or node.name)
    return found


def last_name(base: ast.expr) -> str:
    return getattr(base, "attr", getattr(base, "id", ""))


def literal_id(node: ast.ClassDef) -> str | None:
    methods = (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "define_schema")
    calls = (call for method in methods for call in ast.walk(method) if isinstance(call, ast.Call))
    given = (
        word.value
        for call in calls
        if last_name(call.func) == "Schema"
        for word in call.keywords
        if word.arg == "node_id"
    )
    return next((value.value for value in given if isinstance(value, ast.Constant)), None)


def test_the_scanner_finds_every_node_and_no_other(client: ComfyClient):
    ours = f"custom_nodes.{PACK_NAME}"
    nodes = {name for name, node in client.object_info().items() if node["python_module"] == ours}
    found = set().union(*(scanned(path.read_text("utf-8")) for path in tracked("*.py")))
    assert found == nodes
    assert len(nodes) > 70


@pytest.mark.parametrize(
    ("source", "ids"),
    [
        ('class A(io.ComfyNode):\n def define_schema(cls):\n  return io.Schema(node_id="HyvA")', {"HyvA"}),
        ('class A(Mixin, ComfyNode):\n def define_schema(cls):\n  return Schema(node_id="HyvA")', {"HyvA"}),
        ("class A(io.ComfyNode):\n def define_schema(cls):\n  return io.Schema(node_id=NAME)", {"A"}),
        ('class A(Base):\n def define_schema(cls):\n  return io.Schema(node_id="HyvA")', set()),
    ],
)
def test_the_scanners_rule(source, ids):
    assert scanned(source) == ids
