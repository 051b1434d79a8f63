"""The Part 10 envelope (PS3.10 section 7): preamble and file meta information read, as far as a file has them, and written anew."""

import zlib
from dataclasses import dataclass
from typing import Final

from pydicom._uid_dict import UID_dictionary

from mdm_deid.encoding.element import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, PIXEL_DATA, UNDEFINED, Encoding, skip
from mdm_deid.outcome import Malformed

IMPLEMENTATION_CLASS_UID: Final = "2.25.208447311519284602935067418295317460283"
IMPLEMENTATION_VERSION: Final = "MDM_DEID_1"
MAX_INPUT: Final = 0xFFFFFFF0
MAX_INFLATED: Final = 512 << 20
# Buffers from this size on are not joined with others, so that they need not be copied.
_LARGE: Final = 64 << 10
_PREAMBLE: Final = 128
_META_GROUP: Final = b"\x02\0"
_META_SOP_CLASS, META_SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010
_SOP_CLASS: Final = 0x00080016
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_ENCODINGS = {"1.2.840.10008.1.2": IMPLICIT_LE, "1.2.840.10008.1.2.2": EXPLICIT_BE}
# The data set itself is compressed by, or its pixels are stored in, ways that this module does not undo.
_UNSUPPORTED = frozenset({"1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.204", "1.2.840.10008.1.2.4.205"})
# What a data set without file meta information may be encoded in, and what it begins with; also file meta information in an
# encoding that it must not have.
_BARE_SYNTAXES: Final = (("1.2.840.10008.1.2", IMPLICIT_LE), ("1.2.840.10008.1.2.1", EXPLICIT_LE), ("1.2.840.10008.1.2.2", EXPLICIT_BE))
_FIRST_GROUPS: Final = (b"\x08\0", b"\0\x08", b"\x02\0", b"\0\x02")


@dataclass(frozen=True)
class Part10:
    """A file opened: its transfer syntax, how the data set is encoded, and the data set (inflated if it was deflated).

    `envelope` is what stands before the data set.
    """

    transfer_syntax: str
    sop_class: str
    encoding: Encoding
    data: memoryview
    start: int
    deflated: bool
    envelope: memoryview


def open_part10(content: bytes | memoryview, any_syntax: bool = False) -> Part10:
    """Read the envelope, or what there is of it: a data set alone is read where its encoding is beyond doubt.

    With `any_syntax` a transfer syntax that is not known is taken for one in explicit little endian, as all new ones are.

    Raises:
        Malformed: not a DICOM file (`not_part10`, `empty`), an encoding that is not known, or a size beyond the limits (`too_large`).
    """
    data = memoryview(content).cast("B")
    if len(data) > MAX_INPUT:
        raise Malformed("too_large")
    found = file_meta(data)
    if found is None:
        return _open_bare(data)
    meta, start = found
    syntax, sop_class = uid_text(meta.get(_TRANSFER_SYNTAX, b"")), uid_text(meta.get(_META_SOP_CLASS, b""))
    known = UID_dictionary.get(syntax, ("", ""))[1] == "Transfer Syntax" and syntax not in _UNSUPPORTED
    if not (known or (any_syntax and syntax)):
        raise Malformed("unknown_transfer_syntax")
    envelope = data[:start]
    if syntax == _DEFLATED:
        return Part10(syntax, sop_class, EXPLICIT_LE, memoryview(_inflate(data[start:])), 0, True, envelope)
    return Part10(syntax, sop_class, _ENCODINGS.get(syntax, EXPLICIT_LE), data, start, False, envelope)


def file_meta(data: memoryview) -> tuple[dict[int, memoryview], int] | None:
    """Return the values of the file meta information by tag, and where the data set begins; None where a file has none.

    Raises:
        Malformed: `truncated`.
    """
    pos = _meta_start(data)
    if pos is None:
        return None
    values: dict[int, memoryview] = {}
    while pos + 8 <= len(data) and bytes(data[pos : pos + 2]) == _META_GROUP:
        tag, _, value, length = EXPLICIT_LE.header(data, pos, len(data))
        if length == UNDEFINED or value + length > len(data):
            raise Malformed("truncated")
        pos = value + length
        values[tag] = data[value:pos]
    return values, pos


def uid_text(value: bytes | memoryview) -> str:
    """Return the value of a UI attribute without padding."""
    return bytes(value).decode("latin-1").strip(" \0")


