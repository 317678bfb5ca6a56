"""ggml's block formats: the same bits as ggml's own package, whichever rows and in whatever dtype."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from hyvideo_core.ops import Stored
from hyvideo_core.ops import ggml as module
from hyvideo_core.ops.ggml import FORMATS, Ggml

#: First bytes of the float16 numbers within a block.
HALVES = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,),
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,),
}  # fmt: skip
#: What the package can write, and how far its rounding moves a normal weight, relative to all of them.
WRITABLE = {"Q4_0": 0.10, "Q4_1": 0.10, "Q5_0": 0.05, "Q5_1": 0.05, "Q8_0": 0.006}


def random_rows(kind: str, rows: int, blocks: int, seed: int) -> np.ndarray:
    """Any bytes, but finite scales, of either sign, tiny, huge and zero ones among them."""
    layout, random = FORMATS[kind], np.random.default_rng(seed)
    data = random.integers(0, 256, (rows * blocks, layout.nbytes), dtype=np.uint8)
    for start in HALVES[kind]:
        half = random.standard_normal((rows * blocks, 1)) * 10.0 ** random.integers(-8, 4, (rows * blocks, 1))
        half[random.random(len(half)) < 0.1] = 0
        data[:, start : start + 2] = half.astype(np.float16).view(np.uint8)
    return data.reshape(rows, -1)


def expected(kind: str, data: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(dequantize(data, gguf.GGMLQuantizationType[kind]))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Tells 0 from −0, which comparison does not."""
    return tensor.view(torch.int32)


@pytest.fixture(params=sorted(FORMATS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@given(rows=st.integers(1, 9), blocks=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=150)
def test_any_bytes_become_the_same_bits_as_in_ggml_s_own_package(
    rows: int, blocks: int, seed: int, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(FORMATS)))
    packed = random_rows(kind, rows, blocks, seed)
    found = Ggml(kind).dense(torch.from_numpy(packed), None, torch.float32)
    assert torch.equal(bits(found), bits(expected(kind, packed)))


@given(seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=100)
def test_any_range_of_rows_unpacks_alone_as_within_the_whole(seed: int, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(FORMATS)))
    start = data.draw(st.integers(0, 12))
    stop = data.draw(st.integers(start, 13))
    packed = torch.from_numpy(random_rows(kind, 13, 2, seed))
    whole = Ggml(kind).dense(packed, None, torch.float32)
    assert torch.equal(bits(Ggml(kind).dense(packed[start:stop], None, torch.float32)), bits(whole[start:stop]))


@pytest.mark.parametrize("at_once", [1, 512, 1300, 10**9])
def test_how_many_numbers_are_unpacked_at_a_time_changes_nothing(
    kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = random_rows(kind, 7, 2, seed=0)
    monkeypatch.setitem(module.NUMBERS_AT_ONCE, "cpu", at_once)
    found = Ggml(kind).dense(torch.from_numpy(packed), None, torch.float32)
    assert torch.equal(bits(found), bits(expected(kind, packed)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_float32_rounded_once(kind: str, dtype: torch.dtype) -> None:
    packed = torch.from_numpy(random_rows(kind, 5, 3, seed=1))
    exact = Ggml(kind).dense(packed, None, torch.float32)
    assert torch.equal(Ggml(kind).dense(packed, None, dtype), exact.to(dtype))


def test_unpacking_leaves_the_packed_bytes_alone(kind: str) -> None:
    packed = torch.from_numpy(random_rows(kind, 5, 3, seed=2))
    before = packed.clone()
    Ggml(kind).dense(packed, None, torch.float32)
    assert torch.equal(packed, before)


def test_the_block_sizes_are_ggml_s(kind: str) -> None:
    assert FORMATS[kind][:2] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


def test_a_stored_weight_knows_its_shape_and_name(kind: str) -> None:
    stored = Stored(torch.from_numpy(random_rows(kind, 5, 3, seed=3)), Ggml(kind))
    assert stored.shape == (5, 3 * FORMATS[kind].numbers) == tuple(stored.dense(torch.float32).shape)
    assert stored.is_packed
    assert stored.packing.name == kind
    assert stored.packing == Ggml(kind)


@pytest.mark.parametrize("kind", WRITABLE)
def test_weights_that_were_quantised_come_back_as_close_as_their_bits_allow(kind: str) -> None:
    weight = np.random.default_rng(4).standard_normal((32, 512), dtype=np.float32)
    packed = quantize(weight, gguf.GGMLQuantizationType[kind])
    found = Ggml(kind).dense(torch.from_numpy(packed), None, torch.float32)
    assert torch.equal(bits(found), bits(expected(kind, packed)))
    distance = (found - torch.from_numpy(weight)).norm() / np.linalg.norm(weight)
    assert WRITABLE[kind] / 4 < distance < WRITABLE[kind]


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'IQ1_S'.*Q4_K.*Q8_0"):
        Ggml("IQ1_S")
