"""The rows of the table of quality: each runs, alone and after others, or says why it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import quality
from quality_bench import COLUMNS, Bench, Made, Mode
from quality_data import TINY_SET, random_files
from quality_files import Files
from quality_report import line
from quality_rows import ROWS, negated

from hyvideo_core.attention.registry import KERNELS
from hyvideo_core.ops.ggml import FORMATS
from hyvideo_core.sample import SOLVERS
from tools.demo_model.world import render

#: Rows that say what the baseline says but for rounding, whatever the network.
SAME = ("GGUF F", "GGUF B", "one at a time", "block swap", "chunks of", "attention ", "LoRA at 0", "LoRA at 1 merged",
        "undistilled cfg 3 batched")  # fmt: skip
#: Rows that may skip nothing of a network whose every step is noise.
MAY_SKIP = ("TeaCache", "First-Block Cache", "EasyCache")
#: What a CPU lacks, or a toy's noise.
EXPECTED_REASONS = (
    "is not installed",
    "fails on cpu",
    "makes no groups",
    "cannot write it",
    "no whole blocks",
    "no thing of any colour",
    "none of so few",
    "cannot multiply fp8",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return random_files(tmp_path_factory.mktemp("toy"))


def test_rows_have_names_of_their_own_that_can_be_chosen() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert not [name for name in names if set(name) & set(",*?[|")]
    for kind in FORMATS:
        assert f"GGUF {kind}" in names


def test_every_solver_and_every_kernel_has_a_row() -> None:
    names = " ".join(row.name for row in ROWS)
    assert all(f"{solver} 20 steps" in names for solver in SOLVERS if solver != "euler")
    assert all(f"attention {kernel}" in names for kernel in KERNELS)


@pytest.mark.slow
def test_every_row_runs_alone_or_says_why_it_cannot(toy: Files, tmp_path: Path) -> None:
    bench = Bench(toy, TINY_SET, tmp_path)
    for row in ROWS:
        if row.name == "compiled blocks":  # takes a minute, and has tests of its own
            continue
        found = quality.measured(row, bench)
        if "reason" in found:
            assert any(reason in found["reason"] for reason in EXPECTED_REASONS), found
            continue
        assert 0 < found["prompts"] <= TINY_SET
        assert set(found["obeyed"]) in (set(COLUMNS), set(COLUMNS) - {"motion"})
        assert found["seconds"] > 0
        assert found.get("identical", False) or not row.is_exact, row.name
        if "psnr_db" in found["mean"] and not row.name.startswith((*SAME, *MAY_SKIP)):
            assert found["mean"]["psnr_db"] < 60, f"{row.name} changes nothing"
        if row.name.startswith(SAME):
            assert found["worst"]["psnr_db"] > 60, f"{row.name} changes the result"
        assert line(found).startswith(f"| {row.name} |")


@pytest.mark.parametrize("name", ["LoRA at 1 merged", "undistilled cfg 5 rescale 0.7"])
def test_a_row_does_not_depend_on_those_before_it(name: str, toy: Files, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.name == name)
    alone, after_others = Bench(toy, TINY_SET, tmp_path), Bench(toy, TINY_SET, tmp_path)
    for other in ROWS[:3]:
        other.measure(after_others)
    assert row.measure(alone).judged == row.measure(after_others).judged


def test_a_row_without_its_file_says_which(toy: Files, tmp_path: Path) -> None:
    bench = Bench(replace(toy, t2v=tmp_path / "t2v.safetensors"), TINY_SET, tmp_path)
    assert quality.measured(ROWS[0], bench)["reason"].startswith("t2v.safetensors is not there")


def test_a_clip_of_little_noise_stays_near_the_scene_that_it_begins_with(toy: Files, tmp_path: Path) -> None:
    bench = Bench(toy, TINY_SET, tmp_path)
    near, far = (bench.made(Mode(steps=1, shift=1.0, denoise=share)) for share in (0.02, 1.0))
    for prompt in near.prompts:
        scene = bench.latent(prompt.truth(17)[None])[0]
        assert (near.latents[prompt.index] - scene).norm() < 0.1 * (far.latents[prompt.index] - scene).norm()


class Obedient(Bench):
    """Shows a red thing where nothing is negated, a blue one where red is."""

    def made(self, mode: Mode) -> Made:
        prompts = mode.prompts(self.count)
        clips = {}
        for prompt in prompts:
            color = "blue" if "red" in mode.negative(prompt) else "red"
            thing = replace(prompt.scene.things[0], color=color)
            clips[prompt.index] = render(replace(prompt.scene, background="white", things=(thing,)))
        return Made(tuple(prompts), {}, clips, 1.0)


def test_the_likeliest_colour_is_negated(tmp_path: Path) -> None:
    found = negated(Obedient(Files(), 3, tmp_path))
    assert found.note == "red in 3 of 3 clips; of these with it negated in 0, with orange negated in 3"
    assert [one.numbers["gone"] for one in found.judged] == [100.0] * 3
    assert all(one.obeyed["shape"] and one.obeyed["motion"] for one in found.judged)
    assert max(one.numbers["psnr_db"] for one in found.judged) < 30
