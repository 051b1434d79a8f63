"""Output for people and programs: lines and JSON, values, tables as wide as the terminal, progress bars."""

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from mdm_client.metadata.value import Column

# So many rows decide the widths of a table's columns; the others are written as they come.
_SAMPLE = 500
_MAX_WIDTH = 64
_RIGHT = frozenset({"int", "float", "numeric"})
_TEXT = frozenset({"text", "varchar"})
_GAP = "  "


def print_line(text: str) -> None:
    """Write a line to standard output without flushing it: listings can be long."""
    sys.stdout.write(text + "\n")


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """Write a JSON line to standard output, or to another stream."""
    (stream or sys.stdout).write(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")) + "\n")


def show(as_json: bool, facts: Any, line: str) -> None:
    """Write facts as JSON, or a line for people."""
    print_json(facts) if as_json else print_line(line)


def readable_size(size: float) -> str:
    """Return a size in bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("sizes end with GB")


def printable(value: Any) -> str:
    """Return a value for one cell; control characters, which could control a terminal, are escaped."""
    if value is None:
        return ""
    text = "true" if value is True else "false" if value is False else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def json_rows(columns: "Sequence[Column]", rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield each row as a JSON object; NUMERIC as a number with all digits; NaN and infinities, which JSON lacks, as texts."""
    from mdm_client.metadata.value import unique_names

    names = [json.dumps(name, ensure_ascii=False) for name in unique_names(columns)]
    kinds = [column.type for column in columns]
    for row in rows:
        members = (f"{name}: {_json_value(kind, value)}" for name, kind, value in zip(names, kinds, row, strict=True))
        yield "{" + ", ".join(members) + "}"


def show_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table for people to standard output: columns of name and type, as the metadata service calls it; see `table_rows`."""
    from mdm_client.metadata.value import Column

    for line in table_rows([Column(name, kind, "") for name, kind in columns], iter(rows)):
        print_line(line)


def table_rows(columns: "Sequence[Column]", rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of a table, header first; the first rows decide the widths, so memory stays constant.

    On a terminal no line is wider than it, and long values are shortened in the middle; a file or a pipe gets them whole.
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
    """Return a line, cut where it is wider than the terminal."""
    return line if limit is None or cell_len(line) <= limit else set_cell_size(line, limit - 1) + "…"


#: JSON has no such numbers; these are the texts that ProtoJSON uses.
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


_ELLIPSIS = "…"
# A shorter text says nothing: a column of texts becomes narrower only if there is no other way.
_LEAST_TEXT = 12
_LEAST = 4


def terminal_width() -> int | None:
    """Return the width of standard output in cells: COLUMNS, else the terminal's; None for a file or a pipe, which has no limit."""
    if not sys.stdout.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    return shutil.get_terminal_size().columns


def shortened(text: str, width: int) -> str:
    """Return a text of at most so many cells, without its middle, as paths differ at their ends; a wide character has two cells."""
    if cell_len(text) <= width:
        return text
    room = max(width - 1, 0)
    head = _cut(text, room // 2)
    tail = _cut(text[::-1], room - cell_len(head))[::-1]
    return head + _ELLIPSIS + tail if width > 0 else ""


def with_path(before: str, path: str, after: str = "") -> str:
    """Return a line with a path, which is shortened if the line would be wider than the terminal."""
    limit = terminal_width()
    if limit is None:
        return before + path + after
    return before + shortened(path, max(limit - cell_len(before) - cell_len(after), _LEAST)) + after


def fitted(widths: Sequence[int], texts: Sequence[bool], limit: int | None) -> list[int]:
    """Return widths of columns whose sum, with the gaps between, is at most `limit` if possible.

    The widest columns are narrowed first, and `texts` before numbers, identifiers and times, which are of no use in part.
    """
    found = list(widths)
    if limit is None:
        return found
    room = limit - len(_GAP) * (len(found) - 1)
    every = range(len(found))
    _narrow(found, [index for index in every if texts[index]], _LEAST_TEXT, room)
    _narrow(found, every, _LEAST, room)
    return found


def _narrow(widths: list[int], columns: Sequence[int], least: int, room: int) -> None:
    """Narrow the widest of `columns`, cell by cell, until all fit or none is wider than `least`."""
    while sum(widths) > room and (wide := [index for index in columns if widths[index] > least]):
        widths[max(wide, key=lambda index: widths[index])] -= 1


def _cut(text: str, width: int) -> str:
    """Return as much of the beginning as fits into `width` cells."""
    used = 0
    for index, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:index]
    return text


@contextmanager
def counted_files(files: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `files` are done; call the yielded function after each file with the bytes received so far."""
    if not sys.stderr.isatty():
        yield lambda _received: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    with _bar(BarColumn(), MofNCompleteColumn(), TextColumn("files  {task.fields[received]}")) as progress:
        task = progress.add_task("", total=files, received="")
        yield lambda received: progress.update(task, advance=1, received=readable_size(received))


@contextmanager
def counted_bytes(total: int | None) -> Iterator[Callable[[int], None] | None]:
    """Show how many of `total` bytes (None: unknown) are done; call the yielded function, if any, with each count of further bytes."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

    with _bar(BarColumn(), DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.update(task, advance=count)


def _bar(*columns: Any) -> Any:
    # rich takes longer to import than most commands take to run.
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)
