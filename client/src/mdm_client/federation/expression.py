"""Expressions over the merged columns of several sites' answers, with the results that PostgreSQL gives."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Corrupt, Invalid

from mdm_client.federation.value import (
    EXACT,
    FLOAT,
    INT,
    NUMBERS,
    NUMERIC,
    Value,
    comparison_key,
    decode,
    divide,
    round_to,
    to_numeric,
    widen,
)

_BOOL = pb.ATTRIBUTE_TYPE_BOOL

Row = Sequence[Value]
#: Computes a value from a row of merged columns.
Evaluate = Callable[[Row], Value]


@dataclass(frozen=True)
class _Call:
    """An operation's arguments, their types, and the type of its result."""

    arguments: Sequence[Evaluate]
    types: Sequence[int]
    type: int


_Operation = Callable[[_Call], Evaluate]


def compile_expression(expression: pb.MergeExpression) -> Evaluate:
    """Return the function that computes an expression.

    Raises:
        Corrupt: its operation is unknown. The function itself raises Invalid: QUERY_VALUE.
    """
    evaluate = _compile(expression)

    def computed(row: Row) -> Value:
        try:
            return evaluate(row)
        except (ArithmeticError, ValueError):
            problem = "a division by zero, or a number or date out of range"
            raise Invalid("QUERY_VALUE", f"the merged answer needs {problem}; exclude such groups by HAVING") from None

    return computed


def _compile(expression: pb.MergeExpression) -> Evaluate:
    match expression.WhichOneof("part"):
        case "column":
            number = expression.column
            return lambda row: row[number]
        case "constant":
            kind = expression.constant.WhichOneof("kind")
            value = None if kind is None else decode(expression.type, getattr(expression.constant, kind))
            return lambda _row: value
        case "call":
            arguments = expression.call.arguments
            operation = _OPERATIONS.get(expression.call.operation)
            if operation is not None:
                types = [argument.type for argument in arguments]
                return operation(_Call([_compile(argument) for argument in arguments], types, expression.type))
    raise Corrupt("ANSWER_MALFORMED", "metadata: the sites' answers are merged in a way that this version does not know")


def _strict(arguments: Sequence[Evaluate], act: Callable[..., Value]) -> Evaluate:
    """Return a function whose result is NULL if an argument is NULL, else `act` of the arguments' values."""

    def value(row: Row) -> Value:
        values = [argument(row) for argument in arguments]
        return None if None in values else act(*values)

    return value


def _function(act: Callable[..., Value]) -> _Operation:
    """Return an operation made of a function of values."""
    return lambda call: _strict(call.arguments, lambda *values: _checked(call.type, act(*values), values))


def _arithmetic(act: Callable[[Any, Any], Value], exact: Callable[[Decimal, Decimal], Decimal]) -> _Operation:
    """Make an operation on two numbers in the type of its result: `exact` for decimals, `act` for the others."""

    def make(call: _Call) -> Evaluate:
        chosen: Callable[[Any, Any], Value] = exact if call.type == NUMERIC else act

        def value(left: Value, right: Value) -> Value:
            pair = widen(call.type, left), widen(call.type, right)
            return _checked(call.type, chosen(*pair), pair)

        return _strict(call.arguments, value)

    return make


def _checked(kind: int, result: Value, operands: Sequence[Value]) -> Value:
    """Return a result that is in the range of its type."""
    if kind == INT and not -(2**63) <= result < 2**63:
        raise OverflowError
    if kind == FLOAT and math.isinf(result) and all(math.isfinite(operand) for operand in operands):
        raise OverflowError
    return result


def _divided(left: Value, right: Value) -> Value:
    if isinstance(left, float):
        return left / right
    whole = abs(left) // abs(right)
    return whole if (left < 0) == (right < 0) else -whole


def _remainder(left: int, right: int) -> int:
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def _cast(call: _Call) -> Evaluate:
    def value(given: Value) -> Value:
        if call.type == _BOOL:
            return given != 0
        if call.type == INT:
            whole = round(given) if isinstance(given, float) else int(round_to(Decimal(given)))
            return _checked(INT, whole, ())
        return to_numeric(given) if call.type == NUMERIC else float(given)

    return _strict(call.arguments, value)


def _whole(rounding: str, act: Callable[[float], int]) -> _Operation:
    return _function(lambda value: float(act(value)) if isinstance(value, float) else value.to_integral_value(rounding, EXACT))


def _comparable(call: _Call) -> list[Evaluate]:
    """Return the arguments as comparison keys of a common type."""
    kinds = call.types
    common = max(kinds, key=NUMBERS.index) if all(kind in NUMBERS for kind in kinds) else kinds[0]
    key = comparison_key(common)
    return [_strict([argument], lambda value: key(widen(common, value))) for argument in call.arguments]


