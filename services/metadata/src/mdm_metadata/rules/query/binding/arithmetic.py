"""Arithmetic: signs, rounding, roots, days between dates, parts of dates."""

from collections.abc import Mapping

from sqlglot import exp

from mdm_metadata.rules.model import AttributeType
from mdm_metadata.rules.query.binding.binder import Binder, Handler
from mdm_metadata.rules.query.syntax.operation import NUMBERS
from mdm_metadata.rules.query.syntax.tree import Call, Expression

T = AttributeType

_ARITHMETIC: Mapping[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}
_ROUNDING: Mapping[type, str] = {exp.Abs: "ABS", exp.Floor: "FLOOR", exp.Ceil: "CEIL"}
_PARTS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND")


def _negate(binder: Binder, node: exp.Neg) -> Expression:
    binder.text.only(node, "this")
    if type(node.this) is exp.Literal and not node.this.is_string:
        return binder.literal(node.this, negative=True)
    operand = _number(binder, node.this)
    return Call("negate", (operand,), operand.type)


def _arithmetic(binder: Binder, node: exp.Binary) -> Expression:
    binder.text.only(node, "this", "expression", "typed", "safe")
    sign = _ARITHMETIC[type(node)]
    left, right = binder.part(node.this), binder.part(node.expression)
    if left.type is T.DATE and sign in "+-" and right.type is T.INT:
        return Call("days after" if sign == "+" else "days before", (left, right), T.DATE)
    if left.type is T.DATE and sign == "-" and right.type is T.DATE:
        return Call("days between", (left, right), T.INT)
    left, right = binder.expect(node.this, left, *NUMBERS), binder.expect(node.expression, right, *NUMBERS)
    left, right = binder.unified(node, [left, right])
    kind = max(left.type, right.type, key=NUMBERS.index)
    if sign == "%" and kind is T.FLOAT:
        raise binder.text.refuse(node, "% is allowed with INT and NUMERIC.")
    return Call(sign, (left, right), kind)


def _rounding(binder: Binder, node: exp.Func) -> Expression:
    binder.text.only(node, "this")
    operand = _number(binder, node.this)
    if type(node) is not exp.Abs and operand.type is T.INT:
        return operand
    return Call(_ROUNDING[type(node)], (operand,), operand.type)


def _sqrt(binder: Binder, node: exp.Sqrt) -> Expression:
    binder.text.only(node, "this")
    return Call("SQRT", (_number(binder, node.this),), T.FLOAT)


def _round(binder: Binder, node: exp.Round) -> Expression:
    binder.text.only(node, "this", "decimals")
    operand, decimals = _number(binder, node.this), node.args.get("decimals")
    if decimals is None:
        return Call("ROUND", (operand,), T.NUMERIC)
    return Call("ROUND TO", (operand, binder.expect(decimals, binder.part(decimals), T.INT)), T.NUMERIC)


def _extract(binder: Binder, node: exp.Extract) -> Expression:
    binder.text.only(node, "this", "expression")
    part = str(node.this.this).upper()
    if type(node.this) is not exp.Var or part not in _PARTS:
        raise binder.text.refuse(node, f"EXTRACT is allowed with {', '.join(_PARTS)}.")
    operand = binder.expect(node.expression, binder.part(node.expression), T.DATE, T.TIMESTAMP)
    return Call(f"extract {part.lower()}", (operand,), T.FLOAT if part == "SECOND" else T.INT)


def _number(binder: Binder, node: exp.Expr) -> Expression:
    return binder.expect(node, binder.part(node), *NUMBERS)


HANDLERS: Mapping[type, Handler] = {
    exp.Neg: _negate,
    exp.Sqrt: _sqrt,
    exp.Round: _round,
    exp.Extract: _extract,
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    **dict.fromkeys(_ROUNDING, _rounding),
}
