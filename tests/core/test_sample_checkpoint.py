"""Runs that go on after an interruption: the same to the last bit, and never with another run's checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from dit_data import prompt, randn, random_dit
from safetensors.torch import save_file

from golden_data import rel_l2
from hyvideo_core.errors import CheckpointError
from hyvideo_core.sample import Guidance, Step, checkpoint, flow_sigmas, sample
from hyvideo_core.sample.checkpoint import Checkpoint, described, fingerprint, read_checkpoint, write_checkpoint
from hyvideo_core.sample.seams import Evaluation, Extension, OnBlock, Predict, Run
from hyvideo_core.sample.solvers import SOLVERS, Estimate
from hyvideo_core.types import Interval

DIT = random_dit()
NOISE = randn(1, 4, 2, 4, 4, seed=3)
STEPS = 4
SIGMAS = flow_sigmas(STEPS, 7.0)
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3, rescale=0.5)}
RUN = {"seed": "0"}


@dataclass(frozen=True)
class Inertia(Extension):
    """Mixes into each velocity some of the last one of its kind, and counts evaluations in its state."""

    asked: ClassVar[list[None]] = []
    share: float = 0.25

    def start(self, run: Run) -> dict[str, torch.Tensor]:
        return {"count": torch.zeros(1)}

    def begin(self, x: torch.Tensor, sigma: float, state: Any) -> torch.Tensor:
        return 0.9 * x

    def keep(self, state: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        self.asked.append(None)
        return dict(state)

    def restore(self, state: dict[str, torch.Tensor], kept: Mapping[str, torch.Tensor]) -> None:
        state.update(kept)

    def wrap_predict(self, inner: Predict, state: dict[str, torch.Tensor]) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            key, velocity = str(evaluation.key), inner(evaluation)
            state["count"] = state["count"] + 1
            state[key] = velocity + self.share * state.get(key, 0) + state["count"] / 100
            return state[key]

        return predict


INERT = {"extensions": [Inertia(), Inertia(share=0.1), OnBlock()]}
OPTIONS = {"plain": {}, "cfg": CFG, "extensions": INERT, "cfg and extensions": CFG | INERT}


def start(solver: str = "euler", **options: Any) -> Iterator[Step]:
    return sample(DIT, NOISE, prompt(), **{"sigmas": SIGMAS, "solver": SOLVERS[solver], **options})


def run(solver: str = "euler", **options: Any) -> list[Step]:
    return list(start(solver, **options))


def checkpoints(path: Path, solver: str = "euler", **options: Any) -> tuple[list[Step], list[Checkpoint]]:
    """All steps of a run, and the checkpoint of each as its file gives it back."""
    steps, found = [], []
    for step in start(solver, **options):
        write_checkpoint(path / "run.safetensors", step.checkpoint(), RUN)
        found.append(read_checkpoint(path / "run.safetensors", RUN))
        steps.append(step)
    return steps, found


# --- going on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(
    tmp_path: Path, solver: str, options: dict[str, Any]
) -> None:
    whole, made = checkpoints(tmp_path, solver, **options)
    for last in made:
        rest = run(solver, resume=last, **options)
        assert [step.index for step in rest] == list(range(last.index + 1, STEPS))
        for step, expected in zip(rest, whole[last.index + 1 :], strict=True):
            assert step.sigma == expected.sigma
            assert torch.equal(step.x, expected.x)
            assert torch.equal(step.denoised, expected.denoised)


def test_a_checkpoint_outlives_the_run_that_it_was_made_in() -> None:
    steps = start(**INERT)
    last = next(steps).checkpoint()
    whole = list(steps)
    assert torch.equal(run(resume=last, **INERT)[-1].x, whole[-1].x)


def test_a_run_interrupted_twice_ends_the_same(tmp_path: Path) -> None:
    options = CFG | INERT
    whole, (first, *_) = checkpoints(tmp_path, "unipc", **options)
    rest = start("unipc", resume=first, **options)
    second = next(rest).checkpoint()
    assert torch.equal(run("unipc", resume=second, **options)[-1].x, whole[-1].x)


@pytest.mark.parametrize("solver", ["dpm++ 2m", "unipc"])
def test_what_solvers_look_back_at_is_needed(tmp_path: Path, solver: str) -> None:
    whole, made = checkpoints(tmp_path, solver)
    assert rel_l2(run(solver, resume=replace(made[1], past=()))[-1].x, whole[-1].x) > 1e-4


def test_what_each_extension_remembers_is_needed(tmp_path: Path) -> None:
    whole, made = checkpoints(tmp_path, **INERT)
    assert list(made[1].kept) == ["Inertia 0", "Inertia 1"]
    for name in made[1].kept:
        poorer = replace(made[1], kept={key: each for key, each in made[1].kept.items() if key != name})
        assert rel_l2(run(resume=poorer, **INERT)[-1].x, whole[-1].x) > 1e-4


def test_extensions_are_asked_what_they_remember_only_for_a_checkpoint() -> None:
    Inertia.asked.clear()
    steps = start(**INERT)
    first, second = next(steps), next(steps)
    assert Inertia.asked == []
    second.checkpoint()
    assert len(Inertia.asked) == 2
    with pytest.raises(ValueError, match=r"gone on since step 1, .* before asking for the next step"):
        first.checkpoint()


@pytest.mark.parametrize("end", [list, lambda steps: steps.close()], ids=["finished", "closed"])
def test_a_run_that_has_ended_gives_no_checkpoint(end: Callable[[Any], object]) -> None:
    steps = start()
    step = [next(steps) for _ in range(STEPS)][-1]
    step.checkpoint()
    end(steps)
    with pytest.raises(ValueError, match="gone on since step 4"):
        step.checkpoint()


def test_an_extension_that_is_not_there_any_more_is_named(tmp_path: Path) -> None:
    _, made = checkpoints(tmp_path, **INERT)
    with pytest.raises(ValueError, match=r"what the extension Inertia 1 remembered, but this run has only Inertia 0\."):
        run(resume=made[0], extensions=[Inertia()])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": NOISE[:, :, :1]}, r"latent is \[1, 4, 2, 4, 4\], but this run's is \[1, 4, 1, 4, 4\]"),
        ({"sigmas": SIGMAS[:3]}, "after step 3, but this run has 2"),
    ],
)
def test_a_checkpoint_of_another_size_is_refused_at_the_call(options: dict[str, Any], words: str) -> None:
    last = Checkpoint(2, NOISE)
    with pytest.raises(ValueError, match=words):
        sample(DIT, options.pop("x", NOISE), prompt(), **{"sigmas": SIGMAS, **options}, resume=last)


CHILD = """
import os, signal, sys
from dit_data import prompt, randn, random_dit
from hyvideo_core.sample import flow_sigmas, sample
from hyvideo_core.sample.checkpoint import fingerprint, read_checkpoint, write_checkpoint
from hyvideo_core.sample.solvers import SOLVERS

