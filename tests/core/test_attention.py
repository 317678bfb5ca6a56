"""Attention kernels agree with the definition, and the self-test finds those that do not."""

from __future__ import annotations

import pytest
import torch
from dit_data import randn
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.attention import available, kernels, registry, resolve
from hyvideo_core.attention.registry import KERNELS
from hyvideo_core.model.ragged import attend_ragged


def definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("blnd,bmnd->bnlm", q.double(), k.double()) / q.shape[-1] ** 0.5
    return torch.einsum("bnlm,bmnd->blnd", scores.softmax(-1), v.double())


@pytest.mark.parametrize("name", KERNELS)
@given(
    batch=st.integers(1, 2), queries=st.integers(1, 40), keys=st.integers(1, 40),
    heads=st.integers(1, 3), dim=st.sampled_from([4, 24, 128]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_every_kernel_is_softmax_attention(
    name: str, batch: int, queries: int, keys: int, heads: int, dim: int, seed: int
) -> None:
    q = randn(batch, queries, heads, dim, seed=seed)
    k, v = randn(2, batch, keys, heads, dim, seed=seed + 1)
    out = KERNELS[name](q, k, v)
    assert out.shape == q.shape
    assert rel_l2(out, definition(q, k, v)) <= 1e-5


def test_the_chunked_kernel_gives_the_same_in_one_chunk_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = randn(3, 2, 33, 2, 24)
    whole = kernels.chunked(q, k, v)
    monkeypatch.setattr(kernels, "SCORES_BYTES", 2 * 2 * 33 * 4 * 5)  # five queries at a time
    assert rel_l2(kernels.chunked(q, k, v), whole) <= 1e-6
    monkeypatch.setattr(kernels, "SCORES_BYTES", 1)
    assert rel_l2(kernels.chunked(q, k, v), whole) <= 1e-6


@pytest.mark.parametrize("name", KERNELS)
def test_large_scores_overflow_in_no_kernel(name: str) -> None:
    q, k, v = 200 * randn(3, 1, 50, 2, 128)
    assert torch.isfinite(KERNELS[name](*(part.bfloat16() for part in (q, k, v)))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [24, 128])
def test_the_self_test_passes_every_kernel_here(dtype: torch.dtype, head_dim: int) -> None:
    reports = available("cpu", dtype, head_dim)
    assert [report.name for report in reports] == list(KERNELS)
    assert all(report.ok for report in reports), reports


def forgets_the_last_key(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k[:, :-1], v[:, :-1])


def forgets_to_scale(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q * q.shape[-1] ** 0.5, k, v)


def swaps_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k, v).flip(2)


def gives_nan(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k, v) * float("nan")


def refuses(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    raise AssertionError("needs a GPU of the newest kind")


def smooths_keys_in_place(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    k -= k.mean(dim=1, keepdim=True)  # leaves the result as it was, but not the caller's tensor
    return kernels.sdpa(q, k, v)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (forgets_the_last_key, "relative error"),
        (forgets_to_scale, "relative error"),
        (swaps_heads, "relative error"),
        (gives_nan, "relative error nan"),
        (refuses, "newest kind"),
        (smooths_keys_in_place, "in place"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_self_test_flags_a_broken_kernel(
    broken: registry.AttentionKernel, reason: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.KERNELS, "broken", broken)
    reports = {report.name: report for report in available("cpu", dtype)}
    assert not reports.pop("broken").ok, reports
    assert all(report.ok for report in reports.values())
    with monkeypatch.context() as context:
        context.setattr(registry, "KERNELS", {"broken": broken})
        assert reason in available("cpu", dtype)[0].reason


def test_an_unknown_kernel_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'flash9'.*auto.*sdpa.*chunked"):
        resolve("flash9")


def test_auto_is_torchs_own_kernel() -> None:
    assert resolve("auto") is resolve("sdpa") is kernels.sdpa


def test_ragged_attention_is_attention_of_each_sample_alone() -> None:
    q, k, v = randn(3, 3, 9, 2, 24)
    out = attend_ragged(kernels.sdpa, (q, k, v), (9, 4, 1))
    for i, n in enumerate((9, 4, 1)):
        alone = kernels.sdpa(*(part[i : i + 1, :n] for part in (q, k, v)))
        assert torch.equal(out[i : i + 1, :n], alone)
        assert not out[i, n:].any()
