"""Values of merged answers: comparison and arithmetic as in PostgreSQL.

Values are as services send them (dates, timestamps and UUIDs as text), but decimals are `Decimal`; None is NULL. Types are the contract's.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb

INT, FLOAT, NUMERIC = pb.ATTRIBUTE_TYPE_INT, pb.ATTRIBUTE_TYPE_FLOAT, pb.ATTRIBUTE_TYPE_NUMERIC
#: The types of numbers, the narrowest first.
NUMBERS = (INT, NUMERIC, FLOAT)
#: Has so many digits that sums and products of stored values are exact.
EXACT = Context(prec=10_000, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])
_MAX_DECIMALS = 2_000

Value = Any


def decode(kind: int, value: Value) -> Value:
    """Return a sent value for computing."""
    return Decimal(value) if kind == NUMERIC and value is not None else value


def encode(kind: int, value: Value) -> Value:
    """Return a computed value as services send it."""
    if kind != NUMERIC or value is None:
        return value
    return format(abs(value) if value.is_zero() else value, "f")


def comparison_key(kind: int) -> Callable[[Value], Any]:
    """Return a function whose results are equal and ordered as the values, sent or computed, are in PostgreSQL."""
    if kind == NUMERIC:
        return Decimal
    if kind == pb.ATTRIBUTE_TYPE_TIMESTAMP:
        return datetime.fromisoformat
    if kind == FLOAT:
        return lambda value: (value != value, 0.0 if value != value else value)  # NaN equals itself, and is the largest
    return lambda value: value


def widen(kind: int, value: Value) -> Value:
    """Return a number in a type that is at least as wide."""
    if kind == NUMERIC:
        return Decimal(value)
    return float(value) if kind == FLOAT else value


def total(values: Sequence[Value]) -> Value:
    """Return the sum of numbers of one type, as a double or a decimal; None if there are none."""
    if not values:
        return None
    if isinstance(values[0], float):
        return sum(values)
    result = Decimal(0)
    for value in values:
        result = EXACT.add(result, Decimal(value))
    return result


def mean(kind: int, summed: Value, count: int) -> Value:
    """Return the mean of type `kind` from a sum that `total` returned, and a count; None if there are no numbers."""
    if summed is None or not count:
        return None
    if isinstance(summed, float):
        return summed / count
    result = divide(summed, Decimal(count))
    return float(result) if kind == FLOAT else result


def divide(left: Decimal, right: Decimal) -> Decimal:
    """Return left / right with as many digits as PostgreSQL gives: at least 16 significant ones, counted in groups of four."""
    (weight, first), (other_weight, other_first) = _leading(left), _leading(right)
    weight -= other_weight + (first <= other_first)
    scale = min(max(16 - weight * 4, _scale(left), _scale(right), 0), 1_000)
    return round_to(EXACT.divide(left, right), scale)


def round_to(number: Decimal, decimals: int = 0) -> Decimal:
    """Round a number to so many decimals, half away from zero; a negative number of decimals rounds before the point."""
    decimals = max(-_MAX_DECIMALS, min(decimals, _MAX_DECIMALS))
    result = number.quantize(Decimal(1).scaleb(-decimals, EXACT), context=EXACT)
    return result if decimals >= 0 else result.quantize(Decimal(1), context=EXACT)


def to_numeric(number: Value) -> Decimal:
    """Cast a number to NUMERIC; of a double, 15 digits count."""
    return Decimal(f"{number:.15g}") if isinstance(number, float) else Decimal(number)


def _leading(number: Decimal) -> tuple[int, int]:
    """Return the exponent, in groups of four digits, and the value of the first group."""
    if number.is_zero():
        return 0, 0
    exponent = number.adjusted() // 4
    return exponent, int(abs(number).scaleb(-4 * exponent, EXACT))


def _scale(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
