"""The handlers of expressions, by kind of node: names, constants, functions, casts, aggregates; and the table of all, the allow-list."""

from collections.abc import Mapping

from sqlglot import exp

from mdm_metadata.rules.model import AttributeType
from mdm_metadata.rules.query.binding import operator
from mdm_metadata.rules.query.binding.expression_binder import Binder, Handler, plain
from mdm_metadata.rules.query.binding.scope import Scope, UnknownName, identifier
from mdm_metadata.rules.query.syntax.operation import AGGREGATES, CAST_TYPES
from mdm_metadata.rules.query.syntax.parse import Text
from mdm_metadata.rules.query.syntax.tree import Aggregate, Call, Expression, Literal

T = AttributeType

_TEXT_FUNCTIONS: Mapping[type, tuple[str, AttributeType]] = {
    exp.Lower: ("LOWER", T.TEXT),
    exp.Upper: ("UPPER", T.TEXT),
    exp.Trim: ("TRIM", T.TEXT),
    exp.Length: ("LENGTH", T.INT),
}
_CHOICES: Mapping[type, str] = {exp.Coalesce: "COALESCE", exp.Greatest: "GREATEST", exp.Least: "LEAST"}
_DT = exp.DataType.Type
_CAST_TYPES: Mapping[object, AttributeType] = {
    _DT.INT: T.INT,
    _DT.BIGINT: T.INT,
    _DT.FLOAT: T.FLOAT,
    _DT.DOUBLE: T.FLOAT,
    _DT.DECIMAL: T.NUMERIC,
    _DT.TEXT: T.TEXT,
    _DT.VARCHAR: T.TEXT,
    _DT.BOOLEAN: T.BOOL,
    _DT.DATE: T.DATE,
    _DT.TIMESTAMP: T.TIMESTAMP,
    _DT.TIMESTAMPTZ: T.TIMESTAMP,
    _DT.UUID: T.UUID,
}
_ROUNDING: Mapping[type, str] = {exp.Abs: "ABS", exp.Floor: "FLOOR", exp.Ceil: "CEIL"}
_PARTS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND")
_AGGREGATES: Mapping[type, str] = {exp.Min: "min", exp.Max: "max", exp.Sum: "sum", exp.Avg: "avg"}


def expressions(text: Text, scope: Scope, parameters: Mapping[str, Literal]) -> Binder:
    """Return the binder of one query's expressions."""
    return Binder(text, scope, _HANDLERS, parameters)


def _column(binder: Binder, node: exp.Column) -> Expression:
    binder.text.only(node, "this", "table")
    binder.count_term(node)
    name, table = identifier(node.this), node.args.get("table")
    if name is None:
        raise binder.text.refuse(node, "* is allowed only by itself in the SELECT list and in COUNT(*).")
    try:
        return binder.scope.column(name, None if table is None else identifier(table))
    except UnknownName as error:
        raise binder.text.refuse(node, str(error), "ATTRIBUTE_UNKNOWN") from None


def _literal(binder: Binder, node: exp.Literal) -> Expression:
    return binder.literal(node)


def _parameter(binder: Binder, node: exp.Placeholder) -> Expression:
    return binder.parameter(node, node.args.get("this"))


def _paren(binder: Binder, node: exp.Paren) -> Expression:
    binder.text.only(node, "this")
    return binder.part(node.this)


def _text_function(binder: Binder, node: exp.Func) -> Expression:
    binder.text.only(node, "this")
    name, kind = _TEXT_FUNCTIONS[type(node)]
    return Call(name, (binder.expect(node.this, binder.part(node.this), T.TEXT),), kind)


def _substring(binder: Binder, node: exp.Substring) -> Expression:
    binder.text.only(node, "this", "start", "length")
    arguments = [binder.expect(node.this, binder.part(node.this), T.TEXT)]
    for part in (node.args.get("start"), node.args.get("length")):
        if part is not None:
            arguments.append(binder.expect(part, binder.part(part), T.INT))
    if node.args.get("start") is None:
        raise binder.text.refuse(node, "SUBSTRING needs a start: SUBSTRING(text, start, length).")
    return Call("SUBSTRING", tuple(arguments), T.TEXT)


