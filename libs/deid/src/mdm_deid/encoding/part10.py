"""The Part 10 envelope (PS3.10 section 7): preamble and file meta information in, our own out."""

import zlib
from dataclasses import dataclass
from typing import Final

from pydicom._uid_dict import UID_dictionary

from mdm_deid.encoding.codec import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, UNDEFINED, Encoding
from mdm_deid.outcome import Malformed

IMPLEMENTATION_CLASS_UID: Final = "2.25.208447311519284602935067418295317460283"
IMPLEMENTATION_VERSION: Final = "MDM_DEID_1"
MAX_INPUT: Final = 0xFFFFFFF0
MAX_INFLATED: Final = 512 << 20
_PREAMBLE: Final = 128
_SOP_CLASS: Final = 0x00020002
_TRANSFER_SYNTAX: Final = 0x00020010
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_ENCODINGS = {"1.2.840.10008.1.2": IMPLICIT_LE, "1.2.840.10008.1.2.2": EXPLICIT_BE}
# The data set itself is compressed by, or its pixels are elsewhere in, ways this module does not undo.
_UNSUPPORTED = frozenset({"1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.204", "1.2.840.10008.1.2.4.205"})


@dataclass(frozen=True)
class Part10:
    """A file opened: its transfer syntax, how the data set is encoded, and the data set (inflated if it was deflated)."""

    transfer_syntax: str
    sop_class: str
    encoding: Encoding
    data: memoryview
    start: int
    deflated: bool


def open_part10(content: bytes | memoryview) -> Part10:
    """Read the envelope.

    Raises:
        Malformed: not a Part 10 file, or a transfer syntax whose encoding is not known.
    """
    data = memoryview(content).cast("B")
    if len(data) < _PREAMBLE + 4 or bytes(data[_PREAMBLE : _PREAMBLE + 4]) != b"DICM":
        raise Malformed("not_part10")
    if len(data) > MAX_INPUT:
        raise Malformed("too_large")
    meta, start = _file_meta(data)
    syntax, sop_class = meta.get(_TRANSFER_SYNTAX, ""), meta.get(_SOP_CLASS, "")
    kind = UID_dictionary.get(syntax, ("", ""))[1]
    if kind != "Transfer Syntax" or syntax in _UNSUPPORTED:
        raise Malformed("unknown_transfer_syntax")
    if syntax == _DEFLATED:
        return Part10(syntax, sop_class, EXPLICIT_LE, memoryview(_inflate(data[start:])), 0, True)
    return Part10(syntax, sop_class, _ENCODINGS.get(syntax, EXPLICIT_LE), data, start, False)


def _file_meta(data: memoryview) -> tuple[dict[int, str], int]:
    """Return the two UIDs that matter, by tag, and where the data set begins."""
    pos, meta = _PREAMBLE + 4, dict[int, str]()
    while pos + 8 <= len(data) and bytes(data[pos : pos + 2]) == b"\x02\x00":
        tag, _, value, length = EXPLICIT_LE.header(data, pos, len(data))
        if length == UNDEFINED or value + length > len(data):
            raise Malformed("truncated")
        pos = value + length
        if tag in (_SOP_CLASS, _TRANSFER_SYNTAX):
            meta[tag] = bytes(data[value:pos]).decode("latin-1").strip(" \0")
    return meta, pos


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
    return _merge([head, *(_deflate(content) if opened.deflated else content)])


def _deflate(content: list[memoryview | bytes]) -> list[memoryview | bytes]:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = b"".join([*(deflater.compress(part) for part in content), deflater.flush()])
    return [body + b"\0" * (len(body) % 2)]


_LARGE: Final = 64 << 10


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
