"""Rows of several sites merged into one answer, as a merge plan says: grouped, ordered, distinct, limited."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Corrupt, Invalid

from mdm_client.federation.expression import compile_expression
from mdm_client.federation.value import comparison_key, decode, encode, mean, total
from mdm_client.metadata.value import Row

#: The most groups and, with DISTINCT, rows that are held in memory.
MAX_GROUPS = 1_000_000
_EXTREMES: dict[int, Callable[..., Any]] = {pb.MERGE_KIND_MIN: min, pb.MERGE_KIND_MAX: max}
_DISTINCT = (pb.MERGE_KIND_COUNT_DISTINCT, pb.MERGE_KIND_SUM_DISTINCT, pb.MERGE_KIND_AVG_DISTINCT)


class Merger:
    """The steps of a merge. A row of a site has columns of `types`; a row of the merge those of the plan, the visible ones first."""

    def __init__(self, plan: pb.MergePlan, types: Sequence[int]) -> None:
        self._plan = plan
        self._types = types

    def rearrange(self, batches: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Yield a site's rows with the columns of the merge."""
        sources = [column.source for column in self._plan.columns]
        for batch in batches:
            yield [tuple(row[source] for source in sources) for row in batch]

    def group(self, parts: Iterable[list[Row]]) -> Iterable[Row]:
        """Return a row for each group of the sites' rows that fulfils HAVING, in order if there is one.

        Raises:
            Invalid: TOO_MANY_GROUPS; QUERY_VALUE.
        """
        rows = self._merged_rows(self._groups(parts))
        return sorted(rows, key=self.sort_key) if self._plan.order else rows

    def sort_key(self, row: Row) -> tuple[Any, ...]:
        """Return the key by which a row of the merge is ordered."""
        columns = self._plan.columns
        return tuple(_Ordered(row[order.column], order, columns[order.column].column.type) for order in self._plan.order)

    def limit(self, batches: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Yield the rows that DISTINCT, OFFSET and LIMIT leave, with the visible columns. Raises as `check_groups`."""
        plan = self._plan
        skipped, left = plan.offset, plan.limit if plan.limit >= 0 else sys.maxsize
        keys = [comparison_key(column.column.type) for column in plan.columns[: plan.visible]]
        seen: set[Row] = set()
        for batch in batches if left else ():
            rows = [row[: plan.visible] for row in batch]
            if plan.distinct:
                rows = _new_rows(rows, keys, seen)
            chosen = rows[skipped : skipped + left]
            skipped -= min(skipped, len(rows))
            left -= len(chosen)
            if chosen:
                yield chosen
            if not left:
                return

    def _groups(self, parts: Iterable[list[Row]]) -> Iterable[list[Row]]:
        keys = [column.source for column in self._plan.columns if column.kind == pb.MERGE_KIND_KEY]
        makes = [comparison_key(self._types[source]) for source in keys]
        groups: dict[Row, list[Row]] = {}
        answered = False
        for part in parts:
            answered = True
            for row in part:
                groups.setdefault(_identity(makes, [row[source] for source in keys]), []).append(row)
            check_groups(len(groups))
        if self._plan.single and answered:
            groups.setdefault((), [])
        return groups.values()

    def _merged_rows(self, groups: Iterable[list[Row]]) -> Iterator[Row]:
        columns = self._plan.columns
        computed = [(n, compile_expression(c.expression)) for n, c in enumerate(columns) if c.kind == pb.MERGE_KIND_COMPUTED]
        having = compile_expression(self._plan.having) if self._plan.HasField("having") else None
        for rows in groups:
            merged: list[Any] = [_aggregate(column, self._types[column.source], rows) for column in columns]
            if having is not None and having(merged) is not True:
                continue
            for number, evaluate in computed:
                merged[number] = evaluate(merged)
            yield tuple(encode(column.column.type, value) for column, value in zip(columns, merged, strict=True))


class _Ordered:
    """A value in one criterion of order."""

    __slots__ = ("descending", "null", "value")

    def __init__(self, value: Any, order: pb.MergeOrder, kind: int) -> None:
        self.null = (value is None) != order.nulls_first  # sorts first when False
        self.value = None if value is None else comparison_key(kind)(value)
        self.descending = order.descending

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ordered) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __lt__(self, other: "_Ordered") -> bool:
        if self.null != other.null:
            return other.null
        if self.value is None or other.value is None:
            return False
        return bool(other.value < self.value) if self.descending else bool(self.value < other.value)


def check_groups(number: int) -> None:
    """Raise Invalid (TOO_MANY_GROUPS) if there are more groups than may be in memory."""
    if number > MAX_GROUPS:
        raise Invalid("TOO_MANY_GROUPS", f"more than {MAX_GROUPS} groups, or distinct values, to be merged: add conditions")


def _identity(keys: Sequence[Callable[[Any], Any]], values: Iterable[Any]) -> Row:
    """Return a key that is equal for values that PostgreSQL considers equal; `keys` are the columns' comparison keys."""
    return tuple(None if value is None else key(value) for key, value in zip(keys, values, strict=True))


def _new_rows(rows: Iterable[Row], keys: Sequence[Callable[[Any], Any]], seen: set[Row]) -> list[Row]:
    """Return the rows that are not among those seen, and add them to these."""
    new = []
    for row in rows:
        identity = _identity(keys, row)
        if identity not in seen:
            check_groups(len(seen) + 1)
            seen.add(identity)
            new.append(row)
    return new


def _aggregate(column: pb.MergeColumn, source: int, rows: Sequence[Row]) -> Any:
    """Return the value of a column in a group, from the sites' values of type `source`; None for a column that is computed later."""
    kind, result = column.kind, column.column.type
    if kind == pb.MERGE_KIND_COMPUTED:
        return None
    if kind == pb.MERGE_KIND_KEY:
        return decode(result, rows[0][column.source])
    values = [decode(source, row[column.source]) for row in rows if row[column.source] is not None]
    if kind in _DISTINCT:
        key = comparison_key(source)
        values = list({key(value): value for value in values}.values())
    if kind in (pb.MERGE_KIND_COUNT_DISTINCT, pb.MERGE_KIND_COUNT):
        return len(values) if kind in _DISTINCT else sum(values)
    if kind in _EXTREMES:
        return _EXTREMES[kind](values, key=comparison_key(source)) if values else None
    if kind in (pb.MERGE_KIND_SUM, pb.MERGE_KIND_SUM_DISTINCT):
        return total(values)
    if kind in (pb.MERGE_KIND_AVG, pb.MERGE_KIND_AVG_DISTINCT):
        count = len(values) if kind in _DISTINCT else sum(row[column.count_source] for row in rows)
        return mean(result, total(values), count)
    raise Corrupt("ANSWER_MALFORMED", "metadata: the sites' answers are merged in a way that this version does not know")
