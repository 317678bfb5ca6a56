"""Attention kernels agree with the definition; what is absent, broken or wrong is refused with the reason."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from dit_data import inputs, randn, random_dit
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_data import rel_l2
from hyvideo_core.attention import AttentionKernel, available, choose, kernels, registry, resolve, self_test
from hyvideo_core.attention.registry import KERNELS, Kernel
from hyvideo_core.model.ragged import attend_ragged

CPU = torch.device("cpu")
PACKAGES = ("flash_attn", "flash_attn_interface", "sageattention")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No verdict of another test, and none of the packages that this machine may have."""

    def forget() -> None:
        for cached in (registry._load, registry._report, registry.choose):
            cached.cache_clear()

    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    forget()
    yield
    forget()


def definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("blnd,bmnd->bnlm", q.double(), k.double()) / q.shape[-1] ** 0.5
    return torch.einsum("bnlm,bmnd->blnd", scores.softmax(-1), v.double())


def install(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    """A package of that name with those functions."""
    package = ModuleType(name)
    vars(package).update(functions)
    monkeypatch.setitem(sys.modules, name, package)


# --- kernels of torch ---

RUNNING_HERE = ["sdpa", "sdpa_flash", "chunked"]


@pytest.mark.parametrize("name", RUNNING_HERE)
@given(
    batch=st.integers(1, 2), queries=st.integers(1, 40), keys=st.integers(1, 40),
    heads=st.integers(1, 3), dim=st.sampled_from([4, 24, 128]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_every_exact_kernel_is_softmax_attention(
    name: str, batch: int, queries: int, keys: int, heads: int, dim: int, seed: int
) -> None:
    q = randn(batch, queries, heads, dim, seed=seed)
    k, v = randn(batch, keys, 2, heads, dim, seed=seed + 1).unbind(2)
    out = KERNELS[name].load()(q, k, v)
    assert out.shape == q.shape
    assert rel_l2(out, definition(q, k, v)) <= 1e-5


def test_the_chunked_kernel_gives_the_same_in_one_chunk_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = randn(3, 2, 33, 2, 24)
    whole = kernels.chunked(q, k, v)
    monkeypatch.setattr(kernels, "SCORES_BYTES", 2 * 2 * 33 * 4 * 5)  # five queries at a time
    assert rel_l2(kernels.chunked(q, k, v), whole) <= 1e-6
    monkeypatch.setattr(kernels, "SCORES_BYTES", 1)
    assert rel_l2(kernels.chunked(q, k, v), whole) <= 1e-6


@pytest.mark.parametrize("name", RUNNING_HERE)
def test_large_scores_overflow_in_no_kernel(name: str) -> None:
    q, k, v = 200 * randn(3, 1, 50, 2, 128)
    assert torch.isfinite(KERNELS[name].load()(*(part.bfloat16() for part in (q, k, v)))).all()


@pytest.mark.parametrize("queries", [1, 7])
def test_attention_over_a_single_key_is_its_value_where_cudnn_refuses_it(queries: int) -> None:
    q, (k, v) = randn(2, queries, 3, 24), randn(2, 2, 1, 3, 24)
    out = kernels.sdpa_cudnn(q, k, v)
    assert rel_l2(out, definition(q, k, v)) <= 1e-6
    out.zero_()
    assert v.all()


# --- the self-test ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [24, 128])
def test_the_self_test_passes_exactly_the_kernels_this_machine_has(dtype: torch.dtype, head_dim: int) -> None:
    reports = available("cpu", dtype, head_dim)
    assert [report.name for report in reports] == list(KERNELS)
    assert [report.name for report in reports if report.ok] == RUNNING_HERE, reports
    assert all(report.reason and not report.wrong for report in reports if not report.ok)


def forgets_the_last_key(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k[:, :-1], v[:, :-1]) if k.shape[1] > 1 else v.clone()


def forgets_the_last_key_of_many(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return forgets_the_last_key(q, k, v) if k.shape[1] > 128 else kernels.sdpa(q, k, v)


def forgets_the_tail_of_a_block(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    whole = max(k.shape[1] // 64 * 64, 1)
    return kernels.sdpa(q, k[:, :whole], v[:, :whole])


def leaves_the_last_queries(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    out = kernels.sdpa(q, k, v)
    out[:, q.shape[1] // 64 * 64 :] = 0
    return out


def forgets_to_scale(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q * q.shape[-1] ** 0.5, k, v)


def is_five_percent_off(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k, v) * 1.05


def swaps_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k, v).flip(2)


def swaps_samples(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k, v).flip(0) if q.shape[1] > 1 else kernels.sdpa(q, k, v)


def takes_every_tensor_for_contiguous(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (part.as_strided(part.shape, torch.empty(part.shape).stride()) for part in (q, k, v))
    return kernels.sdpa(q, k, v)


def gives_nan_for_one_token(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k, v) * (float("nan") if k.shape[1] == 1 else 1)


def returns_heads_first(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k, v).transpose(1, 2)


def returns_another_dtype(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernels.sdpa(q, k, v).half()


def smooths_keys_in_place(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    k -= k.mean(dim=1, keepdim=True)  # leaves the result as it was, but not the caller's tensor
    return kernels.sdpa(q, k, v)


WIDEST_TOLERANCE = 0.0801
FAULTS: list[tuple[AttentionKernel, str]] = [
    (forgets_the_last_key, "relative error"),
    (forgets_the_last_key_of_many, "relative error"),
    (forgets_the_tail_of_a_block, "relative error"),
    (leaves_the_last_queries, "relative error"),
    (forgets_to_scale, "relative error"),
    (swaps_heads, "relative error"),
    (swaps_samples, "relative error"),
    (takes_every_tensor_for_contiguous, "relative error"),
    (gives_nan_for_one_token, "relative error nan against float32 with 1 tokens"),
    (returns_heads_first, "returns"),
    (returns_another_dtype, "returns torch.float16"),
    (smooths_keys_in_place, "in place"),
]


@pytest.mark.parametrize(("broken", "reason"), FAULTS)
@pytest.mark.parametrize("tolerance", [registry.ROUNDING_ERROR[torch.bfloat16], WIDEST_TOLERANCE])
def test_every_fault_is_seen_also_with_the_tolerance_of_a_quantised_kernel(
    broken: AttentionKernel, reason: str, tolerance: float
) -> None:
    assert reason in self_test.find_fault(broken, CPU, torch.bfloat16, 128, tolerance)


def test_no_kernel_is_allowed_more_than_that() -> None:
    widest = max(kernel.quantisation_error for kernel in KERNELS.values())
    assert widest + registry.ROUNDING_ERROR[torch.bfloat16] <= WIDEST_TOLERANCE


def test_a_gpu_is_also_tested_at_the_length_of_a_full_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are known that turn to noise only at great length; the test of a length samples its queries."""
    monkeypatch.setattr(self_test, "CASES", (self_test.Case(1, 1500, 1),))

    def noise_beyond_a_thousand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = kernels.sdpa(q, k, v)
        out[:, 1400:] = randn(*out[:, 1400:].shape)
        return out

    assert not self_test.find_fault(kernels.sdpa, CPU, torch.float32, 24, 1e-5)
    assert "1500 tokens" in self_test.find_fault(noise_beyond_a_thousand, CPU, torch.float32, 24, 0.08)
    assert self_test.LONG_CASE.tokens == 33 * 45 * 80 + 256


# --- kernels of other packages, by stand-ins ---


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    return kernels.sdpa(q, k, v)


def needs_a_gpu(*arguments: Any, **options: Any) -> torch.Tensor:
    raise AssertionError("needs a GPU of the newest kind")


@pytest.mark.parametrize(("name", "package"), [("flash2", "flash_attn"), ("flash3", "flash_attn_interface")])
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (exact, ""),
        (is_five_percent_off, "relative error"),
        (smooths_keys_in_place, "in place"),
        (needs_a_gpu, "newest kind"),
    ],
)
def test_flash_attention_is_used_if_right_and_else_refused_with_the_reason(
    name: str, package: str, function: Callable[..., Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, package, flash_attn_func=function)
    report = {report.name: report for report in available("cpu")}[name]
    assert report.ok is not bool(reason)
    assert report.wrong is (reason in ("relative error", "in place"))
    if reason:
        with pytest.raises(
            ValueError, match=rf"'{name}' cannot be used on cpu in torch.bfloat16.*{reason}.*Choose auto"
        ):
            resolve(name, CPU, torch.bfloat16, 128)
    else:
        q, k, v = randn(3, 1, 9, 2, 128)
        assert rel_l2(resolve(name, CPU, torch.bfloat16, 128)(q, k, v), definition(q, k, v)) <= 1e-5


def test_flash_attention_3_may_return_its_log_sums_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "flash_attn_interface", flash_attn_func=lambda q, k, v: (kernels.sdpa(q, k, v), q.sum()))
    q, k, v = randn(3, 1, 9, 2, 128)
    assert torch.equal(resolve("flash3", CPU, torch.float32, 128)(q, k, v), kernels.sdpa(q, k, v))


def quantised(x: torch.Tensor, block: int) -> torch.Tensor:
    """x [B, L, N, D] through int8 with one scale for each block of tokens."""
    parts = []
    for part in x.float().split(block, dim=1):
        scale = part.abs().amax(dim=(1, 3), keepdim=True).clamp_min(1e-30) / 127
        parts.append((part / scale).round() * scale)
    return torch.cat(parts, dim=1)


def sage_1(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tensor_layout: str = "HND", smooth_k: bool = True, **_: Any
) -> torch.Tensor:
    """What sageattention 1.0.6 computes, with its change of the caller's k."""
    assert tensor_layout == "NHD"
    assert k.stride(-1) == 1
    if smooth_k:
        k -= k.mean(dim=1, keepdim=True)
    out = kernels.sdpa(quantised(q, 128), quantised(k, 64), v.half().float()).to(q.dtype)
    k.zero_()  # a kernel that may change k may do anything to it
    return out


def sage_2(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tensor_layout: str = "HND", **_: Any) -> torch.Tensor:
    """int8 for q and k, float8 for the weights and the values, as sageattention 2 on Ada."""
    assert tensor_layout == "NHD"
    smooth = k - k.mean(dim=1, keepdim=True)
    scores = torch.einsum("blnd,bmnd->bnlm", quantised(q, 128), quantised(smooth, 64)) * q.shape[-1] ** -0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    scale = v.float().abs().amax(dim=1, keepdim=True) / 448
    values = (v.float() / scale).to(torch.float8_e4m3fn).float() * scale
    rounded = (weights * 448).to(torch.float8_e4m3fn).float() / 448
    return torch.einsum("bnlm,bmnd->blnd", rounded / weights.sum(-1, keepdim=True), values).to(q.dtype)


def test_sage_1_never_touches_the_callers_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "sageattention", sageattn=sage_1)
    qkv = randn(3, 2, 65, 2, 128) + 5
    kept = qkv.clone()
    out = resolve("sage1", CPU, torch.bfloat16, 128)(*qkv.unbind(0))
    assert torch.equal(qkv, kept)
    assert rel_l2(out, definition(*kept.unbind(0))) <= 0.045


def test_sage_1_takes_the_same_kernel_from_version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def triton(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tensor_layout: str) -> torch.Tensor:
        return sage_1(q, k.clone(), v, tensor_layout)

    install(monkeypatch, "sageattention", sageattn=needs_a_gpu, sageattn_qk_int8_pv_fp16_triton=triton)
    assert resolve("sage1", CPU, torch.float32, 128)


def test_sage_2_passes_with_the_error_of_float8_and_fails_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice_as_noisy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        return 3 * sage_2(q, k, v, **options) - 2 * kernels.sdpa(q, k, v)

    install(monkeypatch, "sageattention", sageattn=sage_2, sageattn_qk_int8_pv_fp16_cuda=needs_a_gpu)
    assert resolve("sage2", CPU, torch.bfloat16, 128)
    registry._load.cache_clear()
    registry._report.cache_clear()
    install(monkeypatch, "sageattention", sageattn=twice_as_noisy, sageattn_qk_int8_pv_fp16_cuda=needs_a_gpu)
    with pytest.raises(ValueError, match="relative error"):
        resolve("sage2", CPU, torch.bfloat16, 128)


def test_sage_2_names_sage_1_where_only_version_1_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "sageattention", sageattn=sage_1)
    with pytest.raises(ValueError, match=r"version 1, but sage2 needs 2; choose sage1"):
        resolve("sage2", CPU, torch.bfloat16, 128)


@pytest.mark.parametrize("name", ["flash2", "flash3", "sage1", "sage2"])
def test_an_absent_package_is_a_reason(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"'{name}' cannot .*(flash_attn|sageattention)\w* is not installed\. Choose auto"
    ):
        resolve(name, CPU, torch.bfloat16, 128)


@pytest.mark.parametrize(
    "error", ["ImportError('undefined symbol')", "OSError('libcudart')", "RuntimeError('no driver')"]
)
def test_a_package_that_breaks_at_import_is_a_reason(
    error: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flash_attn.py").write_text(f"raise {error}", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "flash_attn")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be imported: \w+Error\("):
        resolve("flash2", CPU, torch.bfloat16, 128)


def test_a_missing_function_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "flash_attn")
    with pytest.raises(ValueError, match="flash_attn_func"):
        resolve("flash2", CPU, torch.bfloat16, 128)


# --- choosing ---


def test_an_unknown_kernel_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'flash9'.*auto.*sdpa.*chunked.*sage2"):
        resolve("flash9", CPU, torch.float32, 128)


def test_a_kernel_is_tested_once_for_each_device_dtype_and_head_size(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[torch.dtype, int]] = []

    def counting(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        calls.append((q.dtype, q.shape[-1]))
        return kernels.sdpa(q, k, v)

    install(monkeypatch, "flash_attn", flash_attn_func=counting)
    first = resolve("flash2", CPU, torch.bfloat16, 128)
    assert resolve("flash2", CPU, torch.bfloat16, 128) is first
    assert calls == [(torch.bfloat16, 128)] * len(self_test.CASES)
    resolve("flash2", CPU, torch.float32, 128)
    resolve("flash2", CPU, torch.float32, 24)
    assert set(calls) == {(torch.bfloat16, 128), (torch.float32, 128), (torch.float32, 24)}
    assert len(calls) == 3 * len(self_test.CASES)


def test_running_out_of_memory_is_no_verdict_on_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = [True]

    def needs_room(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if crowded:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return kernels.sdpa(q, k, v)

    install(monkeypatch, "flash_attn", flash_attn_func=needs_room)
    with pytest.raises(torch.OutOfMemoryError):
        resolve("flash2", CPU, torch.bfloat16, 128)
    crowded.clear()
    assert resolve("flash2", CPU, torch.bfloat16, 128)


def test_auto_is_torchs_own_kernel_on_a_cpu() -> None:
    assert resolve("auto", CPU, torch.bfloat16, 128) is resolve("sdpa", CPU, torch.bfloat16, 128) is kernels.sdpa


@pytest.mark.parametrize(
    ("device_type", "capability", "order"),
    [
        ("cpu", None, ()),
        ("mps", None, ()),
        ("cuda", None, ()),  # an AMD card
        ("cuda", (7, 5), ()),
        ("cuda", (8, 0), ()),
        ("cuda", (8, 9), ()),
        ("cuda", (9, 0), ("flash3", "sdpa_cudnn")),
        ("cuda", (10, 0), ("sdpa_cudnn",)),
        ("cuda", (12, 0), ()),
    ],
)
def test_the_order_of_preference(device_type: str, capability: tuple[int, int] | None, order: tuple[str, ...]) -> None:
    assert registry.preferred(device_type, capability) == order


def test_an_amd_card_of_generation_9_is_not_taken_for_a_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 4))
    card = torch.device("cuda")
    assert registry._capability(card) == (9, 4)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert registry._capability(card) is None


@given(major=st.integers(0, 20), minor=st.integers(0, 9), device_type=st.sampled_from(["cpu", "cuda", "mps", "xpu"]))
def test_auto_never_means_a_quantised_kernel(major: int, minor: int, device_type: str) -> None:
    names = registry.preferred(device_type, (major, minor))
    assert all(KERNELS[name].quantisation_error == 0 for name in names)


@pytest.mark.parametrize(
    ("function", "chosen", "said"),
    [
        (exact, "flash3", "is flash3"),
        (is_five_percent_off, "sdpa", "is sdpa; not flash3: relative error"),
        (None, "sdpa", "not flash3: flash_attn_interface is not installed; not sdpa_cudnn: fails on cpu"),
    ],
)
def test_auto_takes_the_first_that_is_right_and_says_once_what_it_refused(
    function: Any, chosen: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "preferred", lambda *_: ("flash3", "sdpa_cudnn"))
    if function:
        install(monkeypatch, "flash_attn_interface", flash_attn_func=function)
    with caplog.at_level(logging.INFO):
        assert [choose(CPU, torch.bfloat16, 128) for _ in range(3)] == [chosen] * 3
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]


def test_a_backend_is_added_by_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.KERNELS, "mine", Kernel("mine", lambda: exact))
    assert resolve("mine", CPU, torch.float32, 24) is exact
    assert available("cpu")[-1] == registry.Report("mine", True, "")


# --- in the transformer ---


def test_the_transformer_refuses_a_wrong_kernel_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "flash_attn", flash_attn_func=is_five_percent_off)
    with pytest.raises(ValueError, match=r"'flash2' cannot be used on cpu in torch.float32 with head size 24"):
        random_dit(attention="flash2")(**inputs())


def test_a_right_kernel_of_another_package_gives_the_same_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "flash_attn", flash_attn_func=exact)
    assert torch.equal(random_dit(attention="flash2")(**inputs()), random_dit(attention="sdpa")(**inputs()))


def test_a_kernel_of_another_package_is_compiled_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "sageattention", sageattn=lambda q, k, v, **_: kernels.sdpa(q, k, v))
    attend = resolve("sage1", CPU, torch.bfloat16, 128)
    q, k, v = randn(3, 1, 9, 2, 128)
    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    assert rel_l2(compiled(q, k, v), definition(q, k, v)) <= 1e-5


def test_ragged_attention_is_attention_of_each_sample_alone() -> None:
    q, k, v = randn(3, 3, 9, 2, 24)
    out = attend_ragged(kernels.sdpa, (q, k, v), (9, 4, 1))
    for i, n in enumerate((9, 4, 1)):
        alone = kernels.sdpa(*(part[i : i + 1, :n] for part in (q, k, v)))
        assert torch.equal(out[i : i + 1, :n], alone)
        assert not out[i, n:].any()
