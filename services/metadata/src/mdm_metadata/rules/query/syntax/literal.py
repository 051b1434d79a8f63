"""Constants of a query: literals in its text and the values of its parameters, their types, and conversions between these."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

from mdm_wire.errors import Invalid

from mdm_metadata.rules.model import AttributeType, Scalar
from mdm_metadata.rules.query.syntax.tree import Constant, Literal
from mdm_metadata.rules.value import (
    MAX_INT,
    MIN_INT,
    parse_bool,
    parse_date,
    parse_int,
    parse_numeric,
    parse_text,
    parse_timestamp,
    parse_uuid,
)

T = AttributeType
_INTEGER = re.compile(r"\d{1,200}", re.ASCII)
_SIGNED = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_BOOLS = {"true": True, "false": False}
MAX_PARAMETERS = 1_000
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_PARAMETER_TYPES = {bool: T.BOOL, int: T.INT, float: T.FLOAT}
#: A caller's parameters by name, each `:name` in the text.
Parameters = Mapping[str, Literal]
Parse = Callable[[object], Constant]
_FROM_TEXT: Mapping[AttributeType, Parse] = {T.DATE: parse_date, T.TIMESTAMP: parse_timestamp, T.UUID: parse_uuid}


def number(text: str, *, negative: bool = False) -> Literal:
    """Return the literal of a number: INT when it is a 64-bit integer, NUMERIC otherwise; ValueError when it is neither."""
    if _INTEGER.fullmatch(text):
        value = -int(text) if negative else int(text)
        if MIN_INT <= value <= MAX_INT:
            return Literal(value, T.INT)
    decimal = parse_numeric(text)
    return Literal(-decimal if negative else decimal, T.NUMERIC)


def text_literal(text: str) -> Literal:
    """Return the literal of a text; ValueError when it cannot be stored."""
    return Literal(parse_text(text), T.TEXT)


def adapt(literal: Literal, kind: AttributeType) -> Literal | None:
    """Return `literal` as a constant of type `kind`, None when there is no such constant; ValueError when its text is malformed.

    Text becomes a date, timestamp or UUID, and as a parameter's value any type; an integer becomes a decimal or a double; a decimal
    becomes a double; NULL becomes anything.
    """
    if literal.value is None or literal.type is kind:
        return Literal(literal.value, kind, literal.name)
    parsers = _FROM_PARAMETER if literal.name else _FROM_TEXT
    if literal.type is T.TEXT and kind in parsers:
        return Literal(parsers[kind](literal.value), kind, literal.name)
    if kind is T.NUMERIC and isinstance(literal.value, int) and literal.type is T.INT:
        return Literal(Decimal(literal.value), T.NUMERIC, literal.name)
    if kind is T.FLOAT and literal.type in (T.INT, T.NUMERIC) and isinstance(literal.value, int | Decimal):
        return Literal(float(literal.value), T.FLOAT, literal.name)
    return None


def to_constants(values: Mapping[str, Scalar]) -> dict[str, Literal]:
    """Return a caller's parameters as constants, each of the type of its value; NULL counts as TEXT.

    Raises:
        Invalid: too many, an invalid name, or a value that cannot be stored.
    """
    if len(values) > MAX_PARAMETERS:
        raise Invalid("PARAMETER_INVALID", f"A query has at most {MAX_PARAMETERS} parameters.")
    return {_checked(name): _constant(name, value) for name, value in values.items()}


def _int_of(text: object) -> int:
    return parse_int(int(text) if isinstance(text, str) and _SIGNED.fullmatch(text) else None)


def _float_of(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        raise ValueError("a double") from None


def _bool_of(text: object) -> bool:
    return parse_bool(_BOOLS.get(str(text).lower()))


def _checked(name: str) -> str:
    if not _PARAMETER_NAME.fullmatch(name):
        raise Invalid("PARAMETER_INVALID", "The name of a parameter is a letter or _, then letters, digits or _, at most 63 in all.")
    return name


def _constant(name: str, value: Scalar) -> Literal:
    kind = _PARAMETER_TYPES.get(type(value))
    if kind is not None:
        return Literal(value, kind, name)
    try:
        return Literal(None if value is None else text_literal(str(value)).value, T.TEXT, name)
    except ValueError as error:
        raise Invalid("PARAMETER_INVALID", f"Parameter {name}: {error} is expected.") from None


_FROM_PARAMETER: Mapping[AttributeType, Parse] = {
    **_FROM_TEXT,
    T.INT: _int_of,
    T.FLOAT: _float_of,
    T.NUMERIC: parse_numeric,
    T.BOOL: _bool_of,
}
