"""What a row of the table of quality is: a name, and a function from the ``Bench`` to an ``Outcome``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from quality_bench import BASELINE, Bench, Mode, Outcome
from quality_models import undistilled

from hyvideo_core.sample import Guidance

#: Percent of the prompts, or the mean of what was measured, at least.
Goals = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """A row; ``is_quick`` ones run in CI too, ``is_exact`` ones must equal what they are compared with to the bit."""

    name: str
    measure: Callable[[Bench], Outcome]
    is_quick: bool = False
    is_exact: bool = False
    goals: Goals = field(default_factory=dict)


def row(
    name: str,
    mode: Mode,
    against: Mode | None = BASELINE,
    *,
    quick: bool = False,
    exact: bool = False,
    goals: Goals = MappingProxyType({}),
) -> Row:
    """The clips of a mode beside those of another."""
    return Row(name, partial(Bench.outcome, mode=mode, against=against), quick, exact, goals)


def guided(cfg: float, **options: Any) -> Mode:
    """True guidance on the undistilled transformer."""
    return Mode(model=undistilled, guidance=Guidance(cfg=cfg, **options))
