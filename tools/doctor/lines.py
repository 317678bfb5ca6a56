"""The lines of the report and its parts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools import environment
from tools.console import ToolError
from tools.paths import ROOT

GOOD, BAD, INFO = "✓", "✗", "·"
WIDTH = 74
LONGEST_REASON = 100
GB = 10**9


def section(name: str, report: Callable[[], Any], without: str = "") -> Any:
    """Run one part of the report and return its result; None from a part that cannot run or fails, after saying why."""
    print(f"\n{name}")
    if without:
        say(INFO, f"not examined: {without}")
        return None
    try:
        return report()
    except ToolError as error:
        say(BAD, str(error))
    except Exception as error:  # a doctor must survive every broken installation it looks at
        say(BAD, f"{type(error).__name__}: {error}")
    return None


def say(sign: str, text: str, *more: str) -> None:
    """One line of the report, and what belongs to it on lines below."""
    print(f"  {sign} {text}", *(f"    {line}" for line in more), sep="\n")


def say_wrapped(sign: str, text: str) -> None:
    """Something long, on as many lines as it takes."""
    say(sign, *textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def say_list(sign: str, items: Sequence[str]) -> None:
    """Several items on as many lines as they take, none of them broken."""
    if items:
        lines = textwrap.wrap(", ".join(item.replace(" ", "\0") for item in items), WIDTH, break_on_hyphens=False)
        say(sign, *(line.replace("\0", " ") for line in lines))


def say_whether(what: str, why_not: str) -> None:
    """One line on something optional: that it works, or why not."""
    say_wrapped(INFO if why_not else GOOD, f"{what}: {shortened(why_not) or 'works'}")


def shortened(reason: str) -> str:
    """The beginning of what may be a long message of someone else's."""
    return textwrap.shorten(reason, LONGEST_REASON, placeholder=" …")


def dev_command(name: str) -> str:
    """The words that tell the user to run one of ``dev.py``'s commands."""
    script = Path("tools") / "dev.py"
    return f"run: {environment.this_python()} {script if Path.cwd() == ROOT else ROOT / script} {name}"
