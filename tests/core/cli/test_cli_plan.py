"""``generate`` says its plan, places the parts by it, and takes a lower one where memory runs out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_data import PROMPT, SMALL, Call

from hyvideo_core.cli import generate, planning
from hyvideo_core.cli.arguments import parse
from hyvideo_core.cli.machine import Machine
from hyvideo_core.cli.planning import TEXT_ACTIVATION_BYTES, Job, planned
from hyvideo_core.memory import Placement
from hyvideo_core.model import DiT
from hyvideo_core.vae import Tiling


def plan_of(files: list[str], *arguments: str) -> list[str]:
    """What a call would say before anything runs."""
    asked = parse(["generate", "--prompt", "x", *files, *SMALL, "--device", "cpu", *arguments])
    cap = int((asked.vram or math.inf) * 1e9)
    return list(planned(asked, Machine(asked.device, cap)).describe())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--vram", "1"], "of 1.00 GB free"),
        (["--use-cpu-offload"], "0 of 6 blocks on the device"),
        (["--num-videos", "8", "--batch-size", "8"], "predicted peak"),
        (["--use-fp8"], "predicted peak"),
        (["--attention", "chunked"], "predicted peak"),
        (["--lora", "LORA"], ", LoRAs 0.00, activations"),
        (["--video-size", "720", "1280"], "predicted peak"),
        (["--video-size", "30"], "rounded up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_changes_the_plan_is_told(
    files: list[str], comfyui: str, lora: str, monkeypatch: pytest.MonkeyPatch, change: list[str], told: str
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", comfyui)
    change = [lora if part == "LORA" else part for part in change]
    new = set(plan_of(files, *change)) - set(plan_of(files))
    assert any(told in line for line in new), new


def test_where_memory_runs_out_a_lower_plan_is_tried_and_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = generate.sample, []

    def needs_room(dit: DiT, *arguments: Any, **settings: Any) -> Iterator[Any]:
        seen.append(dit.head_groups)
        if dit.head_groups == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(dit, *arguments, **settings)

    monkeypatch.setattr(generate, "sample", needs_room)
    monkeypatch.setattr(Machine, "watch_peak", lambda _: seen.append("peak counted anew"))
    ending = call("--use-cpu-offload", "--num-videos", "2")
    assert ending.status == 0
    # The second video begins with the plan that worked.
    assert ending.said.count("trying again with 0 of 6 blocks") == 1
    assert seen == ["peak counted anew", 1, "peak counted anew", 2, 2, "peak counted anew"]


def test_smaller_tiles_are_kept_for_the_next_video_and_their_peak_is_told(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = generate.decoded_images, []

    def needs_room(vae: Any, latent: Any, tiling: Tiling, *rest: Any) -> Iterator[Any]:
        seen.append(tiling.tile_frames)
        if tiling.tile_frames > 32:
            raise torch.OutOfMemoryError("full")
        return real(vae, latent, tiling, *rest)

    monkeypatch.setattr(generate, "decoded_images", needs_room)
    monkeypatch.setattr(Machine, "watch_peak", lambda _: seen.append("peak counted anew"))
    ending = call("--num-videos", "2", "--infer-steps", "1")
    assert ending.status == 0, ending.said
    assert seen == ["peak counted anew", "peak counted anew", 64, "peak counted anew", 32, 32]


@pytest.fixture
def job(files: list[str], comfyui: str, monkeypatch: pytest.MonkeyPatch) -> Job:
    """The plan of a call on the CPU."""
    monkeypatch.setenv("COMFYUI_PATH", comfyui)
    asked = parse(["generate", "--prompt", PROMPT, *files, *SMALL, "--device", "cpu"])
    return planned(asked, Machine(asked.device, int(4e9)))


def test_a_language_model_that_streams_gives_the_same_conditioning(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    real, waiting = generate.streamed, []

    def seen(blocks: list[Any], *rest: Any) -> Any:
        waiting.extend(blocks)
        return real(blocks, *rest)

    monkeypatch.setattr(generate, "streamed", seen)
    whole, _ = generate._encoded(job)
    assert waiting == []
    # Placed with room for all, then with room for the least.
    least = Machine(job.machine.device, TEXT_ACTIVATION_BYTES + _least_text_bytes(job))
    for machine, streams in ((job.machine, False), (least, True)):
        text, _ = generate._encoded(replace(job, text_streams=True, machine=machine))
        assert torch.equal(text.text, whole.text)
        assert torch.equal(text.pooled, whole.pooled)
        assert bool(waiting) == streams


def _least_text_bytes(job: Job) -> int:
    """What the text encoders take with as few layers on the device as possible."""
    with generate._encoders(job) as encoders:
        layers = list(encoders.get_submodule("mllm.llama.layers").children())
        sizes = Placement(encoders, layers, job.machine.device)
        return sizes.total_bytes - sum(sizes.block_bytes) + 2 * max(sizes.block_bytes)


@pytest.mark.parametrize(
    ("free_gb", "offload", "expected"),
    [
        (20, False, ("cuda", False)),
        (17, False, ("cuda", True)),
        (3.4, False, ("cuda", True)),
        (3.1, False, ("cpu", False)),
        (20, True, ("cpu", False)),
    ],
)
def test_the_language_model_streams_to_a_card_that_it_does_not_fit(
    job: Job, monkeypatch: pytest.MonkeyPatch, free_gb: float, offload: bool, expected: tuple[str, bool]
) -> None:
    # The published files: 8,030 M numbers in float16, and CLIP-L.
    sizes = {job.arguments.text_encoder: 8_030_000_000, job.arguments.clip: 123_060_480}
    monkeypatch.setattr(planning, "parameter_count", sizes.__getitem__)
    monkeypatch.setattr(planning, "size_on_disk_bytes", lambda path: 2 * sizes[path])
    card = SimpleNamespace(on_gpu=True, device=torch.device("cuda"))
    arguments = replace(job.arguments, use_cpu_offload=offload)
    device, streams = planning._text_placement(arguments, card, int(free_gb * 1e9))  # type: ignore[arg-type]
    assert (device.type, streams) == expected


def test_fp8_is_quantised_on_the_device(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = generate.load_dit, []

    def seen(*arguments: Any, **settings: Any) -> DiT:
        asked.append(settings["quantise_on"])
        return real(*arguments, **settings)

    monkeypatch.setattr(generate, "load_dit", seen)
    assert call("--use-fp8", "--infer-steps", "1").status == 0
    assert asked == [torch.device("cpu")]
