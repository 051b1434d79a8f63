"""Fragments of encapsulated pixel data (PS3.5 A.4): which of them make which frame, by the offset tables or by their number."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mdm_deid.encoding.codec import ITEM, Encoding
from mdm_deid.pixels.patch import Patch, demand

_ITEM_HEADER: Final = 8
# The places of the fragments that make one frame.
Group = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Fragments:
    """Where things lie in a buffer: the basic offset table, and each fragment's content."""

    table: tuple[int, int]
    places: tuple[tuple[int, int], ...]

    def offset(self, place: tuple[int, int]) -> int:
        """Return a fragment's offset as the tables count: from the first item after the basic one to the fragment's item."""
        return place[0] - self.places[0][0]


def read_fragments(data: memoryview, pos: int, end: int, encoding: Encoding) -> Fragments:
    """Return the fragments whose first item begins at `pos`; that they end with a delimiter within `end` is known.

    Raises:
        Unreadable: there is no basic offset table.
    """
    places: list[tuple[int, int]] = []
    while pos + _ITEM_HEADER <= end:
        tag, _, value, length = encoding.item_header(data, pos, end)
        if tag != ITEM:
            break
        pos = value + length
        places.append((value, pos))
    demand(bool(places))
    return Fragments(places[0], tuple(places[1:]))


def grouped(data: memoryview, fragments: Fragments, frames: int) -> list[Group]:
    """Return the fragments of each frame.

    Raises:
        Unreadable: neither their number nor the basic offset table says where frames begin.
    """
    places = fragments.places
    if len(places) == frames:
        return [(place,) for place in places]
    demand(0 < frames < len(places))
    if frames == 1:
        return [places]
    by_offset = {fragments.offset(place): index for index, place in enumerate(places)}
    starts = [by_offset.get(offset, -1) for offset in _basic_offsets(data, fragments)]
    bounds = [*starts, len(places)]
    demand(len(starts) == frames and starts[0] == 0 and all(first < last for first, last in pairwise(bounds)))
    return [places[first:last] for first, last in pairwise(bounds)]


def _basic_offsets(data: memoryview, fragments: Fragments) -> list[int]:
    """Return the entries of the basic offset table, which may have none."""
    start, end = fragments.table
    demand((end - start) % 4 == 0)
    return list(struct.unpack_from(f"<{(end - start) // 4}I", data, start))


def mended_table(data: memoryview, fragments: Fragments, groups: Sequence[Group]) -> list[Patch]:
    """Return the patch that makes a basic offset table say where the frames are, none if it does or is empty.

    Raises:
        Unreadable: it has not one entry per frame.
    """
    table, right = _basic_offsets(data, fragments), [fragments.offset(group[0]) for group in groups]
    demand(len(table) in (0, len(right)))
    return [Patch(fragments.table[0], struct.pack(f"<{len(right)}I", *right))] if table and table != right else []


def joined(data: memoryview, group: Group) -> memoryview:
    """Return a frame in one piece; of a single fragment no copy is made."""
    if len(group) == 1:
        return data[group[0][0] : group[0][1]]
    return memoryview(b"".join(data[start:end] for start, end in group))


def placed(patch: Patch, group: Group) -> list[Patch]:
    """Return the patch of a frame as patches of the buffer, as it may go across fragments."""
    parts, passed = [], 0
    for start, end in group:
        first, last = max(patch.start, passed), min(patch.end, passed + end - start)
        if first < last:
            parts.append(Patch(start + first - passed, patch.content[first - patch.start : last - patch.start]))
        passed += end - start
    return parts
