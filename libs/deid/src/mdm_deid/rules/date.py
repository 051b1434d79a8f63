"""Dates, times of day and date-times as byte values: read where they can mean one thing only, written as DICOM does, moved."""

import re
from collections.abc import Callable
from datetime import date, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

_PADDING: Final = b" \0"
_MONTHS: Final = {month: number for number, month in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_MONTH: Final = (
    rb"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?"
    rb"|dec(?:ember)?)"
)
_COMPACT: Final = re.compile(rb"(\d{4})(\d\d)(\d\d)")
_YEAR_FIRST: Final = re.compile(rb"(\d{4})(?P<mark>[-./: ])(\d{1,2})(?P=mark)(\d{1,2})")
_YEAR_LAST: Final = re.compile(rb"(\d{1,2})(?P<mark>[-./ ])(\d{1,2})(?P=mark)(\d{4})")
_DAY_OF_MONTH: Final = re.compile(rb"(\d{1,2})[-. /]{0,2}" + _MONTH + rb"[-. /,]{0,2}(\d{4})", re.IGNORECASE)
_MONTH_AND_DAY: Final = re.compile(_MONTH + rb"[-. /]{1,2}(\d{1,2})[-. /,]{1,2}(\d{4})", re.IGNORECASE)
_CLOCK: Final = re.compile(rb"(\d\d)(?:(\d\d)(?:(\d\d)(?:[.,](\d{0,6})\d*)?)?)?|(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d{0,6})\d*)?)?")
_ZONE: Final = re.compile(rb"Z|([-+])(\d\d):?(00|15|30|45)")
_PARTIAL: Final = re.compile(rb"(\d{4})(?:-?(\d\d))?(?P<zone>[-+]\d{4})?")
# Without a mark too; a year of two digits may come first or last.
_UNCERTAIN: Final = re.compile(rb"(\d{1,2})(?P<mark>[-./ ])(\d{1,2})(?P=mark)(\d{4}|\d\d)(?!\d)|(\d\d)(\d\d)(\d\d)(?!\d)")
_CENTURIES: Final = (b"19", b"20")
# A date, and after it a time of day and an offset from UTC, set apart as in ISO 8601 or not at all.
_DATE_TIME: Final = re.compile(
    rb"(?P<date>\d{8}|\d{4}:\d\d:\d\d(?= )|[^:T]*?\d{4}(?:[-./ ]\d{1,2}){2}|[^:T]*\d{4})"
    rb"(?:(?P<mark>[T ]?)(?P<clock>\d[\d:.,]*))? ?(?P<zone>Z|[-+]\d\d:?\d\d)?"
)
_LATEST_ZONE: Final = 14
# No writing of a date-time is longer; what is takes time to match.
_LONGEST: Final = 40
NOT_MOVED: Final = timedelta()


class Moment(NamedTuple):
    """A date-time: the day, how many digits of the date were given, and what follows the date as DT has it."""

    day: date
    digits: int
    rest: bytes = b""


def _day(year: bytes, month: bytes, day: bytes) -> date | None:
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def _text(value: bytes) -> bytes:
    text = value.strip(_PADDING)
    return text if len(text) <= _LONGEST else b""


def read_date(value: bytes) -> date | None:
    """Return the date that one value of VR DA means, None where it means none or could mean two.

    Beside DA and the ACR-NEMA form: years of four digits first, as in ISO 8601 and Exif; last with the month's English name, or if day and
    month cannot be exchanged (`17/03/2021`); and a date-time's date.
    """
    return _date(_text(value))


@lru_cache(1024)
def date_digits(value: bytes) -> bytes:
    """Return the date that one value of VR DA or DT means as `YYYYMMDD`; nothing where `read_date` returns none."""
    day = read_date(value)
    return b"" if day is None else _written(day)


@lru_cache(1024)
def possible_digits(value: bytes) -> tuple[bytes, ...]:
    """Return every date that one value of VR DA or DT may mean as `YYYYMMDD`: one if it can be read, else each of its readings."""
    if certain := date_digits(value):
        return (certain,)
    match = _UNCERTAIN.match(_text(value))
    if match is None:
        return ()
    first, second, third = (part for part in match.group(1, 3, 4, 5, 6, 7) if part is not None)
    if len(third) == len("YYYY"):
        orders = [(third, second, first), (third, first, second)]
    else:
        short = [(third, second, first), (third, first, second), (first, second, third)]
        orders = [(century + year.rjust(2, b"0"), month, day) for century in _CENTURIES for year, month, day in short]
    days = dict.fromkeys(_day(*order) for order in orders)
    return tuple(_written(day) for day in days if day is not None)


@lru_cache(1024)
def _date(text: bytes) -> date | None:
    found = _date_alone(text)
    if found is None and (moment := _moment(text)) is not None and moment.digits == len("YYYYMMDD"):
        found = moment.day
    return found


def _date_alone(text: bytes) -> date | None:
    if match := _COMPACT.fullmatch(text):
        return _day(*match.groups())
    if match := _YEAR_FIRST.fullmatch(text):
        return _day(match[1], match[3], match[4])
    if match := _YEAR_LAST.fullmatch(text):
        readings = {_day(match[4], match[3], match[1]), _day(match[4], match[1], match[3])} - {None}
        return readings.pop() if len(readings) == 1 else None
    if match := _DAY_OF_MONTH.fullmatch(text):
        return _day(match[3], b"%d" % _MONTHS[match[2][:3].lower()], match[1])
    if match := _MONTH_AND_DAY.fullmatch(text):
        return _day(match[3], b"%d" % _MONTHS[match[1][:3].lower()], match[2])
    return None


def read_time(value: bytes) -> bytes | None:
    """Return one value of VR TM as DICOM writes it (`HHMMSS.FFFFFF`, as much as it has); None where it is no time of day.

    Beside TM: with colons as in ACR-NEMA, and a date-time's time unless it has an offset from UTC, which TM cannot say.
    """
    text = _text(value)
    clock = _clock(text)
    if clock is None and (moment := _moment(text)) is not None and not _ZONE.search(moment.rest):
        clock = moment.rest or None
    return clock


def _clock(text: bytes) -> bytes | None:
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hour, minute, second, fraction = match.groups()[:4] if match[1] else match.groups()[4:]
    try:
        # DICOM has leap seconds.
        time(int(hour), int(minute or 0), min(int(second or 0), 59) if int(second or 0) <= 60 else 60)
    except ValueError:
        return None
    written = b"".join(part.rjust(2, b"0") for part in (hour, minute, second) if part is not None)
    return written + (b"." + fraction if fraction else b"")


@lru_cache(1024)
def _moment(text: bytes) -> Moment | None:
    """Read a date-time: DT, or ISO 8601."""
    if match := _PARTIAL.fullmatch(text):
        zone = _zone(match["zone"])
        # The middle stands for a year or month as a whole.
        day = _day(match[1], match[2] or b"7", b"15" if match[2] else b"1")
        return None if day is None or zone is None else Moment(day, 6 if match[2] else 4, zone)
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        return None
    day, zone = _date_alone(match["date"].strip()), _zone(match["zone"])
    clock = _clock(match["clock"]) if match["clock"] else b""
    if day is None or zone is None or clock is None:
        return None
    return Moment(day, 8, clock + zone)


def _zone(text: bytes | None) -> bytes | None:
    """Return an offset from UTC as DT has it, nothing for none, None for one that no place has."""
    if not text:
        return b""
    match = _ZONE.fullmatch(text)
    if match is None or (match[1] and int(match[2]) > _LATEST_ZONE):
        return None
    return b"".join(match.groups()) if match[1] else b"+0000"


def _written(day: date, digits: int = 8) -> bytes:
    return f"{day.year:04d}{day.month:02d}{day.day:02d}".encode("ascii")[:digits]


def _moved_date(part: bytes, offset: timedelta) -> bytes:
    day = read_date(part)
    return b"" if day is None else _written(day + offset)


def _moved_date_time(part: bytes, offset: timedelta) -> bytes:
    moment = _moment(_text(part))
    if moment is None:
        return _moved_date(part, offset)
    return _written(moment.day + offset, moment.digits) + moment.rest


def _same_time(part: bytes, _: timedelta) -> bytes:
    return read_time(part) or b""


_MOVED: Final[dict[bytes, Callable[[bytes, timedelta], bytes]]] = {b"DA": _moved_date, b"DT": _moved_date_time, b"TM": _same_time}


def shifted(vr: bytes, old: bytes, offset: timedelta) -> bytes:
    """Return each value of a DA, DT or TM as DICOM writes it, dates moved by `offset`; one that cannot be read becomes empty.

    Time of day and offset from UTC stay. A date of a year alone, or year and month, keeps that precision: its middle is moved.
    Under another VR the value is taken for a date-time. Nothing is returned if no value could be read.
    """
    move = _MOVED.get(vr, _moved_date_time)
    parts = [_shift(move, part, offset) for part in old.split(b"\\")]
    return b"\\".join(parts) if any(parts) else b""


def _shift(move: Callable[[bytes, timedelta], bytes], part: bytes, offset: timedelta) -> bytes:
    try:
        return move(part, offset)
    except OverflowError:
        return b""
