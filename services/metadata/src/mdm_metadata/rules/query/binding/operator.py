"""Operators: logic, comparisons, BETWEEN, IN, LIKE, arithmetic, concatenation."""

from collections.abc import Mapping

from sqlglot import exp

from mdm_metadata.rules.model import AttributeType
from mdm_metadata.rules.query.binding.expression_binder import Binder, Handler, plain
from mdm_metadata.rules.query.syntax.operation import NUMBERS
from mdm_metadata.rules.query.syntax.tree import Call, Expression, Literal, LiteralList, walk

T = AttributeType

_COMPARISONS: Mapping[type, str] = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_ARITHMETIC: Mapping[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}


def _logic(binder: Binder, node: exp.And | exp.Or) -> Expression:
    operation = "AND" if type(node) is exp.And else "OR"
    terms: list[exp.Expr] = []
    pending: list[exp.Expr] = [node]
    while pending:  # not by recursion: a chain of 2,000 terms is 2,000 deep
        term = pending.pop()
        if type(term) is type(node):
            binder.text.only(term, "this", "expression")
            pending += [term.expression, term.this]
        else:
            terms.append(term)
    return Call(operation, tuple(binder.boolean(term) for term in terms), T.BOOL)


def _not(binder: Binder, node: exp.Not) -> Expression:
    binder.text.only(node, "this")
    return Call("NOT", (binder.boolean(node.this),), T.BOOL)


def _is(binder: Binder, node: exp.Is) -> Expression:
    binder.text.only(node, "this", "expression", "negate")
    test = node.expression
    if type(test) is exp.Null:
        bound: Expression = Call("IS NULL", (binder.part(node.this),), T.BOOL)
    elif type(test) is exp.Boolean:
        bound = Call("IS TRUE" if test.this else "IS FALSE", (binder.boolean(node.this),), T.BOOL)
    else:
        raise binder.text.refuse(node, "IS is allowed only with NULL, TRUE and FALSE.")
    return _negated(node, bound)


def _comparison(binder: Binder, node: exp.Binary) -> Expression:
    binder.text.only(node, "this", "expression")
    left, right = binder.unified(node, [binder.part(node.this), binder.part(node.expression)])
    _ordered(binder, node, left, _COMPARISONS[type(node)])
    return Call(_COMPARISONS[type(node)], (left, right), T.BOOL)


def _ordered(binder: Binder, node: exp.Expr, operand: Expression, sign: str) -> None:
    if plain(operand.type) is T.BOOL and sign not in ("=", "<>"):
        raise binder.text.refuse(node, "BOOL allows only the comparisons = and <>.")


def _between(binder: Binder, node: exp.Between) -> Expression:
    binder.text.only(node, "this", "low", "high", "negate")
    operand, low, high = binder.unified(node, [binder.part(node.this), binder.part(node.args["low"]), binder.part(node.args["high"])])
    _ordered(binder, node, operand, "BETWEEN")
    if any(isinstance(part, Call) and part.operation == "BETWEEN" for part in walk(operand)):
        raise binder.text.refuse(node, "the first operand of BETWEEN must not contain another BETWEEN.")
    return _negated(node, Call("BETWEEN", (operand, low, high), T.BOOL))


def _negated(node: exp.Expr, bound: Expression) -> Expression:
    return Call("NOT", (bound,), T.BOOL) if node.args.get("negate") else bound


def _in(binder: Binder, node: exp.In) -> Expression:
    if node.args.get("query") is not None:
        raise binder.text.refuse(node, "sub-selects are not allowed: join the collections.")
    binder.text.only(node, "this", "expressions", "negate")
    if not node.expressions:
        raise binder.text.refuse(node, "IN needs a list of values.")
    operand, *options = binder.unified(node, [binder.part(node.this), *(binder.part(option) for option in node.expressions)])
    if all(isinstance(option, Literal) and not option.name for option in options) and len({option.type for option in options}) == 1:
        values = tuple(option.value for option in options if isinstance(option, Literal))
        return _negated(node, Call("IN LIST", (operand, LiteralList(values, options[0].type)), T.BOOL))
    return _negated(node, Call("IN", (operand, *binder.converted(node, options)), T.BOOL))


def _like(binder: Binder, node: exp.Expr) -> Expression:
    escape = "\\"
    binder.text.only(node, "this", "expression", *(() if type(node) is exp.Escape else ("negate",)))
    like = node
    if type(node) is exp.Escape:
        like = node.this
        if type(like) not in (exp.Like, exp.ILike) or type(node.expression) is not exp.Literal or len(str(node.expression.this)) != 1:
            raise binder.text.refuse(node, "ESCAPE must follow LIKE or ILIKE and be one character.")
        binder.text.only(like, "this", "expression", "negate")
        escape = _text_of(binder, node.expression)
    operand = binder.expect(like.this, binder.part(like.this), T.TEXT)
    pattern = binder.expect(like.expression, binder.part(like.expression), T.TEXT)
    name = "LIKE" if type(like) is exp.Like else "ILIKE"
    if not isinstance(pattern, Literal) or pattern.name:
        name += " ANY PATTERN"
    elif _ends_in_escape(str(pattern.value or ""), escape):
        raise binder.text.refuse(like.expression, "the pattern ends in its escape character: double it.")
    return _negated(like, Call(name, (operand, pattern, Literal(escape, T.TEXT)), T.BOOL))


def _text_of(binder: Binder, node: exp.Expr) -> str:
    bound = binder.expect(node, binder.part(node), T.TEXT)
    return str(bound.value) if isinstance(bound, Literal) else ""


def _ends_in_escape(pattern: str, escape: str) -> bool:
    position = 0
    while position < len(pattern):
        if pattern[position] == escape:
            if position + 1 == len(pattern):
                return True
            position += 1
        position += 1
    return False


def _negate(binder: Binder, node: exp.Neg) -> Expression:
    binder.text.only(node, "this")
    if type(node.this) is exp.Literal and not node.this.is_string:
        return binder.literal(node.this, negative=True)
    operand = binder.number(node.this)
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
        raise binder.text.refuse(node, "% is allowed only with INT and NUMERIC.")
    return Call(sign, (left, right), kind)


def _concatenate(binder: Binder, node: exp.DPipe) -> Expression:
    binder.text.only(node, "this", "expression", "safe")
    left = binder.expect(node.this, binder.part(node.this), T.TEXT)
    return Call("||", (left, binder.expect(node.expression, binder.part(node.expression), T.TEXT)), T.TEXT)


HANDLERS: Mapping[type, Handler] = {
    exp.And: _logic,
    exp.Or: _logic,
    exp.Not: _not,
    exp.Between: _between,
    exp.In: _in,
    exp.Is: _is,
    exp.Like: _like,
    exp.ILike: _like,
    exp.Escape: _like,
    **dict.fromkeys(_COMPARISONS, _comparison),
    exp.Neg: _negate,
    exp.DPipe: _concatenate,
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
}
