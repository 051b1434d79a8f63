"""Text as wide as the terminal: how wide that is, and what is shortened to fit."""

import os
import shutil
import sys
from collections.abc import Sequence

from rich.cells import cell_len

GAP = 2
_ELLIPSIS = "…"
# Narrower than this a text says nothing; a column becomes it only where there is no other way.
_LEAST_TEXT = 12
_LEAST = 4


def terminal_width() -> int | None:
    """Return how many cells a line of standard output has: COLUMNS, else the terminal's; None for a file or a pipe, which get all."""
    if not sys.stdout.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    return shutil.get_terminal_size().columns


def shortened(text: str, width: int) -> str:
    """Return a text of at most so many cells, its middle left out: paths differ at their ends; a wide character has two cells."""
    if cell_len(text) <= width:
        return text
    room = max(width - 1, 0)
    head = _cut(text, room // 2)
    tail = _cut(text[::-1], room - cell_len(head))[::-1]
    return head + _ELLIPSIS + tail if width > 0 else ""


def with_path(before: str, path: str, after: str = "") -> str:
    """Return a line that shows a path, shortened where the line would be wider than the terminal."""
    limit = terminal_width()
    if limit is None:
        return before + path + after
    return before + shortened(path, max(limit - cell_len(before) - cell_len(after), _LEAST)) + after


def fitted(widths: Sequence[int], texts: Sequence[bool], limit: int | None) -> list[int]:
    """Return widths of columns whose sum, with the gaps between, is at most `limit` where that is possible.

    The widest columns give first, and those of `texts` before numbers, identifiers and times, which are of no use in part.
    """
    found = list(widths)
    if limit is None:
        return found
    room = limit - GAP * (len(found) - 1)
    every = range(len(found))
    _narrow(found, [index for index in every if texts[index]], _LEAST_TEXT, room)
    _narrow(found, every, _LEAST, room)
    return found


def _narrow(widths: list[int], columns: Sequence[int], least: int, room: int) -> None:
    """Make the widest of `columns` narrower, cell by cell, until all fit or none is wider than `least`."""
    while sum(widths) > room and (wide := [index for index in columns if widths[index] > least]):
        widths[max(wide, key=lambda index: widths[index])] -= 1


def _cut(text: str, width: int) -> str:
    """Return as much of the beginning as fits into so many cells."""
    used = 0
    for index, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:index]
    return text
