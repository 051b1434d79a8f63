"""Pixel data apart from the pixels: bytes after the last pixel, comments in frames, wrong tables. The pixels are not changed."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import pairwise, product
from typing import Final

from pydicom.uid import UID

from mdm_deid.encoding.element import EXPLICIT_LE, ITEM, PIXEL_DATA, PIXELS, UNDEFINED, Encoding
from mdm_deid.encoding.part10 import Part10
from mdm_deid.outcome import Withheld
from mdm_deid.pixels import jpeg, jpeg2000, rle
from mdm_deid.pixels.patch import Patch, SecondImage, Unreadable, Walk, blank, demand
from mdm_deid.rules.facts import BITS, COLUMNS, ROWS, SAMPLES, Extent, Facts

# Extended Offset Table, its lengths, and Encapsulated Pixel Data Value Total Length.
_OFFSETS, _LENGTHS, _TOTAL = 0x7FE00001, 0x7FE00002, 0x7FE00003
OFFSET_TABLES: Final = frozenset((_OFFSETS, _LENGTHS, _TOTAL))
_FLOAT_BITS: Final = {0x7FE00008: 32, 0x7FE00009: 64}
_VRS: Final = {0x7FE00008: (b"", b"OF", b"UN"), 0x7FE00009: (b"", b"OD", b"UN"), PIXEL_DATA: (b"", b"OB", b"OW", b"UN")}
# Samples per pixel where neighbours share their colour (PS3.3 C.7.6.3.1.2).
_SUBSAMPLED: Final = {
    "YBR_FULL_422": Fraction(2),
    "YBR_PARTIAL_422": Fraction(2),
    "YBR_FULL_420": Fraction(3, 2),
    "YBR_PARTIAL_420": Fraction(3, 2),
}
_COLOURS: Final = 3
_PREFIX: Final = "1.2.840.10008.1.2."
_RLE, _UNCOMPRESSED = _PREFIX + "5", _PREFIX + "1.98"
# What is not listed here waits for a person: hierarchical JPEG, and video, which has sound, subtitles and user data.
_WALKS: Final[dict[str, Walk]] = {
    **{f"{_PREFIX}4.{number}": jpeg.walk for number in (*range(50, 59), 70, 80, 81)},
    **{f"{_PREFIX}4.{number}": jpeg2000.walk for number in (90, 91, 92, 93, 201, 202, 203)},
}
_ITEM_HEADER: Final = 8
# The places of the fragments that make one frame.
Group = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Payload:
    """What is to be written over the pixel data, by place in the data set, and which offset tables are wrong and go."""

    patches: Sequence[Patch] = ()
    dropped: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Fragments:
    """Positions in a buffer: those of the basic offset table and of each fragment's content."""

    table: tuple[int, int]
    places: tuple[tuple[int, int], ...]

    def offset(self, place: tuple[int, int]) -> int:
        """Return a fragment's offset as the tables count: from the first item after the basic one to the fragment's item."""
        return place[0] - self.places[0][0]


def examine(opened: Part10, facts: Facts, replaced: bool = False) -> Payload:
    """Look through the pixel data; if they are `replaced` only for such besides them.

    Raises:
        Withheld: `pixel_layout`: the header does not say how the pixels lie, or contradicts itself; `pixel_length`: it says so, and
            the length is another one; `surplus_pixels`: there are frames that it does not declare; `unreadable_fragments`,
            `unreadable_frame`: compressed pixels do not follow the grammar of their format; `unchecked_stream`: one that is not walked.
    """
    kinds = [tag for tag in PIXELS if tag in facts.bulk and facts.bulk[tag].length]
    tables = frozenset(tag for tag in OFFSET_TABLES if tag in facts.bulk)
    if len(kinds) > 1 or (replaced and kinds not in ([], [PIXEL_DATA])):
        raise Withheld("pixel_layout")
    if replaced or not kinds:
        return Payload(dropped=tables)
    (tag,) = kinds
    pixels, compressed = facts.bulk[tag], _is_compressed(opened.transfer_syntax)
    if pixels.vr not in _VRS[tag] or (pixels.length == UNDEFINED) is not compressed:
        raise Withheld("pixel_layout")
    if not compressed:
        return Payload(list(_native(opened.data[pixels.value : pixels.end], pixels.value, tag, facts)), tables)
    if tag != PIXEL_DATA or pixels.vr == b"UN" or opened.encoding is not EXPLICIT_LE:
        raise Withheld("pixel_layout")
    return _encapsulated(opened, facts, pixels, tables)


@cache
def _is_compressed(transfer_syntax: str) -> bool:
    return UID(transfer_syntax).is_encapsulated


def patched(data: memoryview, pos: int, end: int, patches: Sequence[Patch]) -> Iterator[memoryview | bytes]:
    """Yield `data[pos:end]` with the patches written over it; unchanged parts are not copied."""
    for patch in patches:
        yield data[pos : patch.start]
        yield patch.content
        pos = patch.end
    yield data[pos:end]


