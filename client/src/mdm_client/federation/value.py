"""Values of merged answers: compared, added up and divided as PostgreSQL does.

Values are as they are sent (dates, timestamps and UUIDs as text), only decimals are `Decimal`s; None is NULL. Types are the contract's.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb

INT, FLOAT, NUMERIC = pb.ATTRIBUTE_TYPE_INT, pb.ATTRIBUTE_TYPE_FLOAT, pb.ATTRIBUTE_TYPE_NUMERIC
#: Numbers, from the narrow to the wide.
NUMBERS = (INT, NUMERIC, FLOAT)
#: Enough digits for sums and products of what the service stores to be exact.
EXACT = Context(prec=10_000, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])
_MAX_DECIMALS = 2_000

Value = Any


def read(kind: int, value: Value) -> Value:
    """Return a value as it was sent in the form in which it is computed with."""
    return Decimal(value) if kind == NUMERIC and value is not None else value


def shown(kind: int, value: Value) -> Value:
    """Return a computed value as it would have been sent."""
    if kind != NUMERIC or value is None:
        return value
    return format(abs(value) if value.is_zero() else value, "f")


def key_of(kind: int) -> Callable[[Value], Any]:
    """Return what makes of values, as sent or computed, something that is equal and ordered as they are in PostgreSQL."""
    if kind == NUMERIC:
        return Decimal
    if kind == pb.ATTRIBUTE_TYPE_TIMESTAMP:
        return datetime.fromisoformat
    if kind == FLOAT:
        return lambda value: (value != value, 0.0 if value != value else value)  # NaN equals itself, and is the largest
    return lambda value: value


def widened(kind: int, value: Value) -> Value:
    """Return a number as one of a type that is at least as wide."""
    if kind == NUMERIC:
        return Decimal(value)
    return float(value) if kind == FLOAT else value


def total_of(values: Sequence[Value]) -> Value:
    """Return the sum of numbers of one type, a double or a decimal; None of none."""
    if not values:
        return None
    if isinstance(values[0], float):
        return sum(values)
    total = Decimal(0)
    for value in values:
        total = EXACT.add(total, Decimal(value))
    return total


def mean_of(kind: int, total: Value, count: int) -> Value:
    """Return the mean of type `kind` from a sum as `total_of` gives it, and a count; None of none."""
    if total is None or not count:
        return None
    if isinstance(total, float):
        return total / count
    mean = quotient(total, Decimal(count))
    return float(mean) if kind == FLOAT else mean


def quotient(left: Decimal, right: Decimal) -> Decimal:
    """Return left / right with as many digits as PostgreSQL gives: 16 significant ones, counted in groups of four, at least."""
    (weight, first), (other_weight, other_first) = _leading(left), _leading(right)
    weight -= other_weight + (first <= other_first)
    scale = min(max(16 - weight * 4, _scale(left), _scale(right), 0), 1_000)
    return rounded(EXACT.divide(left, right), scale)


def rounded(number: Decimal, decimals: int = 0) -> Decimal:
    """Return a number with so many decimals, half away from zero; below zero, with so many zeros before the point."""
    decimals = max(-_MAX_DECIMALS, min(decimals, _MAX_DECIMALS))
    result = number.quantize(Decimal(1).scaleb(-decimals, EXACT), context=EXACT)
    return result if decimals >= 0 else result.quantize(Decimal(1), context=EXACT)


def decimal_of(number: Value) -> Decimal:
    """Return a number as it is cast to NUMERIC: of a double, 15 digits."""
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
