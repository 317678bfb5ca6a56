"""Which previews are made: the first at once, the rest within their share of the time; no error reaches the run."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.extensions import TeaCache
from hyvideo_core.model import DiT
from hyvideo_core.preview import Clip, LatentRGB, Previewer, Taehv, budget, previewer
from hyvideo_core.preview.taehv import TaehvDecoder
from hyvideo_core.sample import SOLVERS, flow_sigmas, sample
from hyvideo_core.sample.seams import BranchNote
from hyvideo_core.types import Conditioning

STEP_S = 10.0
FRAMES = 5


class Clock:
    """Time that passes only where it is said to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Timed:
    """A method that takes so long for a latent frame, and fails from the call ``fails_at`` on."""

    def __init__(self, name: str, clock: Clock, seconds: float, fails_at: int = 1000) -> None:
        self.name, self.clock, self.seconds, self.fails_at = name, clock, seconds, fails_at
        self.calls = 0

    def __call__(self, latents: torch.Tensor) -> Clip:
        self.calls += 1
        if self.calls >= self.fails_at:
            raise RuntimeError(f"{self.name} is broken")
        self.clock.now += self.seconds * latents.shape[2]
        return Clip(np.zeros((1, 8, 8, 3), np.uint8), 6.0, self.name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (budget, previewer):
        monkeypatch.setattr(module, "time", made)
    return made


def shown(previews: Previewer, clock: Clock, steps: int, encoding_s: float = 0.0) -> list[str]:
    """The method of the preview after each step; '' for none."""
    latents = torch.zeros(1, 16, FRAMES, 2, 2)
    previews.rehearse(2, 2, torch.device("cpu"))
    previews.start()
    found = []
    for _ in range(steps):
        clock.now += STEP_S
        clip = previews.after_step(latents)
        if clip is not None:
            previews.encoded(encoding_s)
        found.append("" if clip is None else clip.method)
    return found


def test_a_cheap_preview_is_shown_after_every_step(clock: Clock) -> None:
    assert shown(Previewer(Timed("quick", clock, 0.001)), clock, 5) == ["quick"] * 5


def test_the_first_step_is_shown_at_once_and_the_rest_within_the_share(clock: Clock) -> None:
    # A preview takes 0.235 s, twice of which must fit; a hundredth of a step is 0.1 s.
    previews = Previewer(Timed("quick", clock, 0.047))
    made = shown(previews, clock, 12)
    assert [number for number, method in enumerate(made, start=1) if method] == [1, 8, 10, 12]
    assert previews.budget.spent_share <= 0.01


def test_what_encoding_takes_is_part_of_the_price(clock: Clock) -> None:
    previews = Previewer(Timed("quick", clock, 0.0))
    made = shown(previews, clock, 10, encoding_s=0.19)
    assert [number for number, method in enumerate(made, start=1) if method] == [1, 6, 8, 10]


def test_the_finer_method_is_shown_where_it_is_affordable(clock: Clock) -> None:
    previews = Previewer(Timed("quick", clock, 0.0), Timed("fine", clock, 0.009))
    assert shown(previews, clock, 4) == ["fine"] * 4


def test_until_the_finer_method_is_affordable_the_quick_one_is_shown_and_afterwards_never(clock: Clock) -> None:
    # The finer takes 0.24 s.
    previews = Previewer(Timed("quick", clock, 0.0), Timed("fine", clock, 0.048))
    assert shown(previews, clock, 4) == ["quick"] * 4
    assert previews.awaited == "fine"
    previews = Previewer(Timed("quick", clock, 0.0), Timed("fine", clock, 0.048))
    assert shown(previews, clock, 8) == [*["quick"] * 4, "fine", "", "", "fine"]
    assert previews.awaited == ""


def test_one_preview_that_took_long_is_paid_for_and_does_not_end_them(clock: Clock) -> None:
    quick = Timed("quick", clock, 0.001)
    previews = Previewer(quick)
    previews.rehearse(2, 2, torch.device("cpu"))
    previews.start()
    made = []
    for number in range(1, 8):
        clock.now += STEP_S
        # The first takes half a second: as much as five steps pay for.
        quick.seconds = 0.1 if number == 1 else 0.001
        made.append(previews.after_step(torch.zeros(1, 16, FRAMES, 2, 2)) is not None)
    assert made == [True, False, False, False, False, True, True]


def test_a_rehearsal_is_on_one_frame_and_no_part_of_the_share(clock: Clock) -> None:
    fine = Timed("fine", clock, 1.0)
    previews = Previewer(Timed("quick", clock, 0.0), fine)
    previews.rehearse(2, 2, torch.device("cpu"))
    assert clock.now == 2.0
    assert previews.budget.spent_share == 0.0


def test_a_larger_batch_costs_more(clock: Clock) -> None:
    previews = Previewer(Timed("quick", clock, 0.0), Timed("fine", clock, 0.009))
    previews.rehearse(2, 2, torch.device("cpu"))
    previews.start()
    clock.now += STEP_S
    clip = previews.after_step(torch.zeros(2, 16, FRAMES, 2, 2))
    assert clip is not None
    assert clip.method == "quick"


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_when_the_finer_method_fails_the_quick_one_goes_on_and_the_reason_is_told_once(
    clock: Clock, caplog: pytest.LogCaptureFixture, fails_at: int
) -> None:
    previews = Previewer(Timed("quick", clock, 0.0), Timed("fine", clock, 0.0, fails_at))
    with caplog.at_level(logging.WARNING):
        assert shown(previews, clock, 4)[1:] == ["quick"] * 3
    (record,) = caplog.records
    assert "A preview by fine failed, from now on by quick" in record.message
    assert "fine is broken" in record.message


def test_when_all_fail_previews_end_and_the_run_does_not(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert shown(Previewer(Timed("quick", clock, 0.0, fails_at=4)), clock, 4) == ["quick", "", "", ""]
    (record,) = caplog.records
    assert "there are no more in this run" in record.message


class Stopped(Timed):
    """The user stops the run meanwhile."""

    def __call__(self, latents: torch.Tensor) -> Clip:
        raise KeyboardInterrupt


def test_a_stop_is_no_failure_of_a_preview(clock: Clock) -> None:
    previews = Previewer(Stopped("quick", clock, 0.0))
    previews.start()
    with pytest.raises(KeyboardInterrupt):
        previews.after_step(torch.zeros(1, 16, 1, 2, 2))


CONFIG = DiTConfig(
    hidden_size=32, heads=2, rope_dims=(4, 6, 6), double_blocks=1, single_blocks=1, text_dim=16, pooled_dim=8
)


def dit() -> DiT:
    torch.manual_seed(0)
    made = DiT(CONFIG).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return made


def run(watch: Callable[[torch.Tensor], object]) -> torch.Tensor:
    x = torch.randn(2, 16, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    prompt = Conditioning(torch.ones(1, 4, CONFIG.text_dim), torch.ones(1, CONFIG.pooled_dim))
    for step in sample(dit(), x, prompt, sigmas=flow_sigmas(4, 7.0), solver=SOLVERS["euler stochastic"], seed=5):
        watch(step.denoised)
    return step.x


def test_a_run_is_the_same_to_the_bit_with_previews_and_without() -> None:
    plain = run(lambda denoised: None)
    for fine in (None, Taehv(TaehvDecoder().eval().requires_grad_(False))):
        previews = Previewer(LatentRGB(), fine, share=100.0)
        previews.rehearse(4, 4, torch.device("cpu"))
        previews.start()
        clips: list[Clip | None] = []
        assert torch.equal(run(lambda denoised: clips.append(previews.after_step(denoised))), plain)  # noqa: B023
        assert all(clip is not None for clip in clips)


def test_a_step_tells_what_a_cache_has_skipped_so_far() -> None:
    x = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    prompt = Conditioning(torch.ones(1, 4, CONFIG.text_dim), torch.ones(1, CONFIG.pooled_dim))
    shares: list[float] = []
    cache = TeaCache(threshold=100.0, warm_up=1, last=1, saved=shares.append)
    notes = []
    for step in sample(dit(), x, prompt, sigmas=flow_sigmas(5, 7.0), extensions=[cache]):
        notes.append(step.notes())
        assert not shares
    assert [(each.name, each.branches) for (each,) in notes] == [
        ("TeaCache", (BranchNote("positive", skipped, made),)) for made, skipped in enumerate((0, 1, 2, 3, 3), start=1)
    ]
    assert len(shares) == 1
