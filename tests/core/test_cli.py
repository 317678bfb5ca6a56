"""``generate`` makes the files it was asked for, says what it does, and ends with a sentence where it cannot."""

from __future__ import annotations

import gc
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import av
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from hyvideo_core.cli import generate, main, naming, planning
from hyvideo_core.cli.arguments import NEGATIVE_PROMPT, parse
from hyvideo_core.cli.machine import Machine
from hyvideo_core.cli.planning import TEXT_ACTIVATION_BYTES, Job, planned
from hyvideo_core.memory import Placement
from hyvideo_core.model import DiT
from hyvideo_core.vae import Tiling
from tools.paths import ROOT
from tools.toy_model import build

PROMPT = 'A cat: "walks" on gra/ss?'
SHOWN = "A cat walks on grass"
ROOM = 4.0  # GB: enough for the toy model, and the same plan whatever else runs on this machine
SMALL = ["--video-size", "16", "--video-length", "1", "--infer-steps", "2", "--seed", "7", "--vram", str(ROOM)]


class Ending(NamedTuple):
    """How a call ended."""

    status: int
    files: list[Path]
    said: str


Call = Callable[..., Ending]


@pytest.fixture(scope="session")
def files() -> list[str]:
    """The arguments that name the toy model."""
    models = build.ensure()
    named = {"--dit": build.TRANSFORMER, "--vae": build.VAE, "--text-encoder": build.LLAMA, "--clip": build.CLIP}
    return [part for name, file in named.items() for part in (name, str(models / file))]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Text encoders are read once, and objects of other tests are not searched for garbage again and again."""
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_mllm", "load_clip"):
            patch.setattr(generate, name, cache(getattr(generate, name)))
        yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def comfyui(llama_tokenizer: Path) -> str:
    """A ComfyUI's folder."""
    return str(llama_tokenizer.parent.parent.parent)


@pytest.fixture
def call(
    files: list[str],
    comfyui: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """``generate`` in this process, on the toy model at a small size unless told otherwise."""
    monkeypatch.setenv("COMFYUI_PATH", comfyui)

    def run(*arguments: str) -> Ending:
        folder = ["--save-path", str(tmp_path / "videos")]
        argv = ["generate", "--prompt", PROMPT, *files, *SMALL, "--device", "cpu", *folder, *arguments]
        try:
            status = main(argv)
        except SystemExit as end:
            status = int(end.code)  # type: ignore[arg-type]
        out, said = capsys.readouterr()
        assert "Traceback" not in said
        return Ending(status, [Path(line) for line in out.splitlines()], said)

    return run


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


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LoRA for two layers of the toy model."""
    width = build.TRANSFORMER_CONFIG["hidden_size"]
    tensors = {}
    for layer in ("double_blocks.0.img_attn_proj", "single_blocks.1.modulation.linear"):
        rows = width * (3 if "modulation" in layer else 1)
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(
            4, width, generator=torch.Generator().manual_seed(1)
        )
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(rows, 4, generator=torch.Generator().manual_seed(2))
    path = tmp_path_factory.mktemp("loras") / "style.safetensors"
    save_file(tensors, str(path))
    return str(path)


def frames_of(video: Path) -> list[Any]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


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


@pytest.mark.parametrize("stage", ["sample", "frame"])
def test_a_stop_leaves_no_file(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """While sampling, and after some frames are in the file."""
    real, seen = getattr(generate, stage), []

    def stopped(*arguments: Any, **settings: Any) -> Any:
        seen.append(1)
        if stage == "sample" or len(seen) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(generate, stage, stopped)
    ending = call("--video-length", "5")
    assert (ending.status, ending.files) == (130, [])
    assert "Stopped." in ending.said
    assert not list((tmp_path / "videos").iterdir())


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


# --- where the text encoders run ----------------------------------------------------------------------------------


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


def named(prompt: str) -> list[str]:
    candidates = naming.paths(Path("folder"), datetime(2026, 1, 2, 3, 4, 5), 7, prompt)
    return [next(candidates).name for _ in range(3)]


@given(st.text())
@example("a" * 500)
@example("猫" * 500)
@example("👩‍👩‍👧‍👦" * 100)
@example('<>:"/\\|?*\0\n\t\x7f')
@example("../../etc/passwd")
@example("dots ... ")
@example("\ud800")
@example("a\u202egnp.exe")
def test_any_prompt_gives_a_name_for_any_file_system(prompt: str) -> None:
    names = named(prompt)
    assert len(set(names)) == 3
    for name in names:
        assert name.startswith("2026-01-02-03-04-05_seed7_")
        assert name.endswith(".mp4")
        assert len(name.encode()) <= 255
        assert not set(name) & set('<>:"/\\|?*')
        assert name.isprintable()


def test_names_say_the_beginning_of_the_prompt() -> None:
    assert named("Eine  Katze\nläuft 猫 " + "x" * 100)[0] == (
        "2026-01-02-03-04-05_seed7_Eine Katze läuft 猫 " + "x" * 81 + ".mp4"
    )
