"""The small layers by their definitions, where the reference results are too coarse to tell."""

from __future__ import annotations

import math

import pytest
import torch
from dit_data import randn

from golden_data import rel_l2
from hyvideo_core.attention.kernels import sdpa
from hyvideo_core.model.layers import RMSNorm, gelu_, modulated_norm, sinusoid, token_chunks
from hyvideo_core.model.ragged import attend_ragged
from hyvideo_core.model.rope import rope_table, rotate, rotate_real


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_rms_norm_adds_a_millionth_to_the_mean_square(size: float) -> None:
    x = size * randn(2, 3, 2, 24)
    norm = RMSNorm(24)
    norm.weight.data = randn(24, seed=1)
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    assert rel_l2(norm(x), expected) <= 1e-6


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_modulated_norm_adds_a_millionth_to_the_variance(size: float, batch: int) -> None:
    x = size * randn(batch, 7, 48)
    shift, scale = randn(2, batch, 1, 48, seed=1)
    centred = x.double() - x.double().mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert rel_l2(modulated_norm(x, shift, scale), normed * (1 + scale.double()) + shift.double()) <= 1e-6


def test_sinusoids_are_cosines_then_sines_of_falling_frequencies() -> None:
    t = torch.tensor([0.0, 1.0, 873.25, 6000.0])
    frequencies = torch.tensor([10000 ** (-i / 128) for i in range(128)], dtype=torch.float64)
    angles = t.double()[:, None] * frequencies
    expected = torch.cat((angles.cos(), angles.sin()), dim=-1)
    assert (sinusoid(t).double() - expected).abs().max() <= 2e-3  # float32 angles up to 6000


def test_gelu_is_the_tanh_form_and_works_in_place() -> None:
    x = 3 * randn(100)
    inner = math.sqrt(2 / math.pi) * (x.double() + 0.044715 * x.double() ** 3)
    expected = 0.5 * x.double() * (1 + inner.tanh())
    out = gelu_(x)
    assert out.data_ptr() == x.data_ptr()
    assert rel_l2(out, expected) <= 1e-6


@pytest.mark.parametrize(("length", "size"), [(0, 4), (1, 4), (8, 4), (9, 4), (3, 100)])
def test_chunks_cover_every_token_once(length: int, size: int) -> None:
    covered = [i for at in token_chunks(length, size) for i in range(at.start, at.stop)]
    assert covered == list(range(length))


@pytest.mark.parametrize("lengths", [(7, 7), (7, 3)])
def test_attention_may_be_written_where_it_is_wanted(lengths: tuple[int, ...]) -> None:
    qkv = randn(3, 2, 7, 2, 8).unbind(0)
    room = torch.full((2, 7, 6, 8), torch.nan)
    expected = attend_ragged(sdpa, qkv, lengths)
    written = attend_ragged(sdpa, qkv, lengths, room[:, :, 2:4])
    assert written.data_ptr() == room[:, :, 2:4].data_ptr()
    assert torch.equal(room[:, :, 2:4], expected)
    assert room.isnan().sum() == 2 * 7 * 4 * 8
    for i, n in enumerate(lengths):
        assert rel_l2(expected[i, :n], sdpa(*(part[i : i + 1, :n] for part in qkv))[0]) <= 1e-6
        assert not expected[i, n:].any()


def test_turning_with_real_numbers_is_the_same_turn() -> None:
    table = rope_table((2, 3, 4), (4, 2, 2), 256.0)
    x = randn(2, 24, 3, 8)
    assert rel_l2(rotate_real(x, torch.view_as_real(table)), rotate(x, table)) <= 1e-6
