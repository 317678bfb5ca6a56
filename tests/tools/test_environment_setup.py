"""The environment is made once, remade when its inputs change, and says what to do when it cannot be made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import console, environment
from tools.compiled_ops import SCHEMAS_SOURCE, remove_libraries
from tools.console import ToolError
from tools.paths import ROOT


def test_torch_packages_are_left_out_of_the_host_requirements_and_nothing_else() -> None:
    text = "torch\ntorchsde\nTorchVision>=0.2\n torchaudio==2\n# torch\nnumpy>=1\n\n"
    assert environment.without_torch(text) == "torchsde\n# torch\nnumpy>=1\n\n"


def test_the_stamp_changes_with_every_input_and_with_their_borders(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("one")
    second.write_text("two")
    stamps = [environment.stamp_of(["x"], [first, second])]
    stamps.append(environment.stamp_of(["y"], [first, second]))
    stamps.append(environment.stamp_of(["x"], [second, first]))
    stamps.append(environment.stamp_of(["xone"], [second]))
    first.write_text("onet")
    second.write_text("wo")
    stamps.append(environment.stamp_of(["x"], [first, second]))
    assert len(set(stamps)) == len(stamps)


def test_the_same_inputs_give_the_same_stamp(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    assert environment.stamp_of(["x"], [tmp_path / "a"]) == environment.stamp_of(["x"], [tmp_path / "a"])


def test_an_old_python_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(ToolError, match=r"3\.10 or newer"):
        environment.check_python()


def test_a_full_disk_is_told_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "NEEDED_BYTES", 10**18)
    with pytest.raises(ToolError, match="Free some space"):
        environment.check_disk()


def test_a_python_without_ensurepip_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="apt install python3"):
        environment.create_venv()


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("Failed to establish a new connection: Temporary failure in name resolution", "could not be reached"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "was refused"),
        ("ERROR: No matching distribution found for torch==2.13.0", r"Python 3\.10 to 3\.13"),
    ],
)
def test_a_failed_step_names_its_log_and_the_remedy(tmp_path: Path, output: str, advice: str) -> None:
    log = tmp_path / "logs" / "step.log"
    command = [sys.executable, "-c", f"print({output!r}); raise SystemExit(3)"]
    with pytest.raises(ToolError, match=advice) as caught:
        console.run_logged(command, title="Installing", log=log)
    assert str(log) in str(caught.value)
    assert "exit code 3" in str(caught.value)


def test_foreign_module_paths_do_not_reach_our_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    kept = console.clean_environment()
    assert "PYTHONPATH" not in kept
    assert kept["HTTPS_PROXY"] == "http://proxy"


def test_only_compiled_libraries_of_torchaudio_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "torchaudio" / "lib"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "_torchaudio.abi3.so", "libtorchaudio.pyd"):
        (folder / name).touch()
    remove_libraries(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["__init__.py"]


def test_declared_operators_exist_when_torchvision_is_imported_and_cost_nothing_before(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("import torch; found = torch.ops.torchvision.nms.default\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(SCHEMAS_SOURCE.parent)!r}]\n"
        "import hyvideo_op_schemas; assert 'torch' not in sys.modules\n"
        "import torchvision; print(torchvision.found)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "torchvision.nms.default", done.stderr


def test_help_needs_no_package_at_all() -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "tools" / "dev.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("demo", "test", "serve", "doctor"))


def test_a_mistyped_option_is_refused_before_anything_is_set_up() -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "tools" / "dev.py"), "demo", "--promt", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--promt" in done.stderr
