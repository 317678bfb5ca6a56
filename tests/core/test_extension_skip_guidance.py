"""Guidance by disturbed blocks: exactly the model without them, exactly a masked attention, nothing else touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from dit_data import TINY, prompt, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import traced_peak_bytes
from torch import nn

from golden_data import rel_l2
from hyvideo_core.attention import AttentionKernel
from hyvideo_core.extensions import BlockSwap, ImageToVideo, skip_guidance
from hyvideo_core.extensions.skip_guidance import (
    DISTURBANCES,
    ISOLATING_BYTES,
    SCORES_BYTES,
    NegativeSkip,
    SkipGuidance,
    isolate,
    parse_ranges,
)
from hyvideo_core.model import DiT
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import RunBlock, Seams
from hyvideo_core.sample import SOLVERS, Guidance, Step, flow_sigmas, sample
from hyvideo_core.sample.flow import joined
from hyvideo_core.sample.seams import Evaluation, Extension, Predict, Run
from hyvideo_core.types import Conditioning, Interval

DIT = random_dit()
BLOCKS = 4
NOISE = randn(1, 4, 2, 4, 4, seed=3)
VIDEO_TOKENS = 8
STEPS = 4
ONE_STEP = flow_sigmas(1, 7.0)
CFG = {"negative": prompt(seed=20, length=3), "guidance": Guidance(cfg=4)}
SKIP = SkipGuidance(blocks="double 1", scale=1.5)
ATTENTION = SkipGuidance(blocks="single 0", scale=1.5, disturbance="attention")
BOTH = pytest.mark.parametrize("guidance", [SKIP, ATTENTION], ids=DISTURBANCES)
ROUNDING = 1e-5


def run(*extensions: Extension, x: torch.Tensor = NOISE, dit: DiT = DIT, **options: Any) -> list[Step]:
    given_options = {"sigmas": flow_sigmas(STEPS, 7.0), "positive": prompt(), **options}
    return list(sample(dit, x, extensions=extensions, **given_options))


def final(*extensions: Extension, **options: Any) -> torch.Tensor:
    return run(*extensions, **options)[-1].x


def velocity(*extensions: Extension, x: torch.Tensor = NOISE, **options: Any) -> torch.Tensor:
    """The guided velocity at σ = 1."""
    return x - final(*extensions, x=x, sigmas=ONE_STEP, **options)


@dataclass(frozen=True)
class Spy(Extension):
    """Notes the evaluations with their results, and what reaches blocks and attention in each."""

    rank: ClassVar[int] = 900
    seen: list[tuple[Evaluation, torch.Tensor]] = field(default_factory=list, compare=False)
    blocks: list[tuple[str, nn.Module]] = field(default_factory=list, compare=False)
    lengths: list[tuple[str, int, int]] = field(default_factory=list, compare=False)
    now: list[str] = field(default_factory=lambda: [""], compare=False)

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            self.now[0] = evaluation.branch
            found = inner(evaluation)
            self.seen.append((evaluation, found))
            return found

        return predict

    def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
        def run_block(block: nn.Module, stream: Stream) -> None:
            self.blocks.append((self.now[0], block))
            inner(block, stream)

        return run_block

    def wrap_attend(self, inner: AttentionKernel, state: Any) -> AttentionKernel:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.lengths.append((self.now[0], q.shape[1], k.shape[1]))
            return inner(q, k, v)

        return attend


# --- blocks left out ----------------------------------------------------------------------------------------


def without(*names: str) -> DiT:
    """The same transformer, built without some of its blocks."""
    dit = random_dit()
    for group in ("double", "single"):
        blocks = getattr(dit, f"{group}_blocks")
        kept = [block for number, block in enumerate(blocks) if f"{group} {number}" not in names]
        setattr(dit, f"{group}_blocks", nn.ModuleList(kept))
    return dit


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        ("double 1", ["double 1"]),
        ("single 0", ["single 0"]),
        ("double 0, single 1", ["double 0", "single 1"]),
        ("single 0-1", ["single 0", "single 1"]),
        ("double", ["double 0", "double 1"]),
    ],
)
def test_it_steers_away_from_the_model_without_those_blocks(blocks: str, names: list[str]) -> None:
    whole, shorter = velocity(), velocity(dit=without(*names))
    assert rel_l2(shorter, whole) > 1e-3
    expected = whole + 1.5 * (whole - shorter)
    assert rel_l2(velocity(SkipGuidance(blocks=blocks, scale=1.5)), expected) <= ROUNDING


def test_a_negative_skip_leaves_blocks_out_for_the_negative_prompt_and_adds_no_evaluation() -> None:
    skip, spy = NegativeSkip(blocks="double 1"), Spy()
    weaker = velocity(dit=without("double 1"), positive=CFG["negative"])
    assert rel_l2(velocity(skip, spy, **CFG), weaker + 4 * (velocity() - weaker)) <= ROUNDING
    assert [evaluation.branch for evaluation, _ in spy.seen] == ["positive", "negative"]
    assert torch.equal(velocity(skip), velocity()), "without cfg nothing is to be left out"


def test_a_negative_skip_refuses_two_prompts_in_one_batch() -> None:
    batched = CFG | {"guidance": replace(CFG["guidance"], batched=True)}
    with pytest.raises(ValueError, match="double 1 are to be left out for the negative prompt alone"):
        velocity(NegativeSkip(blocks="double 1"), **batched)


def test_a_block_that_is_left_out_costs_nothing_further_in() -> None:
    spy = Spy()
    velocity(SKIP, spy)
    positive, disturbed = (
        [block for name, block in spy.blocks if name == branch] for branch in ("positive", SKIP.name)
    )
    assert positive == [*DIT.double_blocks, *DIT.single_blocks]
    assert disturbed == [block for block in positive if block is not DIT.double_blocks[1]]


def test_blocks_that_stream_are_left_out_too() -> None:
    dit = random_dit()
    waiting = [*dit.double_blocks, *dit.single_blocks]
    for guidance in (SKIP, ATTENTION):
        swapped = final(guidance, BlockSwap(waiting=lambda: waiting), dit=dit)
        assert torch.equal(swapped, final(guidance))


# --- attention that is disturbed ----------------------------------------------------------------------------


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention with the whole mask: a video token sees itself and the text, a text token everything."""
    length = q.shape[1]
    is_seen = torch.ones(length, length, dtype=torch.bool)
    is_seen[:VIDEO_TOKENS, :VIDEO_TOKENS] = torch.eye(VIDEO_TOKENS, dtype=torch.bool)
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=is_seen).transpose(1, 2)


