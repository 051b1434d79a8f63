"""Expressions: sqlglot's nodes to the typed tree, by allow-list. A node without a row here is refused."""

from collections.abc import Callable, Mapping, Sequence

from sqlglot import exp

from mdm_metadata.model import AttributeType
from mdm_metadata.query import literal
from mdm_metadata.query.check import Text
from mdm_metadata.query.limit import MAX_DEPTH, MAX_TERMS
from mdm_metadata.query.operation import AGGREGATES, CAST_TYPES, FUNCTIONS, NUMBERS
from mdm_metadata.query.scope import Scope, UnknownName, identifier
from mdm_metadata.query.tree import Aggregate, Call, Expression, Literal, LiteralList, walk

T = AttributeType

_COMPARISONS: Mapping[type, str] = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_ARITHMETIC: Mapping[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}
_TEXT_FUNCTIONS: Mapping[type, tuple[str, AttributeType]] = {
    exp.Lower: ("LOWER", T.TEXT),
    exp.Upper: ("UPPER", T.TEXT),
    exp.Trim: ("TRIM", T.TEXT),
    exp.Length: ("LENGTH", T.INT),
}
_ROUNDING: Mapping[type, str] = {exp.Abs: "ABS", exp.Floor: "FLOOR", exp.Ceil: "CEIL"}
_AGGREGATES: Mapping[type, str] = {exp.Min: "min", exp.Max: "max", exp.Sum: "sum", exp.Avg: "avg"}
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
_PARTS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND")


def plain(kind: AttributeType) -> AttributeType:
    """Return the type as expressions see it: VARCHAR is TEXT."""
    return T.TEXT if kind is T.VARCHAR else kind


