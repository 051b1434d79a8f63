"""DICOM encodings at byte level (PS3.5 section 7 and annex A): reading, walking and writing elements without guessing a length."""

import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final, NamedTuple

from pydicom._dicom_dict import DicomDictionary

from mdm_deid.outcome import Malformed

UNDEFINED: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
PIXEL_DATA: Final = 0x7FE00010
# Float, double float and integer pixel data.
PIXELS: Final = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))
MAX_DEPTH: Final = 64

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())

Buffer = bytes | memoryview
# tag, VR (empty in implicit encodings), where the value begins, its length or UNDEFINED
Header = tuple[int, bytes, int, int]


class Encoding:
    """An encoding of data sets; the three instances below are all that exist."""

    def __init__(self, index: int, explicit: bool, little: bool) -> None:
        order = "<" if little else ">"
        self.index, self.explicit, self.little = index, explicit, little
        self._item = struct.Struct(order + "HHI")
        self._short = struct.Struct(order + "HH2sH")
        self._long = struct.Struct(order + "HH2sHI")
        self._length = struct.Struct(order + "I")
        self.header: Callable[[Buffer, int, int], Header] = self._explicit_header if explicit else self.item_header

    def item_header(self, data: Buffer, pos: int, limit: int) -> Header:
        """Read an item or delimiter, or any element in an implicit encoding."""
        if pos + 8 > limit:
            raise Malformed("truncated")
        group, element, length = self._item.unpack_from(data, pos)
        return group << 16 | element, b"", pos + 8, length

    def _explicit_header(self, data: Buffer, pos: int, limit: int) -> Header:
        if pos + 8 > limit:
            raise Malformed("truncated")
        group, element, vr, length = self._short.unpack_from(data, pos)
        if vr in SHORT_VRS:
            return group << 16 | element, vr, pos + 8, length
        if vr in LONG_VRS:
            if pos + 12 > limit:
                raise Malformed("truncated")
            return group << 16 | element, vr, pos + 12, self._length.unpack_from(data, pos + 8)[0]
        if group == 0xFFFE:
            return self.item_header(data, pos, limit)
        raise Malformed("invalid_vr")

    def element(self, tag: int, vr: bytes, value: Buffer) -> bytes:
        """Return a whole element of defined length; `value` is padded to even length as its VR wants.

        A value too long for a short VR is written as UN, as PS3.5 6.2.2 allows.
        """
        if len(value) % 2:
            value = bytes(value) + (b"\0" if vr in (b"UI", b"OB", b"UN") else b" ")
        return self.prefix(tag, vr, len(value)) + value

    def prefix(self, tag: int, vr: bytes, length: int) -> bytes:
        """Return an element's bytes up to its value."""
        group, element = tag >> 16, tag & 0xFFFF
        if not self.explicit:
            return self._item.pack(group, element, length)
        if vr in SHORT_VRS and length <= 0xFFFF:
            return self._short.pack(group, element, vr, length)
        return self._long.pack(group, element, vr if vr in LONG_VRS else b"UN", 0, length)

    def item(self, content: Buffer) -> bytes:
        """Return a sequence item of defined length."""
        return self._item.pack(ITEM >> 16, ITEM & 0xFFFF, len(content)) + content

    def uint(self, value: Buffer) -> int:
        """Return an unsigned binary integer of any width."""
        return int.from_bytes(value, "little" if self.little else "big")


IMPLICIT_LE = Encoding(0, explicit=False, little=True)
EXPLICIT_LE = Encoding(1, explicit=True, little=True)
EXPLICIT_BE = Encoding(2, explicit=True, little=False)


class Element(NamedTuple):
    """One element: its value lies in `value:end` of the buffer, delimiters included where its length is undefined."""

    tag: int
    vr: bytes
    start: int
    value: int
    length: int
    end: int


class Item(NamedTuple):
    """One item of a sequence: its elements begin at `start` and lie before `limit`, in `encoding`."""

    start: int
    limit: int
    encoding: Encoding