@dataclass(frozen=True)
class Masked(Extension):
    """The same disturbance in every evaluation, by a mask."""

    block: str = "single 0"

    def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
        group, number = self.block.split()

        def run_block(block: nn.Module, stream: Stream) -> None:
            is_meant = block is getattr(DIT, f"{group}_blocks")[int(number)]
            inner(block, replace(stream, attend=masked) if is_meant else stream)

        return run_block


RAGGED = joined(prompt(length=5), prompt(length=3, seed=40))


@pytest.mark.parametrize("block", ["double 1", "single 0"])
@pytest.mark.parametrize("head_groups", [1, 2])
@pytest.mark.parametrize(
    ("positive", "batch"), [(prompt(), 1), (prompt(), 2), (RAGGED, 2)], ids=["one", "batch", "ragged"]
)
@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
def test_it_steers_away_from_the_model_with_a_masked_attention(
    block: str, head_groups: int, positive: Conditioning, batch: int, image: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DIT, "head_groups", head_groups)
    held = [ImageToVideo(image=randn(1, 4, 1, 4, 4, seed=7))] if image else []
    whole, other, found = (
        velocity(*extensions, *held, x=randn(batch, 4, 2, 4, 4, seed=3), positive=positive)
        for extensions in ([], [Masked(block=block)], [replace(ATTENTION, blocks=block)])
    )
    assert rel_l2(other, whole) > 1e-3
    assert rel_l2(found, whole + 1.5 * (whole - other)) <= ROUNDING


@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    video=st.integers(1, 12),
    text=st.integers(1, 6),
    room=st.sampled_from([1, 200, 10**6]),
)
@settings(max_examples=40, deadline=None)
def test_isolated_tokens_see_themselves_and_the_text(batch: int, heads: int, video: int, text: int, room: int) -> None:
    q, k, v = (randn(batch, video + text, heads, 8, seed=i) for i in range(3))
    out = randn(batch, video + text, heads, 8, seed=3)
    rows = out.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skip_guidance, "SCORES_BYTES", room)
        isolate(out, q, k, v, video)
    assert torch.equal(out[:, video:], rows[:, video:])
    for token in range(video):
        keys = torch.cat((k[:, token : token + 1], k[:, video:]), dim=1)
        values = torch.cat((v[:, token : token + 1], v[:, video:]), dim=1)
        weights = torch.einsum("BND,BLND->BNL", q[:, token], keys).div(8**0.5).softmax(dim=-1)
        assert torch.allclose(out[:, token], torch.einsum("BNL,BLND->BND", weights, values), atol=1e-5)


