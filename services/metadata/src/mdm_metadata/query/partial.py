"""One site's part of a query over several sites: what it answers, and how the answers become one."""

from dataclasses import dataclass, replace
from enum import IntEnum

from mdm_service.errors import Invalid

from mdm_metadata.model import AttributeType
from mdm_metadata.query.operation import AGGREGATES
from mdm_metadata.query.tree import Aggregate, Expression, Output, Query, walk

T = AttributeType
_MOST = 2**53


class MergeKind(IntEnum):
    """How values of one column become one; the numbers are those of the contract."""

    KEY = 1
    SUM = 2
    MIN = 3
    MAX = 4
    AVG = 5


_KINDS = {"count": MergeKind.SUM, "sum": MergeKind.SUM, "min": MergeKind.MIN, "max": MergeKind.MAX}


@dataclass(frozen=True)
class MergeColumn:
    """A column of the whole answer: made of the part's column `source`; an average of that sum and the count in `count_source`."""

    kind: MergeKind
    source: int
    count_source: int
    output: Output


@dataclass(frozen=True)
class MergeOrder:
    """A criterion of order over the columns of the whole answer."""

    column: int
    descending: bool
    nulls_first: bool


@dataclass(frozen=True)
class Merge:
    """How parts become the whole: the first `visible` columns are the answer, the others order it."""

    columns: tuple[MergeColumn, ...]
    visible: int
    order: tuple[MergeOrder, ...]
    grouped: bool
    distinct: bool
    limit: int | None
    offset: int


def split(query: Query) -> tuple[Query, Merge]:
    """Return what one site answers, and how the answers of several become one.

    Raises:
        Invalid: QUERY_NOT_MERGEABLE: the answer cannot be made of the sites' answers.
    """
    expressions = [output.expression for output in query.outputs] + [order.expression for order in query.order_by]
    grouped = bool(query.group_by) or any(isinstance(part, Aggregate) for item in expressions for part in walk(item))
    if query.having is not None:
        raise _refused("HAVING is not")
    return _Splitter(query, grouped).split()


class _Splitter:
    def __init__(self, query: Query, grouped: bool) -> None:
        self._query = query
        self._grouped = grouped
        self._outputs: list[Output] = []
        self._columns: list[MergeColumn] = []

    def split(self) -> tuple[Query, Merge]:
        query = self._query
        for output in query.outputs:
            self._add(output)
        order = tuple(MergeOrder(self._column_of(item.expression), item.descending, item.nulls_first) for item in query.order_by)
        if self._grouped:
            for key in query.group_by:
                self._column_of(key)
        offset = query.offset or 0
        limit = None if query.limit is None or self._grouped else min(query.limit + offset, _MOST)
        ordered = () if self._grouped else query.order_by
        distinct = query.distinct and not self._grouped
        part = replace(query, outputs=tuple(self._outputs), order_by=ordered, limit=limit, offset=None, distinct=distinct)
        merge = Merge(tuple(self._columns), len(query.outputs), order, self._grouped, query.distinct, query.limit, offset)
        return part, merge

    def _column_of(self, expression: Expression) -> int:
        for number, column in enumerate(self._columns):
            if column.output.expression == expression:
                return number
        self._add(Output("", expression, expression.type))
        return len(self._columns) - 1

    def _add(self, output: Output) -> None:
        expression = output.expression
        if isinstance(expression, Aggregate):
            self._columns.append(self._aggregate(output, expression))
            return
        if self._grouped and expression not in self._query.group_by:
            raise _refused("an expression over aggregates, or outside GROUP BY, is not")
        self._columns.append(MergeColumn(MergeKind.KEY, self._part(output), 0, output))

    def _aggregate(self, output: Output, aggregate: Aggregate) -> MergeColumn:
        if aggregate.distinct:
            raise _refused("an aggregate of DISTINCT values is not")
        if aggregate.function != "avg":
            return MergeColumn(_KINDS[aggregate.function], self._part(output), 0, output)
        argument = aggregate.argument
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
        f"Over several sites, {what} merged: use columns, COUNT, SUM, MIN, MAX, AVG, GROUP BY, ORDER BY, DISTINCT, LIMIT, or ask one site.",
    )