path, task = sys.argv[1:]
x, sigmas = randn(1, 4, 2, 4, 4, seed=3), flow_sigmas(4, 7.0)
run = fingerprint(x, prompt(), sigmas=sigmas, solver="unipc", identity="tiny")

def final(resume=None):
    for step in sample(random_dit(), x, prompt(), sigmas=sigmas, solver=SOLVERS["unipc"], resume=resume):
        if task == "die":
            write_checkpoint(path, step.checkpoint(), run)
            if step.index == 1:
                os.kill(os.getpid(), signal.SIGKILL)
    return step.x.numpy().tobytes().hex()

if task == "die":
    final()
print(final(read_checkpoint(path, run)), final())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_is_followed_by_another_to_the_same_bytes(tmp_path: Path) -> None:
    def process(task: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path / "run.safetensors"), task],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert process("die").returncode == -signal.SIGKILL
    second = process("resume")
    resumed, whole = second.stdout.split() or [second.stderr, ""]
    assert resumed == whole


# --- which run it is -----------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "x": NOISE,
    "positive": prompt(),
    "sigmas": SIGMAS,
    "guidance": Guidance(),
    "solver": "euler",
    "seed": 1,
    "identity": "model.safetensors",
}
CHANGES: dict[str, dict[str, Any]] = {
    "latent": {"x": NOISE + 1},
    "noise levels": {"sigmas": flow_sigmas(STEPS, 7.1)},
    "positive prompt": {"positive": prompt(seed=11)},
    "negative prompt": {"guidance": Guidance(cfg=2), "negative": prompt(seed=11)},
    "guidance": {"guidance": Guidance(embedded=7)},
    "solver": {"solver": "heun"},
    "seed": {"seed": 2},
    "model and features": {"identity": "other.safetensors"},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_runs_checkpoint_is_refused_and_what_differs_is_named(tmp_path: Path, what: str) -> None:
    base = BASE | ({"guidance": Guidance(cfg=2), "negative": prompt(seed=12)} if what == "negative prompt" else {})
    ours, theirs = fingerprint(**base), fingerprint(**base | CHANGES[what])
    assert {name for name in ours if ours[name] != theirs[name]} == {what}
    write_checkpoint(tmp_path / "run", Checkpoint(0, NOISE), ours)
    assert torch.equal(read_checkpoint(tmp_path / "run", fingerprint(**base)).x, NOISE)
    with pytest.raises(
        CheckpointError, match=f"run is of another run: the {what} was .*, but is .*[.] Set back"
    ) as told:
        read_checkpoint(tmp_path / "run", theirs)
    assert ours[what] in str(told.value)
    assert theirs[what] in str(told.value)


def test_a_negative_prompt_that_is_not_used_does_not_matter() -> None:
    assert fingerprint(**BASE) == fingerprint(**BASE, negative=prompt(seed=12))


def test_clips_of_other_numbers_are_another_run() -> None:
    both = BASE | {"x": torch.cat((NOISE, NOISE))}
    assert fingerprint(**both) == fingerprint(**both, numbers=[0, 1])
    others = [fingerprint(**both, numbers=numbers)["clips' numbers"] for numbers in ([1, 0], [1, 2], (0, 2))]
    assert len(set(others)) == len(others)
    assert others[1] == fingerprint(**both, numbers=(1, 2))["clips' numbers"]


def test_settings_are_told_apart_by_all_that_acts() -> None:
    @dataclass(frozen=True, eq=False)
    class Featured(Extension):
        image: Any = NOISE
        loras: tuple[Any, ...] = ("a", 1.0)

    texts = [
        described(featured)
        for featured in (
            Featured(),
            Featured(image=NOISE.transpose(3, 4)),
            Featured(image=NOISE.view(torch.int32)),
            Featured(image=NOISE.view(1, 4, 2, 2, 8)),
            Featured(image={"first": NOISE}),
            Featured(loras=("b", 1.0)),
            Featured(loras=("a", NOISE)),
            Featured(when=Interval(0.5, 1)),
        )
    ]
    assert len(set(texts)) == len(texts)
    assert described(Featured(image=NOISE.clone())) == texts[0]
    assert described(OnBlock(check=lambda: None)) == described(OnBlock(check=print))


# --- the file ------------------------------------------------------------------------------------------------

SMALL = Checkpoint(
    5,
    randn(1, 2, 1, 2, 2),
    (Estimate(0.1 + 0.2, *(randn(3, seed=i) for i in range(3))),),
    {"Inertia 0": {"a.b": randn(2, seed=9).bfloat16(), "count": torch.tensor(7), "none": torch.zeros(0)}},
)


def flat(made: Checkpoint) -> list[Any]:
    tensors = [made.x, *(t for each in made.past for t in (each.x, each.velocity, each.denoised))]
    kept = {owner: {name: (t.dtype, t.tolist()) for name, t in own.items()} for owner, own in made.kept.items()}
    return [made.index, [each.sigma for each in made.past], [t.tolist() for t in tensors], kept]


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", SMALL, RUN)
    assert flat(read_checkpoint(tmp_path / "run", RUN)) == flat(SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_file_that_broke_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    write_checkpoint(path, SMALL, RUN)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"run is no checkpoint of a run, or it is damaged: .* Delete it"):
            read_checkpoint(path, RUN)


def test_a_file_with_a_damaged_byte_anywhere_is_refused_or_means_the_same(tmp_path: Path) -> None:
    path, told = tmp_path / "run", []
    write_checkpoint(path, SMALL, RUN)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert flat(read_checkpoint(path, RUN)) == flat(SMALL)
        except CheckpointError as error:
            told.append(str(error))
    assert all("it is damaged" in each for each in told)
    assert len(told) > 0.9 * len(whole) / 3


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\0" * 100])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(CheckpointError, match="run is no checkpoint of a run, or it is damaged"):
        read_checkpoint(tmp_path / "run", RUN)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"x": NOISE}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"lora\.safetensors is no checkpoint of a run"):
        read_checkpoint(tmp_path / "lora.safetensors", RUN)


def test_a_file_of_another_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "KIND", "hyvideo run checkpoint 2")
        write_checkpoint(tmp_path / "run", SMALL, RUN)
    with pytest.raises(CheckpointError, match="it does not say that it is a 'hyvideo run checkpoint 1'"):
        read_checkpoint(tmp_path / "run", RUN)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*run"):
        read_checkpoint(tmp_path / "run", RUN)


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none/run cannot be written .* choose another folder"):
        write_checkpoint(tmp_path / "none" / "run", SMALL, RUN)


def test_a_write_that_fails_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    write_checkpoint(tmp_path / "run", SMALL, RUN)
    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_checkpoint(tmp_path / "run", replace(SMALL, index=6), RUN)
    assert read_checkpoint(tmp_path / "run", RUN).index == 5
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_write_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "run.part").write_bytes(b"half")
    write_checkpoint(tmp_path / "run", SMALL, RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --- parts of a run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_that_ends_above_zero_takes_the_steps_of_the_whole_one(solver: str) -> None:
    for step, expected in zip(run(solver, sigmas=SIGMAS[:4]), run(solver), strict=False):
        assert torch.equal(step.x, expected.x)
        assert torch.equal(step.denoised, expected.denoised)