def test_isolating_in_half_precision_stays_close() -> None:
    q, k, v = (randn(1, 20, 2, 16, seed=i) for i in range(3))
    exact, rounded = torch.zeros_like(q), torch.zeros_like(q, dtype=torch.bfloat16)
    isolate(exact, q, k, v, 15)
    isolate(rounded, *(each.bfloat16() for each in (q, k, v)), 15)
    assert rel_l2(rounded[:, :15], exact[:, :15]) <= 2e-2


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("text", "dim"), [(16, 8), (256, 32), (4, 128)])
def test_no_map_of_all_tokens_is_made(text: int, dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 256 * 2**10
    monkeypatch.setattr(skip_guidance, "SCORES_BYTES", room)
    q, k, v, out = (torch.zeros(1, 4096 + text, 1, dim, dtype=dtype) for _ in range(4))
    assert traced_peak_bytes(lambda: isolate(out, q, k, v, 4096)) <= ISOLATING_BYTES / SCORES_BYTES * room


def test_other_extensions_see_all_tokens_where_attention_is_disturbed() -> None:
    spy = Spy()
    velocity(ATTENTION, spy)
    length = VIDEO_TOKENS + prompt().text.shape[1]
    assert spy.lengths == [("positive", length, length)] * BLOCKS + [(ATTENTION.name, length, length)] * BLOCKS


# --- guidance -----------------------------------------------------------------------------------------------


@BOTH
def test_it_costs_one_evaluation_of_the_positive_prompt_each_time(guidance: SkipGuidance) -> None:
    spy = Spy()
    run(guidance, spy, solver=SOLVERS["heun"], **CFG)
    keys = [evaluation.key for evaluation, _ in spy.seen]
    stages = [0, 1] * (STEPS - 1) + [0]
    assert keys == [(name, stage, ()) for stage in stages for name in ("positive", "negative", guidance.name)]
    assert all(
        torch.equal(evaluation.conditioning.text, prompt().text)
        for evaluation, _ in spy.seen
        if evaluation.branch == guidance.name
    )


@BOTH
@pytest.mark.parametrize("batched", [False, True])
def test_the_other_branches_are_not_disturbed(guidance: SkipGuidance, batched: bool) -> None:
    options = {**CFG, "guidance": Guidance(cfg=4, batched=batched), "sigmas": ONE_STEP}
    plain, spied = Spy(), Spy()
    run(plain, **options)
    run(guidance, spied, **options)
    for (evaluation, expected), (other, found) in zip(plain.seen, spied.seen, strict=False):
        assert evaluation.branch == other.branch
        assert torch.equal(expected, found)
    assert spied.seen[-1][0].branch == guidance.name


@BOTH
def test_under_true_cfg_both_are_added(guidance: SkipGuidance) -> None:
    plain, guided, both = velocity(**CFG), velocity(guidance), velocity(guidance, **CFG)
    assert rel_l2(both, plain + guided - velocity()) <= ROUNDING


def test_two_act_side_by_side_whatever_their_order() -> None:
    whole = velocity()
    together = velocity(SKIP, ATTENTION)
    assert torch.equal(together, velocity(ATTENTION, SKIP))
    assert rel_l2(together, velocity(SKIP) + velocity(ATTENTION) - whole) <= ROUNDING
    elsewhere = replace(SKIP, blocks="single 1")
    spy = Spy()
    assert rel_l2(velocity(SKIP, elsewhere, spy), velocity(SKIP) + velocity(elsewhere) - whole) <= ROUNDING
    assert len({evaluation.branch for evaluation, _ in spy.seen}) == 3


@BOTH
def test_two_of_the_same_are_one_with_the_sum_of_their_scales(guidance: SkipGuidance) -> None:
    assert rel_l2(velocity(guidance, replace(guidance, scale=0.5)), velocity(replace(guidance, scale=2))) <= ROUNDING


@BOTH
def test_one_that_acts_in_other_steps_does_not_disturb_this_one(guidance: SkipGuidance) -> None:
    early, late = (replace(guidance, when=Interval(*part)) for part in ((0, 0.5), (0.5, 1)))
    assert torch.equal(final(early, late), final(guidance))


# --- laws of extensions -------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("options", [{}, {**CFG, "guidance": Guidance(cfg=4, rescale=0.5)}], ids=["plain", "cfg"])
def test_at_scale_0_or_never_active_it_is_bit_identical_to_none(
    guidance: SkipGuidance, options: dict[str, Any]
) -> None:
    spy = Spy()
    assert torch.equal(final(replace(guidance, scale=0), spy, **options), final(**options))
    assert len(spy.seen) == STEPS * (2 if options else 1)
    assert torch.equal(final(replace(guidance, when=Interval(0.5, 0.5)), **options), final(**options))


def test_every_option_changes_the_output() -> None:
    variants = [
        SKIP,
        replace(SKIP, blocks="double 0"),
        replace(SKIP, blocks="single 1"),
        replace(SKIP, scale=1.0),
        replace(SKIP, disturbance="attention"),
        replace(SKIP, when=Interval(0, 0.5)),
        replace(SKIP, scale=0.0),
    ]
    results = [final(guidance) for guidance in variants]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert rel_l2(one, other) > 1e-3


def test_a_rescale_of_guidance_holds_for_it_too() -> None:
    rescaled = velocity(SKIP, guidance=Guidance(rescale=1.0))
    assert rescaled.std().item() == pytest.approx(velocity().std().item(), rel=1e-5)
    assert rel_l2(rescaled, velocity(SKIP)) > 1e-3


@BOTH
def test_a_failure_in_a_disturbed_evaluation_leaves_nothing_behind(guidance: SkipGuidance) -> None:
    @dataclass(frozen=True)
    class Fails(Extension):
        rank: ClassVar[int] = 900

        def wrap_block(self, inner: RunBlock, state: Any) -> RunBlock:
            def run_block(block: nn.Module, stream: Stream) -> None:
                raise ZeroDivisionError

            return run_block

    before, expected = dict(vars(DIT)), final(guidance)
    with pytest.raises(ZeroDivisionError):
        final(guidance, Fails())
    assert vars(DIT) == before
    assert torch.equal(final(guidance), expected)


@BOTH
def test_its_state_is_undone_whatever_happens(guidance: SkipGuidance) -> None:
    with ExitStack() as stack:
        state = guidance.start(Run(DIT, ONE_STEP, stack, tuple(NOISE.shape)))
    block = next(iter(state.blocks))

    def fail(*_: Any) -> Any:
        assert state.is_on
        raise ZeroDivisionError

    evaluation = Evaluation(NOISE, 1.0, 0, 1, prompt(), guidance.name)
    with pytest.raises(ZeroDivisionError):
        guidance.wrap_predict(fail, state)(evaluation)
    assert not state.is_on
    state.is_on = True
    if guidance.disturbance == "attention":
        with pytest.raises(ZeroDivisionError):
            guidance.wrap_block(fail, state)(block, _stream())
    assert state.video_tokens == 0


def _stream() -> Stream:
    """The stream that a block gets."""
    found: list[Stream] = []

    def blocks(inner: Any) -> Any:
        return found.append

    DIT(NOISE, torch.ones(1), prompt().text, None, prompt().pooled, torch.ones(1), seams=Seams(blocks=blocks))
    return found[0]


def test_two_runs_at_once_do_not_meet() -> None:
    start = partial(sample, DIT, NOISE, prompt(), sigmas=flow_sigmas(STEPS, 7.0))
    pairs: Iterator[tuple[Step, Step]] = zip(start(extensions=[SKIP]), start(extensions=[ATTENTION]), strict=True)
    one, other = list(pairs)[-1]
    assert torch.equal(one.x, final(SKIP))
    assert torch.equal(other.x, final(ATTENTION))


# --- what cannot work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": -1.0}, r"scale is -1\.0, but must be 0 or more"),
        ({"scale": float("nan")}, "scale is nan, but must be 0 or more"),
        ({"disturbance": "noise"}, "disturbance is 'noise', but must be one of skip, attention"),
        ({"blocks": " , "}, "blocks is empty, but must name blocks to disturb"),
        ({"blocks": "double 2, triple 3"}, "blocks has the entry 'triple 3', which cannot be read"),
        ({"blocks": "2"}, "blocks has the entry '2', which cannot be read"),
        ({"blocks": "double 2: 0"}, "blocks has the entry 'double 2: 0', which cannot be read"),
        ({"blocks": "single 5-3"}, "blocks has the entry 'single 5-3', which ends before it begins. Swap 5 and 3"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        SkipGuidance(**changes)


@pytest.mark.parametrize(
    ("blocks", "named"), [("double 2", "double block 2"), ("single 0, single 1-7", "single block 7")]
)
def test_blocks_that_the_model_lacks_are_refused(blocks: str, named: str) -> None:
    group = named.split()[0]
    with pytest.raises(ValueError, match=f"^blocks names {named}, but this model has 2 {group} blocks"):
        run(SkipGuidance(blocks=blocks))
    # Before any weights are loaded.
    with pytest.raises(ValueError, match=f"^blocks names {named}"):
        SkipGuidance(blocks=blocks).outside(TINY)
    last = SkipGuidance(blocks=f"{group} {getattr(TINY, f'{group}_blocks') - 1}")
    assert last.outside(TINY) is TINY
    run(last)


@given(first=st.integers(0, 60), more=st.integers(0, 20), spaces=st.sampled_from(["", " ", "  "]))
def test_ranges_include_both_ends(first: int, more: int, spaces: str) -> None:
    (found,) = parse_ranges(f"{spaces}single {first}{spaces}-{spaces}{first + more}{spaces}")
    assert (found.group, found.first, found.last) == ("single", first, first + more)
    assert parse_ranges(f"double {first};\nsingle{spaces},") == (
        *parse_ranges(f"double {first}-{first}"),
        *parse_ranges("single"),
    )
