# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures, and the one table they are printed as."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HEADINGS = ("what", "figure", "spread", "baseline", "ratio", "bar", "met")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, measured once or several times."""

    name: str
    unit: str
    values: Sequence[float]
    baseline: Sequence[float] = ()
    """The same of something simpler, in the same run."""
    bar: float | None = None
    at_most: bool = False
    """The bar is what must not be exceeded, instead of what must be reached."""
    relative: bool = False
    """The bar is the ratio's and not the figure's."""

    @property
    def figure(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """To the baseline."""
        below = statistics.median(self.baseline) if self.baseline else 0.0
        return self.figure / below if below else None

    @property
    def met(self) -> bool | None:
        judged = self.ratio if self.relative else self.figure
        if self.bar is None or judged is None:
            return None
        return judged <= self.bar if self.at_most else judged >= self.bar

    def plain(self) -> dict[str, Any]:
        """What JSON shows of it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "figure": self.figure,
            "values": list(self.values),
            "baseline": statistics.median(self.baseline) if self.baseline else None,
            "ratio": self.ratio,
            "bar": self.bar,
            "met": self.met,
        }

    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        spread = f"{_number(min(self.values))} to {_number(max(self.values))}" if len(self.values) > 1 else ""
        bar = "" if self.bar is None else f"{'at most' if self.at_most else 'at least'} {_number(self.bar)}"
        return (
            self.name,
            f"{_number(self.figure)} {self.unit}".rstrip(),
            spread,
            _number(statistics.median(self.baseline)) if self.baseline else "",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            bar,
            {None: "", True: "yes", False: "NO"}[self.met],
        )


def table(rows: Sequence[Row]) -> str:
    """All rows under their headings."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = []
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text) + "\n"


def _number(value: float) -> str:
    """Three digits that count, or all those before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
