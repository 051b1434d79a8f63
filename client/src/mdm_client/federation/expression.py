"""Expressions over the merged columns of several sites' answers, evaluated as PostgreSQL would."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Corrupt, Invalid

from mdm_client.federation.value import EXACT, FLOAT, INT, NUMBERS, NUMERIC, Value, decimal_of, key_of, quotient, read, rounded, widened

_BOOL = pb.ATTRIBUTE_TYPE_BOOL

Row = Sequence[Value]
#: Computes a value from a row of merged columns.
Part = Callable[[Row], Value]


@dataclass(frozen=True)
class _Call:
    """An operation's arguments, their types, and the type of what it gives."""

    parts: Sequence[Part]
    kinds: Sequence[int]
    kind: int


_Make = Callable[[_Call], Part]


def compiled(expression: pb.MergeExpression) -> Part:
    """Return what computes an expression.

    Raises:
        Corrupt: it is not understood. What is returned raises Invalid where a value does not exist.
    """
    part = _part(expression)

    def computed(row: Row) -> Value:
        try:
            return part(row)
        except (ArithmeticError, ValueError):
            problem = "a division by zero, or a number or date out of range"
            raise Invalid("QUERY_VALUE", f"the merged answer needs {problem}; leave such groups out in HAVING") from None

    return computed


def _part(expression: pb.MergeExpression) -> Part:
    match expression.WhichOneof("part"):
        case "column":
            number = expression.column
            return lambda row: row[number]
        case "constant":
            kind = expression.constant.WhichOneof("kind")
            value = None if kind is None else read(expression.type, getattr(expression.constant, kind))
            return _always(value)
        case "call":
            arguments = expression.call.arguments
            make = _OPERATIONS.get(expression.call.operation)
            if make is not None:
                return make(_Call([_part(argument) for argument in arguments], [argument.type for argument in arguments], expression.type))
    raise Corrupt("ANSWER_MALFORMED", "metadata: the sites' answers are merged in a way that this version does not know")


def _always(value: Value) -> Part:
    def constant(_: Row) -> Value:
        return value

    return constant


def _strict(parts: Sequence[Part], act: Callable[..., Value]) -> Part:
    """Return what is NULL where a part is; `act` takes the values."""

    def value(row: Row) -> Value:
        values = [part(row) for part in parts]
        return None if None in values else act(*values)

    return value


def _function(act: Callable[..., Value]) -> _Make:
    """Make a function that is NULL where an argument is."""
    return lambda call: _strict(call.parts, lambda *values: _checked(call.kind, act(*values), values))


def _arithmetic(act: Callable[[Any, Any], Value], exact: Callable[[Decimal, Decimal], Decimal]) -> _Make:
    """Make an operation on two numbers in the type of its result: `exact` for decimals, `act` for the others."""

    def make(call: _Call) -> Part:
        chosen: Callable[[Any, Any], Value] = exact if call.kind == NUMERIC else act

        def value(left: Value, right: Value) -> Value:
            pair = widened(call.kind, left), widened(call.kind, right)
            return _checked(call.kind, chosen(*pair), pair)

        return _strict(call.parts, value)

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


def _cast(call: _Call) -> Part:
    def value(given: Value) -> Value:
        if call.kind == _BOOL:
            return given != 0
        if call.kind == INT:
            whole = round(given) if isinstance(given, float) else int(rounded(Decimal(given)))
            return _checked(INT, whole, ())
        return decimal_of(given) if call.kind == NUMERIC else float(given)

    return _strict(call.parts, value)


def _whole(rounding: str, act: Callable[[float], int]) -> _Make:
    return _function(lambda value: float(act(value)) if isinstance(value, float) else value.to_integral_value(rounding, EXACT))


def _comparable(call: _Call) -> list[Part]:
    """Return what gives the arguments' values as they are compared with one another."""
    kinds = call.kinds
    common = max(kinds, key=NUMBERS.index) if all(kind in NUMBERS for kind in kinds) else kinds[0]
    key = key_of(common)
    return [_strict([part], lambda value: key(widened(common, value))) for part in call.parts]


def _compared(test: Callable[[Any, Any], bool]) -> _Make:
    return lambda call: _strict(_comparable(call), test)


