"""Compares what was counted for each image with limits, and says what grew."""

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LIMITS = Path(__file__).with_name("limits.toml")
_SHOWN = 6


@dataclass(frozen=True)
class Count:
    """A number for each image, and what it consists of, such as calls by method, also for each image."""

    amount: float
    parts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, counter: Mapping[str, int], images: int) -> "Count":
        """Return the count of a counter over so many images."""
        return cls(sum(counter.values()) / images, {name: number / images for name, number in counter.items()})

    def __str__(self) -> str:
        most = Counter(self.parts).most_common(_SHOWN)
        return f"{self.amount:.2f}" + (f" ({', '.join(f'{name} {amount:.2f}' for name, amount in most)})" if most else "")


def read_limits(path: Path = LIMITS) -> dict[str, dict[str, float]]:
    """Return the limits: for each action, the most that each count may be for an image."""
    return {action: dict(counts) for action, counts in tomllib.loads(path.read_text()).items()}


def judge(action: str, counts: Mapping[str, Count], limits: Mapping[str, float]) -> list[str]:
    """Return a line for each count above its limit, without a limit, or missing although it has one."""
    lines = [f"{action}: no limit for {name}, which is {count}" for name, count in counts.items() if name not in limits]
    lines += [f"{action}: {name} has a limit and was not counted" for name in limits if name not in counts]
    for name, count in counts.items():
        if name in limits and count.amount > limits[name]:
            lines.append(f"{action}: {name} grew to {count} for each image; at most {limits[name]:g}")
    return lines
