"""Values, rows and sizes as people read them, and as JSON."""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len, set_cell_size

from mdm_client.cli.width import GAP, fitted, shortened, terminal_width

if TYPE_CHECKING:
    from mdm_client.metadata.value import Column

# Rows that decide how wide the columns of a table are; the rest streams through.
_SAMPLE = 500
_MAX_WIDTH = 64
_RIGHT = frozenset({"int", "float", "numeric"})
_TEXT = frozenset({"text", "varchar"})
_GAP = " " * GAP


def print_line(text: str) -> None:
    """Write a line to standard output without flushing it: listings can be long."""
    sys.stdout.write(text + "\n")


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """Write a JSON line to standard output, or to another stream."""
    (stream or sys.stdout).write(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")) + "\n")


def readable_size(size: float) -> str:
    """Return a size in bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("sizes end with GB")


def printable(value: Any) -> str:
    """Return a value for one cell; control characters, which could drive a terminal, become escapes."""
    if value is None:
        return ""
    text = "true" if value is True else "false" if value is False else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def unique_names(columns: "Sequence[Column]") -> list[str]:
    """Return column names as JSON keys: a name that occurs again gets a number."""
    names: list[str] = []
    for column in columns:
        name, number = column.name, 2
        while name in names:
            name, number = f"{column.name}_{number}", number + 1
        names.append(name)
    return names


def json_rows(columns: "Sequence[Column]", rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield each row as a JSON object; NUMERIC as a number with all its digits, NaN and infinities, which JSON lacks, as texts."""
    names = [json.dumps(name, ensure_ascii=False) for name in unique_names(columns)]
    kinds = [column.type for column in columns]
    for row in rows:
        members = (f"{name}: {_json_value(kind, value)}" for name, kind, value in zip(names, kinds, row, strict=True))
        yield "{" + ", ".join(members) + "}"


def table_rows(columns: "Sequence[Column]", rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of a table, header first; the first rows decide the widths, so memory stays constant.

    On a terminal no line is wider than that, and long values are shortened in the middle; a file or a pipe gets them whole.
    """
    headers = [f"{column.name} ({column.unit})" if column.unit else column.name for column in columns]
    sample = [[printable(value) for value in row] for row in islice(rows, _SAMPLE)]
    widths = [min(_MAX_WIDTH, max([cell_len(header), *(cell_len(row[index]) for row in sample)])) for index, header in enumerate(headers)]
    rights = [column.type in _RIGHT for column in columns]
    limit = terminal_width()
    widths = fitted(widths, [column.type in _TEXT for column in columns], limit)
    yield _aligned(headers, widths, rights, limit)
    yield _within(limit, _GAP.join("─" * width for width in widths))
    rest = ([printable(value) for value in row] for row in rows)
    for cells in chain(sample, rest):
        yield _aligned(cells, widths, rights, limit)


def _aligned(cells: Sequence[str], widths: Sequence[int], rights: Sequence[bool], limit: int | None) -> str:
    parts = []
    for cell, width, right in zip(cells, widths, rights, strict=True):
        shown = cell if limit is None else shortened(cell, width)
        padding = " " * max(0, width - cell_len(shown))
        parts.append(padding + shown if right else shown + padding)
    return _within(limit, _GAP.join(parts).rstrip())


def _within(limit: int | None, line: str) -> str:
    """Cut a line of more columns than a terminal can show."""
    return line if limit is None or cell_len(line) <= limit else set_cell_size(line, limit - 1) + "…"


#: JSON has no such numbers; as texts they are what ProtoJSON, too, makes of them.
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


def _json_value(kind: str, value: Any) -> str:
    if kind == "numeric" and value is not None:
        text = str(value)
        if _JSON_NUMBER.fullmatch(text):
            return text
        value = float(text)
    if isinstance(value, float) and not math.isfinite(value):
        value = _NOT_FINITE.get(value, "NaN")
    return json.dumps(value, ensure_ascii=False)
