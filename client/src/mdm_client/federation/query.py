"""One query over the metadata of several sites: each evaluates it under the caller's own permissions; the answers are merged here."""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Conflict, Invalid, MdmError

from mdm_client.federation.merge import MAX_GROUPS, Merger, check_groups
from mdm_client.metadata.client import MetadataClient, QueryResult
from mdm_client.metadata.value import Column, Row, columns_of

_BATCH_ROWS = 1_000
#: So long the sites before the first that answers are waited for: the schema of the same site shall decide each time.
_EARLIER_SITES_SECONDS = 0.5
_DIFFERS = "its attributes have other types or units than those of the first site, or {site} stands beside an aggregate: put it in GROUP BY"
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class FederatedAnswer:
    """The rows of all sites that answer; rows are available before all sites have answered."""

    def __init__(self, results: Mapping[str, Future[QueryResult]]) -> None:
        """Wait for the first result, which decides how all are merged; a site whose result differs fails.

        Raises:
            MdmError: no site answers: the error of the first.
        """
        self._results = results
        self._failures: dict[str, MdmError] = {}
        self._empty: set[str] = set()
        self._first = _first_result(results)
        self._plan = self._first.merge
        self._merger = Merger(self._plan, self._first.kinds)
        visible = [column.column for column in self._plan.columns[: self._plan.visible]]
        self.columns: list[Column] = columns_of(pb.QueryHeader(columns=visible))

    @property
    def failures(self) -> Mapping[str, MdmError]:
        """The sites that did not answer, and why, in the order asked; complete when all rows were read."""
        return {site: self._failures[site] for site in self._results if site in self._failures}

    @property
    def empty(self) -> list[str]:
        """The sites that answered without any row, in the order asked: nothing matches there, or the caller lacks rights.

        Complete when all rows were read; a site whose rows were not needed any more is not among them.
        """
        return [site for site in self._results if site in self._empty]

    def batches(self) -> Iterator[list[Row]]:
        """Yield lists of rows, values as `QueryResult.batches` gives them. Without groups and DISTINCT, memory is constant.

        Without an order, the rows of one site do not wait for another.

        Raises:
            Invalid: TOO_MANY_GROUPS; QUERY_VALUE: a computed column or HAVING needs a value that does not exist.
        """
        if self._plan.grouped:
            batches = _in_batches(self._merger.group(self._complete_parts()))
        elif self._plan.order:
            rows = (chain.from_iterable(self._merger.rearrange(self._batches_of(site))) for site in self._results)
            batches = _in_batches(heapq.merge(*rows, key=self._merger.sort_key))
        else:
            batches = self._merger.rearrange(self._batches_as_they_come())
        yield from self._merger.limit(batches)
        for site in self._results:
            self._result(site)

    def _result(self, site: str) -> QueryResult | None:
        """Wait for a site's result and return it; record a failure and return None if the site fails."""
        try:
            result = self._results[site].result()
        except MdmError as error:
            self._failures[site] = error
            return None
        if result.merge == self._plan and result.columns == self._first.columns:
            return result
        self._failures[site] = Conflict("SCHEMA_DIFFERS", _DIFFERS)
        return None

    def _batches_of(self, site: str) -> Iterator[list[Row]]:
        """Yield a site's rows; a failure ends them and is recorded."""
        result = self._result(site)
        if result is None:
            return
        empty = True
        try:
            for batch in result.batches():
                empty = empty and not batch
                yield batch
        except MdmError as error:
            self._failures[site] = error
        else:
            if empty:
                self._empty.add(site)

    def _batches_as_they_come(self) -> Iterator[list[Row]]:
        """Yield the rows of one site after those of another: of those that have answered, the first in the order asked."""
        waiting = list(self._results)
        while waiting:
            done, _ = wait([self._results[site] for site in waiting], return_when=FIRST_COMPLETED)
            site = next(site for site in waiting if self._results[site] in done)
            waiting.remove(site)
            yield from self._batches_of(site)

    def _complete_parts(self) -> Iterator[list[Row]]:
        """Yield the rows of each site that sent all of them: half of a site's groups would give wrong numbers."""
        for site in self._results:
            rows = list(islice(chain.from_iterable(self._batches_of(site)), MAX_GROUPS + 1))
            check_groups(len(rows))
            if site not in self._failures:
                yield rows


def _first_result(results: Mapping[str, Future[QueryResult]]) -> QueryResult:
    """Wait for one result, and a moment for those of sites before it; return the first of these in the order asked.

    Raises:
        MdmError: no site answers: the error of the first, its message beginning with the site, and saying that the others fail, too.
    """
    futures = list(results.values())
    for future in as_completed(futures):
        if future.exception() is None:
            wait(futures[: futures.index(future)], _EARLIER_SITES_SECONDS)
            break
    answered = [future for future in futures if future.done() and future.exception() is None]
    if answered:
        return answered[0].result()
    site, failed = next(iter(results.items()))
    try:
        return failed.result()
    except MdmError as error:
        others = "; no other site answers either" if len(results) > 1 else ""
        raise error.saying(f"{site}: {error.message}{others}") from error


def _in_batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH_ROWS)):
        yield batch


@contextmanager
def query_sites(
    sites: Mapping[str, MetadataClient], sql: str, timeout: float | None = None, parameters: Mapping[str, Any] | None = None
) -> Iterator[FederatedAnswer]:
    """Ask all sites at once; in the SQL, `{site}` is each site's name and `:name` a parameter. At the end, stop the queries that run.

    A site that is unreachable is tried as long as its client's retry policy says; the rows of other sites do not wait.

    Raises:
        Invalid: SITE_MISSING: no site is named. SITE_NAME: a name is malformed.
        MdmError: no site answers.
    """
    if not sites:
        raise Invalid("SITE_MISSING", "no site to ask: name at least one; `all` means those under [metadata_sites] in the configuration")
    if bad := [site for site in sites if not _SITE.fullmatch(site)]:
        raise Invalid("SITE_NAME", f"{bad[0]}: a site's name may contain only letters, digits, dots, underscores and hyphens")

    def ask(site: str) -> QueryResult:
        return sites[site].query(sql.replace("{site}", site), timeout, partial=True, parameters=parameters)

    with ThreadPoolExecutor(len(sites), thread_name_prefix="site") as pool:
        results = {site: pool.submit(ask, site) for site in sites}
        try:
            yield FederatedAnswer(results)
        finally:
            for future in as_completed(results.values()):
                if future.exception() is None:
                    future.result().close()
