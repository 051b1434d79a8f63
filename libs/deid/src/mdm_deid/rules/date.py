"""Dates moved by a patient's offset and ages capped, at byte level."""

import re
from datetime import date, timedelta
from typing import Final

_AGE: Final = re.compile(rb"\d{3}[DWMY]")
# DA as it is and as ACR-NEMA wrote it, DT with as much as it has.
_DATE: Final = re.compile(rb"(\d{4})(?:\.(\d\d)\.(\d\d)|(\d\d)(?:(\d\d)(\d*(?:\.\d*)?)?)?)?([+-]\d{4})?")
OLDEST_AGE: Final = 89


def shifted(old: bytes, offset: timedelta, fallback: bytes) -> bytes:
    """Return each date or date-time of a multi-valued value moved by `offset`; one that is no date becomes `fallback`.

    Time of day and offset from UTC stay. A date of a year alone, or year and month, keeps that precision: its middle is moved.
    """
    return b"\\".join(_shift(part.strip(b" \0"), offset, fallback) for part in old.split(b"\\"))


def _shift(old: bytes, offset: timedelta, fallback: bytes) -> bytes:
    match = _DATE.fullmatch(old)
    if match is None:
        return fallback if old else old
    year, month, day = match[1], match[2] or match[4], match[3] or match[5]
    try:
        moved = date(int(year), int(month or 7), int(day or (15 if month else 1))) + offset
    except (ValueError, OverflowError):
        return fallback
    written = f"{moved.year:04d}{moved.month:02d}{moved.day:02d}".encode("ascii")
    return written[: 8 if day else 6 if month else 4] + (match[6] or b"") + (match[7] or b"")


def capped_age(old: bytes) -> bytes:
    """Return an age with everything above 89 years as 090Y; nothing if it is no age."""
    age = old.strip(b" \0")
    if not _AGE.fullmatch(age):
        return b""
    years = int(age[:3]) / {b"Y": 1, b"M": 12, b"W": 52, b"D": 365}[age[3:]]
    return b"090Y" if years >= OLDEST_AGE + 1 else age
