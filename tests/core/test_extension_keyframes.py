"""Keyframes: a clip beside the latent, a transformer that is wider for the length of an evaluation, and its LoRA."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit, save

from golden_data import rel_l2
from hyvideo_core.errors import CheckpointError, GeometryError, NumericsError
from hyvideo_core.extensions import Loras
from hyvideo_core.extensions.keyframes import Keyframes
from hyvideo_core.extensions.lora import attached
from hyvideo_core.model import DiT
from hyvideo_core.sample import Guidance, flow_sigmas, sample
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.seams import Evaluation, Extension, OnBlock, Predict, Run
from hyvideo_core.types import Interval
from hyvideo_core.vae.images import keyframe_clip
from hyvideo_core.weights import Lora, lora_bytes, merge
from hyvideo_core.weights.lora import lora_shapes, widened_channels
from hyvideo_core.weights.lora_file import read_lora

CHANNELS = TINY.in_channels
NOISE = randn(1, CHANNELS, 3, 4, 4, seed=3)
CLIP = randn(1, CHANNELS, 3, 4, 4, seed=7)
GIVEN = Keyframes(clip=CLIP)
SIGMAS = flow_sigmas(3, 7.0)
PATCH = (1, 2, 2)
CFG = {"negative": prompt(seed=20), "guidance": Guidance(cfg=3, batched=True)}


def final(*extensions: Extension, dit: DiT | None = None, x: torch.Tensor = NOISE, **options: Any) -> torch.Tensor:
    run = sample(dit or random_dit(), x, prompt(), **{"sigmas": SIGMAS, **options}, extensions=extensions)
    return list(run)[-1].x


def lora_file(folder: Path, channels: int, name: str = "lora") -> Path:
    """As diffusers saves the keyframe LoRA: the patch embedding, and one layer of a block."""
    patch, block = "transformer.x_embedder.proj", "transformer.transformer_blocks.0.attn.to_q"
    return save(
        folder / f"{name}.safetensors",
        {
            f"{patch}.lora_A.weight": randn(3, channels, *PATCH, seed=40),
            f"{patch}.lora_B.weight": randn(48, 3, 1, 1, 1, seed=41),
            f"{block}.lora_A.weight": randn(3, 48, seed=42) / 7,
            f"{block}.lora_B.weight": randn(48, 3, seed=43) / 2,
        },
    )


def by_hand(lora: Path, strength: float = 1.0) -> DiT:
    """A transformer that is wider for good, with the LoRA in its weights: what the authors' code makes."""
    narrow, wide = random_dit(), random_dit(replace(TINY, in_channels=2 * CHANNELS))
    weights = narrow.state_dict()
    extended = torch.zeros(48, 2 * CHANNELS, *PATCH)
    extended[:, :CHANNELS] = weights["img_in.proj.weight"]
    wide.load_state_dict({**weights, "img_in.proj.weight": extended})
    merge(wide, [Lora(lora, strength)])
    return wide


@pytest.fixture(scope="module")
def wide_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_file(tmp_path_factory.mktemp("lora"), 2 * CHANNELS, "keyframes")


@pytest.fixture(scope="module")
def narrow_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_file(tmp_path_factory.mktemp("lora"), CHANNELS, "style")


def loras(*files: Path, strength: float = 1.0) -> Loras:
    return Loras(loras=tuple(Lora(file, strength) for file in files))


# --- the clip -----------------------------------------------------------------------------------------------


def test_a_clip_is_black_between_its_first_and_its_last_frame() -> None:
    start, end = torch.rand(2, 3, 1, 4, 6), torch.rand(2, 3, 1, 4, 6)
    clip = keyframe_clip(start, end, 9)
    assert clip.shape == (2, 3, 9, 4, 6)
    assert torch.equal(clip[:, :, :1], start)
    assert torch.equal(clip[:, :, -1:], end)
    assert (clip[:, :, 1:-1] == -1).all()


def test_frames_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"\[1, 3, 1, 4, 4\] and the last \[1, 3, 1, 4, 6\]"):
        keyframe_clip(torch.zeros(1, 3, 1, 4, 4), torch.zeros(1, 3, 1, 4, 6), 9)
    with pytest.raises(GeometryError, match=r"^frames is 1, but must be 5 or more"):
        keyframe_clip(torch.zeros(1, 3, 1, 4, 4), torch.zeros(1, 3, 1, 4, 4), 1)


# --- with its LoRA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"negative": prompt(seed=20), "guidance": Guidance(cfg=3, batched=True)}], ids=str
)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_it_is_the_wider_transformer_with_the_lora_in_its_weights(
    strength: float, options: dict[str, Any], wide_lora: Path
) -> None:
    wide = by_hand(wide_lora, strength)

    @dataclass(frozen=True)
    class Instead(Extension):
        rank: ClassVar[int] = 3000

        def wrap_predict(self, inner: Predict, state: Any) -> Predict:
            def predict(evaluation: Evaluation) -> torch.Tensor:
                x, text = evaluation.x, evaluation.conditioning
                both = torch.cat((x, CLIP.expand(len(x), -1, -1, -1, -1)), dim=1)
                timestep, scale = torch.tensor([1000 * evaluation.sigma]), torch.tensor([6000.0])
                return wide(both, timestep, text.text, text.text_mask, text.pooled, scale)

            return predict

    found = final(GIVEN, loras(wide_lora, strength=strength), **options)
    assert rel_l2(found, final(Instead(), **options)) <= 1e-5
    other = Keyframes(clip=randn(1, CHANNELS, 3, 4, 4, seed=8))
    assert rel_l2(final(other, loras(wide_lora, strength=strength), **options), found) > 1e-3


