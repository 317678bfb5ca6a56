"""LoRAs beside the weights while the model runs: the reference output, over any storage, and nothing left behind."""

from __future__ import annotations

import gc
import os
import weakref
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit, save

from golden_data import GOLDEN, golden, of_case, rel_l2
from hyvideo_core.errors import CheckpointError
from hyvideo_core.extensions import Loras
from hyvideo_core.extensions import lora as extension
from hyvideo_core.model import DiT
from hyvideo_core.model.dit import RunBlock
from hyvideo_core.ops import Linear, Stored, fp8
from hyvideo_core.sample import flow_sigmas, sample
from hyvideo_core.sample.seams import Extension, Run
from hyvideo_core.types import Interval
from hyvideo_core.weights import load_dit
from hyvideo_core.weights.lora import Lora, lora_shapes, merge

CASE = of_case(golden("dit_cases")[0], "b_padded_text")
EXPECTED, META = golden("lora/expected")
FILES = sorted(path for path in (GOLDEN / "lora").glob("*.safetensors") if path.stem != "expected")
MUSUBI = GOLDEN / "lora/musubi_kohya.safetensors"
STRENGTH = META["strength"]
STEPS = 3


def golden_dit(dtype: torch.dtype = torch.float32) -> DiT:
    return load_dit(GOLDEN / "dit_weights.safetensors", dtype=dtype)


def run_of(dit: DiT, stack: ExitStack) -> Run:
    return Run(dit, flow_sigmas(1, 7.0), stack, shape=(1, 4, 1, 4, 4))


def velocity(dit: DiT, *loras: Lora) -> torch.Tensor:
    """The golden case with LoRAs applied at run time."""
    with ExitStack() as stack:
        terms = Loras(loras=loras).start(run_of(dit, stack))
        with extension.attached(terms):
            text = (CASE["text_states"], CASE["text_mask"], CASE["text_states_2"])
            return dit(CASE["x"], CASE["t"], *text, CASE["guidance"])


def is_clean(dit: DiT) -> bool:
    """Whether no module carries anything of a LoRA."""
    linears = [module for module in dit.modules() if isinstance(module, Linear)]
    return all(linear.adapters == () for linear in linears) and not dit.img_in.proj._forward_hooks


# --- the reference ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_gives_the_reference_output(path: Path) -> None:
    expected = EXPECTED["out_diffusers_partial" if "partial" in path.stem else "out_fused"]
    assert rel_l2(velocity(golden_dit(), Lora(path, STRENGTH)), expected) <= 1e-5
    assert rel_l2(velocity(golden_dit()), expected) > 1e-3


def test_bfloat16_stays_near_the_reference() -> None:
    assert rel_l2(velocity(golden_dit(torch.bfloat16), Lora(MUSUBI, STRENGTH)), EXPECTED["out_fused"]) <= 2.5e-2


def test_twice_at_half_the_strength_is_once() -> None:
    half = Lora(MUSUBI, STRENGTH / 2)
    assert rel_l2(velocity(golden_dit(), half, half), EXPECTED["out_fused"]) <= 1e-5


def test_the_order_does_not_matter_to_the_last_bit() -> None:
    loras = [Lora(path, 0.1 * i) for i, path in enumerate(FILES, 1)]
    assert torch.equal(velocity(golden_dit(), *loras), velocity(golden_dit(), *loras[::-1]))


def test_block_strengths_are_those_of_the_merged_model() -> None:
    lora = Lora(MUSUBI, STRENGTH, "double 0: 0, single: 2.5")
    merged = golden_dit()
    merge(merged, [lora])
    assert rel_l2(velocity(golden_dit(), lora), velocity(merged)) <= 1e-5
    assert rel_l2(velocity(golden_dit(), lora), EXPECTED["out_fused"]) > 1e-3