def _native(value: memoryview, start: int, tag: int, facts: Facts) -> Iterator[Patch]:
    """Yield the patch that blanks the bytes after the last pixel, if it is certain that they are none."""
    lengths = _lengths(tag, facts)
    declared = next(lengths)
    if len(value) <= declared:
        return
    others = list(lengths)
    if len(value) in others:
        return
    known = max(length for length in (declared, *others) if length <= len(value))
    surplus = len(value) - known
    if surplus >= max(known // facts.frames, 2):
        raise Withheld("surplus_pixels")
    for patch in blank(value, known, len(value)):
        # With a row and more, rows or the size of pixels may be other than the header says.
        if surplus >= known // facts.frames // facts.geometry[ROWS]:
            raise Withheld("pixel_length")
        yield Patch(start + patch.start, patch.content)


def _lengths(tag: int, facts: Facts) -> Iterator[int]:
    """Yield how many bytes the pixels fill: first as the header says, then as writers are known to understand it.

    Colours that are said to be shared and are not; pixels of fewer bits than their bytes have; every frame padded to whole bytes or words.
    """
    rows, columns = facts.geometry.get(ROWS, 0), facts.geometry.get(COLUMNS, 0)
    bits, samples = facts.geometry.get(BITS, 0), facts.geometry.get(SAMPLES, 1)
    frames = facts.frames
    if not rows * columns * bits * samples * frames or bits != _FLOAT_BITS.get(tag, bits):
        raise Withheld("pixel_layout")
    pixels: list[tuple[int, int | Fraction]] = [(columns, samples)]
    shared = _SUBSAMPLED.get(facts.photometric) if samples == _COLOURS else None
    if shared:
        pixels = [(columns, shared), (columns + columns % 2, shared), *pixels]
    for sample_bits, (width, count) in product((bits, -(-bits // 8) * 8), pixels):
        frame_bits = rows * width * count * sample_bits
        frame = -(-frame_bits // 8)
        for length in (-(-frame_bits * frames // 8), frame * frames, (frame + frame % 2) * frames):
            # In words of big endian the padding is not the last byte.
            yield int(length + length % 2)


def _encapsulated(opened: Part10, facts: Facts, pixels: Extent, tables: frozenset[int]) -> Payload:
    walk = _walk_for(opened.transfer_syntax, facts)
    try:
        fragments = _read_fragments(opened.data, pixels.value, pixels.end, opened.encoding)
        groups = _grouped(opened.data, fragments, facts.frames)
        patches = _mended_table(opened.data, fragments, groups)
    except Unreadable:
        raise Withheld("unreadable_fragments") from None
    try:
        for group in groups:
            for patch in walk(_joined(opened.data, group)):
                patches += _placed(patch, group)
    except SecondImage:
        raise Withheld("surplus_pixels") from None
    except Unreadable:
        raise Withheld("unreadable_frame") from None
    right = _tables_hold(opened, facts, fragments, groups)
    return Payload(sorted(patches), frozenset() if right else tables)


def _walk_for(transfer_syntax: str, facts: Facts) -> Walk:
    rows, columns, samples, bits = (facts.geometry.get(tag, 0) for tag in (ROWS, COLUMNS, SAMPLES, BITS))
    if transfer_syntax == _RLE:
        return partial(rle.walk, pixels=rows * columns, segments=samples * -(-bits // 8))
    if transfer_syntax == _UNCOMPRESSED:
        return partial(_uncompressed, length=-(-rows * columns * samples * bits // 8))
    if transfer_syntax not in _WALKS:
        raise Withheld("unchecked_stream")
    return _WALKS[transfer_syntax]


def _uncompressed(data: memoryview, length: int) -> Iterator[Patch]:
    """Walk an uncompressed frame in a fragment."""
    demand(len(data) == length + length % 2)
    yield from blank(data, length, len(data))


def _tables_hold(opened: Part10, facts: Facts, fragments: Fragments, groups: Sequence[Group]) -> bool:
    """Return whether what there is of the extended offset table says where the frames are, and how long they are but for padding."""
    present = {tag: opened.data[extent.value : extent.end] for tag, extent in facts.bulk.items() if tag in OFFSET_TABLES}
    if any(len(value) % 8 for value in present.values()):
        return False
    numbers = {tag: list(struct.unpack(f"<{len(value) // 8}Q", value)) for tag, value in present.items()}
    lengths = [sum(end - start for start, end in group) for group in groups]
    starts = [fragments.offset(group[0]) for group in groups]
    if (_LENGTHS in numbers) is not (_OFFSETS in numbers) or numbers.get(_OFFSETS, starts) != starts:
        return False
    total = sum(lengths)
    without_padding = [(numbers.get(_LENGTHS, lengths), lengths, 1), (numbers.get(_TOTAL, [total]), [total], len(fragments.places))]
    return all(
        len(said) == len(real) and all(0 <= longer - shorter <= padding for shorter, longer in zip(said, real, strict=True))
        for said, real, padding in without_padding
    )


def _read_fragments(data: memoryview, pos: int, end: int, encoding: Encoding) -> Fragments:
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


def _grouped(data: memoryview, fragments: Fragments, frames: int) -> list[Group]:
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


def _mended_table(data: memoryview, fragments: Fragments, groups: Sequence[Group]) -> list[Patch]:
    """Return the patch that makes a basic offset table say where the frames are, none if it does or is empty.

    Raises:
        Unreadable: it has not one entry per frame.
    """
    table, right = _basic_offsets(data, fragments), [fragments.offset(group[0]) for group in groups]
    demand(len(table) in (0, len(right)))
    return [Patch(fragments.table[0], struct.pack(f"<{len(right)}I", *right))] if table and table != right else []


def _joined(data: memoryview, group: Group) -> memoryview:
    """Return a frame in one piece; of a single fragment no copy is made."""
    if len(group) == 1:
        return data[group[0][0] : group[0][1]]
    return memoryview(b"".join(data[start:end] for start, end in group))


def _placed(patch: Patch, group: Group) -> list[Patch]:
    """Return the patch of a frame as patches of the buffer, as it may go across fragments."""
    parts, passed = [], 0
    for start, end in group:
        first, last = max(patch.start, passed), min(patch.end, passed + end - start)
        if first < last:
            parts.append(Patch(start + first - passed, patch.content[first - patch.start : last - patch.start]))
        passed += end - start
    return parts
