"""Weights in the block formats of ggml: each run of 32 or 256 numbers has its own scale and a few bits per number.

A format is two block sizes and a function from raw blocks to small integers, scales and offsets; the arithmetic,
integer · scale + offset in float32, is the same for all.

Source: ggml ``ggml-common.h`` (block layouts) and ``ggml-quants.c`` (dequantize_row_*).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

#: Numbers unpacked at a time, by device: on CPU what stays in its caches, elsewhere what keeps temporaries small.
NUMBERS_AT_ONCE = {"cpu": 2**18, "cuda": 2**24}


class Unpacked(NamedTuple):
    """Integers [blocks, groups, size]; a float32 scale, and perhaps an offset, of each group [blocks, groups, 1]."""

    integers: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor | None = None


class Format(NamedTuple):
    """``numbers`` per block of ``nbytes`` bytes, and how to read uint8 blocks [blocks, nbytes]."""

    numbers: int
    nbytes: int
    unpack: Callable[[torch.Tensor], Unpacked]


@dataclass(frozen=True)
class Ggml:
    """Rows of ggml blocks of one kind, as uint8 [out, bytes of a row]. Raises ``ValueError`` for an unknown kind."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in FORMATS:
            raise ValueError(f"ggml format {self.kind!r} is not one of {', '.join(FORMATS)}.")

    @property
    def name(self) -> str:
        """ggml's own name of the format."""
        return self.kind

    def shape(self, data: torch.Tensor) -> tuple[int, ...]:
        """[out, in] of the weight."""
        numbers, nbytes, _ = FORMATS[self.kind]
        return (*data.shape[:-1], data.shape[-1] // nbytes * numbers)

    def dense(self, data: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """The weight, computed in float32 and rounded to ``dtype``; ``scale`` is None, since each block has its own."""
        out = torch.empty(self.shape(data), dtype=dtype, device=data.device)
        rows, places = data.view(-1, data.shape[-1]), out.view(-1, out.shape[-1])
        step = max(1, NUMBERS_AT_ONCE.get(data.device.type, NUMBERS_AT_ONCE["cuda"]) // places.shape[1])
        for packed, place in zip(rows.split(step), places.split(step), strict=True):
            place.copy_(self._numbers(packed).view(place.shape))
        return out

    def _numbers(self, rows: torch.Tensor) -> torch.Tensor:
        layout = FORMATS[self.kind]
        integers, scale, offset = layout.unpack(rows.reshape(-1, layout.nbytes))
        numbers = integers.float().mul_(scale)
        return numbers if offset is None else numbers.add_(offset)


def _fields(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Bit fields of uint8 [..., n], lowest first: [..., 8 / bits, n]."""
    # Shifts by a number are several times faster than one shift by a tensor, which torch does not vectorise.
    shifted = [packed >> shift if shift else packed for shift in range(0, 8, bits)]
    return torch.stack(shifted, dim=-2).bitwise_and_((1 << bits) - 1)


def _bits(packed: torch.Tensor) -> torch.Tensor:
    """Bits of uint8 [..., n], each byte's lowest first: [..., 8 · n]."""
    # Eight copies of a byte in one word, of which copy i keeps bit i and then moves it to its own bit 0.
    copies = packed.long().mul_(0x0101010101010101).bitwise_and_(-0x7FBFDFEFF7FBFDFF)
    return copies.add_(0x7F7F7F7F7F7F7F7F).bitwise_right_shift_(7).bitwise_and_(0x0101010101010101).view(torch.uint8)


def _half(blocks: torch.Tensor, start: int, count: int = 1) -> torch.Tensor:
    """``count`` float16 numbers from byte ``start`` on, as float32 [blocks, count, 1]."""
    return blocks[:, start : start + 2 * count].view(torch.float16).float().unsqueeze(-1)


def _with_high_bits(low: torch.Tensor, high: torch.Tensor, low_bits: int) -> torch.Tensor:
    """high · 2^low_bits + low for uint8 of as many elements, in the shape of ``low``; overwrites both."""
    return low.bitwise_or_(high.bitwise_left_shift_(low_bits).view(low.shape))


def _minus(integers: torch.Tensor, centre: int) -> torch.Tensor:
    """uint8 below 128 as int8 around zero; overwrites them."""
    return integers.view(torch.int8).sub_(centre)


def _q8_0(blocks: torch.Tensor) -> Unpacked:
    return Unpacked(blocks[:, None, 2:].view(torch.int8), _half(blocks, 0))


def _q4_0(blocks: torch.Tensor) -> Unpacked:
    return Unpacked(_minus(_fields(blocks[:, 2:], 4).view(-1, 1, 32), 8), _half(blocks, 0))


def _q4_1(blocks: torch.Tensor) -> Unpacked:
    return Unpacked(_fields(blocks[:, 4:], 4).view(-1, 1, 32), _half(blocks, 0), _half(blocks, 2))


def _q5(bits: torch.Tensor) -> torch.Tensor:
    """Numbers of 5 bits from the 32 high bits, then the 32 low halves."""
    return _with_high_bits(_fields(bits[:, 4:], 4).view(-1, 1, 32), _bits(bits[:, :4]), 4)


def _q5_0(blocks: torch.Tensor) -> Unpacked:
    return Unpacked(_minus(_q5(blocks[:, 2:]), 16), _half(blocks, 0))


def _q5_1(blocks: torch.Tensor) -> Unpacked:
    return Unpacked(_q5(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2))


def _q2_k(blocks: torch.Tensor) -> Unpacked:
    scale, minimum = (_half(blocks, 80, 2) * _fields(blocks[:, :16], 4)).unsqueeze(-1).unbind(1)
    return Unpacked(_fields(blocks[:, 16:80].unflatten(1, (2, 32)), 2).view(-1, 16, 16), scale, -minimum)


def _q3_k(blocks: torch.Tensor) -> Unpacked:
    high = _fields(blocks[:, :32], 1)
    low = _fields(blocks[:, 32:96].unflatten(1, (2, 32)), 2).view(-1, 16, 16)
    # A set high bit means "do not subtract 4".
    integers = _minus(_with_high_bits(low, high, 2), 4)
    scales = _with_high_bits(_fields(blocks[:, 96:104], 4), _fields(blocks[:, 104:108], 2), 4)
    return Unpacked(integers, _half(blocks, 108) * _minus(scales, 32).view(-1, 16, 1))


def _scale_and_minimum(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the eight groups of Q4_K and Q5_K.

    Bytes 4 to 7 hold the first four scales in their low 6 bits, bytes 8 to 11 the first four minima; the other four
    of each have their low 4 bits in the halves of bytes 12 to 15, and their high 2 bits atop those first ones.
    """
    first = blocks[:, 4:12].unflatten(1, (2, 4))
    last = _fields(blocks[:, 12:16], 4) | ((first >> 2) & 0x30)
    factors = _half(blocks, 0, 2) * torch.cat((first & 0x3F, last), dim=-1)
    scale, minimum = factors.unsqueeze(-1).unbind(1)
    return scale, -minimum


def _q4_k(blocks: torch.Tensor) -> Unpacked:
    integers = _fields(blocks[:, 16:].unflatten(1, (4, 32)), 4).view(-1, 8, 32)
    return Unpacked(integers, *_scale_and_minimum(blocks))


def _q5_k(blocks: torch.Tensor) -> Unpacked:
    low = _fields(blocks[:, 48:].unflatten(1, (4, 32)), 4).view(-1, 8, 32)
    return Unpacked(_with_high_bits(low, _fields(blocks[:, 16:48], 1), 4), *_scale_and_minimum(blocks))


def _q6_k(blocks: torch.Tensor) -> Unpacked:
    low = _fields(blocks[:, :128].unflatten(1, (2, 64)), 4).view(-1, 16, 16)
    high = _fields(blocks[:, 128:192].unflatten(1, (2, 32)), 2)
    scales = blocks[:, 192:208].view(torch.int8).unsqueeze(-1)
    return Unpacked(_minus(_with_high_bits(low, high, 4), 32), _half(blocks, 208) * scales)


@cache
def _iq4_values(device: torch.device) -> torch.Tensor:
    """The sixteen values of IQ4. Source: ggml-common.h ``kvalues_iq4nl``."""
    values = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
    return torch.tensor(values, dtype=torch.int8, device=device)


def _iq4(nibbles: torch.Tensor) -> torch.Tensor:
    values = _iq4_values(nibbles.device)
    return values.index_select(0, nibbles.flatten().int()).view(nibbles.shape)


def _iq4_nl(blocks: torch.Tensor) -> Unpacked:
    return Unpacked(_iq4(_fields(blocks[:, 2:], 4).view(-1, 1, 32)), _half(blocks, 0))


def _iq4_xs(blocks: torch.Tensor) -> Unpacked:
    low, high = _fields(blocks[:, 4:8, None], 4), _fields(blocks[:, 2:4, None], 2)
    scales = _minus(_with_high_bits(low, high, 4), 32).view(-1, 8, 1)
    integers = _iq4(_fields(blocks[:, 8:].unflatten(1, (8, 16)), 4).view(-1, 8, 32))
    return Unpacked(integers, _half(blocks, 0) * scales)


#: By ggml's names: numbers and bytes of a block, and its reader.
FORMATS = {
    "Q2_K": Format(256, 84, _q2_k),
    "Q3_K": Format(256, 110, _q3_k),
    "Q4_0": Format(32, 18, _q4_0),
    "Q4_1": Format(32, 20, _q4_1),
    "Q4_K": Format(256, 144, _q4_k),
    "Q5_0": Format(32, 22, _q5_0),
    "Q5_1": Format(32, 24, _q5_1),
    "Q5_K": Format(256, 176, _q5_k),
    "Q6_K": Format(256, 210, _q6_k),
    "Q8_0": Format(32, 34, _q8_0),
    "IQ4_NL": Format(32, 18, _iq4_nl),
    "IQ4_XS": Format(256, 136, _iq4_xs),
}
