"""The doctor compares what videos take with the memory that is free."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_file_data import full_size

from hyvideo_core.weights import inspect_dit
from tools import model_files
from tools.doctor import memory
from tools.doctor.lines import BAD, GB, GOOD
from tools.toy_model import build


def memory_report(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free_gb: float | None,
    ram_gb: float | None = 64,
    found: tuple[model_files.Found, ...] = (),
) -> tuple[bool, list[str]]:
    monkeypatch.setattr(memory, "free_gpu_bytes", lambda: free_gb and int(free_gb * GB))
    monkeypatch.setattr(memory, "ram_bytes", lambda: ram_gb and (int(ram_gb * GB), 0))
    return memory.report_memory(found), capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("free_gb", "fits"), [(None, False), (0.4, False), (2.5, False), (3.5, True), (80, True)])
def test_the_memory_is_compared_with_what_the_first_video_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_gb: float | None, fits: bool
) -> None:
    found, lines = memory_report(monkeypatch, capsys, free_gb)
    assert found == fits
    rows = [line.split() for line in lines if "×" in line]
    assert len(rows) == 3 * len(memory.SIZES)
    if free_gb is None:
        assert "there is no GPU" in lines[0]
        assert all(float(least) <= float(most) for _, _, least, _, most, _ in rows)
        return
    for sign, _, *words in rows:
        assert sign == (BAD if words[:2] == ["does", "not"] else GOOD)
        # The need of a size that does not fit is above what is free, the peak of one that does is not.
        assert float(words[-2]) >= free_gb if sign == BAD else float(words[0]) <= free_gb + 0.05


def test_what_a_size_is_said_to_need_is_enough_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, lines = memory_report(monkeypatch, capsys, 2)
    need = next(line for line in lines if "1280×720×129" in line).split()[-2]
    for offset, sign in ((0.06, GOOD), (-0.06, BAD)):
        _, lines = memory_report(monkeypatch, capsys, float(need) + offset)
        assert next(line for line in lines if "1280×720×129" in line).split()[0] == sign


def test_streaming_is_told_as_hidden_or_not_and_needs_ram(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, lines = memory_report(monkeypatch, capsys, 8, ram_gb=16)
    assert lines[2].endswith("rest streams unnoticed")
    assert lines[5].endswith("rest streams slowing it down")
    # 16 GB hold the fp8 file and not the bf16 one.
    assert ["RAM has 16.0 GB" in line for line in lines].count(True) == 1
    for free_gb, ram_gb in ((8, 64), (8, None), (80, 4)):
        assert "RAM has" not in "".join(memory_report(monkeypatch, capsys, free_gb, ram_gb)[1])


def test_the_published_sizes_are_those_of_the_official_file(tmp_path: Path) -> None:
    assert inspect_dit(full_size(tmp_path / "x.safetensors")) == memory.published("bfloat16", 2)


def test_the_files_that_are_here_are_planned_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = [full_size(tmp_path / "big.safetensors"), build.ensure() / build.TRANSFORMER]
    found = [model_files.Found(file, model_files.TRANSFORMER, "") for file in files]
    refused = model_files.Found(tmp_path / "refused.safetensors", model_files.TRANSFORMER, "", usable=False)
    _, lines = memory_report(monkeypatch, capsys, 80, found=(refused, *found))
    assert "sampling with big.safetensors, 25.6 GB" in lines[1]
    assert f"sampling with {files[1].name}, 0.0 GB" in lines[6]
    assert "published" not in "".join(lines)
