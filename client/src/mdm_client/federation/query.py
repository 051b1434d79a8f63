"""One query over the metadata of several sites, each evaluated there under the caller's own rights, merged here."""

import heapq
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Conflict, Invalid, MdmError

from mdm_client.federation.group import MAX_GROUPS, Groups, check_groups, identity_of
from mdm_client.federation.value import key_of
from mdm_client.metadata.client import MetadataClient, QueryResult
from mdm_client.metadata.value import Column, Row, columns_of

_ROWS = 1_000
#: Seconds that a site which comes before the first to answer is waited for, lest chance decides whose schema counts.
_MOMENT = 0.5
_DIFFERS = "its attributes have other types or units than those of the first site, or {site} stands beside an aggregate: put it in GROUP BY"
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class FederatedAnswer:
    """Rows of all sites that answer, those that are there while others are still waited for."""

    def __init__(self, asked: Mapping[str, Future[QueryResult]]) -> None:
        """Wait for the first part, which decides how all are merged; one that differs fails.

        Raises:
            MdmError: no site answers: the error of the first.
        """
        self._asked = asked
        self._failures: dict[str, MdmError] = {}
        self._empty: set[str] = set()
        first = _first_part(asked)
        self._first = first
        self._merge = first.merge
        visible = [column.column for column in self._merge.columns[: self._merge.visible]]
        self.columns: list[Column] = columns_of(pb.QueryHeader(columns=visible))

    @property
    def failures(self) -> Mapping[str, MdmError]:
        """The sites that did not answer, and why, in the order asked; complete when all rows were read."""
        return {site: self._failures[site] for site in self._asked if site in self._failures}

    @property
    def empty(self) -> list[str]:
        """The sites that answered without any row, in the order asked: nothing matches there, or rights are missing, which looks alike.

        Complete when all rows were read; a site whose rows were not wanted any more is not among them.
        """
        return [site for site in self._asked if site in self._empty]

    def batches(self) -> Iterator[list[Row]]:
        """Yield lists of rows, values as `QueryResult.batches` gives them. Without groups and DISTINCT, memory is constant.

        Where the query says no order, rows of one site do not wait for another.

        Raises:
            Invalid: TOO_MANY_GROUPS; QUERY_VALUE: a computed column or HAVING needs a value that does not exist.
        """
        if self._merge.grouped:
            batches = _in_batches(self._grouped())
        elif self._merge.order:
            batches = _in_batches(heapq.merge(*map(self._whole, self._asked), key=self._sort_key))
        else:
            batches = self._as_they_come()
        yield from self._wanted(batches)
        for site in self._asked:
            self._part(site)

    def _part(self, site: str) -> QueryResult | None:
        """Return a site's part once it is there; None if it fails, which is noted."""
        try:
            part = self._asked[site].result()
        except MdmError as error:
            self._failures[site] = error
            return None
        if part.merge == self._merge and part.columns == self._first.columns:
            return part
        self._failures[site] = Conflict("SCHEMA_DIFFERS", _DIFFERS)
        return None

    def _part_batches(self, site: str) -> Iterator[list[Row]]:
        """Yield a part's rows; a failure ends them, and is noted."""
        part = self._part(site)
        if part is None:
            return
        some = False
        try:
            for batch in part.batches():
                some = some or bool(batch)
                yield batch
        except MdmError as error:
            self._failures[site] = error
        else:
            if not some:
                self._empty.add(site)

    def _whole_batches(self, site: str) -> Iterator[list[Row]]:
        """Yield a part's rows with the columns of the whole."""
        sources = [column.source for column in self._merge.columns]
        for batch in self._part_batches(site):
            yield [tuple(row[source] for source in sources) for row in batch]

    def _whole(self, site: str) -> Iterator[Row]:
        return chain.from_iterable(self._whole_batches(site))

    def _as_they_come(self) -> Iterator[list[Row]]:
        """Yield the rows of one site after those of another, in the order asked as far as they are there."""
        waiting = list(self._asked)
        while waiting:
            done, _ = wait([self._asked[site] for site in waiting], return_when=FIRST_COMPLETED)
            site = next(site for site in waiting if self._asked[site] in done)
            waiting.remove(site)
            yield from self._whole_batches(site)

    def _wanted(self, batches: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Yield what DISTINCT, OFFSET and LIMIT leave of rows, in the columns that are the answer."""
        skipped, left = self._merge.offset, self._merge.limit if self._merge.limit >= 0 else sys.maxsize
        keys = [key_of(column.column.type) for column in self._merge.columns[: self._merge.visible]]
        seen: set[Row] = set()
        for batch in batches if left else ():
            rows = [row[: self._merge.visible] for row in batch]
            if self._merge.distinct:
                rows = _new_rows(rows, keys, seen)
            chosen = rows[skipped : skipped + left]
            skipped -= min(skipped, len(rows))
            left -= len(chosen)
            if chosen:
                yield chosen
            if not left:
                return

    def _grouped(self) -> Iterator[Row]:
        whole = iter(Groups(self._merge, self._first.kinds, self._parts_read()).rows())
        return iter(sorted(whole, key=self._sort_key)) if self._merge.order else whole

    def _parts_read(self) -> Iterator[list[Row]]:
        """Yield the rows of each part that arrived wholly: half of a site's groups would be wrong numbers."""
        for site in self._asked:
            found = list(islice(chain.from_iterable(self._part_batches(site)), MAX_GROUPS + 1))
            check_groups(len(found))
            if site not in self._failures:
                yield found

    def _sort_key(self, row: Row) -> tuple[Any, ...]:
        return tuple(_Ordered(row[order.column], order, self._merge.columns[order.column].column.type) for order in self._merge.order)


def _first_part(asked: Mapping[str, Future[QueryResult]]) -> QueryResult:
    """Wait for an answer, and a moment for sites before it, so that while all are well the same one decides each time.

    Raises:
        MdmError: no site answers: the error of the first, its message beginning with the site, and saying that the others fail, too.
    """
    futures = list(asked.values())
    for future in as_completed(futures):
        if future.exception() is None:
            wait(futures[: futures.index(future)], _MOMENT)
            break
    answered = [future for future in futures if future.done() and future.exception() is None]
    if answered:
        return answered[0].result()
    site, failed = next(iter(asked.items()))
    try:
        return failed.result()
    except MdmError as error:
        others = "; no other site answers either" if len(asked) > 1 else ""
        raise error.saying(f"{site}: {error.message}{others}") from error


def _in_batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, _ROWS)):
        yield batch