def _rounding(binder: Binder, node: exp.Func) -> Expression:
    binder.text.only(node, "this")
    operand = binder.number(node.this)
    if type(node) is not exp.Abs and operand.type is T.INT:
        return operand
    return Call(_ROUNDING[type(node)], (operand,), operand.type)


def _sqrt(binder: Binder, node: exp.Sqrt) -> Expression:
    binder.text.only(node, "this")
    return Call("SQRT", (binder.number(node.this),), T.FLOAT)


def _round(binder: Binder, node: exp.Round) -> Expression:
    binder.text.only(node, "this", "decimals")
    operand, decimals = binder.number(node.this), node.args.get("decimals")
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


def _case(binder: Binder, node: exp.Case) -> Expression:
    binder.text.only(node, "this", "ifs", "default")
    subject = node.args.get("this")
    branches = node.args["ifs"]
    for branch in branches:
        binder.text.only(branch, "this", "true")
    if subject is None:
        whens = [binder.boolean(branch.this) for branch in branches]
    else:
        whens = binder.unified(node, [binder.part(subject), *(binder.part(branch.this) for branch in branches)])
    default = node.args.get("default")
    thens = [binder.part(branch.args["true"]) for branch in branches]
    thens.append(Literal(None, T.TEXT) if default is None else binder.part(default))
    *thens, otherwise = binder.converted(node, thens)
    head = whens[: len(whens) - len(branches)]
    pairs = [part for pair in zip(whens[len(head) :], thens, strict=True) for part in pair]
    return Call("CASE OF" if head else "CASE", (*head, *pairs, otherwise), otherwise.type)


def _choice(binder: Binder, node: exp.Func) -> Expression:
    binder.text.only(node, "this", "expressions", "ignore_nulls")
    arguments = binder.converted(node, [binder.part(part) for part in (node.this, *node.expressions)])
    return Call(_CHOICES[type(node)], tuple(arguments), arguments[0].type)


def _nullif(binder: Binder, node: exp.Nullif) -> Expression:
    binder.text.only(node, "this", "expression")
    left, right = binder.converted(node, [binder.part(node.this), binder.part(node.expression)])
    return Call("NULLIF", (left, right), left.type)


def _cast(binder: Binder, node: exp.Cast) -> Expression:
    binder.text.only(node, "this", "to")
    target = _CAST_TYPES.get(node.to.this)
    if target is None or any(node.to.args.get(part) for part in ("expressions", "values", "kind")) or node.to.args.get("nested"):
        raise binder.text.refuse(node, f"CAST is allowed to {CAST_TYPES}.")
    return binder.cast(node, binder.part(node.this), target)


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
            raise binder.text.refuse(node, "DISTINCT needs exactly one expression here.")
        operand = operand.expressions[0]
    binder.aggregates_allowed = False
    argument = binder.part(operand)
    binder.aggregates_allowed = True
    result = AGGREGATES[function](plain(argument.type))
    if result is None:
        raise binder.text.refuse(node, f"{function.upper()} is not defined for {argument.type.name}.")
    return Aggregate(function, argument, distinct, result[0])


_HANDLERS: Mapping[type, Handler] = {
    exp.Column: _column,
    exp.Literal: _literal,
    exp.Placeholder: _parameter,
    exp.Boolean: lambda _, node: Literal(bool(node.this), T.BOOL),
    exp.Null: lambda _binder, _node: Literal(None, T.TEXT),
    exp.Paren: _paren,
    exp.Case: _case,
    exp.Cast: _cast,
    exp.Nullif: _nullif,
    exp.Substring: _substring,
    **dict.fromkeys(_TEXT_FUNCTIONS, _text_function),
    **dict.fromkeys(_CHOICES, _choice),
    exp.Count: _count,
    **dict.fromkeys(_AGGREGATES, _aggregate),
    exp.Sqrt: _sqrt,
    exp.Round: _round,
    exp.Extract: _extract,
    **dict.fromkeys(_ROUNDING, _rounding),
    **operator.HANDLERS,
}