class Expressions:
    """Binds the expressions of one query."""

    def __init__(self, text: Text, scope: Scope) -> None:
        self._text = text
        self._scope = scope
        self._terms = 0
        self._depth = 0
        self._aggregates_allowed = False
        self._handlers: Mapping[type, Callable[..., Expression]] = {
            exp.Column: self._column,
            exp.Literal: self._literal,
            exp.Boolean: lambda node: Literal(bool(node.this), T.BOOL),
            exp.Null: lambda _: Literal(None, T.TEXT),
            exp.Paren: self._paren,
            exp.Neg: self._negate,
            exp.And: self._logic,
            exp.Or: self._logic,
            exp.Not: self._not,
            exp.Between: self._between,
            exp.In: self._in,
            exp.Is: self._is,
            exp.Like: self._like,
            exp.ILike: self._like,
            exp.Escape: self._like,
            exp.DPipe: self._concatenate,
            exp.Case: self._case,
            exp.Cast: self._cast,
            exp.Nullif: self._nullif,
            exp.Substring: self._substring,
            exp.Sqrt: self._sqrt,
            exp.Round: self._round,
            exp.Extract: self._extract,
            exp.Count: self._count,
            **dict.fromkeys(_COMPARISONS, self._comparison),
            **dict.fromkeys(_ARITHMETIC, self._arithmetic),
            **dict.fromkeys(_TEXT_FUNCTIONS, self._text_function),
            **dict.fromkeys(_ROUNDING, self._rounding),
            **dict.fromkeys(_AGGREGATES, self._aggregate),
            **dict.fromkeys(_CHOICES, self._choice),
        }

    def bind(self, node: exp.Expr, *, aggregates: bool = False) -> Expression:
        """Return the typed expression of a node.

        Raises:
            Refusal: something in it is not allowed, unknown, or of the wrong type.
        """
        self._aggregates_allowed = aggregates
        return self._bind(node)

    def condition(self, node: exp.Expr, *, aggregates: bool = False) -> Expression:
        """Return the typed expression of a node that must be true or false.

        Raises:
            Refusal: as `bind`, and when its type is another.
        """
        self._aggregates_allowed = aggregates
        return self._boolean(node)

    def _bind(self, node: exp.Expr) -> Expression:
        handler = self._handlers.get(type(node))
        if handler is None:
            raise self._refuse_unknown(node)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._text.refuse(node, f"nested more than {MAX_DEPTH} deep.", "QUERY_TOO_DEEP")
        bound = handler(node)
        self._depth -= 1
        return bound

    def _refuse_unknown(self, node: exp.Expr) -> Exception:
        if isinstance(node, exp.Subquery | exp.Query | exp.Exists):
            return self._text.refuse(node, "sub-selects are not allowed: join the collections.")
        if isinstance(node, exp.Func):
            return self._text.refuse(node, f"this function is not allowed here; allowed are {FUNCTIONS}.")
        if isinstance(node, exp.Parameter | exp.Placeholder | exp.SessionParameter):
            return self._text.refuse(node, "parameters are not allowed: write the value.")
        return self._text.refuse(
            node,
            "not allowed here; allowed are attributes, constants, comparisons, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT,"
            f" arithmetic, CASE and the functions {FUNCTIONS}.",
        )

    def _count_term(self, node: exp.Expr, number: int = 1) -> None:
        self._terms += number
        if self._terms > MAX_TERMS:
            raise self._text.refuse(node, f"a query has at most {MAX_TERMS} attributes and constants.", "QUERY_TOO_LONG")

    # Leaves

    def _column(self, node: exp.Column) -> Expression:
        self._text.only(node, "this", "table")
        self._count_term(node)
        name, table = identifier(node.this), node.args.get("table")
        if name is None:
            raise self._text.refuse(node, "* is allowed alone in the SELECT list and in COUNT(*).")
        try:
            return self._scope.column(name, None if table is None else identifier(table))
        except UnknownName as error:
            raise self._text.refuse(node, str(error), "ATTRIBUTE_UNKNOWN") from None

    def _literal(self, node: exp.Literal, *, negative: bool = False) -> Literal:
        self._count_term(node)
        try:
            return literal.text_literal(node.this) if node.is_string else literal.number(node.this, negative=negative)
        except ValueError as error:
            raise self._text.refuse(node, f"{error} is expected.") from None

    def _paren(self, node: exp.Paren) -> Expression:
        self._text.only(node, "this")
        return self._bind(node.this)

    # Logic

    def _boolean(self, node: exp.Expr) -> Expression:
        return self._expect(node, self._bind(node), T.BOOL)

    def _logic(self, node: exp.And | exp.Or) -> Expression:
        operation = "AND" if type(node) is exp.And else "OR"
        terms: list[exp.Expr] = []
        pending: list[exp.Expr] = [node]
        while pending:  # not by recursion: a chain of 2,000 terms is 2,000 deep
            term = pending.pop()
            if type(term) is type(node):
                self._text.only(term, "this", "expression")
                pending += [term.expression, term.this]
            else:
                terms.append(term)
        return Call(operation, tuple(self._boolean(term) for term in terms), T.BOOL)

    def _not(self, node: exp.Not) -> Expression:
        self._text.only(node, "this")
        return Call("NOT", (self._boolean(node.this),), T.BOOL)

    def _is(self, node: exp.Is) -> Expression:
        self._text.only(node, "this", "expression", "negate")
        test = node.expression
        if type(test) is exp.Null:
            bound: Expression = Call("IS NULL", (self._bind(node.this),), T.BOOL)
        elif type(test) is exp.Boolean:
            bound = Call("IS TRUE" if test.this else "IS FALSE", (self._boolean(node.this),), T.BOOL)
        else:
            raise self._text.refuse(node, "IS is allowed with NULL, TRUE and FALSE.")
        return self._negated(node, bound)

    # Comparisons

    def _comparison(self, node: exp.Binary) -> Expression:
        self._text.only(node, "this", "expression")
        left, right = self._unified(node, [self._bind(node.this), self._bind(node.expression)])
        self._ordered(node, left, _COMPARISONS[type(node)])
        return Call(_COMPARISONS[type(node)], (left, right), T.BOOL)

    def _ordered(self, node: exp.Expr, operand: Expression, sign: str) -> None:
        if plain(operand.type) is T.BOOL and sign not in ("=", "<>"):
            raise self._text.refuse(node, "BOOL is compared by = and <>.")

    def _between(self, node: exp.Between) -> Expression:
        self._text.only(node, "this", "low", "high", "negate")
        operand, low, high = self._unified(node, [self._bind(node.this), self._bind(node.args["low"]), self._bind(node.args["high"])])
        self._ordered(node, operand, "BETWEEN")
        if any(isinstance(part, Call) and part.operation == "BETWEEN" for part in walk(operand)):
            raise self._text.refuse(node, "the first operand of BETWEEN has no BETWEEN in it.")
        return self._negated(node, Call("BETWEEN", (operand, low, high), T.BOOL))

    def _negated(self, node: exp.Expr, bound: Expression) -> Expression:
        return Call("NOT", (bound,), T.BOOL) if node.args.get("negate") else bound

    def _in(self, node: exp.In) -> Expression:
        if node.args.get("query") is not None:
            raise self._text.refuse(node, "sub-selects are not allowed: join the collections.")
        self._text.only(node, "this", "expressions", "negate")
        if not node.expressions:
            raise self._text.refuse(node, "IN needs a list of values.")
        operand, *options = self._unified(node, [self._bind(node.this), *(self._bind(option) for option in node.expressions)])
        if all(isinstance(option, Literal) for option in options) and len({option.type for option in options}) == 1:
            values = tuple(option.value for option in options if isinstance(option, Literal))
            return self._negated(node, Call("IN LIST", (operand, LiteralList(values, options[0].type)), T.BOOL))
        return self._negated(node, Call("IN", (operand, *self._converted(node, options)), T.BOOL))

    def _like(self, node: exp.Expr) -> Expression:
        escape = "\\"
        self._text.only(node, "this", "expression", *(() if type(node) is exp.Escape else ("negate",)))
        like = node
        if type(node) is exp.Escape:
            like = node.this
            if type(like) not in (exp.Like, exp.ILike) or type(node.expression) is not exp.Literal or len(str(node.expression.this)) != 1:
                raise self._text.refuse(node, "ESCAPE follows LIKE or ILIKE and is one character.")
            self._text.only(like, "this", "expression", "negate")
            escape = self._text_of(node.expression)
        operand = self._expect(like.this, self._bind(like.this), T.TEXT)
        pattern = self._expect(like.expression, self._bind(like.expression), T.TEXT)
        name = "LIKE" if type(like) is exp.Like else "ILIKE"
        if not isinstance(pattern, Literal):
            name += " ANY PATTERN"
        elif _ends_in_escape(str(pattern.value or ""), escape):
            raise self._text.refuse(like.expression, "the pattern ends in its escape character: double it.")
        return self._negated(like, Call(name, (operand, pattern, Literal(escape, T.TEXT)), T.BOOL))

    def _text_of(self, node: exp.Expr) -> str:
        bound = self._expect(node, self._bind(node), T.TEXT)
        return str(bound.value) if isinstance(bound, Literal) else ""

    # Arithmetic and text

    def _negate(self, node: exp.Neg) -> Expression:
        self._text.only(node, "this")
        if type(node.this) is exp.Literal and not node.this.is_string:
            return self._literal(node.this, negative=True)
        operand = self._number(node.this)
        return Call("negate", (operand,), operand.type)

    def _number(self, node: exp.Expr) -> Expression:
        return self._expect(node, self._bind(node), *NUMBERS)

    def _arithmetic(self, node: exp.Binary) -> Expression:
        self._text.only(node, "this", "expression", "typed", "safe")
        sign = _ARITHMETIC[type(node)]
        left, right = self._bind(node.this), self._bind(node.expression)
        if left.type is T.DATE and sign in "+-" and right.type is T.INT:
            return Call("days after" if sign == "+" else "days before", (left, right), T.DATE)
        if left.type is T.DATE and sign == "-" and right.type is T.DATE:
            return Call("days between", (left, right), T.INT)
        left, right = self._expect(node.this, left, *NUMBERS), self._expect(node.expression, right, *NUMBERS)
        left, right = self._unified(node, [left, right])
        kind = max(left.type, right.type, key=NUMBERS.index)
        if sign == "%" and kind is T.FLOAT:
            raise self._text.refuse(node, "% is allowed with INT and NUMERIC.")
        return Call(sign, (left, right), kind)

    def _concatenate(self, node: exp.DPipe) -> Expression:
        self._text.only(node, "this", "expression", "safe")
        left = self._expect(node.this, self._bind(node.this), T.TEXT)
        return Call("||", (left, self._expect(node.expression, self._bind(node.expression), T.TEXT)), T.TEXT)

    def _text_function(self, node: exp.Func) -> Expression:
        self._text.only(node, "this")
        name, kind = _TEXT_FUNCTIONS[type(node)]
        return Call(name, (self._expect(node.this, self._bind(node.this), T.TEXT),), kind)

    def _substring(self, node: exp.Substring) -> Expression:
        self._text.only(node, "this", "start", "length")
        arguments = [self._expect(node.this, self._bind(node.this), T.TEXT)]
        for part in (node.args.get("start"), node.args.get("length")):
            if part is not None:
                arguments.append(self._expect(part, self._bind(part), T.INT))
        if node.args.get("start") is None:
            raise self._text.refuse(node, "SUBSTRING needs a start: SUBSTRING(text, start, length).")
        return Call("SUBSTRING", tuple(arguments), T.TEXT)

    def _rounding(self, node: exp.Func) -> Expression:
        self._text.only(node, "this")
        operand = self._number(node.this)
        if type(node) is not exp.Abs and operand.type is T.INT:
            return operand
        return Call(_ROUNDING[type(node)], (operand,), operand.type)

    def _sqrt(self, node: exp.Sqrt) -> Expression:
        self._text.only(node, "this")
        return Call("SQRT", (self._number(node.this),), T.FLOAT)

    def _round(self, node: exp.Round) -> Expression:
        self._text.only(node, "this", "decimals")
        operand, decimals = self._number(node.this), node.args.get("decimals")
        if decimals is None:
            return Call("ROUND", (operand,), T.NUMERIC)
        return Call("ROUND TO", (operand, self._expect(decimals, self._bind(decimals), T.INT)), T.NUMERIC)

    def _extract(self, node: exp.Extract) -> Expression:
        self._text.only(node, "this", "expression")
        part = str(node.this.this).upper()
        if type(node.this) is not exp.Var or part not in _PARTS:
            raise self._text.refuse(node, f"EXTRACT is allowed with {', '.join(_PARTS)}.")
        operand = self._expect(node.expression, self._bind(node.expression), T.DATE, T.TIMESTAMP)
        return Call(f"extract {part.lower()}", (operand,), T.FLOAT if part == "SECOND" else T.INT)

    # Choices

    def _case(self, node: exp.Case) -> Expression:
        self._text.only(node, "this", "ifs", "default")
        subject = node.args.get("this")
        branches = node.args["ifs"]
        for branch in branches:
            self._text.only(branch, "this", "true")
        if subject is None:
            whens = [self._boolean(branch.this) for branch in branches]
        else:
            whens = self._unified(node, [self._bind(subject), *(self._bind(branch.this) for branch in branches)])
        default = node.args.get("default")
        thens = [self._bind(branch.args["true"]) for branch in branches]
        thens.append(Literal(None, T.TEXT) if default is None else self._bind(default))
        *thens, otherwise = self._converted(node, thens)
        head = whens[: len(whens) - len(branches)]
        pairs = [part for pair in zip(whens[len(head) :], thens, strict=True) for part in pair]
        return Call("CASE OF" if head else "CASE", (*head, *pairs, otherwise), otherwise.type)

    def _choice(self, node: exp.Func) -> Expression:
        self._text.only(node, "this", "expressions", "ignore_nulls")
        arguments = self._converted(node, [self._bind(part) for part in (node.this, *node.expressions)])
        return Call(_CHOICES[type(node)], tuple(arguments), arguments[0].type)

    def _nullif(self, node: exp.Nullif) -> Expression:
        self._text.only(node, "this", "expression")
        left, right = self._converted(node, [self._bind(node.this), self._bind(node.expression)])
        return Call("NULLIF", (left, right), left.type)

    def _cast(self, node: exp.Cast) -> Expression:
        self._text.only(node, "this", "to")
        target = _CAST_TYPES.get(node.to.this)
        if target is None or any(node.to.args.get(part) for part in ("expressions", "values", "kind")) or node.to.args.get("nested"):
            raise self._text.refuse(node, f"CAST is allowed to {CAST_TYPES}.")
        return self._as(node, self._bind(node.this), target)

    def _as(self, node: exp.Expr, operand: Expression, target: AttributeType) -> Expression:
        if isinstance(operand, Literal):
            try:
                adapted = literal.adapt(operand, target)
            except ValueError as error:
                raise self._text.refuse(node, f"{error} is expected.") from None
            if adapted is not None:
                return adapted
        source = plain(operand.type)
        if source is target:
            return operand
        operation = _cast_operation(source, target)
        if operation is None:
            raise self._text.refuse(node, f"{source.name} cannot be cast to {target.name}.")
        return Call(operation, (operand,), target)

    # Aggregates

    def _count(self, node: exp.Count) -> Expression:
        self._text.only(node, "this", "big_int")
        if type(node.this) is exp.Star:
            self._text.only(node.this)
            return self._aggregated(node, "count", None)
        return self._aggregated(node, "count", node.this)

    def _aggregate(self, node: exp.Func) -> Expression:
        self._text.only(node, "this")
        return self._aggregated(node, _AGGREGATES[type(node)], node.this)

    def _aggregated(self, node: exp.Expr, function: str, operand: exp.Expr | None) -> Expression:
        if not self._aggregates_allowed:
            raise self._text.refuse(node, "aggregates are allowed in SELECT, HAVING and ORDER BY, not within each other.")
        if operand is None:
            return Aggregate(function, None, False, T.INT)
        distinct = type(operand) is exp.Distinct
        if isinstance(operand, exp.Distinct):
            self._text.only(operand, "expressions")
            if len(operand.expressions) != 1:
                raise self._text.refuse(node, "DISTINCT takes one expression here.")
            operand = operand.expressions[0]
        self._aggregates_allowed = False
        argument = self._bind(operand)
        self._aggregates_allowed = True
        result = AGGREGATES[function](plain(argument.type))
        if result is None:
            raise self._text.refuse(node, f"{function.upper()} is not defined for {argument.type.name}.")
        return Aggregate(function, argument, distinct, result[0])

    # Types

    def _expect(self, node: exp.Expr, bound: Expression, *kinds: AttributeType) -> Expression:
        if isinstance(bound, Literal) and bound.value is None:
            return Literal(None, kinds[0])
        if plain(bound.type) not in kinds:
            raise self._text.refuse(node, f"{' or '.join(kind.name for kind in kinds)} is expected, this is {bound.type.name}.")
        return bound

    def _unified(self, node: exp.Expr, operands: Sequence[Expression]) -> list[Expression]:
        """Return operands that can be compared: constants take the type of what they meet, numbers may mix."""
        kinds = [plain(operand.type) for operand in operands if not isinstance(operand, Literal)]
        if not kinds:
            kinds = [operand.type for operand in operands if isinstance(operand, Literal) and operand.value is not None] or [T.TEXT]
        target = max(kinds, key=NUMBERS.index) if all(kind in NUMBERS for kind in kinds) else kinds[0]
        adapted: list[Expression] = []
        for operand in operands:
            if isinstance(operand, Literal):
                adapted.append(self._adapted(node, operand, target))
            elif plain(operand.type) is target or (target in NUMBERS and operand.type in NUMBERS):
                adapted.append(operand)
            else:
                raise self._mismatch(node, operand.type, target)
        return adapted

    def _adapted(self, node: exp.Expr, operand: Literal, target: AttributeType) -> Expression:
        try:
            adapted = literal.adapt(operand, target)
        except ValueError as error:
            raise self._text.refuse(node, f"compared with {target.name}: {error} is expected.") from None
        if adapted is None and target in NUMBERS and operand.type in NUMBERS:
            return operand  # INT with 0.5: compared as decimals
        if adapted is None:
            raise self._mismatch(node, operand.type, target)
        return adapted

    def _converted(self, node: exp.Expr, operands: Sequence[Expression]) -> list[Expression]:
        """Return operands of exactly one type, for the branches of a choice."""
        unified = self._unified(node, operands)
        kinds = [plain(operand.type) for operand in unified]
        target = max(kinds, key=NUMBERS.index) if all(kind in NUMBERS for kind in kinds) else kinds[0]
        return [self._as(node, operand, target) for operand in unified]

    def _mismatch(self, node: exp.Expr, one: AttributeType, other: AttributeType) -> Exception:
        return self._text.refuse(node, f"{one.name} and {other.name} cannot be compared or mixed: CAST one of them.")


def _cast_operation(source: AttributeType, target: AttributeType) -> str | None:
    if source is T.TEXT:
        return f"text→{target.name.lower()}"
    if target is T.TEXT:
        return f"{source.name.lower()}→text" if source in (T.DATE, T.TIMESTAMP) else "any→text"
    if source in NUMBERS and target in NUMBERS:
        return f"number→{target.name.lower()}"
    pair = f"{source.name.lower()}→{target.name.lower()}"
    return pair if pair in ("int→bool", "bool→int", "timestamp→date", "date→timestamp") else None


def _ends_in_escape(pattern: str, escape: str) -> bool:
    position = 0
    while position < len(pattern):
        if pattern[position] == escape:
            if position + 1 == len(pattern):
                return True
            position += 1
        position += 1
    return False
