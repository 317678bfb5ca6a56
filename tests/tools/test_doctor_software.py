"""The doctor names what of the software is missing or wrong, and one remedy for the Python that it examines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hyvideo_core import attention
from hyvideo_core.model import compiling
from hyvideo_core.ops import fp8
from tools import comfyui, dev, doctor, environment
from tools.doctor import devices, software
from tools.doctor.lines import BAD, GOOD, INFO
from tools.paths import ROOT


def test_a_kernel_that_is_absent_is_told_from_one_that_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = [
        attention.Report("sdpa", True, ""),
        attention.Report("flash2", False, "flash_attn is not installed"),
        attention.Report("sage2", False, "relative error 1.2", wrong=True),
    ]
    monkeypatch.setattr(attention, "available", lambda *_: reports)
    monkeypatch.setattr(attention, "choose", lambda *_: "sdpa")
    monkeypatch.setattr(compiling, "why_not_compile", lambda device: f"no compiler for {device.type}")
    monkeypatch.setattr(fp8, "why_not_fast", lambda _: "")
    assert devices.report_kernels()
    lines = capsys.readouterr().out.splitlines()
    signs = [line.split()[0] for line in lines]
    assert signs == [GOOD, INFO, BAD, INFO, GOOD]
    assert lines[0].endswith("sdpa; auto is sdpa")
    assert lines[1].endswith("not flash2: flash_attn is not installed")
    assert "torch.compile: no compiler for" in lines[3]
    assert lines[4].endswith("fp8_products fast: works")


def test_without_any_kernel_no_video_is_possible(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [attention.Report(name, False, "relative error 1.2", wrong=True) for name in ("sdpa", "flash2")]
    monkeypatch.setattr(attention, "available", lambda *_: wrong)
    monkeypatch.setattr(compiling, "why_not_compile", lambda _: "")
    monkeypatch.setattr(fp8, "why_not_fast", lambda _: "none")
    assert not devices.report_kernels()
    assert f"{BAD} not sdpa, flash2: relative error 1.2" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gguf", "triton", "sageattention", "flash_attn", "flash_attn_interface"])
def test_optional_packages_are_listed_with_version_or_as_absent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(software, "module_version", lambda module: "9.8.7" if module == name else None)
    software.report_software(None)
    said = capsys.readouterr().out
    assert f"{name} 9.8.7" in said
    assert said.count(" absent") == len(software.OPTIONAL) - 1


def test_a_modules_version_is_that_of_its_package() -> None:
    assert software.module_version("PIL") == software.installed_version("pillow")
    assert software.module_version("no_such_module") is None
    assert software.module_version("tools") == "of unknown version"


@pytest.mark.parametrize(
    ("users_own", "torch_here", "stays"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_comfyuis_own_python_is_examined_although_the_clone_has_one(
    monkeypatch: pytest.MonkeyPatch, users_own: bool, torch_here: bool, stays: bool
) -> None:
    monkeypatch.setattr(environment, "is_ready", lambda: True)
    monkeypatch.setattr(environment, "inside_venv", lambda: False)
    monkeypatch.setattr(comfyui, "is_users_own", lambda: users_own)
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda name: object() if torch_here else None)
    monkeypatch.setattr(dev, "continue_in_venv", lambda argv: "the clone's")
    monkeypatch.setattr(doctor, "run", lambda: "this one")
    assert dev.run_doctor(["doctor"]) == ("this one" if stays else "the clone's")


def test_a_users_comfyui_is_known_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(comfyui.VARIABLE, raising=False)
    assert comfyui.is_users_own() == (comfyui.enclosing() is not None)
    monkeypatch.setenv(comfyui.VARIABLE, "somewhere")
    assert comfyui.is_users_own()


@pytest.mark.parametrize("users_own", [True, False])
def test_a_python_without_packages_gets_one_remedy_and_no_exceptions(users_own: bool) -> None:
    code = (
        "import sys; sys.path.insert(0, '.'); from tools import comfyui, dev, environment\n"
        f"environment.is_ready = lambda: False; comfyui.is_users_own = lambda: {users_own}\n"
        "sys.exit(dev.main(['doctor']))"
    )
    # Without site-packages: as bare as a fresh Python.
    command = [sys.executable, "-S", "-X", "utf8", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "✗ torch is not installed" in done.stdout
    assert done.stdout.count("not examined: torch is missing") == 3
    assert "Error" not in done.stdout
    remedy = "start the doctor with the Python that runs ComfyUI" if users_own else "tools/dev.py demo"
    assert remedy in done.stdout
    assert not [line for line in done.stdout.splitlines() if ": run:" in line or line.count(": ") > 2]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["imageio-ffmpeg"], f"-m pip install -r {ROOT / 'requirements.txt'}"),
        (["transformers", "safetensors"], f"-m pip install -r {Path('host') / 'requirements.txt'}"),
        (["torch", "imageio-ffmpeg"], "start the doctor with the Python that runs ComfyUI"),
    ],
)
def test_packages_go_into_the_users_own_python(monkeypatch: pytest.MonkeyPatch, missing: list[str], words: str) -> None:
    monkeypatch.setattr(environment, "inside_venv", lambda: False)
    monkeypatch.setattr(comfyui, "is_users_own", lambda: True)
    monkeypatch.setattr(environment.sys, "orig_argv", ["../my python/python.exe", "tools/dev.py"])
    remedy = software.software_remedy(missing, Path("host"))
    assert words in remedy
    assert "dev.py" not in remedy
    assert "pip" not in remedy or '"../my python/python.exe" -m pip' in remedy
