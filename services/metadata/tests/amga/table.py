"""The table of docs/user/amga.md, and which scenario tells of which row."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
PAGE = Path(__file__).parents[4] / "docs" / "user" / "amga.md"
#: What is new has no name in AMGA.
NEW = "–"
#: Names of rows by the name of the scenario.
SCENARIOS: dict[str, str] = {}


@dataclass(frozen=True)
class Row:
    """A row: AMGA's commands, ours, and in what they differ."""

    amga: str
    ours: str
    differences: str

    @property
    def name(self) -> str:
        """How scenarios call it: AMGA's commands as they stand there; ours where there were none."""
        return self.ours if self.amga == NEW else self.amga

    @property
    def commands(self) -> list[str]:
        """What `ours` says to type, as far as it is words and options: `mdm meta attr add`, `attr rm`."""
        spans = [span.replace("\\|", "|") for span in re.findall(r"`([^`]+)`", self.ours)]
        first = next((place for place, span in enumerate(spans) if span.startswith("mdm ")), len(spans))
        return [typed for span in spans[first:] if (typed := _words(span))]


def _words(span: str) -> str:
    words: list[str] = []
    for word in span.split():
        if re.fullmatch(r"-{0,2}[a-z][a-z-]*", word):
            words.append(word)
        elif not word.startswith("…"):
            break
    return " ".join(words)


def rows() -> dict[str, Row]:
    """Return the table's rows by name."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    found = [Row(*row) for row in cells[1:]]
    assert len({row.name for row in found}) == len(found)
    return {row.name: row for row in found}


def row(name: str) -> Callable[[F], F]:
    """Say which row a scenario tells of; it has to type what the row says."""

    def register(scenario: F) -> F:
        assert SCENARIOS.get(scenario.__name__, name) == name
        SCENARIOS[scenario.__name__] = name
        return scenario

    return register


def untyped(commands: list[str], typed: list[str]) -> list[str]:
    """Return which of `commands` were not typed: all their words have to follow one another, options may be spread."""
    missing = []
    for command in commands:
        plain = " ".join(word for word in command.split() if not word.startswith("--"))
        options = [word for word in command.split() if word.startswith("--")]
        if not any(f" {plain} " in f" {line} " and all(option in line.split() for option in options) for line in typed):
            missing.append(command)
    return missing
