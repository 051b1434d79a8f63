"""One query over the metadata of several sites, each evaluated there under the caller's own rights, merged here."""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb

from mdm_client.arithmetic import key_of
from mdm_client.errors import ClientError, Conflict, Invalid
from mdm_client.grouping import MAX_GROUPS, Groups, check_groups, identity_of
from mdm_client.metadata import Column, MetadataClient, QueryResult, Row, columns_of

BATCH = 1_000
_DIFFERS = "its attributes have other types or units than those of the first site, or {site} stands beside an aggregate: put it in GROUP BY"
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


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
        self._kinds = first.kinds
        self._parts: dict[str, QueryResult] = {}
        for site, part in parts.items():
            if part.merge == self._plan and part.columns == first.columns:
                self._parts[site] = part
            else:
                failures[site] = Conflict.because("SCHEMA_DIFFERS", _DIFFERS)
        visible = [column.column for column in self._plan.columns[: self._plan.visible]]
        self.columns: list[Column] = columns_of(pb.QueryHeader(columns=visible))

    def batches(self) -> Iterator[list[Row]]:
        """Yield lists of rows, values as `QueryResult.batches` gives them. Without groups and DISTINCT, memory is constant.

        Raises:
            Invalid: TOO_MANY_GROUPS; QUERY_VALUE: a computed column or HAVING needs a value that does not exist.
        """
        rows = self._grouped() if self._plan.grouped else self._merged()
        visible = (row[: self._plan.visible] for row in rows)
        distinct = self._distinct(visible) if self._plan.distinct else visible
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
        whole = iter(Groups(self._plan, self._kinds, self._parts_read()).rows())
        return iter(sorted(whole, key=self._sort_key)) if self._plan.order else whole

    def _parts_read(self) -> Iterator[list[Row]]:
        """Yield the rows of each part that arrived wholly: half of a site's groups would be wrong numbers."""
        for site, part in self._parts.items():
            found = list(islice(self._rows(site, part), MAX_GROUPS + 1))
            check_groups(len(found))
            if site not in self.failures:
                yield found

    def _sort_key(self, row: Row) -> tuple[Any, ...]:
        return tuple(_Ordered(row[order.column], order, self._plan.columns[order.column].column.type) for order in self._plan.order)

    def _distinct(self, rows: Iterable[Row]) -> Iterator[Row]:
        keys = [key_of(column.column.type) for column in self._plan.columns[: self._plan.visible]]
        seen: set[Row] = set()
        for row in rows:
            identity = identity_of(keys, row)
            if identity not in seen:
                check_groups(len(seen) + 1)
                seen.add(identity)
                yield row


class _Ordered:
    """A value in one criterion of order."""

    __slots__ = ("descending", "null", "value")

    def __init__(self, value: Any, order: pb.MergeOrder, kind: int) -> None:
        self.null = (value is None) != order.nulls_first  # sorts first when False
        self.value = None if value is None else key_of(kind)(value)
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
def query_sites(
    sites: Mapping[str, MetadataClient], sql: str, timeout: float | None = None, parameters: Mapping[str, Any] | None = None
) -> Iterator[FederatedAnswer]:
    """Ask sites at once; `{site}` in the SQL is each one's name, `:name` a parameter. At the end, stop what still runs.

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
            return sites[site].query(sql.replace("{site}", site), timeout, partial=True, parameters=parameters)
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
