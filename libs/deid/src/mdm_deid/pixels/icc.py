"""ICC colour profiles (ICC.1:2022): the numbers that define colours are kept; names, texts, dates and unreferenced bytes are removed."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from mdm_deid.pixels.patch import Patch, Unreadable, blank, demand, uint

_HEADER, _ENTRY, _MOST_TAGS = 128, 12, 256
_MAGIC_AT, _MAGIC = 36, b"acsp"
# Of the header: preferred module; date, platform; maker and model; creator, digest and what is reserved (7.2).
_NOT_NEEDED: Final = ((4, 8), (24, 36), (40, 44), (48, 56), (80, 128))
_NUMBERS: Final = frozenset(
    b"rXYZ gXYZ bXYZ rTRC gTRC bTRC kTRC wtpt bkpt chad lumi gamt chrm meas view tech ciis rig0 rig2 "
    b"A2B0 A2B1 A2B2 A2B3 B2A0 B2A1 B2A2 B2A3 D2B0 D2B1 D2B2 D2B3 B2D0 B2D1 B2D2 B2D3 pre0 pre1 pre2".split()
)
# Types of fixed length, and those of which a length in the content decides (10).
_LENGTHS: Final = {b"XYZ ": 20, b"sig ": 12, b"meas": 36, b"view": 36, b"sf32": 44}
_PARAMETERS: Final = (1, 3, 4, 5, 7)
_TEXT: Final = b"text\0\0\0\0"


def readable(data: bytes | memoryview, first: int, last: int) -> bool:
    """Return whether `data[first:last]` is a profile that can be cleaned."""
    try:
        for _ in walk(memoryview(data)[first:last]):
            pass
    except Unreadable:
        return False
    return True


def clean_profile(profile: bytes) -> bytes:
    """Return a profile of the same length with its numbers alone; the texts that every profile must have are empty.

    Raises:
        Unreadable: it is not a profile.
    """
    out = bytearray(profile)
    for patch in walk(memoryview(profile)):
        out[patch.start : patch.end] = patch.content
    return bytes(out)


def walk(data: memoryview) -> Iterator[Patch]:
    """Yield what is to be written over a profile.

    Raises:
        Unreadable: it is not a profile, its tags overlap or lie outside, or numbers are not of a type that has numbers.
    """
    demand(len(data) >= _HEADER + 4 and bytes(data[_MAGIC_AT : _MAGIC_AT + 4]) == _MAGIC)
    for start, end in _NOT_NEEDED:
        yield from blank(data, start, end)
    size, count = uint(data, 0, 4, len(data)), uint(data, _HEADER, 4, len(data))
    first = _HEADER + 4 + count * _ENTRY
    demand(count <= _MOST_TAGS and first <= size <= len(data))
    places = sorted({_place(data, _HEADER + 4 + number * _ENTRY, first, size) for number in range(count)})
    yield from _unknown_names(data, count)
    bounds = [(0, first, False), *places, (len(data), len(data), False)]
    for (_, end, _), (start, _, _) in pairwise(bounds):
        demand(end <= start)
        yield from blank(data, end, start)
    for start, end, numbers in places:
        if numbers:
            yield from blank(data, start + _length(data, start, end), end)
        else:
            demand(end - start >= len(_TEXT))
            yield Patch(start, _TEXT + bytes(end - start - len(_TEXT)))


def _place(data: memoryview, entry: int, first: int, size: int) -> tuple[int, int, bool]:
    """Return where a tag's content lies, and whether it is numbers."""
    start, length = uint(data, entry + 4, 4, size), uint(data, entry + 8, 4, size)
    demand(first <= start and start + length <= size)
    return start, start + length, bytes(data[entry : entry + 4]) in _NUMBERS


def _unknown_names(data: memoryview, count: int) -> Iterator[Patch]:
    """Yield patches for the names of tags that are neither numbers nor texts every profile has."""
    for entry in range(_HEADER + 4, _HEADER + 4 + count * _ENTRY, _ENTRY):
        if bytes(data[entry : entry + 4]) not in _NUMBERS | {b"desc", b"cprt"}:
            yield from blank(data, entry, entry + 4)


def _length(data: memoryview, start: int, end: int) -> int:
    """Return how long the numbers are that begin at `start`."""
    kind, given = bytes(data[start : start + 4]), end - start
    if kind in _LENGTHS:
        length = _LENGTHS[kind]
    elif kind == b"curv":
        length = 12 + 2 * uint(data, start + 8, 4, end)
    elif kind == b"chrm":
        length = 12 + 8 * uint(data, start + 8, 2, end)
    elif kind == b"para":
        function = uint(data, start + 8, 2, end)
        demand(function < len(_PARAMETERS))
        length = 12 + 4 * _PARAMETERS[function]
    elif kind in (b"mft1", b"mft2"):
        length = _table_length(data, start, end, 1 if kind == b"mft1" else 2)
    else:
        demand(kind in (b"mAB ", b"mBA ", b"mpet"))
        length = given
    demand(length <= given)
    return length


def _table_length(data: memoryview, start: int, end: int, width: int) -> int:
    """Return the length of a lookup table with numbers of `width` bytes (10.10, 10.11)."""
    demand(end - start >= 48 + 4 * (width - 1))
    inputs, outputs, grid = data[start + 8], data[start + 9], data[start + 10]
    before, after = (256, 256) if width == 1 else (uint(data, start + 48, 2, end), uint(data, start + 50, 2, end))
    demand(inputs < 16)
    return 48 + 4 * (width - 1) + width * (inputs * before + int(grid**inputs) * outputs + outputs * after)
