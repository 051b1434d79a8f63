"""Elements under a VR that does not exist (`??`, blanks): read by the dictionary or as UN, where it is certain how they end."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

from pydicom._dicom_dict import DicomDictionary

from mdm_deid.encoding.element import (
    IMPLICIT_LE,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    Element,
    Encoding,
    Header,
    elements,
    items,
    skip,
    standard_vr,
)
from mdm_deid.encoding.part10 import Part10
from mdm_deid.outcome import Malformed

INVALID_VR: Final = "invalid_vr"
_RESERVED: Final = b"\0\0"
# After so many elements in a row whose VRs do not exist, the end of the first counts as certain.
_ENOUGH: Final = 16
_FIRST_CREATOR, _LAST_CREATOR = 0x10, 0xFF
Result = TypeVar("Result")


def with_known_vrs(read: Callable[[Part10], Result], opened: Part10) -> Result:
    """Return what `read` makes of a file; if it meets a VR that does not exist, what it makes of the same file with known ones.

    Raises:
        Malformed: as `read` does; `invalid_vr` where it is not certain how such an element ends or what it holds.
    """
    try:
        return read(opened)
    except Malformed as error:
        if error.reason != INVALID_VR:
            raise
    return read(replace(opened, data=memoryview(_mended(opened)), start=0))


def _mended(opened: Part10) -> bytes:
    content, _ = _Mender(opened.data, opened.encoding).level(opened.start, len(opened.data), 0, delimited=False)
    return content


class _Mender:
    """Writes a data set in an explicit encoding again with VRs that exist; sequences get defined lengths."""

    def __init__(self, data: memoryview, encoding: Encoding) -> None:
        self._data, self._encoding = data, encoding
        self._plausible: dict[tuple[int, int], bool] = {}

    def level(self, pos: int, limit: int, depth: int, delimited: bool) -> tuple[bytes, int]:
        """Return the elements up to `limit` or the item delimiter, and where to go on."""
        out: list[bytes | memoryview] = []
        while pos < limit:
            try:
                head = self._encoding.header(self._data, pos, limit)
            except Malformed as error:
                if error.reason != INVALID_VR:
                    raise
                element, pos = self._unknown(pos, limit, depth)
                out.append(element)
                continue
            if head[0] == ITEM_END and delimited:
                return b"".join(out), head[2]
            if head[1] == b"SQ":
                content, end = self._sequence(head, limit, depth)
                out.append(self._encoding.prefix(head[0], b"SQ", len(content)) + content)
            else:
                end = skip(self._data, head, limit, self._encoding, depth)
                out.append(self._data[pos:end])
            pos = end
        if delimited:
            raise Malformed("truncated")
        return b"".join(out), pos

    def _sequence(self, head: Header, limit: int, depth: int) -> tuple[bytes, int]:
        _, _, pos, length = head
        if depth >= MAX_DEPTH:
            raise Malformed("nesting_too_deep")
        end = limit if length == UNDEFINED else pos + length
        if end > limit:
            raise Malformed("truncated")
        out: list[bytes] = []
        while length == UNDEFINED or pos < end:
            tag, _, value, size = self._encoding.item_header(self._data, pos, end)
            if tag == SEQUENCE_END and length == UNDEFINED:
                return b"".join(out), value
            if tag != ITEM or (size != UNDEFINED and value + size > end):
                raise Malformed("sequence_items")
            content, pos = self.level(value, end if size == UNDEFINED else value + size, depth + 1, delimited=size == UNDEFINED)
            out.append(self._encoding.item(content))
        return b"".join(out), end

    def _unknown(self, pos: int, limit: int, depth: int) -> tuple[bytes, int]:
        """Return the element at `pos` under a VR that exists, and where the next one begins."""
        tag = self._encoding.item_header(self._data, pos, limit)[0]
        certain = {(value, end) for value, end in self._readings(pos, limit) if self._may_follow(tag, end, limit, _ENOUGH)}
        if len(certain) != 1:
            raise Malformed(INVALID_VR)
        value, end = certain.pop()
        if standard_vr(tag) == b"SQ":
            return self._as_sequence(tag, value, end, depth), end
        return self._encoding.prefix(tag, self._vr(tag), end - value) + self._data[value:end], end

    def _readings(self, pos: int, limit: int) -> Iterator[tuple[int, int]]:
        """Yield where the value would lie with a length of two bytes, of four after two reserved ones, and without a VR."""
        if pos + 8 > limit:
            return
        uint, data = self._encoding.uint, self._data
        readings = [(pos + 8, uint(data[pos + 6 : pos + 8])), (pos + 8, uint(data[pos + 4 : pos + 8]))]
        if bytes(data[pos + 6 : pos + 8]) == _RESERVED and pos + 12 <= limit:
            readings.append((pos + 12, uint(data[pos + 8 : pos + 12])))
        yield from ((value, value + length) for value, length in readings if length <= limit - value)

    def _may_follow(self, tag: int, pos: int, limit: int, steps: int) -> bool:
        """Return whether an element that ends at `pos` is followed by a plausible one with a higher tag, or by the end."""
        if pos == limit or not steps:
            return True
        if (tag, pos) not in self._plausible:
            self._plausible[tag, pos] = self._fits(tag, pos, limit, steps)
        return self._plausible[tag, pos]

    def _fits(self, tag: int, pos: int, limit: int, steps: int) -> bool:
        try:
            following, _, value, length = self._encoding.header(self._data, pos, limit)
        except Malformed as error:
            if error.reason != INVALID_VR:
                return False
            following = self._encoding.item_header(self._data, pos, limit)[0]
            ends = (end for _, end in self._readings(pos, limit))
            return following > tag and any(self._may_follow(following, end, limit, steps - 1) for end in ends)
        if following == ITEM_END:
            return length == 0
        return following > tag and following >> 16 != ITEM >> 16 and (length == UNDEFINED or length <= limit - value)

    def _vr(self, tag: int) -> bytes:
        """Return the VR of a value that is not a sequence."""
        little = self._encoding.little
        if tag >> 16 & 1:
            return b"LO" if _FIRST_CREATOR <= tag & 0xFFFF <= _LAST_CREATOR else b"UN"
        if tag == PIXEL_DATA and little:
            return b"OW"
        entry = DicomDictionary.get(tag)
        if entry is None or len(entry[0]) == 2:
            return standard_vr(tag) or b"UN"
        if not little:
            raise Malformed(INVALID_VR)  # which bytes belong together depends on which of its VRs it has
        return b"UN"

    def _as_sequence(self, tag: int, value: int, end: int, depth: int) -> bytes:
        """Return a sequence whose items are in the file's encoding, or else implicit, as in one of VR UN."""
        try:
            content, _ = self._sequence((tag, b"SQ", value, end - value), end, depth)
            return self._encoding.prefix(tag, b"SQ", len(content)) + content
        except Malformed:
            element = Element(tag, b"UN", value, value, end - value, end)
            for item in items(self._data, element, IMPLICIT_LE, depth):
                for _ in elements(self._data, item.start, item.limit, item.encoding, depth + 1):
                    pass
            return self._encoding.prefix(tag, b"UN", end - value) + self._data[value:end]
