"""Federated queries: one site's part of a query over several sites, and the plan to merge the parts into one answer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from mdm_wire.errors import Invalid

from mdm_metadata.rules.model import AttributeType
from mdm_metadata.rules.query.syntax.operation import AGGREGATES
from mdm_metadata.rules.query.syntax.tree import Aggregate, Call, Expression, Literal, LiteralList, Output, Query, walk

T = AttributeType
_MOST = 2**53


class MergeKind(IntEnum):
    """How the values of one column are merged; the numbers are those of the contract."""

    KEY = 1
    SUM = 2
    MIN = 3
    MAX = 4
    AVG = 5
    COUNT = 6
    COUNT_DISTINCT = 7
    SUM_DISTINCT = 8
    AVG_DISTINCT = 9
    COMPUTED = 10


_KINDS = {"count": MergeKind.COUNT, "sum": MergeKind.SUM, "min": MergeKind.MIN, "max": MergeKind.MAX}
_DISTINCT_KINDS = {"count": MergeKind.COUNT_DISTINCT, "sum": MergeKind.SUM_DISTINCT, "avg": MergeKind.AVG_DISTINCT}
#: Operations that the client evaluates on merged columns, and their names in the contract.
_OPERATIONS: Mapping[str, str] = {
    **{sign: sign for sign in ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "AND", "OR", "NOT", "IN", "BETWEEN", "negate")},
    **{name: name for name in ("IS NULL", "IS TRUE", "IS FALSE", "CASE", "CASE OF", "COALESCE", "NULLIF", "GREATEST", "LEAST")},
    **{name: name for name in ("ABS", "FLOOR", "CEIL", "SQRT", "ROUND", "days between", "days after", "days before")},
    **dict.fromkeys(("number→int", "number→numeric", "number→float", "int→bool", "bool→int"), "CAST"),
    "IN LIST": "IN",
    "ROUND TO": "ROUND",
}


@dataclass(frozen=True)
class MergedColumn:
    """A column of the whole answer, used in an expression."""

    number: int
    type: AttributeType


@dataclass(frozen=True)
class MergeCall:
    """An operation on columns of the whole answer, under its name in the contract."""

    operation: str
    arguments: tuple["MergeExpression", ...]
    type: AttributeType


MergeExpression = MergedColumn | Literal | MergeCall


@dataclass(frozen=True)
class MergeColumn:
    """A column of the whole answer: made of the part's column `source`; an average of that sum and the count in `count_source`."""

    kind: MergeKind
    source: int
    count_source: int
    output: Output
    expression: MergeExpression | None = None


@dataclass(frozen=True)
class MergeOrder:
    """A criterion of order over the columns of the whole answer."""

    column: int
    descending: bool
    nulls_first: bool


@dataclass(frozen=True)
class MergePlan:
    """How to merge the parts: the first `visible` columns are the answer, the others are needed to order or compute it."""

    columns: tuple[MergeColumn, ...]
    visible: int
    order: tuple[MergeOrder, ...]
    grouped: bool
    distinct: bool
    limit: int | None
    offset: int
    having: MergeExpression | None = None
    single: bool = False


def split(query: Query) -> tuple[Query, MergePlan]:
    """Return the part of a query that one site answers, and the merge plan for the answers of several.

    The values of a DISTINCT aggregate become groups of the part: distinct values can be counted only with those of all sites.

    Raises:
        Invalid: QUERY_NOT_MERGEABLE: the answer cannot be computed from the sites' answers.
    """
    expressions = [output.expression for output in query.outputs] + [order.expression for order in query.order_by]
    grouped = bool(query.group_by) or query.having is not None
    grouped = grouped or any(isinstance(part, Aggregate) for item in expressions for part in walk(item))
    return _Splitter(query, grouped).split()