def _compared(test: Callable[[Any, Any], bool]) -> _Operation:
    return lambda call: _strict(_comparable(call), test)


def _not(argument: Evaluate) -> Evaluate:
    return _strict([argument], lambda value: not value)


def _all_of(arguments: Sequence[Evaluate]) -> Evaluate:
    def value(row: Row) -> Value:
        unknown = False
        for argument in arguments:
            found = argument(row)
            if found is False:
                return False
            unknown = unknown or found is None
        return None if unknown else True

    return value


def _any_of(arguments: Sequence[Evaluate]) -> Evaluate:
    return _not(_all_of([_not(argument) for argument in arguments]))


def _between(call: _Call) -> Evaluate:
    subject, low, high = _comparable(call)
    return _all_of([_strict([subject, low], lambda x, y: x >= y), _strict([subject, high], lambda x, y: x <= y)])


def _in(call: _Call) -> Evaluate:
    subject, *others = _comparable(call)
    return _any_of([_strict([subject, other], lambda x, y: x == y) for other in others])


def _choice(arguments: Sequence[Evaluate]) -> Evaluate:
    """Return the value that follows the first condition that is true; the last argument is the default."""
    branches = list(zip(arguments[:-1:2], arguments[1:-1:2], strict=True))

    def value(row: Row) -> Value:
        for condition, result in branches:
            if condition(row):
                return result(row)
        return arguments[-1](row)

    return value


def _case_of(call: _Call) -> Evaluate:
    subject, *made = call.arguments
    for index in range(0, len(made) - 1, 2):
        made[index] = _equal(_Call((subject, made[index]), (call.types[0], call.types[index + 1]), _BOOL))
    return _choice(made)


def _coalesce(call: _Call) -> Evaluate:
    def value(row: Row) -> Value:
        return next((found for argument in call.arguments if (found := argument(row)) is not None), None)

    return value


def _nullif(call: _Call) -> Evaluate:
    equal = _equal(call)
    return lambda row: None if equal(row) else call.arguments[0](row)


def _best(choose: Callable[..., Value]) -> _Operation:
    def make(call: _Call) -> Evaluate:
        key = comparison_key(call.type)

        def value(row: Row) -> Value:
            found = [value for argument in call.arguments if (value := argument(row)) is not None]
            return choose(found, key=key) if found else None

        return value

    return make


def _is(wanted: Value) -> _Operation:
    return lambda call: lambda row: call.arguments[0](row) is wanted


def _moved(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


_equal = _compared(lambda x, y: bool(x == y))
_OPERATIONS: Mapping[str, _Operation] = {
    "=": _equal,
    "<>": _compared(lambda x, y: bool(x != y)),
    "<": _compared(lambda x, y: bool(x < y)),
    "<=": _compared(lambda x, y: bool(x <= y)),
    ">": _compared(lambda x, y: bool(x > y)),
    ">=": _compared(lambda x, y: bool(x >= y)),
    "+": _arithmetic(lambda x, y: x + y, EXACT.add),
    "-": _arithmetic(lambda x, y: x - y, EXACT.subtract),
    "*": _arithmetic(lambda x, y: x * y, EXACT.multiply),
    "/": _arithmetic(_divided, divide),
    "%": _arithmetic(_remainder, EXACT.remainder),
    "negate": _function(lambda value: -value),
    "ABS": _function(abs),
    "FLOOR": _whole(ROUND_FLOOR, math.floor),
    "CEIL": _whole(ROUND_CEILING, math.ceil),
    "SQRT": _function(math.sqrt),
    "ROUND": _function(lambda number, decimals=0: round_to(to_numeric(number), decimals)),
    "CAST": _cast,
    "AND": lambda call: _all_of(call.arguments),
    "OR": lambda call: _any_of(call.arguments),
    "NOT": lambda call: _not(call.arguments[0]),
    "IS NULL": _is(None),
    "IS TRUE": _is(True),
    "IS FALSE": _is(False),
    "IN": _in,
    "BETWEEN": _between,
    "CASE": lambda call: _choice(call.arguments),
    "CASE OF": _case_of,
    "COALESCE": _coalesce,
    "NULLIF": _nullif,
    "GREATEST": _best(max),
    "LEAST": _best(min),
    "days between": _function(lambda later, earlier: (date.fromisoformat(later) - date.fromisoformat(earlier)).days),
    "days after": _function(_moved),
    "days before": _function(lambda day, days: _moved(day, -days)),
}