def test_loras_that_know_the_latent_alone_run_beside_it(wide_lora: Path, narrow_lora: Path) -> None:
    together = final(GIVEN, loras(wide_lora, narrow_lora))
    merged = random_dit()
    merge(merged, [Lora(narrow_lora)])
    assert rel_l2(together, final(GIVEN, loras(wide_lora), dit=merged)) <= 1e-5
    assert rel_l2(together, final(GIVEN, loras(wide_lora))) > 1e-3


def test_without_its_lora_it_changes_nothing() -> None:
    assert rel_l2(final(GIVEN), final()) <= 1e-6


def test_the_order_of_extensions_is_irrelevant(wide_lora: Path) -> None:
    assert torch.equal(final(GIVEN, loras(wide_lora)), final(loras(wide_lora), GIVEN))


@pytest.mark.parametrize("clips", [1, 2])
def test_a_batch_equals_its_clips_alone(clips: int, wide_lora: Path) -> None:
    noise, clip = randn(2, CHANNELS, 3, 4, 4, seed=4), randn(clips, CHANNELS, 3, 4, 4, seed=5)
    together = final(Keyframes(clip=clip), loras(wide_lora), x=noise)
    for i in range(2):
        alone = final(Keyframes(clip=clip[i % clips][None]), loras(wide_lora), x=noise[i : i + 1])
        assert rel_l2(together[i : i + 1], alone) <= 1e-5


def test_the_transformer_is_as_before_between_evaluations_and_after_a_failure(wide_lora: Path) -> None:
    dit = random_dit()
    weight, config = dit.img_in.proj.weight, dit.config

    def is_as_before() -> bool:
        return dit.img_in.proj.weight is weight and dit.config is config and not dit.img_in.proj._forward_hooks

    for _ in sample(dit, NOISE, prompt(), sigmas=SIGMAS, extensions=[GIVEN, loras(wide_lora)]):
        assert is_as_before()

    def fail() -> None:
        assert not is_as_before()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        final(GIVEN, loras(wide_lora), OnBlock(check=fail), dit=dit)
    assert is_as_before()


# --- the LoRA alone -----------------------------------------------------------------------------------------


def test_a_lora_that_widens_is_read_and_tells_so(wide_lora: Path, narrow_lora: Path) -> None:
    shapes = lora_shapes(random_dit())
    terms = read_lora(wide_lora, shapes).terms
    assert terms["img_in.proj"].down.shape == (3, 2 * CHANNELS * 4)
    assert widened_channels(terms, shapes) == 2 * CHANNELS
    assert widened_channels(read_lora(narrow_lora, shapes).terms, shapes) == 0
    extra = 3 * CHANNELS * 4 * torch.float32.itemsize
    sizes = [lora_bytes([Lora(file)], TINY, torch.float32) for file in (wide_lora, narrow_lora)]
    assert sizes[0] - sizes[1] == extra


def test_without_keyframes_it_is_refused_when_it_runs(wide_lora: Path) -> None:
    with pytest.raises(CheckpointError, match=r"takes 8 input channels, but only the 4 .*HyVideo Keyframes"):
        final(loras(wide_lora))


def test_it_cannot_be_merged_into_a_narrow_transformer_which_stays_as_it_is(wide_lora: Path) -> None:
    dit = random_dit()
    before = dict(dit.state_dict())
    with pytest.raises(CheckpointError, match=r"merged into img_in.proj: it takes 8 input channels.*the model takes 4"):
        merge(dit, [Lora(wide_lora)])
    assert all(tensor is before[name] or torch.equal(tensor, before[name]) for name, tensor in dit.state_dict().items())


def test_a_narrow_lora_on_a_wide_transformer_acts_on_its_first_channels(narrow_lora: Path) -> None:
    wide = random_dit(replace(TINY, in_channels=2 * CHANNELS))
    x = randn(1, 2 * CHANNELS, 2, 4, 4, seed=9)
    expected = wide.img_in.proj.weight.clone()
    down, up = randn(3, CHANNELS, *PATCH, seed=40), randn(48, 3, seed=41)
    expected[:, :CHANNELS] += torch.einsum("or,rcthw->octhw", up, down)
    with ExitStack() as stack:
        terms = loras(narrow_lora).start(Run(wide, SIGMAS, stack, tuple(x.shape)))
    with attached(terms):
        running = wide.img_in(x)
    merge(wide, [Lora(narrow_lora)])
    assert torch.allclose(wide.img_in.proj.weight, expected, atol=1e-5)
    assert rel_l2(running, wide.img_in(x)) <= 1e-5


# --- what cannot work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda clip: clip[:, :, :2], GeometryError, r"\[4, 2, 4, 4\].*\[4, 3, 4, 4\]"),
        (lambda clip: clip[..., :2], GeometryError, r"\[4, 3, 4, 2\].*\[4, 3, 4, 4\]"),
        (lambda clip: clip * float("inf"), NumericsError, "holds NaN or infinity"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(
    change: Callable[[torch.Tensor], torch.Tensor], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_run(TINY, NOISE, prompt(), extensions=[Keyframes(clip=change(CLIP))])


def test_a_part_of_the_run_is_no_choice() -> None:
    with pytest.raises(ValueError, match=r"^when is 0 to 0.5, but .* every step"):
        Keyframes(clip=CLIP, when=Interval(0, 0.5))
