"""Names of blocks as people write them: ``double 2, single 10-12``, both ends included, without numbers all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hyvideo_core.configs import DiTConfig

DOUBLE, SINGLE = "double", "single"
BLOCK_GROUPS = (DOUBLE, SINGLE)

_RANGE = re.compile(r"(?P<group>[a-z]+)(?:\s+(?P<first>\d+)(?:\s*-\s*(?P<last>\d+))?)?")


@dataclass(frozen=True)
class BlockRange:
    """Blocks ``first`` to ``last`` of a group; all that follow ``first`` where ``last`` is None."""

    group: str
    first: int = 0
    last: int | None = None

    def contains(self, number: int) -> bool:
        """Whether block ``number`` of the group is among them."""
        return self.first <= number and (self.last is None or number <= self.last)

    def meets(self, other: BlockRange) -> bool:
        """Whether both name some block."""
        return self.group == other.group and (self.contains(other.first) or other.contains(self.first))

    def numbers(self, count: int) -> range:
        """Which of a group's ``count`` blocks they are."""
        return range(self.first, count if self.last is None else self.last + 1)


def entries(text: str) -> list[str]:
    """What commas, semicolons and ends of lines separate, without empty parts."""
    return [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]


def read_range(entry: str) -> BlockRange | None:
    """The blocks that an entry names, of any group; None where it cannot be read.

    Raises ``ValueError``, for a caller to say of what, where it ends before it begins.
    """
    match = _RANGE.fullmatch(entry)
    if match is None:
        return None
    if match["first"] is None:
        return BlockRange(match["group"])
    first = int(match["first"])
    last = int(match["last"] or first)
    if last < first:
        raise ValueError(f"ends before it begins. Swap {first} and {last}.")
    return BlockRange(match["group"], first, last)


def block_count(config: DiTConfig, group: str) -> int:
    """Blocks of a group that a transformer has."""
    return config.double_blocks if group == DOUBLE else config.single_blocks