def _meta_start(data: memoryview) -> int | None:
    """Return where the file meta information begins, in a file without preamble or prefix too."""
    head = bytes(data[: _PREAMBLE + 6])
    if head[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return _PREAMBLE + 4
    if head[:6] == b"DICM" + _META_GROUP:
        return 4
    if head[:2] == _META_GROUP and head[4:6] in (b"UL", b"OB", b"UI"):
        return 0
    zeros = head[:_PREAMBLE] == bytes(_PREAMBLE)
    return _PREAMBLE if zeros and head[_PREAMBLE : _PREAMBLE + 2] == _META_GROUP else None


def _open_bare(data: memoryview) -> Part10:
    if not data:
        raise Malformed("empty")
    if len(data) <= _PREAMBLE + 4 and not any(data[:_PREAMBLE]):
        raise Malformed("truncated")
    for start in (0, _PREAMBLE):
        if bytes(data[start : start + 2]) in _FIRST_GROUPS and not any(data[:start]):
            syntax, encoding = _bare_encoding(data, start)
            return Part10(syntax, "", encoding, data, start, False, data[:start])
    raise Malformed("not_part10")


def _bare_encoding(data: memoryview, start: int) -> tuple[str, Encoding]:
    """Return the only transfer syntax in which `data` from `start` to the end is a data set that names its SOP class.

    Raises:
        Malformed: `uncertain_encoding`, no transfer syntax or more than one fits; `unknown_transfer_syntax`, the pixel data are
            compressed, and only the missing envelope could say how.
    """
    readings = {uid: (encoding, _fits(data, start, encoding)) for uid, encoding in _BARE_SYNTAXES}
    fitting = [(uid, encoding, compressed) for uid, (encoding, compressed) in readings.items() if compressed is not None]
    if len(fitting) != 1:
        raise Malformed("uncertain_encoding")
    ((uid, encoding, compressed),) = fitting
    if compressed:
        raise Malformed("unknown_transfer_syntax")
    return uid, encoding


def _fits(data: memoryview, start: int, encoding: Encoding) -> bool | None:
    """Return whether pixel data are compressed if all elements are in ascending order, and the last ends where the file does; else None."""
    pos, last, named, compressed = start, 0, False, False
    try:
        while pos < len(data):
            head = encoding.header(data, pos, len(data))
            if head[0] <= last and pos > start:
                return None
            pos, last = skip(data, head, len(data), encoding), head[0]
            named |= last == _SOP_CLASS and bytes(data[head[2] : pos]).startswith(b"1.")
            compressed |= last == PIXEL_DATA and head[3] == UNDEFINED
    except Malformed:
        return None
    return compressed if named else None


def _inflate(data: memoryview) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(data, MAX_INFLATED)
    except zlib.error:
        raise Malformed("malformed") from None
    if not inflater.eof:
        raise Malformed("too_large" if inflater.unconsumed_tail else "truncated")
    return content


def write_part10(opened: Part10, sop_class: str, sop_instance: str, content: list[memoryview | bytes]) -> list[memoryview | bytes]:
    """Return the file as buffers: a zeroed preamble, new file meta, and `content` in the input's transfer syntax.

    Source application entity, private information and implementation of the sender are not carried over.
    """
    elements = (
        (0x00020001, b"OB", b"\0\1"),
        (0x00020002, b"UI", sop_class.encode("ascii")),
        (0x00020003, b"UI", sop_instance.encode("ascii")),
        (0x00020010, b"UI", opened.transfer_syntax.encode("ascii")),
        (0x00020012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
        (0x00020013, b"SH", IMPLEMENTATION_VERSION.encode("ascii")),
    )
    meta = b"".join(EXPLICIT_LE.element(*element) for element in elements)
    length = EXPLICIT_LE.element(0x00020000, b"UL", len(meta).to_bytes(4, "little"))
    head = bytes(_PREAMBLE) + b"DICM" + length + meta
    return _merge([head, *(deflate(content) if opened.deflated else content)])


def deflate(content: list[memoryview | bytes]) -> list[memoryview | bytes]:
    """Return a data set deflated, in one buffer of even length."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = b"".join([*(deflater.compress(part) for part in content), deflater.flush()])
    return [body + b"\0" * (len(body) % 2)]


def _merge(parts: list[memoryview | bytes]) -> list[memoryview | bytes]:
    """Join neighbouring small buffers; large ones stay the views they are."""
    merged: list[memoryview | bytes] = []
    small: list[memoryview | bytes] = []
    for part in parts:
        if len(part) < _LARGE:
            small.append(part)
            continue
        if small:
            merged.append(b"".join(small))
            small = []
        merged.append(part)
    if small:
        merged.append(b"".join(small))
    return merged
