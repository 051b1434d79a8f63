"""Data sets without the Part 10 envelope: their encoding is read where the file states it, else found by elimination."""

from typing import Final

from mdm_deid.encoding.codec import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, PIXEL_DATA, UNDEFINED, Encoding, skip
from mdm_deid.outcome import Malformed

_PREAMBLE: Final = 128
_SOP_CLASS: Final = 0x00080016
# Also file meta information in an encoding that it must not have.
_FIRST_GROUPS: Final = (b"\x08\0", b"\0\x08", b"\x02\0", b"\0\x02")
_META_GROUP: Final = b"\x02\0"
_SYNTAXES: Final = (("1.2.840.10008.1.2", IMPLICIT_LE), ("1.2.840.10008.1.2.1", EXPLICIT_LE), ("1.2.840.10008.1.2.2", EXPLICIT_BE))


def file_meta_start(data: memoryview) -> int | None:
    """Return where the file meta information begins in a file whose preamble or prefix is missing; None if it has none either."""
    head = bytes(data[: _PREAMBLE + 6])
    if head[:6] == b"DICM" + _META_GROUP:
        return 4
    if head[:2] == _META_GROUP and head[4:6] in (b"UL", b"OB", b"UI"):
        return 0
    zeros = head[:_PREAMBLE] == bytes(_PREAMBLE)
    return _PREAMBLE if zeros and head[_PREAMBLE : _PREAMBLE + 2] == _META_GROUP else None


def bare_start(data: memoryview) -> int | None:
    """Return where a data set without file meta information begins, by its first group; None if there is none."""
    for start in (0, _PREAMBLE):
        if bytes(data[start : start + 2]) in _FIRST_GROUPS and not any(data[:start]):
            return start
    return None


def transfer_syntax(data: memoryview, start: int) -> str:
    """Return the only transfer syntax in which `data` from `start` to the end is a data set that names its SOP class.

    Raises:
        Malformed: `uncertain_encoding`, no transfer syntax or more than one fits; `unknown_transfer_syntax`, the pixel data are
            compressed, and only the missing envelope could say how.
    """
    fitting = [(uid, encoding) for uid, encoding in _SYNTAXES if _fits(data, start, encoding)]
    if len(fitting) != 1:
        raise Malformed("uncertain_encoding")
    uid, encoding = fitting[0]
    if _compressed(data, start, encoding):
        raise Malformed("unknown_transfer_syntax")
    return uid


def _fits(data: memoryview, start: int, encoding: Encoding) -> bool:
    """Return whether all elements from `start` on are in ascending order, and the last one ends where the file does."""
    pos, last, named = start, 0, False
    try:
        while pos < len(data):
            head = encoding.header(data, pos, len(data))
            if head[0] <= last and pos > start:
                return False
            pos, last = skip(data, head, len(data), encoding), head[0]
            named |= last == _SOP_CLASS and bytes(data[head[2] : pos]).startswith(b"1.")
    except Malformed:
        return False
    return named


def _compressed(data: memoryview, start: int, encoding: Encoding) -> bool:
    pos = start
    while pos < len(data):
        head = encoding.header(data, pos, len(data))
        if head[0] == PIXEL_DATA:
            return head[3] == UNDEFINED
        pos = skip(data, head, len(data), encoding)
    return False