def _new_rows(rows: Iterable[Row], keys: Sequence[Callable[[Any], Any]], seen: set[Row]) -> list[Row]:
    """Return the rows that are not among those seen, and note them."""
    new = []
    for row in rows:
        identity = identity_of(keys, row)
        if identity not in seen:
            check_groups(len(seen) + 1)
            seen.add(identity)
            new.append(row)
    return new


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

    A site that is away is tried as long as its client's retry policy says, while the others' rows come.

    Raises:
        Invalid: no site is named, or a name is none. MdmError: no site answers.
    """
    if not sites:
        raise Invalid("SITE_MISSING", "no site to ask: name at least one; `all` means those under [metadata_sites] in the configuration")
    if bad := [site for site in sites if not _SITE.fullmatch(site)]:
        raise Invalid("SITE_NAME", f"{bad[0]}: a site's name is letters, digits, dots, underscores and hyphens")

    def ask(site: str) -> QueryResult:
        return sites[site].query(sql.replace("{site}", site), timeout, partial=True, parameters=parameters)

    with ThreadPoolExecutor(len(sites), thread_name_prefix="site") as pool:
        asked = {site: pool.submit(ask, site) for site in sites}
        try:
            yield FederatedAnswer(asked)
        finally:
            for future in as_completed(asked.values()):
                if future.exception() is None:
                    future.result().close()
