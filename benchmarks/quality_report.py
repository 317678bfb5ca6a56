"""Outcomes as numbers in a table, and the gate that compares them with recorded ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from quality_bench import COLUMNS, Judged, Outcome
from quality_prompts import BATCH
from quality_rows import Row

#: The first prompts, which CI judges and the gate compares. Machines that round differently may disagree about one.
QUICK_PROMPTS = 5 * BATCH
PROMPTS = 26 * BATCH
#: Points of percent that obedience may fall below the record; one prompt may, where it is more.
MAY_FALL = 3.0
#: What a mean may fall below the record: distances in dB between clips of chaotic runs differ a little by machine,
#: and so does the percentage of the work that a cache saves.
MEANS_MAY_FALL = {"psnr_db": 2.0, "first_frame_db": 2.0, "saved": 3.0}

#: One row as JSON: ``row``, ``seconds`` and what ``counted`` gives, for ``quick`` prompts besides; or ``reason``.
Result = dict[str, Any]


def result(row: Row, outcome: Outcome) -> Result:
    """The numbers of a row."""
    if not outcome.judged:
        return not_run(row, "none of so few prompts is of its kind")
    found: Result = {"row": row.name, "seconds": round(outcome.seconds, 3), **counted(outcome.judged)}
    found["quick"] = counted([one for one in outcome.judged if one.index < QUICK_PROMPTS])
    if outcome.is_identical:
        found["identical"] = True
    if row.is_exact:
        found["must_be_identical"] = True
    if outcome.note:
        found["note"] = outcome.note
    return found | ({"goals": goals_met(row, found)} if row.goals else {})


def not_run(row: Row, reason: str) -> Result:
    """A row that could not run here."""
    return {"row": row.name, "reason": " ".join(reason.split())}


def counted(judged: Sequence[Judged]) -> Result:
    """How many prompts there are, how many were obeyed in what, and mean and worst of what was measured.

    ``by_things``: of how many prompts for so many things how many were obeyed in all.
    """
    names = [name for name in COLUMNS if all(name in one.obeyed for one in judged)]
    measured = judged[0].numbers if judged else {}
    return {
        "prompts": len(judged),
        "obeyed": {name: sum(one.obeyed[name] for one in judged) for name in names},
        "by_things": {str(things): _obeyed_of(judged, things) for things in sorted({one.things for one in judged})},
        "mean": {name: round(mean(one.numbers[name] for one in judged), 4) for name in measured},
        "worst": {name: round(min(one.numbers[name] for one in judged), 4) for name in measured},
    }


def _obeyed_of(judged: Sequence[Judged], things: int) -> tuple[int, int]:
    """How many clips of so many things are all that was asked, and how many such clips there are."""
    of_these = [one.obeyed.get("all", False) for one in judged if one.things == things]
    return sum(of_these), len(of_these)


def goals_met(row: Row, found: Result) -> list[tuple[str, bool]]:
    """Each goal of a row in words, and whether it is met."""
    values = {name: percent(found, name) for name in found["obeyed"]} | found["mean"]
    return [
        (f"{name} ≥ {least:g}{' %' if name in found['obeyed'] else ''}", values[name] >= least)
        for name, least in row.goals.items()
    ]


def percent(found: Result, column: str) -> float:
    """Of the prompts, in how many a column was obeyed."""
    return 100 * found["obeyed"][column] / found["prompts"]


def falls(recorded: Iterable[Result], results: Iterable[Result]) -> list[str]:
    """What is worse than the record allows, a line for each row and column. The quick prompts are compared."""
    before = {found["row"]: found for found in recorded}
    return [line for found in results for line in _falls(before.get(found["row"]), found)]


def _falls(recorded: Result | None, found: Result) -> list[str]:
    name = found["row"]
    if recorded is None:
        return [f"{name}: there is no record of this row; make one with --record --only '{name}'"]
    if "reason" in recorded:
        return []
    if "reason" in found:
        return [f"{name}: did not run, but was recorded: {found['reason']}"]
    was, now = recorded["quick"], found["quick"]
    if was["prompts"] != now["prompts"]:
        return [f"{name}: judged on {now['prompts']} prompts, but recorded on {was['prompts']}; record it anew"]
    lines = [
        f"{name}: {column} fell from {percent(was, column):.1f} % to {percent(now, column):.1f} % of {now['prompts']} "
        f"prompts; {MAY_FALL:g} points are allowed"
        for column in was["obeyed"]
        if percent(was, column) - percent(now, column) > MAY_FALL and was["obeyed"][column] - now["obeyed"][column] > 1
    ]
    lines += [
        f"{name}: {number} fell from {was['mean'][number]:.1f} to {now['mean'][number]:.1f} on average; {most:g} are "
        "allowed"
        for number, most in MEANS_MAY_FALL.items()
        if number in was["mean"] and was["mean"][number] - now["mean"].get(number, -math.inf) > most
    ]
    if found.get("must_be_identical") and not found.get("identical"):
        lines.append(f"{name}: is not bit by bit what it is compared with, but must be")
    return lines


HEADER = ("row", "prompts", "colour", "shape", "motion", "background", "count", "all", "of one", "of two",
          "PSNR dB", "worst", "SSIM", "s/clip", "details", "goals")  # fmt: skip


def heading() -> list[str]:
    """The first lines of the table."""
    return [_cells(HEADER), "|" + "---|" * len(HEADER)]


def line(found: Result) -> str:
    """One row of the table."""
    if "reason" in found:
        return _cells([found["row"], "", *[""] * 12, _short(f"not run: {found['reason']}"), ""])
    if found.get("identical"):
        distance = ["∞", "∞", "1"]
    elif "psnr_db" in found["mean"]:
        distance = [
            f"{found['mean']['psnr_db']:.1f}", f"{found['worst']['psnr_db']:.1f}", f"{found['mean']['ssim']:.4f}"
        ]  # fmt: skip
    else:
        distance = ["", "", ""]
    obeyed = [f"{percent(found, name):.1f}" if name in found["obeyed"] else "" for name in COLUMNS]
    split = [found.get("by_things", {}).get(things, (0, 0)) for things in ("1", "2")]
    obeyed += [f"{100 * so_many / of:.1f}" if of else "" for so_many, of in split]
    goals = "; ".join(f"{'✓' if met else '✗'} {goal}" for goal, met in found.get("goals", ()))
    seconds = f"{found['seconds']:.2f}"
    return _cells([found["row"], str(found["prompts"]), *obeyed, *distance, seconds, "; ".join(_details(found)), goals])


def _details(found: Result) -> list[str]:
    details = [found["note"]] if "note" in found else []
    if "first_frame_db" in found["mean"]:
        first, worst = (found[which]["first_frame_db"] for which in ("mean", "worst"))
        details.append(f"first frame {first:.1f} dB, worst {worst:.1f}")
    if found.get("must_be_identical") and not found.get("identical"):
        details.append("✗ not bit by bit what it is compared with")
    return details


def _short(text: str, most: int = 160) -> str:
    """What a cell holds of a text; the numbers' file has all of it."""
    text = text.replace("|", "/")
    return text if len(text) <= most else text[: most - 1] + "…"


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(report: Result) -> str:
    """The whole report: a heading with date and machine, and the table."""
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    head = [f"## {report['date']} · {machine}", "", *heading()]
    return "\n".join([*head, *(line(found) for found in report["rows"]), ""])
