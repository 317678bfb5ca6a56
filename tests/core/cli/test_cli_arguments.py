"""``generate`` takes the original's arguments, and ends with a sentence where they cannot work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_data import Call

from hyvideo_core.cli import generate
from hyvideo_core.cli.arguments import parse
from hyvideo_core.video import ffmpeg
from tools.paths import ROOT
from tools.toy_model import build


def test_without_a_seed_each_call_takes_another(files: list[str]) -> None:
    seeds = {parse(["generate", "--prompt", "x", *files]).seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed <= 1_000_000 for seed in seeds)


def test_defaults_are_the_originals(files: list[str]) -> None:
    """Source: HunyuanVideo hyvideo/config.py; flow_reverse is what its README's commands ask for."""
    arguments = parse(["generate", "--prompt", " x ", *files])
    stated = {
        "prompt": "x", "neg_prompt": None, "video_size": [720, 1280], "video_length": 129, "infer_steps": 50,
        "embedded_cfg_scale": 6.0, "cfg_scale": 1.0, "flow_shift": 7.0, "flow_reverse": True, "num_videos": 1,
        "batch_size": 1, "save_path": Path("results"), "use_cpu_offload": False, "use_fp8": False, "lora": [],
    }  # fmt: skip
    assert {name: getattr(arguments, name) for name in stated} == stated
    size = arguments.geometry
    assert (size.width, size.height, size.frames) == (1280, 720, 129)


@pytest.mark.parametrize(("given", "made"), [(["544"], (544, 544)), (["540", "960"], (544, 960))])
def test_sizes_are_rounded_up_as_the_original_does(files: list[str], given: list[str], made: tuple[int, int]) -> None:
    size = parse(["generate", "--prompt", "x", *files, "--video-size", *given]).geometry
    assert (size.height, size.width) == made


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prompt", "  "], "--prompt: is empty"),
        (["--video-length", "6"], "frames is 6, but must be 4n+1"),
        (["--video-size", "0"], "--video-size: is '0'"),
        (["--video-size", "1", "2", "3"], "3 numbers, but height and width"),
        (["--infer-steps", "0"], "--infer-steps: is '0', but must be a whole number of at least 1"),
        (["--infer-steps", "2.5"], "--infer-steps: is '2.5', but must be a whole number"),
        (["--cfg-scale", "0.5"], "--cfg-scale: is '0.5'"),
        (["--cfg-scale", "nan"], "--cfg-scale: is 'nan'"),
        (["--embedded-cfg-scale", "inf"], "--embedded-cfg-scale: is 'inf'"),
        (["--flow-shift", "0"], "--flow-shift: is '0'"),
        (["--seed", "-1"], "--seed: is '-1'"),
        (["--seed", str(2**63 - 1), "--num-videos", "2"], "--seed: the last seed is"),
        (["--num-videos", "0"], "--num-videos: is '0'"),
        (["--batch-size", "2"], "--batch-size: 2 videos at once, but --num-videos makes 1"),
        (["--vram", "0"], "--vram: is '0'"),
        (["--device", "tpu"], "--device: is 'tpu'"),
        (["--device", "cuda:99"], "--device: is 'cuda:99'"),
        (["--attention", "magic"], "--attention: invalid choice: 'magic'"),
        (["--lora", "missing.safetensors:0.5"], "--lora: there is no missing.safetensors"),
        (["--lora", "x:1:triple: 3"], "must with one of double, single, other"),
        (["--dit", "missing.safetensors"], "--dit: there is no missing.safetensors"),
        (["--vae", "missing.pt"], "--vae: there is no missing.pt"),
        (["--text-encoder", "missing"], "--text-encoder: there is no missing"),
        (["--clip", "missing"], "--clip: there is no missing"),
        (["--llm-tokenizer", "missing"], "--llm-tokenizer: there is no missing"),
        (["--prompts", "x"], "unrecognized arguments: --prompts"),
        (["--prompt", "word " * 400], "argument --prompt: The prompt has"),
        (["--cfg-scale", "2", "--neg-prompt", "word " * 400], "argument --neg-prompt: The prompt has"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_arguments_end_with_2_and_a_sentence(call: Call, tmp_path: Path, arguments: list[str], told: str) -> None:
    ending = call(*arguments)
    assert (ending.status, ending.files) == (2, [])
    assert told in ending.said
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dit", build.VAE], "a HunyuanVideo transformer was expected"),
        (["--vae", build.CLIP], "the HunyuanVideo VAE was expected"),
        (["--text-encoder", build.TRANSFORMER], "the language model was expected"),
        (["--clip", build.LLAMA], "CLIP-L's text model was expected"),
        (["--lora", build.VAE], "hyvideo_toy_vae.safetensors"),
        (["--attention", "flash2"], "attention 'flash2' cannot be used"),
        (["--vram", "0.01"], "Sampling this size takes at least"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_work_ends_with_1_and_a_sentence(call: Call, arguments: list[str], told: str) -> None:
    models = build.ensure()
    ending = call(*(str(models / part) if part in build.FILES else part for part in arguments))
    assert (ending.status, ending.files) == (1, [])
    assert told in ending.said


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_loaded(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ending = call("--save-path", str(tmp_path / "file" / "videos"))
    assert ending.status == 1
    assert "sampling," not in ending.said


def test_a_missing_ffmpeg_is_told_before_anything_is_loaded(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ffmpeg.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # as if it were not installed
    monkeypatch.setattr(generate, "load_mllm", None)
    ending = call()
    assert ending.status == 1
    assert "Install the package imageio-ffmpeg" in ending.said


def test_an_ffmpeg_that_is_gone_or_is_none_is_told_before_anything_is_loaded(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "load_mllm", None)
    for program, told in ((str(tmp_path / "gone"), "does not run as ffmpeg"), (sys.executable, "has no encoder")):
        monkeypatch.setenv(ffmpeg.VARIABLE, program)
        ending = call()
        assert ending.status == 1
        assert f"{program} {told}" in ending.said


def test_a_python_that_lacks_packages_is_told_which_and_how_to_install_them() -> None:
    """Without its site-packages a Python has none of them."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", "-m", "hyvideo_core", "generate", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{sys.executable} lacks torch, transformers, ")
    assert f"{sys.executable} -m pip install torch transformers " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tokenizer_that_is_named_is_taken(
    call: Call, llama_tokenizer: Path, clip_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMFYUI_PATH")
    named = ["--llm-tokenizer", str(llama_tokenizer / "tokenizer.json"), "--clip-tokenizer"]
    assert call(*named, str(clip_tokenizer)).status == 0
    wrong = call(*named, str(llama_tokenizer))
    assert wrong.status == 1
    assert "Take the tokenizer of clip-vit-large-patch14" in wrong.said


def test_without_tokenizers_all_ways_to_give_them_are_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PATH")
    ending = call()
    assert ending.status == 1
    for way in ("tokenizer.json", "--llm-tokenizer", "COMFYUI_PATH", "comfy/text_encoders/llama_tokenizer"):
        assert way in ending.said
