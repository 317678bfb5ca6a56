"""RIFLEx: the original's positions, neutral for short videos, the laws of extensions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from dit_data import TINY, prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import assert_close, golden, rel_l2
from hyvideo_core.extensions.context_windows import ContextWindows
from hyvideo_core.extensions.riflex import Riflex
from hyvideo_core.model.dit import Rope
from hyvideo_core.model.rope import rope_table
from hyvideo_core.sample import SOLVERS, Guidance, flow_sigmas, sample
from hyvideo_core.sample.run import check_run
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import Interval

DATA, META = golden("rope")
CASE = META["checks"]["riflex"]
REAL = ((16, 56, 56), 256.0, torch.device("cpu"))
DIT = random_dit(replace(TINY, rope_dims=(8, 8, 8)))
NOISE = randn(1, 4, 3, 4, 4, seed=3)  # 9 frames
ALWAYS = Riflex(above_frames=0)


def final(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> torch.Tensor:
    options = {"sigmas": flow_sigmas(3, 7.0), **options}
    return list(sample(DIT, x, prompt(), extensions=extensions, **options))[-1].x


def table(extension: Riflex, grid: tuple[int, int, int]) -> torch.Tensor:
    return extension.wrap_rope(rope_table, None)(grid, *REAL)


# --- the reference ------------------------------------------------------------------------------------------


def test_197_frames_equal_the_originals() -> None:
    found = table(Riflex(k=CASE["k"]), (CASE["latent_frames"], *CASE["spatial"]))
    for kind, part in (("cos", found.real), ("sin", found.imag)):
        values = part.repeat_interleave(2, dim=-1)
        assert_close(values[DATA["riflex/rows"]], DATA[f"riflex/{kind}_rows"], rel=1e-6, max_abs=1e-5)
        assert list(values.shape) == CASE[kind]["shape"]
        assert values.double().sum().item() == pytest.approx(CASE[kind]["sum"], rel=1e-6)
        assert values.double().square().sum().item() == pytest.approx(CASE[kind]["sum_sq"], rel=1e-6)


def test_k_is_the_originals_by_default() -> None:
    assert Riflex().k == CASE["k"]


def test_the_reference_tells_the_frequencies_apart() -> None:
    for k in (3, 5):
        found = table(Riflex(k=k), (CASE["latent_frames"], *CASE["spatial"])).real.repeat_interleave(2, dim=-1)
        assert rel_l2(found[DATA["riflex/rows"]], DATA["riflex/cos_rows"]) > 1e-3


# --- the table ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 90), st.integers(1, 3), st.integers(1, 3)), st.integers(1, 8))
def test_only_the_chosen_frequency_changes_and_stays_within_its_period(grid: tuple[int, int, int], k: int) -> None:
    plain, found = rope_table(grid, *REAL), table(Riflex(k=k, above_frames=0), grid)
    others = [column for column in range(64) if column != k - 1]
    assert torch.equal(found[:, others], plain[:, others])
    for token, (t, _, _) in enumerate(torch.cartesian_prod(*map(torch.arange, grid)).view(-1, 3).tolist()):
        angle = 0.9 * 2 * math.pi * t / grid[0]
        assert abs(found[token, k - 1].item() - complex(math.cos(angle), math.sin(angle))) < 1e-5


@pytest.mark.parametrize(("latent_frames", "acts"), [(33, False), (48, False), (49, True), (66, True)])
def test_it_acts_above_192_frames_on_its_own(latent_frames: int, acts: bool) -> None:
    plain = rope_table((latent_frames, 2, 2), *REAL)
    assert torch.equal(table(Riflex(), (latent_frames, 2, 2)), plain) != acts


def test_a_table_that_others_keep_is_left_as_it_is() -> None:
    kept = rope_table((3, 2, 2), *REAL)
    before = kept.clone()
    found = ALWAYS.wrap_rope(lambda *_: kept, None)((3, 2, 2), *REAL)
    assert torch.equal(kept, before)
    assert not torch.equal(found, before)


# --- laws of extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [Riflex(), replace(ALWAYS, when=Interval(0.5, 0.5))], ids=["short", "never"])
def test_where_it_is_not_needed_it_is_bit_identical_to_none(idle: Riflex) -> None:
    assert torch.equal(final(idle), final())


def test_an_image_has_no_time_to_change() -> None:
    image = NOISE[:, :, :1]
    assert torch.equal(final(ALWAYS, x=image), final(x=image))


@pytest.mark.parametrize("change", [{"k": 3}, {"above_frames": 9}, {"when": Interval(0, 0.5)}], ids=str)
def test_every_setting_changes_the_video(change: dict[str, Any]) -> None:
    assert rel_l2(final(replace(ALWAYS, **change)), final(ALWAYS)) > 1e-4


def test_the_threshold_is_in_frames_of_the_video() -> None:
    assert torch.equal(final(Riflex(above_frames=9)), final())
    assert torch.equal(final(Riflex(above_frames=8)), final(ALWAYS))


def test_frames_of_a_window_count_where_windows_are_evaluated() -> None:
    windows = ContextWindows(window_frames=5, overlap_frames=0, freenoise=False)
    assert torch.equal(final(Riflex(above_frames=5), windows), final(windows))
    assert rel_l2(final(Riflex(above_frames=4), windows), final(windows)) > 1e-4


def test_the_order_of_extensions_is_irrelevant() -> None:
    @dataclass(frozen=True)
    class Turned(Extension):
        rank: ClassVar[int] = 5

        def wrap_rope(self, inner: Rope, state: Any) -> Rope:
            return lambda *args: inner(*args).conj()

    assert torch.equal(final(Turned(), ALWAYS), final(ALWAYS, Turned()))
    assert rel_l2(final(Turned(), ALWAYS), final(ALWAYS)) > 1e-3


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_batch_equals_its_clips_alone_under_true_cfg(solver: str) -> None:
    noise = randn(2, 4, 3, 4, 4, seed=4)
    options = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=3), "solver": SOLVERS[solver]}
    together = final(ALWAYS, x=noise, **options)
    for i in range(2):
        assert rel_l2(together[i : i + 1], final(ALWAYS, x=noise[i : i + 1], **options)) <= 1e-5


def test_runs_do_not_share_anything() -> None:
    start = partial(sample, DIT, NOISE, prompt(), sigmas=flow_sigmas(3, 7.0))
    other = replace(ALWAYS, k=2)
    pairs = list(zip(start(extensions=[ALWAYS]), start(extensions=[other]), strict=True))
    assert torch.equal(pairs[-1][0].x, final(ALWAYS))
    assert torch.equal(pairs[-1][1].x, final(other))


# --- what cannot work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [({"k": 0}, "^k is 0, but .* Use 4"), ({"above_frames": -1}, "^above_frames is -1, but must be 0")],
)
def test_settings_out_of_range_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Riflex(**options)


def test_a_frequency_that_the_transformer_does_not_have_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"^k is 5, but this transformer has 4 frequencies of time\. Use 1 to 4\."):
        check_run(DIT.config, NOISE, prompt(), extensions=[Riflex(k=5)])
