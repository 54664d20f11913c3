"""A row of the table: its figures, and whether it reaches its target."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: How a round's figure is compared with its limit: ``ratio`` figure / limit, ``more`` figure - limit, ``alone`` no
#: limit.
Beside = Literal["ratio", "more", "alone"]


@dataclass(kw_only=True)
class Row:
    """One row: a figure for each round, and a limit for each where there is one.

    ``judge`` makes one value of the rounds' values: their median, unless any round counts (a growth of memory is the
    largest one). ``unit`` is the unit of figure and limit; a ratio has none.
    """

    key: str
    work: str
    unit: str
    to_reach: tuple[Literal["≥", "≤"], float]
    beside: Beside = "ratio"
    limit_is: str = "–"
    figures: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    note: str = ""
    failed: str = ""
    judge: Callable[[Sequence[float]], float] = statistics.median

    @property
    def values(self) -> list[float]:
        """The values to compare with ``to_reach``, one for each round."""
        if self.beside == "alone":
            return self.figures
        pairs = zip(self.figures, self.limits, strict=True)
        return [figure / limit if self.beside == "ratio" else figure - limit for figure, limit in pairs]

    @property
    def reached(self) -> bool:
        """Whether the row reaches its target."""
        if self.failed or not self.figures:
            return False
        sign, bound = self.to_reach
        return self.judge(self.values) >= bound if sign == "≥" else self.judge(self.values) <= bound

    @property
    def value_unit(self) -> str:
        """The unit of the values."""
        return "×" if self.beside == "ratio" else self.unit

    def cells(self) -> list[str]:
        """Return the printed row, see :data:`HEADINGS`."""
        sign, bound = self.to_reach
        plus = "+" if self.beside == "more" else ""
        goal = f"{sign} {plus}{bound:g} {self.value_unit}"
        if self.failed or not self.figures:
            return [self.key, self.work, "–", "–", self.unit, "–", "–", "–", "–", "NO", self.limit_is, self.failed]
        values = self.values
        return [
            self.key,
            self.work,
            number(statistics.median(self.limits)) if self.limits else "–",
            number(self.judge(self.figures)),
            self.unit,
            *(number(value) for value in (self.judge(values), min(values), max(values))),
            goal,
            "yes" if self.reached else "NO",
            self.limit_is,
            self.note,
        ]

    def data(self) -> dict[str, Any]:
        """Return the row as data, with every round."""
        return {
            "key": self.key,
            "work": self.work,
            "unit": self.unit,
            "beside": self.beside,
            "limit_is": self.limit_is,
            "limits": self.limits,
            "figures": self.figures,
            "values": self.values if self.figures else [],
            "value_unit": self.value_unit,
            "value": self.judge(self.values) if self.figures and not self.failed else None,
            "to_reach": "{} {:g}".format(*self.to_reach),
            "reached": self.reached,
            "note": self.note,
            "failed": self.failed,
        }


HEADINGS = ["row", "work", "limit", "server", "unit", "value", "min", "max", "to reach", "met", "limit is", "note"]


def number(value: float) -> str:
    """Format a figure with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows for a terminal; notes on lines of their own."""
    lines = [[*HEADINGS[:-2]], *(row.cells()[:-2] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = [f"  {row.key}: {row.failed or row.note}" for row in rows if row.failed or row.note]
    return "\n".join([*table, "", *notes])


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
