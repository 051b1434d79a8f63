"""Whether a value is made of numbers and nothing else."""

import re
import struct
from typing import Final

_TEXT: Final = re.compile(rb" *(?:[-+]?[0-9]{1,12}(?:\.[0-9]{0,20})?(?:[eE][-+]?[0-9]{1,3})?)? *")
_FORMATS: Final = {b"FD": "d", b"FL": "f", b"SL": "i", b"SS": "h", b"UL": "I", b"US": "H", b"SV": "q", b"UV": "Q"}
_TEXT_VRS: Final = frozenset(b"DS IS LO SH ST LT UT CS".split())
# What measurements lie between; text read as a number of four or eight bytes seldom does.
_LEAST, _LARGEST = 1e-7, 1e8


def all_numbers(value: bytes, vr: bytes, little: bool, count: range) -> bool:
    """Return whether `value`, read by `vr`, has as many numbers as `count` allows and nothing else; nothing at all will do.

    Binary numbers that would be strange as measurements, and whose bytes are all printable, are taken for text.
    """
    if vr in _TEXT_VRS:
        parts = value.rstrip(b" \0").split(b"\\")
        return parts == [b""] or (len(parts) in count and all(_TEXT.fullmatch(part) for part in parts))
    kind = _FORMATS.get(vr)
    width = struct.calcsize(kind) if kind else 0
    if not kind or len(value) % width:
        return False
    numbers = struct.unpack(f"{'<' if little else '>'}{len(value) // width}{kind}", value)
    return not numbers or (len(numbers) in count and all(_plain(value, index, width, number) for index, number in enumerate(numbers)))


def _plain(value: bytes, index: int, width: int, number: float) -> bool:
    if number != number:  # the bits of a NaN can say anything
        return False
    raw = value[index * width : (index + 1) * width]
    return width == 2 or _LEAST <= abs(number) <= _LARGEST or not all(0x20 <= byte < 0x7F for byte in raw)
