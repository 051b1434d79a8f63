"""Constants of the user's text: their types, and their adaptation to what they meet."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

from mdm_metadata.model import AttributeType
from mdm_metadata.query.tree import Constant, Literal
from mdm_metadata.value import MAX_INT, MIN_INT, parse_date, parse_numeric, parse_text, parse_timestamp, parse_uuid

T = AttributeType
_INTEGER = re.compile(r"\d{1,200}", re.ASCII)
_FROM_TEXT: Mapping[AttributeType, Callable[[object], Constant]] = {T.DATE: parse_date, T.TIMESTAMP: parse_timestamp, T.UUID: parse_uuid}


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

    Text becomes a date, timestamp or UUID; an integer becomes a decimal or a double; a decimal becomes a double; NULL becomes anything.
    """
    if literal.value is None or literal.type is kind:
        return Literal(literal.value, kind)
    if literal.type is T.TEXT and kind in _FROM_TEXT:
        return Literal(_FROM_TEXT[kind](literal.value), kind)
    if kind is T.NUMERIC and isinstance(literal.value, int) and literal.type is T.INT:
        return Literal(Decimal(literal.value), T.NUMERIC)
    if kind is T.FLOAT and literal.type in (T.INT, T.NUMERIC) and isinstance(literal.value, int | Decimal):
        return Literal(float(literal.value), T.FLOAT)
    return None
