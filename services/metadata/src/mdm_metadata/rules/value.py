"""Values of attributes: validation, and the form in which they are stored."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from uuid import UUID

from mdm_wire.errors import Invalid

from mdm_metadata.rules.model import MAX_INDEXED_TEXT, MAX_TEXT, Attribute, AttributeType, Scalar

MIN_INT = -(2**63)
MAX_INT = 2**63 - 1
#: Decimals stay within what a double can hold, so that comparing one with a FLOAT never fails.
MAX_EXPONENT = 300
MAX_DIGITS = 200
EPOCH_DATE = date(1970, 1, 1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NUMERIC = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}(:?\d{2})?)", re.ASCII)


def parse_int(value: object) -> int:
    """Return a 64-bit integer; ValueError for anything else."""
    if type(value) is not int or not MIN_INT <= value <= MAX_INT:
        raise ValueError("a 64-bit integer")
    return value


def parse_float(value: object) -> float:
    """Return a double; integers within its exact range are accepted too; ValueError for anything else."""
    if type(value) is int and abs(value) <= 2**53:
        return float(value)
    if type(value) is not float:
        raise ValueError("a double")
    return value


def parse_numeric(value: object) -> Decimal:
    """Return a decimal of at most 200 digits and exponent 300 from its text or an integer; ValueError for anything else."""
    expected = f"a decimal as text, at most {MAX_DIGITS} digits and exponent {MAX_EXPONENT}"
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not _NUMERIC.fullmatch(text):
        raise ValueError(expected)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(expected) from None
    if len(number.as_tuple().digits) > MAX_DIGITS or abs(number.adjusted()) > MAX_EXPONENT:
        raise ValueError(expected)
    return number


def parse_text(value: object) -> str:
    """Return text without NUL or lone surrogates; ValueError for anything else."""
    if not isinstance(value, str) or "\0" in value or len(value) > MAX_TEXT:
        raise ValueError(f"text of at most {MAX_TEXT} characters without NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("text in Unicode") from None
    return value


def parse_bool(value: object) -> bool:
    """Return a truth value; ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def parse_date(value: object) -> date:
    """Return a date from YYYY-MM-DD; ValueError for anything else."""
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError("a date as YYYY-MM-DD")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("a date as YYYY-MM-DD") from None


def parse_timestamp(value: object) -> datetime:
    """Return a moment in UTC from ISO 8601 with an offset; ValueError for anything else."""
    expected = "a timestamp as YYYY-MM-DDTHH:MM:SS with an offset such as Z or +01:00"
    if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
        raise ValueError(expected)
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(expected) from None


def parse_uuid(value: object) -> UUID:
    """Return a UUID from its text; ValueError for anything else."""
    if not isinstance(value, str) or len(value) != 36:
        raise ValueError("a UUID in canonical form")
    try:
        return UUID(value)
    except ValueError:
        raise ValueError("a UUID in canonical form") from None


def _store_float(value: object) -> Scalar:
    number = parse_float(value)
    return number if math.isfinite(number) else str(number)  # JSON has no infinities; PostgreSQL reads "nan" and "inf"


def _store_timestamp(value: object) -> Scalar:
    return (parse_timestamp(value) - EPOCH) // timedelta(microseconds=1)


_STORE: Mapping[AttributeType, Callable[[object], Scalar]] = {
    AttributeType.INT: parse_int,
    AttributeType.FLOAT: _store_float,
    AttributeType.NUMERIC: lambda value: format(parse_numeric(value), "f"),
    AttributeType.TEXT: parse_text,
    AttributeType.VARCHAR: parse_text,
    AttributeType.BOOL: parse_bool,
    AttributeType.DATE: lambda value: (parse_date(value) - EPOCH_DATE).days,
    AttributeType.TIMESTAMP: _store_timestamp,
    AttributeType.UUID: lambda value: str(parse_uuid(value)),
}


def to_stored(attribute: Attribute, value: Scalar) -> Scalar:
    """Return `value` in its stored form: dates as days, timestamps as microseconds since 1970, decimals as text.

    Raises:
        Invalid: it is not of the attribute's type; the message names attribute and type, never the value.
    """
    if value is None:
        return None
    try:
        stored = _STORE[attribute.type](value)
    except ValueError as error:
        raise Invalid("VALUE_TYPE", f"Attribute {attribute.name} is {attribute.type.name}: {error} is expected.") from None
    if isinstance(stored, str):
        _check_length(attribute, stored)
    return stored


def to_scalar(kind: AttributeType, given: object) -> Scalar:
    """Return a value that PostgreSQL computed, in the form that callers use."""
    if kind is AttributeType.FLOAT and isinstance(given, int):
        return float(given)
    return given if given is None or isinstance(given, int | float | bool) else str(given)


def _check_length(attribute: Attribute, text: str) -> None:
    limit = attribute.length or (MAX_INDEXED_TEXT if attribute.indexed else MAX_TEXT)
    if attribute.type in (AttributeType.TEXT, AttributeType.VARCHAR) and len(text) > limit:
        raise Invalid("VALUE_LENGTH", f"Attribute {attribute.name} is {attribute.type.name}: at most {limit} characters.")


def digest(attribute: Attribute, stored: Scalar) -> bytes:
    """Return the SHA-256 of a normal form of the stored value; equal values of one attribute have equal digests."""
    if attribute.type is AttributeType.NUMERIC:
        stored = format(Decimal(str(stored)).normalize(), "f")
    if stored == 0:
        stored = 0  # -0.0
    return hashlib.sha256(f"{stored}".encode()).digest()
