"""Groups of several sites' answers made one: keys compared, aggregates added up, what they give computed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Corrupt, Invalid

from mdm_client.federation.expression import compiled
from mdm_client.federation.value import key_of, mean_of, read, shown, total_of
from mdm_client.metadata.value import Row

#: Groups and, with DISTINCT, rows that are held in memory.
MAX_GROUPS = 1_000_000
_BEST: dict[int, Callable[..., Any]] = {pb.MERGE_KIND_MIN: min, pb.MERGE_KIND_MAX: max}
_DISTINCT = (pb.MERGE_KIND_COUNT_DISTINCT, pb.MERGE_KIND_SUM_DISTINCT, pb.MERGE_KIND_AVG_DISTINCT)


class Groups:
    """The rows of parts by their keys."""

    def __init__(self, merge: pb.MergePlan, kinds: Sequence[int], parts: Iterable[list[Row]]) -> None:
        """Read the parts, whose columns are of types `kinds`.

        Raises:
            Invalid: TOO_MANY_GROUPS.
        """
        self._merge = merge
        self._kinds = kinds
        keys = [(column.source, key_of(kinds[column.source])) for column in merge.columns if column.kind == pb.MERGE_KIND_KEY]
        sources, makes = [source for source, _ in keys], [make for _, make in keys]
        self._groups: dict[Row, list[Row]] = {}
        some = False
        for part in parts:
            some = True
            for row in part:
                self._groups.setdefault(identity_of(makes, tuple(row[source] for source in sources)), []).append(row)
            check_groups(len(self._groups))
        if merge.single and some:
            self._groups.setdefault((), [])

    def rows(self) -> Iterator[Row]:
        """Yield the merged rows that fulfil HAVING, values as they are sent, those that only order them and are computed with too.

        Raises:
            Invalid: QUERY_VALUE.
        """
        columns = self._merge.columns
        computed = [(n, compiled(c.expression)) for n, c in enumerate(columns) if c.kind == pb.MERGE_KIND_COMPUTED]
        having = compiled(self._merge.having) if self._merge.HasField("having") else None
        for rows in self._groups.values():
            merged: list[Any] = [_combined(column, self._kinds[column.source], rows) for column in columns]
            if having is not None and having(merged) is not True:
                continue
            for number, part in computed:
                merged[number] = part(merged)
            yield tuple(shown(column.column.type, value) for column, value in zip(columns, merged, strict=True))


def identity_of(makes: Sequence[Callable[[Any], Any]], row: Row) -> Row:
    """Return what rows that PostgreSQL takes for equal share, from what `key_of` gave for each column."""
    return tuple(None if value is None else make(value) for make, value in zip(makes, row, strict=True))


def check_groups(number: int) -> None:
    """Check how much is held in memory.

    Raises:
        Invalid: TOO_MANY_GROUPS.
    """
    if number > MAX_GROUPS:
        raise Invalid("TOO_MANY_GROUPS", f"more than {MAX_GROUPS} groups, or distinct values, to be merged: add conditions")


def _combined(column: pb.MergeColumn, source: int, rows: Sequence[Row]) -> Any:
    """Return the value of a column of the whole in a group, from values of type `source`; None for one that is computed later."""
    kind, result = column.kind, column.column.type
    if kind == pb.MERGE_KIND_COMPUTED:
        return None
    if kind == pb.MERGE_KIND_KEY:
        return read(result, rows[0][column.source])
    values = [read(source, row[column.source]) for row in rows if row[column.source] is not None]
    if kind in _DISTINCT:
        key = key_of(source)
        values = list({key(value): value for value in values}.values())
    if kind in (pb.MERGE_KIND_COUNT_DISTINCT, pb.MERGE_KIND_COUNT):
        return len(values) if kind in _DISTINCT else sum(values)
    if kind in _BEST:
        return _BEST[kind](values, key=key_of(source)) if values else None
    if kind in (pb.MERGE_KIND_SUM, pb.MERGE_KIND_SUM_DISTINCT):
        return total_of(values)
    if kind in (pb.MERGE_KIND_AVG, pb.MERGE_KIND_AVG_DISTINCT):
        count = len(values) if kind in _DISTINCT else sum(row[column.count_source] for row in rows)
        return mean_of(result, total_of(values), count)
    raise Corrupt("ANSWER_MALFORMED", "metadata: the sites' answers are merged in a way that this version does not know")
