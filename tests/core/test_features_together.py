"""Every feature with every other: finite and sane, in one order whatever the graph's, or refused in so many words.

So in sampling, in edits and in inversions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit, save
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core import extensions
from hyvideo_core.errors import HyVideoError
from hyvideo_core.extensions.step_cache import StepCache
from hyvideo_core.model import DiT
from hyvideo_core.sample import Extent, Guidance, Side, flow_edit, flow_sigmas, invert, sample
from hyvideo_core.sample.seams import Extension
from hyvideo_core.text.blends import PromptSchedule, Turn
from hyvideo_core.types import Interval
from hyvideo_core.weights import Lora

STEPS = 5
SIZE = (1, 4, 5, 4, 6)
NOISE, CLIP, IMAGE = randn(*SIZE, seed=3), randn(*SIZE, seed=4), randn(1, 4, 1, 4, 6, seed=5)
OTHER_CLIP, OTHER_IMAGE = randn(*SIZE, seed=6), randn(1, 4, 1, 4, 6, seed=7)
PLAIN = random_dit()
WIDER = random_dit(replace(TINY, in_channels=9))
NEGATIVE = prompt(seed=20, length=3)
MASK = torch.zeros(1, 1, 1, 4, 6)
MASK[..., :3] = 1
FOLDER = TemporaryDirectory(ignore_cleanup_errors=True)
#: Without one that takes the clip beside the latent keyframes change nothing.
LORA = extensions.Loras(
    loras=(
        Lora(
            save(
                Path(FOLDER.name) / "keyframes.safetensors",
                {
                    "transformer.x_embedder.proj.lora_A.weight": randn(3, 8, 1, 2, 2, seed=40) / 6,
                    "transformer.x_embedder.proj.lora_B.weight": randn(48, 3, 1, 1, 1, seed=41) / 2,
                },
            )
        ),
    )
)
#: What a run may do to the size of a latent and still count as sane.
SANE = (0.2, 5.0)


@dataclass(frozen=True)
class Feature:
    """A setting that shows, and one that changes nothing where there is one.

    ``other`` is one that shows something else, where the result without any is another transformer's; ``beside`` is
    what both need.
    """

    active: Extension
    neutral: Extension | None = None
    other: Extension | None = None
    beside: tuple[Extension, ...] = ()

    @property
    def all(self) -> tuple[Extension, ...]:
        """The setting that shows, with what it needs."""
        return self.active, *self.beside

    @property
    def compared(self) -> tuple[Extension, ...]:
        """What it shows beside."""
        return () if self.other is None else (self.other, *self.beside)


FEATURES = (
    Feature(extensions.CfgZeroStar(), extensions.CfgZeroStar(optimized_scale=False, zero_steps=0)),
    Feature(extensions.SkipGuidance(blocks="double 1", scale=0.5), extensions.SkipGuidance(blocks="double 1", scale=0)),
    Feature(extensions.FreSca(low=0.5, high=2.0, cutoff=1), extensions.FreSca(low=1, high=1)),
    Feature(
        extensions.AdaptiveProjectedGuidance(),
        extensions.AdaptiveProjectedGuidance(eta=1, momentum=0, norm_threshold=0),
    ),
    Feature(extensions.TeaCache(threshold=1e9), extensions.TeaCache(threshold=0)),
    Feature(extensions.FirstBlockCache(threshold=1e9), extensions.FirstBlockCache(threshold=0)),
    Feature(extensions.EasyCache(threshold=1e9, warm_up=2), extensions.EasyCache(threshold=0)),
    Feature(extensions.ContextWindows(window_frames=9, overlap_frames=4), extensions.ContextWindows(window_frames=129)),
    Feature(extensions.SeamlessLoop(shift_latent_frames=2), extensions.SeamlessLoop(shift_latent_frames=0)),
    Feature(extensions.Riflex(k=1, above_frames=0), extensions.Riflex(k=1, above_frames=10_000)),
    Feature(extensions.EnhanceAVideo(weight=20.0), extensions.EnhanceAVideo(weight=-1.0)),
    Feature(
        extensions.SlidingTileAttention(when=Interval(), tile=(1, 1, 1), window=(3, 1, 1)),
        extensions.SlidingTileAttention(when=Interval(), tile=(1, 1, 1), window=(99, 99, 99)),
    ),
    Feature(
        extensions.ScheduledPrompts(positive=PromptSchedule((Turn(0.4, prompt(seed=70, length=3)),))),
        extensions.ScheduledPrompts(),
    ),
    Feature(
        extensions.Inpainting(mask=MASK, clean=CLIP, noise=NOISE),
        extensions.Inpainting(mask=torch.ones_like(MASK), clean=CLIP, noise=NOISE),
    ),
    Feature(extensions.RFInversion(clean=CLIP, eta=0.5), extensions.RFInversion(clean=CLIP, eta=0.0)),
    Feature(extensions.FirstFrame(image=IMAGE)),
    Feature(extensions.ImageToVideo(image=IMAGE)),
    Feature(extensions.ImageConcat(image=IMAGE), other=extensions.ImageConcat(image=OTHER_IMAGE)),
    Feature(
        extensions.Keyframes(clip=CLIP),
        extensions.Keyframes(clip=CLIP),
        other=extensions.Keyframes(clip=OTHER_CLIP),
        beside=(LORA,),
    ),
)
BY_NAME = {type(feature.active).__name__: feature for feature in FEATURES}
#: What has no settings of its own to show, and where it is tested.
ELSEWHERE = {
    "BlockSwap": "test_memory_swap",
    "Loras": "test_extension_lora",
    "TeaCacheCalibration": "test_tea_cache_calibration",
}
#: Ways of giving an image: a transformer knows one of them.
IMAGES = {"FirstFrame", "ImageToVideo", "ImageConcat", "Keyframes"}
#: Those that need a run from noise to clean.
DOWNWARDS = {"Inpainting", "RFInversion"}
CACHES = {name for name, feature in BY_NAME.items() if isinstance(feature.active, StepCache)}


def refused(one: str, other: str) -> bool:
    """Pairs that make no sense together; the nodes refuse two of a kind too."""
    return "SeamlessLoop" in (one, other) and bool({one, other} & IMAGES)


def why_not(way: Callable[..., torch.Tensor], *names: str) -> str:
    """A word of why these are refused in an edit or an inversion; empty where they are not."""
    if way is inverted and DOWNWARDS & {*names}:
        return "sigmas rise"
    return "loop" if len(names) == 2 and refused(*names) else ""


def senseless(one: str, other: str) -> bool:
    """Pairs that no graph can have, as nodes refuse them before they meet."""
    return {one, other} <= IMAGES or {one, other} <= CACHES


def both(one: str, other: str) -> list[Extension]:
    return [*BY_NAME[one].all, *BY_NAME[other].all]


PAIRS = [pair for pair in itertools.combinations(BY_NAME, 2) if not senseless(*pair)]


def transformer_for(*features: Extension) -> DiT:
    return WIDER if any(isinstance(each, extensions.ImageConcat) for each in features) else PLAIN


def final(*features: Extension) -> torch.Tensor:
    options = {"negative": NEGATIVE, "guidance": Guidance(cfg=3), "extensions": features}
    return list(sample(transformer_for(*features), NOISE, prompt(), sigmas=flow_sigmas(STEPS, 3.0), **options))[-1].x


def edited(*features: Extension, steps: int = 2) -> torch.Tensor:
    """A clip edited in so many steps, the last of them plain sampling."""
    source, target = Side(prompt()), Side(prompt(seed=30, length=4), NEGATIVE, Guidance(cfg=3))
    options = {"sigmas": flow_sigmas(steps, 3.0), "extent": Extent(steps, 1), "extensions": features}
    return list(flow_edit(transformer_for(*features), CLIP, source, target, **options))[-1].x


def inverted(*features: Extension, steps: int = 2) -> torch.Tensor:
    """A clip carried to noise in so many steps."""
    options = {"sigmas": flow_sigmas(steps, 3.0), "extensions": features}
    return list(invert(transformer_for(*features), CLIP, NOISE, prompt(), **options))[-1].x


#: Other ways than sampling, each of a clip that is given.
WAYS = (edited, inverted)


@cache
def alone(name: str, way: Callable[..., torch.Tensor] = final) -> torch.Tensor:
    return way(*BY_NAME[name].all) if name else way()


def assert_sane(found: torch.Tensor, plain: torch.Tensor) -> None:
    assert bool(torch.isfinite(found).all())
    size = found.norm() / plain.norm()
    assert SANE[0] < size < SANE[1], f"{size:.2f} times the size of the plain result"


def test_every_feature_is_here() -> None:
    classes = {
        name
        for name, each in vars(extensions).items()
        if isinstance(each, type) and issubclass(each, Extension) and name in extensions.__all__
    }
    assert classes == {*BY_NAME, *ELSEWHERE}


@pytest.mark.parametrize("name", BY_NAME)
def test_each_shows(name: str) -> None:
    compared = BY_NAME[name].compared
    assert rel_l2(alone(name), final(*compared) if compared else alone("")) > 1e-4


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_any_two_are_sane_in_one_order_or_refused(one: str, other: str) -> None:
    pair = both(one, other)
    if refused(one, other):
        with pytest.raises((HyVideoError, ValueError), match="loop"):
            final(*pair)
        return
    together = final(*pair)
    assert_sane(together, alone(""))
    assert torch.equal(together, final(*reversed(pair)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BY_NAME)
def test_each_is_sane_in_an_edit_and_an_inversion_or_refused(name: str, way: Callable[..., torch.Tensor]) -> None:
    if words := why_not(way, name):
        with pytest.raises(ValueError, match=words):
            way(*BY_NAME[name].all)
        return
    assert_sane(way(*BY_NAME[name].all, steps=STEPS), way(steps=STEPS))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_any_two_are_sane_in_an_edit_and_an_inversion_or_refused(
    one: str, other: str, way: Callable[..., torch.Tensor]
) -> None:
    if words := why_not(way, one, other):
        with pytest.raises((HyVideoError, ValueError), match=words):
            way(*both(one, other))
        return
    assert_sane(way(*both(one, other)), alone("", way))


NEUTRAL = [feature.neutral for feature in FEATURES if feature.neutral is not None]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(NEUTRAL), unique_by=lambda each: type(each).__name__, min_size=1))
def test_neutral_ones_in_any_number_and_order_are_none(chosen: list[Extension]) -> None:
    assert torch.equal(final(*chosen), alone(""))


@pytest.mark.parametrize("way", WAYS)
def test_neutral_ones_are_none_in_an_edit_and_an_inversion(way: Callable[..., torch.Tensor]) -> None:
    chosen = [each for each in NEUTRAL if not why_not(way, type(each).__name__)]
    assert torch.equal(way(*chosen, steps=STEPS), way(steps=STEPS))


def test_all_that_may_be_together_are() -> None:
    """One cache, one image, and all else."""
    left_out = {"SeamlessLoop", *(CACHES - {"FirstBlockCache"}), *(IMAGES - {"ImageToVideo"})}
    chosen = [feature.active for name, feature in BY_NAME.items() if name not in left_out]
    together = final(*chosen)
    assert bool(torch.isfinite(together).all())
    assert torch.equal(together, final(*reversed(chosen)))