def skip(data: Buffer, header: Header, limit: int, encoding: Encoding, depth: int = 0) -> int:
    """Return where the element after `header` begins, walking through undefined lengths.

    Raises:
        Malformed: the value does not end within `limit`, or nests deeper than MAX_DEPTH.
    """
    tag, vr, pos, length = header
    if length != UNDEFINED:
        if pos + length > limit:
            raise Malformed("truncated")
        return pos + length
    if vr in (b"OB", b"OW") or (tag == PIXEL_DATA and vr in (b"", b"UN")):
        return skip_fragments(data, pos, limit, encoding)
    if vr == b"UN":
        # PS3.5 6.2.2: UN of undefined length is a sequence in implicit little endian, whatever surrounds it.
        return skip_items(data, pos, limit, IMPLICIT_LE, depth)
    if vr in (b"SQ", b""):
        return skip_items(data, pos, limit, encoding, depth)
    raise Malformed("undefined_length")


def skip_fragments(data: Buffer, pos: int, limit: int, encoding: Encoding) -> int:
    """Return the end of encapsulated pixel data whose first fragment's item begins at `pos`."""
    while True:
        tag, _, value, length = encoding.item_header(data, pos, limit)
        if tag == SEQUENCE_END and length == 0:
            return value
        if tag != ITEM or value + length > limit:
            raise Malformed("pixel_fragments")
        pos = value + length


def skip_items(data: Buffer, pos: int, limit: int, encoding: Encoding, depth: int) -> int:
    """Return the end of a sequence of undefined length whose first item begins at `pos`."""
    if depth >= MAX_DEPTH:
        raise Malformed("nesting_too_deep")
    while True:
        tag, _, pos, length = encoding.item_header(data, pos, limit)
        if tag == SEQUENCE_END:
            return pos
        if tag != ITEM:
            raise Malformed("sequence_items")
        if length != UNDEFINED:
            pos += length
            continue
        while True:
            header = encoding.header(data, pos, limit)
            if header[0] == ITEM_END:
                pos = header[2]
                break
            pos = skip(data, header, limit, encoding, depth + 1)


def elements(data: memoryview, pos: int, limit: int, encoding: Encoding, depth: int = 0) -> Iterator[Element]:
    """Yield the elements from `pos` to `limit` or to the item delimiter.

    Raises:
        Malformed: an element does not end within `limit`, or nests deeper than MAX_DEPTH.
    """
    while pos < limit:
        head = encoding.header(data, pos, limit)
        tag, vr, value, length = head
        if tag == ITEM_END:
            return
        end = skip(data, head, limit, encoding, depth)
        yield Element(tag, vr, pos, value, length, end)
        pos = end


def items(data: memoryview, element: Element, encoding: Encoding, depth: int = 0) -> Iterator[Item]:
    """Yield the items of an element that is a sequence.

    Raises:
        Malformed: it is not a sequence.
    """
    inner = IMPLICIT_LE if element.vr == b"UN" else encoding
    pos = element.value
    while pos < element.end:
        tag, _, value, length = inner.item_header(data, pos, element.end)
        if tag == SEQUENCE_END and element.length == UNDEFINED:
            return
        if tag != ITEM or (length != UNDEFINED and value + length > element.end):
            raise Malformed("sequence_items")
        limit = element.end if length == UNDEFINED else value + length
        yield Item(value, limit, inner)
        pos = _after(data, value, limit, inner, depth) if length == UNDEFINED else limit


def _after(data: memoryview, pos: int, limit: int, encoding: Encoding, depth: int) -> int:
    """Return where an item of undefined length that begins at `pos` ends, its delimiter included."""
    while True:
        head = encoding.header(data, pos, limit)
        if head[0] == ITEM_END:
            return head[2]
        pos = skip(data, head, limit, encoding, depth + 1)


def tag_of(text: str) -> int:
    """Return the number of a tag written `(0010,0020)`.

    Raises:
        ValueError: it names no single tag.
    """
    return int(text.strip("()").replace(",", ""), 16)


@cache
def standard_vr(tag: int) -> bytes:
    """Return the dictionary's VR (the first where it names several), or nothing for a tag DICOM does not define."""
    entry = DicomDictionary.get(tag)
    return entry[0][:2].encode("ascii") if entry else b""
