"""Aggregates: COUNT, MIN, MAX, SUM, AVG."""

from collections.abc import Mapping

from sqlglot import exp

from mdm_metadata.rules.model import AttributeType
from mdm_metadata.rules.query.binder import Binder, Handler, plain
from mdm_metadata.rules.query.operation import AGGREGATES
from mdm_metadata.rules.query.tree import Aggregate, Expression

T = AttributeType

_AGGREGATES: Mapping[type, str] = {exp.Min: "min", exp.Max: "max", exp.Sum: "sum", exp.Avg: "avg"}


def _count(binder: Binder, node: exp.Count) -> Expression:
    binder.text.only(node, "this", "big_int")
    if type(node.this) is exp.Star:
        binder.text.only(node.this)
        return _aggregated(binder, node, "count", None)
    return _aggregated(binder, node, "count", node.this)


def _aggregate(binder: Binder, node: exp.Func) -> Expression:
    binder.text.only(node, "this")
    return _aggregated(binder, node, _AGGREGATES[type(node)], node.this)


def _aggregated(binder: Binder, node: exp.Expr, function: str, operand: exp.Expr | None) -> Expression:
    if not binder.aggregates_allowed:
        raise binder.text.refuse(node, "aggregates are allowed in SELECT, HAVING and ORDER BY, not within each other.")
    if operand is None:
        return Aggregate(function, None, False, T.INT)
    distinct = type(operand) is exp.Distinct
    if isinstance(operand, exp.Distinct):
        binder.text.only(operand, "expressions")
        if len(operand.expressions) != 1:
            raise binder.text.refuse(node, "DISTINCT takes one expression here.")
        operand = operand.expressions[0]
    binder.aggregates_allowed = False
    argument = binder.part(operand)
    binder.aggregates_allowed = True
    result = AGGREGATES[function](plain(argument.type))
    if result is None:
        raise binder.text.refuse(node, f"{function.upper()} is not defined for {argument.type.name}.")
    return Aggregate(function, argument, distinct, result[0])


HANDLERS: Mapping[type, Handler] = {exp.Count: _count, **dict.fromkeys(_AGGREGATES, _aggregate)}