class _Splitter:
    """Splits one query."""

    def __init__(self, query: Query, grouped: bool) -> None:
        self._query = query
        self._grouped = grouped
        self._outputs: list[Output] = []
        self._columns: list[MergeColumn] = []
        self._numbers: dict[Expression, int] = {}
        self._groups = set(query.group_by)
        self._distinct: dict[Expression, None] = {}

    def split(self) -> tuple[Query, MergePlan]:
        query = self._query
        for output in query.outputs:
            self._add(output)
        visible = len(self._columns)
        order = tuple(MergeOrder(self._column_of(item.expression), item.descending, item.nulls_first) for item in query.order_by)
        for key in query.group_by:
            self._column_of(key)
        having = None if query.having is None else self._merged(query.having)
        self._compute()
        offset = query.offset or 0
        limit = None if query.limit is None or self._grouped else min(query.limit + offset, _MOST)
        part = replace(
            query,
            outputs=tuple(self._outputs),
            group_by=(*query.group_by, *self._distinct),
            having=None,
            order_by=() if self._grouped else query.order_by,
            limit=limit,
            offset=None,
            distinct=query.distinct and not self._grouped,
        )
        single = self._grouped and not query.group_by
        columns = tuple(self._columns)
        return part, MergePlan(columns, visible, order, self._grouped, query.distinct, query.limit, offset, having, single)

    def _column_of(self, expression: Expression) -> int:
        if expression not in self._numbers:
            self._add(Output("", expression, expression.type))
        return self._numbers[expression]

    def _add(self, output: Output) -> None:
        expression = output.expression
        self._numbers.setdefault(expression, len(self._columns))
        if isinstance(expression, Aggregate):
            self._columns.append(self._aggregate(output, expression))
        elif self._grouped and expression not in self._groups:
            self._columns.append(MergeColumn(MergeKind.COMPUTED, 0, 0, output))
        else:
            self._columns.append(MergeColumn(MergeKind.KEY, self._part(output), 0, output))

    def _compute(self) -> None:
        """Set the expression of each computed column; other values that it needs become further columns."""
        for number, column in enumerate(self._columns[:]):
            if column.kind is MergeKind.COMPUTED:
                self._columns[number] = replace(column, expression=self._merged(column.output.expression))

    def _merged(self, expression: Expression) -> MergeExpression:
        if isinstance(expression, Aggregate) or expression in self._groups:
            return MergedColumn(self._column_of(expression), expression.type)
        if isinstance(expression, Literal):
            return expression
        assert isinstance(expression, Call)  # the binder lets nothing else stand beside GROUP BY
        operation = _OPERATIONS.get(expression.operation)
        if operation is None:
            raise _refused(expression.operation.partition("→")[0])
        arguments: list[MergeExpression] = []
        for argument in expression.arguments:
            if isinstance(argument, LiteralList):
                arguments.extend(Literal(value, argument.type) for value in argument.values)
            else:
                arguments.append(self._merged(argument))
        return MergeCall(operation, tuple(arguments), expression.type)

    def _aggregate(self, output: Output, aggregate: Aggregate) -> MergeColumn:
        function, argument = aggregate.function, aggregate.argument
        if aggregate.distinct and argument is not None and function in _DISTINCT_KINDS:
            if argument not in self._groups:
                self._distinct[argument] = None
            return MergeColumn(_DISTINCT_KINDS[function], self._part(Output("", argument, argument.type)), 0, output)
        if function != "avg":
            return MergeColumn(_KINDS[function], self._part(replace(output, expression=replace(aggregate, distinct=False))), 0, output)
        assert argument is not None
        result = AGGREGATES["sum"](argument.type)
        assert result is not None
        total = self._part(Output("", Aggregate("sum", argument, False, result[0]), result[0]))
        count = self._part(Output("", Aggregate("count", argument, False, T.INT), T.INT))
        return MergeColumn(MergeKind.AVG, total, count, output)

    def _part(self, output: Output) -> int:
        self._outputs.append(output)
        return len(self._outputs) - 1


def _refused(what: str) -> Invalid:
    return Invalid(
        "QUERY_NOT_MERGEABLE",
        f"Over several sites, {what} of an aggregate or a group is not merged: use arithmetic, comparisons, AND, OR, NOT, IN, BETWEEN,"
        " IS NULL, CASE, COALESCE, NULLIF, GREATEST, LEAST, ABS, CEIL, FLOOR, ROUND and SQRT there, group by it, or ask one site.",
    )