def _not(part: Part) -> Part:
    return _strict([part], lambda value: not value)


def _all_of(parts: Sequence[Part]) -> Part:
    def value(row: Row) -> Value:
        unknown = False
        for part in parts:
            found = part(row)
            if found is False:
                return False
            unknown = unknown or found is None
        return None if unknown else True

    return value


def _any_of(parts: Sequence[Part]) -> Part:
    return _not(_all_of([_not(part) for part in parts]))


def _between(call: _Call) -> Part:
    subject, low, high = _comparable(call)
    return _all_of([_strict([subject, low], lambda x, y: x >= y), _strict([subject, high], lambda x, y: x <= y)])


def _in(call: _Call) -> Part:
    subject, *others = _comparable(call)
    return _any_of([_strict([subject, other], lambda x, y: x == y) for other in others])


def _choice(parts: Sequence[Part]) -> Part:
    """Return the value behind the first condition that is true; the last part is the default."""
    branches = list(zip(parts[:-1:2], parts[1:-1:2], strict=True))

    def value(row: Row) -> Value:
        for condition, result in branches:
            if condition(row):
                return result(row)
        return parts[-1](row)

    return value


def _case_of(call: _Call) -> Part:
    subject, *made = call.parts
    for index in range(0, len(made) - 1, 2):
        made[index] = _equal(_Call((subject, made[index]), (call.kinds[0], call.kinds[index + 1]), _BOOL))
    return _choice(made)


def _coalesce(call: _Call) -> Part:
    def value(row: Row) -> Value:
        return next((found for part in call.parts if (found := part(row)) is not None), None)

    return value


def _nullif(call: _Call) -> Part:
    equal = _equal(call)
    return lambda row: None if equal(row) else call.parts[0](row)


def _best(choose: Callable[..., Value]) -> _Make:
    def make(call: _Call) -> Part:
        key = key_of(call.kind)

        def value(row: Row) -> Value:
            found = [value for part in call.parts if (value := part(row)) is not None]
            return choose(found, key=key) if found else None

        return value

    return make


def _is(wanted: Value) -> _Make:
    return lambda call: lambda row: call.parts[0](row) is wanted


def _moved(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


_equal = _compared(lambda x, y: bool(x == y))
_OPERATIONS: Mapping[str, _Make] = {
    "=": _equal,
    "<>": _compared(lambda x, y: bool(x != y)),
    "<": _compared(lambda x, y: bool(x < y)),
    "<=": _compared(lambda x, y: bool(x <= y)),
    ">": _compared(lambda x, y: bool(x > y)),
    ">=": _compared(lambda x, y: bool(x >= y)),
    "+": _arithmetic(lambda x, y: x + y, EXACT.add),
    "-": _arithmetic(lambda x, y: x - y, EXACT.subtract),
    "*": _arithmetic(lambda x, y: x * y, EXACT.multiply),
    "/": _arithmetic(_divided, quotient),
    "%": _arithmetic(_remainder, EXACT.remainder),
    "negate": _function(lambda value: -value),
    "ABS": _function(abs),
    "FLOOR": _whole(ROUND_FLOOR, math.floor),
    "CEIL": _whole(ROUND_CEILING, math.ceil),
    "SQRT": _function(math.sqrt),
    "ROUND": _function(lambda number, decimals=0: rounded(decimal_of(number), decimals)),
    "CAST": _cast,
    "AND": lambda call: _all_of(call.parts),
    "OR": lambda call: _any_of(call.parts),
    "NOT": lambda call: _not(call.parts[0]),
    "IS NULL": _is(None),
    "IS TRUE": _is(True),
    "IS FALSE": _is(False),
    "IN": _in,
    "BETWEEN": _between,
    "CASE": lambda call: _choice(call.parts),
    "CASE OF": _case_of,
    "COALESCE": _coalesce,
    "NULLIF": _nullif,
    "GREATEST": _best(max),
    "LEAST": _best(min),
    "days between": _function(lambda later, earlier: (date.fromisoformat(later) - date.fromisoformat(earlier)).days),
    "days after": _function(_moved),
    "days before": _function(lambda day, days: _moved(day, -days)),
}
