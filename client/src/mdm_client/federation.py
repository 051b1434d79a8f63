"""One query over the metadata of several sites, each evaluated there under the caller's own rights, merged here."""

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb

from mdm_client.errors import ClientError, Conflict, Invalid
from mdm_client.metadata import Column, MetadataClient, QueryResult, Row, columns_of

BATCH = 1_000
#: Groups and, with DISTINCT, rows that are held in memory.
MAX_GROUPS = 1_000_000
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
#: What values are compared and added as, where they are not as they are sent.
_COMPARED: Mapping[str, Callable[[Any], Any]] = {"numeric": Decimal, "timestamp": datetime.fromisoformat}


class FederatedAnswer:
    """Rows of all sites that answer; `failures` are the others, complete when all rows were read."""

    def __init__(self, parts: Mapping[str, QueryResult], failures: dict[str, ClientError]) -> None:
        """Take the sites' parts, whose first decides how they are merged; one that differs fails.

        Raises:
            ClientError: no site answers: the first error.
        """
        self.failures = failures
        if not parts:
            raise next(iter(failures.values()))
        first = next(iter(parts.values()))
        self._plan = first.merge
        self._parts: dict[str, QueryResult] = {}
        for site, part in parts.items():
            if part.merge == self._plan and part.columns == first.columns:
                self._parts[site] = part
            else:
                failures[site] = Conflict.because("SCHEMA_DIFFERS", "its attributes have other types or units than those of the first site")
        self._columns = columns_of(pb.QueryHeader(columns=[column.column for column in self._plan.columns]))
        self.columns: list[Column] = self._columns[: self._plan.visible]

    def batches(self) -> Iterator[list[Row]]:
        """Yield lists of rows, values as `QueryResult.batches` gives them. Without groups and DISTINCT, memory is constant."""
        rows = self._grouped() if self._plan.grouped else self._merged()
        visible = (row[: self._plan.visible] for row in rows)
        distinct = _distinct(visible) if self._plan.distinct else visible
        end = None if self._plan.limit < 0 else self._plan.offset + self._plan.limit
        wanted = islice(distinct, self._plan.offset, end)
        while batch := list(islice(wanted, BATCH)):
            yield batch

    def _merged(self) -> Iterator[Row]:
        rows = [self._whole(site, part) for site, part in self._parts.items()]
        if not self._plan.order:
            for some in rows:
                yield from some
            return
        yield from heapq.merge(*rows, key=self._sort_key)

    def _whole(self, site: str, part: QueryResult) -> Iterator[Row]:
        """Yield a part's rows with the columns of the whole; a failure ends it, and is noted."""
        sources = [column.source for column in self._plan.columns]
        for row in self._rows(site, part):
            yield tuple(row[source] for source in sources)

    def _rows(self, site: str, part: QueryResult) -> Iterator[Row]:
        try:
            for batch in part.batches():
                yield from batch
        except ClientError as error:
            self.failures[site] = error

    def _grouped(self) -> Iterator[Row]:
        keys = [column.source for column in self._plan.columns if column.kind == pb.MERGE_KIND_KEY]
        groups: dict[Row, list[Row]] = {}
        for site, part in self._parts.items():
            found = list(self._rows(site, part))
            if site in self.failures:  # half of a site's groups would be wrong numbers
                continue
            for row in found:
                groups.setdefault(tuple(row[source] for source in keys), []).append(row)
            if len(groups) > MAX_GROUPS:
                raise Invalid.because("TOO_MANY_GROUPS", f"more than {MAX_GROUPS} groups: add conditions")
        columns = list(enumerate(self._plan.columns))
        whole = [tuple(self._combined(column, number, rows) for number, column in columns) for rows in groups.values()]
        return iter(sorted(whole, key=self._sort_key) if self._plan.order else whole)

    def _combined(self, column: pb.MergeColumn, number: int, rows: Sequence[Row]) -> Any:
        if column.kind == pb.MERGE_KIND_KEY:
            return rows[0][column.source]
        values = [row[column.source] for row in rows if row[column.source] is not None]
        if not values:
            return None
        kind = self._columns[number].type
        if column.kind == pb.MERGE_KIND_MIN:
            return min(values, key=_COMPARED.get(kind))
        if column.kind == pb.MERGE_KIND_MAX:
            return max(values, key=_COMPARED.get(kind))
        total = sum(Decimal(value) if isinstance(value, str) else value for value in values)
        if column.kind == pb.MERGE_KIND_AVG:
            count = sum(row[column.count_source] for row in rows)
            return float(total) / count if kind == "float" else str(Decimal(total) / count)
        return str(total) if kind == "numeric" else total

    def _sort_key(self, row: Row) -> tuple[Any, ...]:
        return tuple(_Ordered(row[order.column], order, self._columns[order.column].type) for order in self._plan.order)


class _Ordered:
    """A value in one criterion of order."""

    __slots__ = ("descending", "null", "value")

    def __init__(self, value: Any, order: pb.MergeOrder, kind: str) -> None:
        convert = _COMPARED.get(kind)
        self.null = (value is None) != order.nulls_first  # sorts first when False
        self.value = convert(value) if convert is not None and value is not None else value
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


@contextmanager
def query_sites(sites: Mapping[str, MetadataClient], sql: str, timeout: float | None = None) -> Iterator[FederatedAnswer]:
    """Ask sites at once; `{site}` in the SQL is each one's name. At the end, stop what still runs.

    Raises:
        Invalid: no site is named, or a name is none. ClientError: no site answers.
    """
    if not sites:
        raise Invalid.because("SITE_MISSING", "name at least one site, or all; they are under [metadata_sites] in the configuration")
    if bad := [site for site in sites if not _SITE.fullmatch(site)]:
        raise Invalid.because("SITE_NAME", f"{bad[0]}: a site's name is letters, digits, dots, underscores and hyphens")
    parts: dict[str, QueryResult] = {}
    failures: dict[str, ClientError] = {}

    def ask(site: str) -> QueryResult | ClientError:
        try:
            return sites[site].query(sql.replace("{site}", site), timeout, partial=True)
        except ClientError as error:
            return error

    with ThreadPoolExecutor(len(sites), thread_name_prefix="site") as pool:
        for site, result in zip(sites, pool.map(ask, sites), strict=True):
            if isinstance(result, ClientError):
                failures[site] = result
            else:
                parts[site] = result
    try:
        yield FederatedAnswer(parts, failures)
    finally:
        for part in parts.values():
            part.close()


def _distinct(rows: Iterable[Row]) -> Iterator[Row]:
    seen: set[Row] = set()
    for row in rows:
        if row not in seen:
            if len(seen) >= MAX_GROUPS:
                raise Invalid.because("TOO_MANY_GROUPS", f"more than {MAX_GROUPS} distinct rows: add conditions")
            seen.add(row)
            yield row
