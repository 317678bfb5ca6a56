"""The doctor recognises files by their content, survives what is broken, and tells what to do."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hyvideo_core import attention
from tools import doctor, model_files
from tools.console import ToolError
from tools.paths import ROOT

REFINER = "txt_in.individual_token_refiner.blocks.0.norm1.weight"
WIDE_TRANSFORMER = {REFINER: (3072,), "img_in.proj.weight": (3072, 16, 1, 2, 2)}


def header_file(path: Path, shapes: dict[str, tuple[int, ...]], missing_bytes: int = 0) -> Path:
    header = {n: {"dtype": "F32", "shape": list(s), "data_offsets": [0, 16]} for n, s in shapes.items()}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16 - missing_bytes))
    return path


@pytest.mark.parametrize("prefix", ["", "model.", "model.model.", "model.diffusion_model.", "diffusion_model."])
def test_a_transformer_is_known_under_every_prefix(tmp_path: Path, prefix: str) -> None:
    shapes = {prefix + REFINER: (3072,), prefix + "img_in.proj.weight": (3072, 16, 1, 2, 2)}
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found == model_files.Found(tmp_path / "x.safetensors", model_files.TRANSFORMER, "text-to-video, width 3072")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({REFINER: (3072,), "img_in.proj.weight": (3072, 33, 1, 2, 2)}, "image-to-video v1"),
        ({**WIDE_TRANSFORMER, "scaled_fp8": (0,)}, "scaled fp8"),
        (
            {
                "model.embed_tokens.weight": (128320, 4096),
                "model.layers.0.self_attn.q_proj.weight": (4096, 4096),
                "model.layers.0.self_attn.q_proj.scale_weight": (1,),
            },
            "scaled fp8",
        ),
    ],
)
def test_a_file_the_loaders_refuse_does_not_count_as_found(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found is not None
    assert found.kind == ""
    assert words in found.note
    assert "not supported yet" in found.note


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (model_files.VAE, {"decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)}),
        (model_files.VAE, {"vae.decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)}),
        (
            model_files.LLAMA,
            {"model.embed_tokens.weight": (128320, 4096), "model.layers.0.self_attn.q_proj.weight": (4096, 4096)},
        ),
        (model_files.CLIP, {"text_model.embeddings.token_embedding.weight": (49408, 768)}),
        ("", {"decoder.conv_in.conv.weight": (512, 4, 3, 3, 3)}),
        ("", {"text_model.embeddings.token_embedding.weight": (49408, 1280)}),
        ("", {"double_blocks.0.img_attn.qkv.weight": (1, 1)}),
    ],
)
def test_the_parts_are_told_from_other_models(kind: str, shapes: dict[str, tuple[int, ...]]) -> None:
    assert model_files.classify(shapes)[0] == kind


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\xff" * 64, struct.pack("<Q", 2) + b"[", b"\x02" + bytes(7) + b"{]"]
)
def test_a_damaged_file_is_named_and_never_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    found = model_files.recognise(tmp_path / "x.safetensors")
    assert found is not None
    assert found.note.startswith("damaged")


def test_a_partial_download_is_called_damaged(tmp_path: Path) -> None:
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", WIDE_TRANSFORMER, missing_bytes=1))
    assert found is not None
    assert found.kind == ""
    assert "damaged" in found.note


def test_each_file_is_listed_once(tmp_path: Path) -> None:
    header_file(tmp_path / "unet" / "x.safetensors", WIDE_TRANSFORMER)
    assert len(model_files.scan([tmp_path / "unet", tmp_path])) == 1


def test_missing_parts_are_exactly_those_not_found(tmp_path: Path) -> None:
    found = model_files.scan([header_file(tmp_path / "x.safetensors", WIDE_TRANSFORMER).parent])
    assert doctor.missing_kinds(found) == [model_files.VAE, model_files.LLAMA, model_files.CLIP]


@pytest.mark.parametrize("error", [ToolError("set it right"), RuntimeError("driver too old"), ImportError("no torch")])
def test_a_part_that_fails_is_reported_and_does_not_end_the_report(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail() -> None:
        raise error

    assert doctor.section("Devices", fail) is None
    assert str(error) in capsys.readouterr().out


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
    assert doctor.report_attention()
    lines = capsys.readouterr().out.splitlines()
    signs = [line.split()[0] for line in lines]
    assert signs == [doctor.GOOD, doctor.INFO, doctor.BAD, doctor.INFO]
    assert "flash_attn is not installed" in lines[1]
    assert lines[-1].endswith("auto is sdpa")


@pytest.mark.parametrize(
    ("works", "models", "demo", "code"),
    [(True, True, False, 0), (True, False, True, 0), (True, False, False, 1), (False, True, True, 1)],
)
def test_the_exit_code_says_whether_a_video_is_possible(works: bool, models: bool, demo: bool, code: int) -> None:
    assert doctor.verdict(works, True, True, models, demo) == code


def test_the_report_runs_here_and_covers_everything() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "dev.py"), "doctor"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode in (0, 1), done.stderr
    for heading in ("ComfyUI", "Software", "Devices", "Attention kernels", "Model files", "Demo model", "Verdict"):
        assert f"\n{heading}\n" in done.stdout
    assert "Traceback" not in done.stderr
