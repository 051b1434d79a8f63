"""The report of a run: an entry for each file, without identifying values, and the sums."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from mdm_deid.outcome import Outcome
from mdm_deid.rules.table import EDITION, revision

FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One file. `number` counts the inputs from 1 in the order given; `output` is a path below the output directory.

    `reason` is a stable code. `attribute_rules` are the numbers, from 1, of the profile's rules that apply to this file.
    `face`: `face` if it was blanked in the file's series, `no-head` if there is none, or why no mask was made.
    `found` are the tags whose values the self-check met in the output, `seconds` the time it took.
    """

    number: int
    outcome: Outcome
    reason: str = ""
    output: str = ""
    size: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    pixel_rule: str = ""
    attribute_rules: tuple[int, ...] = ()
    face: str = ""
    checked: bool = False
    found: tuple[int, ...] = ()
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the entry as it is written: without names, values and paths of the input."""
        line: dict[str, Any] = {"file": self.number, "outcome": str(self.outcome)}
        if self.reason:
            line["reason"] = self.reason
        if self.outcome is Outcome.RELEASED:
            line |= {"output": self.output, "bytes": self.size, "counts": dict(sorted(self.counts.items())), "checked": self.checked}
        if self.pixel_rule:
            line["pixel_rule"] = self.pixel_rule
        if self.face:
            line["face"] = self.face
        if self.attribute_rules:
            line["attribute_rules"] = list(self.attribute_rules)
        if self.found:
            line["found"] = [f"{tag:08X}" for tag in self.found]
        return line | {"ms": round(self.seconds * 1000, 1)}


class Report:
    """Counts entries, and writes each as a JSON line if there is a file for it."""

    def __init__(self, file: TextIO | None, **settings: Any) -> None:
        """Write the first line: the format, the edition of the standard, our rules' revision, and the run's settings."""
        self._file = file
        self.sums: Counter[tuple[Outcome, str]] = Counter()
        self._write({"report": FORMAT, "edition": EDITION, "revision": revision(), **settings})

    def add(self, entry: Entry) -> None:
        """Count and write an entry."""
        self.sums[entry.outcome, entry.reason] += 1
        self._write(entry.as_json())

    def close(self) -> None:
        """Write the last line: the sums by outcome, then by reason."""
        self._write({"outcomes": self.outcomes(), "reasons": {reason: count for (_, reason), count in sorted(self.sums.items()) if reason}})

    def outcomes(self) -> dict[str, int]:
        """Return how many files met each outcome."""
        sums: Counter[str] = Counter()
        for (outcome, _), count in self.sums.items():
            sums[str(outcome)] += count
        return dict(sorted(sums.items()))

    def summary(self) -> str:
        """Return the sums as a line for a person."""
        parts = []
        for outcome in Outcome:
            reasons = sorted((count, reason) for (met, reason), count in self.sums.items() if met is outcome)
            if reasons:
                told = ", ".join(f"{reason} {count}" for count, reason in reversed(reasons) if reason)
                parts.append(f"{sum(count for count, _ in reasons)} {outcome.lower()}" + (f" ({told})" if told else ""))
        return "; ".join(parts) or "no files"

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
