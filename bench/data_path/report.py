"""What was measured, and the tables that are printed."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mdm_testing.usage import Usage


@dataclass(frozen=True)
class Target:
    """What a row must reach, and what it should; `least`: more is better."""

    must: float
    goal: float
    least: bool = True


@dataclass
class Row:
    """A row of the table: values of ours and of each way of the reference, one a round, in `unit`.

    `ratio` says whether targets are of ours to the best reference, or of ours as it is. `digits` are shown after the point.
    """

    name: str
    unit: str
    target: Target
    ratio: bool = True
    digits: int = 0
    ours: list[float] = field(default_factory=list)
    reference: dict[str, list[float]] = field(default_factory=dict)

    def best(self) -> tuple[str, float]:
        """Return the reference's best way and its median."""
        medians = {way: statistics.median(values) for way, values in self.reference.items()}
        way = (max if self._more_is_better else min)(medians, key=lambda way: medians[way])
        return way, medians[way]

    @property
    def _more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    def cells(self) -> list[str]:
        """Return the row's cells."""
        ours, (way, reference) = statistics.median(self.ours), self.best()
        value = ours / reference if self.ratio else ours
        target = self.target
        met = [value >= wanted if target.least else value <= wanted for wanted in (target.must, target.goal)]
        sign = "" if target.least else "≤ "
        marks = [f"{sign}{wanted:g}{' ✓' if done else ''}" for wanted, done in zip((target.must, target.goal), met, strict=True)]
        spread = f"{min(self.ours):.{self.digits}f}–{max(self.ours):.{self.digits}f}"
        return [
            self.name,
            f"{way}: {reference:,.{self.digits}f} {self.unit}",
            f"{ours:,.{self.digits}f} {self.unit} ({spread})",
            f"{ours / reference:.2f}",
            *marks,
        ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def processor_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of processor milliseconds for each image, by way and part; parts of less than 0.01 ms are left out."""
    parts = {part: max(column.get(part, 0) for column in columns.values()) for column in columns.values() for part in column}
    shown = sorted((part for part, most in parts.items() if most >= 0.01), key=lambda part: -parts[part])
    rows = [[way, f"{sum(column.values()):.2f}", *(_cell(column, part) for part in shown)] for way, column in columns.items()]
    return table(["processor ms for each image", "all", *shown], rows)


def _cell(column: Mapping[str, float], part: str) -> str:
    return f"{column[part]:.2f}" if column.get(part, 0) >= 0.005 else ""


def per_image(used: Mapping[str, Usage], count: int) -> dict[str, float]:
    """Return processor milliseconds for each image, by part."""
    return {name: usage.processor * 1000 / count for name, usage in used.items()}
