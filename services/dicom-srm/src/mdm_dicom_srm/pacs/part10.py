"""DICOM Part 10 bytes: where the header ends, and the few UIDs that name an instance (PS3.5 section 7, PS3.10 section 7)."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from mdm_deid.encoding.vr import mended
from mdm_deid.outcome import Malformed
from mdm_wire.errors import Invalid

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

_PREAMBLE = 132
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_GROUP = 0x7FE00000
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
# VRs with two reserved bytes and a 32-bit length (PS3.5 table 7.1-1).
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_MAX_DEPTH = 64
_MAX_INFLATED = 1 << 30

_TRANSFER_SYNTAX = 0x00020010
_META_SOP_INSTANCE = 0x00020003
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_WANTED = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES})


@dataclass(frozen=True, slots=True)
class Header:
    """A Part 10 file up to its pixel data, where an empty (7FE0,0010) stands for those it had; and its UIDs, "" if absent.

    `whole` is the file that it was cut from, to be judged and then let go.
    """

    part10: bytes = field(repr=False)
    whole: bytes = field(repr=False)
    transfer_syntax: str
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    has_pixels: bool

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return len(self.whole)


@dataclass(slots=True)
class _Walk:
    """What the walk over a data set found."""

    values: dict[int, bytes]
    header_end: int
    has_pixels: bool


def sop_instance_uid(part10: bytes) -> str:
    """Return the SOP Instance UID that a file's meta information gives, without reading the data set.

    Raises:
        Invalid: NOT_DICOM, DICOM_TRUNCATED.
    """
    return _text(_file_meta(part10)[0].get(_META_SOP_INSTANCE, b""))


def header_of(part10: bytes) -> Header:
    """Return the header of a complete Part 10 file. Pixel bytes are neither read nor copied, but that they are all there is checked.

    Raises:
        Invalid: NOT_DICOM, DICOM_TRUNCATED, DICOM_MALFORMED; the message holds nothing of the content.
    """
    try:
        return _header_of(part10)
    except _NoVR:
        # Which of the ways to read such an element is right is a question for the one who knows the dictionary.
        with suppress(Malformed):
            return _header_of(mended(part10), lenient=True)
        return _header_of(part10, lenient=True)


def _header_of(part10: bytes, lenient: bool = False) -> Header:
    meta, start = _file_meta(part10)
    syntax = _text(meta.get(_TRANSFER_SYNTAX, b""))
    if not syntax:
        raise Invalid("NOT_DICOM", "The file meta information names no transfer syntax.")
    body, base = (_inflate(part10[start:]), 0) if syntax == DEFLATED else (part10, start)
    reader = _Reader(body, explicit=syntax != IMPLICIT_LITTLE, big=syntax == EXPLICIT_BIG, lenient=lenient)
    try:
        walk = reader.walk(base)
    except (struct.error, RecursionError):
        raise Invalid("DICOM_TRUNCATED", "The DICOM data set ends in the middle of an element.") from None
    header = body[base : walk.header_end] + (reader.empty_pixel_data() if walk.has_pixels else b"")
    uid = {tag: _text(walk.values.get(tag, b"")) for tag in _WANTED}
    return Header(
        part10=part10[:start] + (_deflate(header) if syntax == DEFLATED else header),
        whole=part10,
        transfer_syntax=syntax,
        sop_class=uid[_SOP_CLASS],
        sop_uid=uid[_SOP_INSTANCE],
        study_uid=uid[_STUDY],
        series_uid=uid[_SERIES],
        has_pixels=walk.has_pixels,
    )


def unread_header(part10: bytes, transfer_syntax: str, sop_class: str, sop_uid: str) -> Header:
    """Return the header of a file whose data set cannot be read: its meta information, and what its sender called it.

    Raises:
        Invalid: NOT_DICOM, DICOM_TRUNCATED.
    """
    _, start = _file_meta(part10)
    return Header(part10[:start], part10, transfer_syntax, sop_class, sop_uid, study_uid="", series_uid="", has_pixels=False)


def headers_of(files: Iterable[bytes]) -> Iterator[Header]:
    """Yield the header of each file; those that are not DICOM are reported at the end, so that they do not hide the others.

    Raises:
        Invalid: as for `header_of`, the first such error.
    """
    trouble: Invalid | None = None
    for part10 in files:
        try:
            header = header_of(part10)
        except Invalid as error:
            trouble = trouble or error
        else:
            yield header
    if trouble is not None:
        raise trouble


def _file_meta(part10: bytes) -> tuple[dict[int, bytes], int]:
    """Return the elements of group 0002 and the offset of the data set."""
    if part10[_PREAMBLE - 4 : _PREAMBLE] != b"DICM":
        raise Invalid("NOT_DICOM", "Not a DICOM Part 10 file: the DICM prefix is missing.")
    reader = _Reader(part10, explicit=True, big=False)
    position, values = _PREAMBLE, {}
    try:
        while position < len(part10) and part10[position : position + 2] == b"\x02\x00":
            tag, _, length, value = reader.element(position)
            if length == _UNDEFINED:
                raise Invalid("DICOM_MALFORMED", "The file meta information has an element of undefined length.")
            position = reader.after(value, length)
            values[tag] = part10[value:position]
    except struct.error:
        raise Invalid("DICOM_TRUNCATED", "The file ends in its meta information.") from None
    return values, position


class _NoVR(Exception):
    """An element has no VR where the transfer syntax demands one."""


class _Reader:
    """Walks over the elements of an encoded data set without interpreting values."""

    def __init__(self, data: bytes, *, explicit: bool, big: bool, lenient: bool = True) -> None:
        """Prepare; unless `lenient`, an element without a VR among those that have one raises `_NoVR`."""
        order = ">" if big else "<"
        self._data = data
        self._explicit, self._lenient = explicit, lenient
        self._tag = struct.Struct(f"{order}HH").unpack_from
        self._short = struct.Struct(f"{order}H").unpack_from
        self._long = struct.Struct(f"{order}L").unpack_from
        self._order = order

    def element(self, position: int, explicit: bool | None = None) -> tuple[int, bytes, int, int]:
        """Return tag, VR (b"" if not given), length and value offset of the element at `position`."""
        group, number = self._tag(self._data, position)
        if self._explicit if explicit is None else explicit:
            vr = self._data[position + 4 : position + 6]
            if vr in _LONG:
                return group << 16 | number, vr, self._long(self._data, position + 8)[0], position + 12
            # Some writers switch to implicit VR within a data set; bytes that cannot be a VR show it.
            if vr.isalpha() and vr.isupper() and group != 0xFFFE:
                return group << 16 | number, vr, self._short(self._data, position + 6)[0], position + 8
            if group != 0xFFFE and not self._lenient:
                raise _NoVR
        return group << 16 | number, b"", self._long(self._data, position + 4)[0], position + 8

    def after(self, value: int, length: int) -> int:
        """Return the offset behind a value of defined length."""
        if value + length > len(self._data):
            raise Invalid("DICOM_TRUNCATED", "The DICOM data set is shorter than its elements declare.")
        return value + length

    def walk(self, position: int) -> _Walk:
        """Walk over the top level, up to the end or past the pixel data."""
        walk = _Walk({}, header_end=len(self._data), has_pixels=False)
        in_header = True
        while position < len(self._data):
            tag, vr, length, value = self.element(position)
            if in_header and tag >= _PIXEL_GROUP:
                walk.header_end, in_header = position, False
            position = self._skip(vr, length, value)
            if tag in _WANTED and length != _UNDEFINED:
                walk.values[tag] = self._data[value:position]
            if tag in _PIXELS:
                walk.has_pixels = length > 0
                break
        return walk

    def empty_pixel_data(self) -> bytes:
        """Return an empty (7FE0,0010) in this encoding."""
        tag = struct.pack(f"{self._order}HH", 0x7FE0, 0x0010)
        return tag + (b"OW\0\0" if self._explicit else b"") + bytes(4)

    def _skip(self, vr: bytes, length: int, value: int, depth: int = 0, explicit: bool | None = None) -> int:
        if length != _UNDEFINED:
            return self.after(value, length)
        # An unknown VR of undefined length is a sequence in implicit VR (PS3.5 section 6.2.2).
        return self._skip_items(value, depth + 1, False if vr == b"UN" else explicit)

    def _skip_items(self, position: int, depth: int, explicit: bool | None) -> int:
        if depth > _MAX_DEPTH:
            raise Invalid("DICOM_MALFORMED", "The DICOM data set is nested too deeply.")
        while True:
            tag, _, length, value = self.element(position)
            if tag == _SEQUENCE_END:
                return value
            if tag != _ITEM:
                raise Invalid("DICOM_MALFORMED", "The DICOM data set has a sequence that is not made of items.")
            position = self.after(value, length) if length != _UNDEFINED else self._skip_item(value, depth, explicit)

    def _skip_item(self, position: int, depth: int, explicit: bool | None) -> int:
        while True:
            tag, vr, length, value = self.element(position, explicit)
            if tag == _ITEM_END:
                return value
            position = self._skip(vr, length, value, depth, explicit)


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, _MAX_INFLATED)
    except zlib.error:
        raise Invalid("DICOM_MALFORMED", "The deflated DICOM data set cannot be inflated.") from None
    if not inflater.eof:
        raise Invalid("DICOM_TRUNCATED", "The deflated DICOM data set is cut off or larger than 1 GiB.")
    return inflated


def _deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(data) + deflater.flush()
    return deflated + b"\0" * (len(deflated) % 2)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")