# --- over any storage ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Halves:
    """A packing of rows that lie at half their size."""

    name: str = "halves"

    def shape(self, data: torch.Tensor) -> tuple[int, ...]:
        return tuple(data.shape)

    def dense(self, data: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        return (2 * data.float()).to(dtype)


@pytest.mark.parametrize("per_channel", [True, False])
def test_over_fp8_weights_it_is_exact(per_channel: bool) -> None:
    """The fp8 weights lose precision, the LoRA beside them does not."""
    packed, unpacked = golden_dit(), golden_dit()
    for name in lora_shapes(packed):
        if isinstance(linear := packed.get_submodule(name), Linear) and "blocks" in name:
            linear.store(fp8.quantized(linear.weight, per_channel))
            unpacked.get_submodule(name).store(Stored(linear.stored.dense(torch.float32)))
    merge(unpacked, [Lora(MUSUBI, STRENGTH)])
    assert rel_l2(velocity(packed, Lora(MUSUBI, STRENGTH)), velocity(unpacked)) <= 1e-5


def test_over_packed_weights_that_could_not_be_merged() -> None:
    dit = golden_dit()
    for name in META["targets"]:
        linear = dit.get_submodule(name)
        linear.store(Stored(linear.weight / 2, Halves()))
    assert rel_l2(velocity(dit, Lora(MUSUBI, STRENGTH)), EXPECTED["out_fused"]) <= 1e-5


def everywhere(path: Path, dit: DiT, seed: int = 0) -> Path:
    """A LoRA on every layer of the model, the patch embedding and the float32 head included."""
    tensors = {}
    for i, (name, (rows, columns, *patch)) in enumerate(lora_shapes(dit).items()):
        tensors[f"{name}.lora_A.weight"] = randn(2, columns, *patch, seed=seed + i) / 10
        tensors[f"{name}.lora_B.weight"] = randn(rows, 2, *[1] * len(patch), seed=seed + i + 500) / 10
    return save(path, tensors)


def test_every_layer_can_have_a_term(tmp_path: Path) -> None:
    dit, merged = golden_dit(), golden_dit()
    lora = Lora(everywhere(tmp_path / "all.safetensors", dit), 0.3)
    merge(merged, [lora])
    assert rel_l2(velocity(dit, lora), velocity(merged)) <= 1e-5
    only_patches = replace(lora, blocks="double: 0, single: 0")
    assert rel_l2(velocity(dit, only_patches), velocity(dit)) > 1e-3
    assert rel_l2(velocity(golden_dit(torch.bfloat16), lora), velocity(merged)) <= 5e-2
    assert is_clean(dit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_terms_have_the_dtype_their_layer_computes_in(dtype: torch.dtype, tmp_path: Path) -> None:
    dit = golden_dit(dtype)
    lora = Lora(everywhere(tmp_path / "all.safetensors", dit))
    names = {module: name for name, module in dit.named_modules()}
    with ExitStack() as stack:
        for module, term in Loras(loras=(lora,)).start(run_of(dit, stack)):
            wanted = torch.float32 if names[module] == "final_layer.linear" else dtype
            assert {term.down.dtype, term.up.dtype} == {wanted}


def test_terms_are_where_the_model_runs_not_where_a_block_is_kept() -> None:
    dit = golden_dit()
    dit.img_in.to("meta")  # stands for an accelerator; the blocks stay on the CPU
    with ExitStack() as stack:
        terms = Loras(loras=(Lora(MUSUBI),)).start(run_of(dit, stack))
    assert {term.down.device.type for _, term in terms} == {term.up.device.type for _, term in terms} == {"meta"}


# --- in a run -----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[DiT, Lora]:
    dit = random_dit(TINY)
    return dit, Lora(everywhere(tmp_path / "tiny.safetensors", dit))


def steps(dit: DiT, *extensions: Extension) -> object:
    return sample(dit, randn(1, 4, 1, 4, 4, seed=3), prompt(), sigmas=flow_sigmas(STEPS, 7.0), extensions=extensions)


def final(dit: DiT, *extensions: Extension) -> torch.Tensor:
    return list(steps(dit, *extensions))[-1].x


def test_a_run_with_loras_is_a_run_of_the_merged_model(tiny: tuple[DiT, Lora]) -> None:
    dit, lora = tiny
    found, plain = final(dit, Loras(loras=(lora,))), final(dit)
    merge(dit, [lora])
    assert rel_l2(found, final(dit)) <= 1e-5
    assert rel_l2(found, plain) > 1e-3


def test_strength_0_and_no_loras_are_the_plain_model_bit_for_bit(tiny: tuple[DiT, Lora]) -> None:
    dit, lora = tiny
    plain = final(dit)
    for loras in ((), (replace(lora, strength=0.0),), (replace(lora, blocks="double: 0, single: 0, other: 0"),)):
        assert torch.equal(final(dit, Loras(loras=loras)), plain)


def test_several_extensions_are_as_one_in_any_order(tiny: tuple[DiT, Lora]) -> None:
    dit, lora = tiny
    one, two = replace(lora, strength=0.7), replace(lora, strength=-0.3)
    apart = [Loras(loras=(one,)), Loras(loras=(two,))]
    assert torch.equal(final(dit, *apart), final(dit, *apart[::-1]))
    assert rel_l2(final(dit, *apart), final(dit, Loras(loras=(two, one)))) <= 1e-5
    assert rel_l2(final(dit, *apart), final(dit, Loras(loras=(replace(lora, strength=0.4),)))) <= 1e-5


def test_it_is_active_only_in_its_part_of_the_run(tiny: tuple[DiT, Lora]) -> None:
    dit, lora = tiny
    late = Loras(loras=(lora,), when=Interval(0.5, 1.0))
    plain, found, whole = (list(steps(dit, *e)) for e in ((), (late,), (Loras(loras=(lora,)),)))
    assert torch.equal(found[0].x, plain[0].x)
    assert rel_l2(found[-1].x, plain[-1].x) > 1e-3
    assert rel_l2(found[-1].x, whole[-1].x) > 1e-3


def test_between_steps_and_after_closing_nothing_is_left(tiny: tuple[DiT, Lora]) -> None:
    dit, lora = tiny
    run = steps(dit, Loras(loras=(lora,)))
    next(run)
    assert is_clean(dit)
    # So another run may use the model meanwhile.
    plain = final(dit)
    next(run)
    run.close()
    assert is_clean(dit)
    assert torch.equal(plain, final(dit))


@dataclass(frozen=True)
class Failing(Extension):
    """Fails inside the second block, and notes that the LoRA was attached then."""

    rank: ClassVar[int] = 2000

    def start(self, run: Run) -> DiT:
        return run.dit

    def wrap_block(self, inner: RunBlock, state: DiT) -> RunBlock:
        def block(module: torch.nn.Module, stream: object) -> None:
            if module is state.double_blocks[1]:
                raise RuntimeError("clean so far" if is_clean(state) else "stopped with terms attached")
            inner(module, stream)

        return block


def test_after_an_exception_inside_a_block_nothing_is_left(tiny: tuple[DiT, Lora]) -> None:
    dit, lora = tiny
    with pytest.raises(RuntimeError, match="stopped with terms attached"):
        final(dit, Loras(loras=(lora,)), Failing())
    assert is_clean(dit)


def test_a_file_that_does_not_fit_stops_the_run_before_its_first_step(tiny: tuple[DiT, Lora]) -> None:
    dit, lora = tiny
    with pytest.raises(CheckpointError, match=r"musubi_kohya.safetensors: the term of double_blocks.0.img_attn_qkv"):
        final(dit, Loras(loras=(lora, Lora(MUSUBI))))
    with pytest.raises(CheckpointError, match=r"gone.safetensors should be a checkpoint file"):
        final(dit, Loras(loras=(Lora(lora.file.with_name("gone.safetensors")),)))
    assert is_clean(dit)


# --- what is read, and when ---------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were really read, as it happens."""
    found: list[str] = []
    original = extension.read_lora
    monkeypatch.setattr(extension, "read_lora", lambda path, shapes: found.append(path.name) or original(path, shapes))
    return found


def test_a_change_of_strength_reads_nothing_but_a_changed_file_is_read(
    tiny: tuple[DiT, Lora], reads: list[str]
) -> None:
    dit, lora = tiny
    for strength in (1.0, 0.5, 2.0):
        final(dit, Loras(loras=(replace(lora, strength=strength),)))
    assert reads == ["tiny.safetensors"]
    before = final(dit, Loras(loras=(lora,)))
    everywhere(lora.file, dit, seed=7)
    os.utime(lora.file, ns=(1, 1))
    assert rel_l2(final(dit, Loras(loras=(lora,))), before) > 1e-3
    assert reads == ["tiny.safetensors"] * 2


def test_strength_0_reads_nothing(tiny: tuple[DiT, Lora], reads: list[str]) -> None:
    dit, lora = tiny
    final(dit, Loras(loras=(replace(lora, strength=0.0),)))
    assert reads == []


def test_what_is_remembered_is_bounded_and_goes_with_the_model(tmp_path: Path) -> None:
    dit = random_dit(TINY)
    for i in range(extension.REMEMBERED_FILES + 3):
        final(dit, Loras(loras=(Lora(everywhere(tmp_path / f"{i}.safetensors", dit)),)))
    contents = [weakref.ref(found) for found in extension._READ[dit].values()]
    assert len(contents) == extension.REMEMBERED_FILES
    del dit
    gc.collect()
    assert [content() for content in contents] == [None] * extension.REMEMBERED_FILES
