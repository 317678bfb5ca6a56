"""The architecture as the code has it: imports point one way, functions fit a screen, nothing prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parent.parent.parent / "hyvideo_core"
FILES = sorted(CORE.rglob("*.py"))
#: A part may import parts of a smaller number, and itself.
LAYER = {
    "errors": 0, "types": 1, "configs": 2, "ops": 3, "attention": 3, "memory": 3, "model": 4, "vae": 4, "text": 4,
    "weights": 5, "sample": 6, "extensions": 7, "parallel": 8,
}  # fmt: skip
#: Leaves: nothing else in the library imports them, but the programs.
LEAVES = {"decoding_plan", "sampling_plan", "video", "preview"}
PROGRAMS = {"cli", "__main__"}
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes", "server", "execution"}
LONGEST_FUNCTION_LINES = 70


def part_of(path: Path) -> str:
    """The top-level part a file belongs to; the package's own ``__init__`` is ''."""
    first = path.relative_to(CORE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def violations(path: Path, tree: ast.AST) -> list[str]:
    here = part_of(path)
    found = []
    for name in imported(tree):
        if name.startswith("."):
            found.append(f"relative import of {name}")
        root, _, rest = name.partition(".")
        if root in HOST_MODULES:
            found.append(f"imports the host's {name}")
        if root != "hyvideo_core":
            continue
        part = rest.split(".")[0]
        if part == here or here == "__main__" or (here == "cli" and part != "__main__"):
            continue
        if part in LEAVES | PROGRAMS:
            found.append(f"imports the leaf or program {part}")
        elif here not in LEAVES and not LAYER[part] < LAYER.get(here, -1):
            found.append(f"{here} imports {part}, which lies above or beside it")
    return found


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(CORE)))
def source(request: pytest.FixtureRequest) -> tuple[Path, ast.Module]:
    return request.param, ast.parse(request.param.read_text(encoding="utf-8"))


def test_imports_point_one_way(source: tuple[Path, ast.Module]) -> None:
    assert violations(*source) == []


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("types.py", "from hyvideo_core.configs import DiTConfig"),
        ("model/dit.py", "import hyvideo_core.vae"),
        ("vae/blocks.py", "def f():\n    from hyvideo_core.weights.files import Checkpoint"),
        ("sample/run.py", "from hyvideo_core.decoding_plan import choose_tiling"),
        ("text/mllm.py", "from ..weights import load_dit"),
        ("weights/dit.py", "import comfy.utils"),
        ("video.py", "import folder_paths"),
        ("decoding_plan.py", "from hyvideo_core.video import write_mp4"),
        ("decoding_plan.py", "from hyvideo_core.cli import main"),
        ("cli/generate.py", "import comfy.utils"),
        ("cli/command.py", "from hyvideo_core import __main__"),
    ],
)
def test_a_forbidden_import_is_seen(file: str, code: str) -> None:
    assert violations(CORE / file, ast.parse(code))


def test_every_part_has_its_place_in_the_order() -> None:
    assert {part_of(path) for path in FILES} - {""} <= LAYER.keys() | LEAVES | PROGRAMS


def test_nothing_prints_and_nothing_imports_a_star(source: tuple[Path, ast.Module]) -> None:
    _, tree = source
    calls = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert not {"print", "breakpoint", "eval", "exec", "input"} & set(calls)
    assert not [name for name in imported(tree) if name.endswith(".*")]


def test_functions_fit_a_screen(source: tuple[Path, ast.Module]) -> None:
    _, tree = source
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno is not None}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION_LINES} == {}


def test_no_exception_is_swallowed(source: tuple[Path, ast.Module]) -> None:
    _, tree = source
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    silent = [node.lineno for node in handlers if node.type is None or isinstance(node.body[0], ast.Pass)]
    assert silent == []


def test_no_function_keeps_state_in_a_global(source: tuple[Path, ast.Module]) -> None:
    _, tree = source
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)] == []
