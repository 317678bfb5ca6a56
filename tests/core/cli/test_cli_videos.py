"""``generate`` makes the files it was asked for, and every setting has its effect on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import pytest
from cli_data import PROMPT, SHOWN, SMALL, Call, frames_of

from hyvideo_core.cli import generate, main
from hyvideo_core.cli.arguments import NEGATIVE_PROMPT
from tools.paths import ROOT


@pytest.fixture(scope="module")
def plain(files: list[str], comfyui: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video of the arguments that ``call`` adds."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMFYUI_PATH", comfyui)
        assert (
            main(["generate", "--prompt", PROMPT, *files, *SMALL, "--device", "cpu", "--save-path", str(folder)]) == 0
        )
    (video,) = folder.iterdir()
    return video.read_bytes()


def test_a_prompt_becomes_mp4s_named_by_time_seed_and_prompt(files: list[str], comfyui: str, tmp_path: Path) -> None:
    """As a program of its own; the second video is the one its own seed gives."""
    folder = tmp_path / "as program"
    size = ["--video-size", "48", "64", "--video-length", "5", "--infer-steps", "2", "--seed", "7", "--device", "cpu"]
    arguments = ["--prompt", PROMPT, *files, *size]
    found = as_program([*arguments, "--num-videos", "2", "--save-path", str(folder)], comfyui)
    assert found.returncode == 0, found.stderr
    videos = [Path(line) for line in found.stdout.splitlines()]
    assert sorted(folder.iterdir()) == sorted(videos)
    for video, seed in zip(videos, (7, 8), strict=True):
        assert re.fullmatch(rf"\d{{4}}(-\d\d){{5}}_seed{seed}_{SHOWN}\.mp4", video.name)
        assert [frame.shape for frame in frames_of(video)] == [(48, 64, 3)] * 5
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate) == ("h264", 24)
    # The plan comes before anything runs, the measured peak after it.
    order = ["all 6 blocks on the device", "predicted peak", "sampling, 1 of 2", "2/2", "sampling: measured peak"]
    places = [found.stderr.index(words) for words in [*order, "decoding, seed 7", "decoding: measured peak"]]
    assert places == sorted(places)
    alone = as_program([*arguments, "--seed", "8", "--save-path", str(tmp_path / "alone")], comfyui)
    (again,) = (Path(line) for line in alone.stdout.splitlines())
    assert again.read_bytes() == videos[1].read_bytes() != videos[0].read_bytes()


def as_program(arguments: list[str], comfyui: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hyvideo_core", "generate", *arguments],
        cwd=ROOT,
        env={**os.environ, "COMFYUI_PATH": comfyui, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize(
    "change",
    [
        ["--prompt", "A dog."],
        ["--seed", "8"],
        ["--video-size", "16", "32"],
        ["--video-length", "5"],
        ["--infer-steps", "3"],
        ["--embedded-cfg-scale", "1"],
        ["--cfg-scale", "4"],
        ["--flow-shift", "2"],
        ["--no-flow-reverse"],
        ["--use-fp8"],
        ["--lora", "LORA"],
    ],
    ids=" ".join,
)
def test_every_setting_changes_the_video(call: Call, plain: bytes, lora: str, change: list[str]) -> None:
    ending = call(*(lora if part == "LORA" else part for part in change))
    assert ending.status == 0, ending.said
    assert ending.files[0].read_bytes() != plain


def test_what_only_moves_weights_or_names_a_default_changes_no_bit(call: Call, plain: bytes, lora: str) -> None:
    ending = call("--use-cpu-offload", "--flow-reverse", "--neg-prompt", "dark", "--lora", f"{lora}:0")
    assert ending.status == 0, ending.said
    assert "0 of 6 blocks on the device, 6 streamed" in ending.said
    assert "no effect at --cfg-scale 1" in ending.said
    assert ending.files[0].read_bytes() == plain


def test_the_negative_prompt_is_the_originals_unless_one_is_given(call: Call) -> None:
    default, stated, other = (
        call("--cfg-scale", "4", "--infer-steps", "1", *words).files[0].read_bytes()
        for words in ([], ["--neg-prompt", NEGATIVE_PROMPT], ["--neg-prompt", "dark"])
    )
    assert default == stated != other


def test_a_loras_strength_and_blocks_count(call: Call, lora: str) -> None:
    half, blocks, both = (
        call("--infer-steps", "1", "--lora", f"{lora}{words}").files[0].read_bytes()
        for words in (":0.5", ":1:single: 0", ":1:single 0-3: 0, double: 0.5")
    )
    assert len({half, blocks, both}) == 3


def test_videos_sampled_together_start_from_their_own_seeds(call: Call) -> None:
    one, two = call("--num-videos", "2").files
    at_once = call("--num-videos", "2", "--batch-size", "2")
    assert "sampling, 2 of 2" in at_once.said
    assert "sampling, 1 of 2" not in at_once.said
    for video, alone in zip(at_once.files, (one, two), strict=True):
        # Products of another shape round differently in bfloat16; other noise is another picture.
        near, far = (
            sum(abs(a.astype(float) - b).mean() for a, b in zip(frames_of(video), frames_of(other), strict=True))
            for other in (alone, two if alone is one else one)
        )
        assert near < far / 3


@pytest.mark.parametrize("stage", ["sample", "decoded_images"])
def test_a_stop_leaves_no_file(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """While sampling, and after some frames are in the file."""
    real = getattr(generate, stage)

    def stopped(*arguments: Any, **settings: Any) -> Iterator[Any]:
        yield from islice(real(*arguments, **settings), 0 if stage == "sample" else 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, stage, stopped)
    ending = call("--video-length", "5")
    assert (ending.status, ending.files) == (130, [])
    assert "Stopped." in ending.said
    assert not list((tmp_path / "videos").iterdir())
