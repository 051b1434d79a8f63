"""Several ways to one PACS: when one fails, the next is tried."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from mdm_deid.encoding.header import Header
from mdm_wire.errors import Unavailable

from mdm_dicom_srm.pacs.header import said_instance
from mdm_dicom_srm.pacs.port import InstanceLocator, ListedInstance, MissingInstance, Pacs, RetrievedInstance, Scope

T = TypeVar("T")
_PREFIX = slice(128, 132)  # of a Part 10 file (PS3.10 section 7.1)


class Fallback:
    """Asks adapters of one PACS in order, a limited number of retrievals at a time; what one delivered is not asked for again.

    Whether a file is the instance that was asked for is checked here, whichever way it came.
    """

    def __init__(self, adapters: Sequence[Pacs], *, retrievals: int = 4, wait_seconds: float = 60.0) -> None:
        self._adapters = tuple(adapters)
        self._turns = threading.BoundedSemaphore(retrievals)
        self._wait_seconds = wait_seconds

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        """Yield the instances; see `Pacs.retrieve`."""
        left = {locator.sop_uid: locator for locator in instances}
        reasons: dict[str, str] = {}
        failure: Unavailable | None = None
        with self._turn():
            for adapter in self._adapters:
                try:
                    for item in adapter.retrieve(list(left.values())):
                        if item.sop_uid not in left:
                            continue
                        reason = _fault(item)
                        if reason:
                            reasons[item.sop_uid] = reason
                        else:
                            del left[item.sop_uid]
                            yield item
                except Unavailable as error:
                    failure = error
                if not left:
                    return
        for sop_uid in left.keys() & reasons.keys():
            yield MissingInstance(sop_uid, reasons[sop_uid])
        if failure is not None and not left.keys() <= reasons.keys():
            raise failure

    def headers(self, study_uid: str) -> Iterator[tuple[Header, str]]:
        """Yield the headers of a study; see `Pacs.headers`."""
        seen: set[str] = set()
        with self._turn():
            for header, pacs in self._from_first(lambda adapter: adapter.headers(study_uid)):
                if header.sop_uid not in seen:
                    seen.add(header.sop_uid)
                    yield header, pacs

    def studies(self, scope: Scope) -> Iterator[str]:
        """Yield the studies of a scope; see `Pacs.studies`."""
        return self._from_first(lambda adapter: adapter.studies(scope))

    def listing(self, study_uid: str) -> Iterator[ListedInstance]:
        """Yield the instances of a study; see `Pacs.listing`."""
        seen: set[str] = set()
        for listed in self._from_first(lambda adapter: adapter.listing(study_uid)):
            if listed.locator.sop_uid not in seen:
                seen.add(listed.locator.sop_uid)
                yield listed

    def ping(self) -> None:
        """Return when any adapter reaches the PACS; see `Pacs.ping`."""
        list(self._from_first(_ping))

    def _from_first(self, ask: Callable[[Pacs], Iterator[T]]) -> Iterator[T]:
        """Yield what adapters give, one after the other, up to the first that does not fail; the last one's failure is raised."""
        *others, last = self._adapters
        for adapter in others:
            try:
                yield from ask(adapter)
                return
            except Unavailable:
                continue
        yield from ask(last)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for one of the retrievals that the PACS may have at a time.

        Raises:
            Unavailable: PACS_BUSY, others took too long.
        """
        if not self._turns.acquire(timeout=self._wait_seconds):
            raise Unavailable("PACS_BUSY", "Other retrievals keep the PACS busy; try again later, or raise pacs.retrievals.")
        try:
            yield
        finally:
            self._turns.release()


def _ping(adapter: Pacs) -> Iterator[None]:
    adapter.ping()
    yield from ()


def _fault(item: RetrievedInstance | MissingInstance) -> str:
    """Return why an item is not the answer to what was asked for, so that the next way is tried; "" if it is."""
    if isinstance(item, MissingInstance):
        return "" if item.gone else item.reason
    if item.part10[_PREFIX] != b"DICM":
        return "NOT_DICOM"
    said = said_instance(item.part10)  # what cannot be read is for de-identification to judge
    return "PACS_SENT_ANOTHER" if said and said != item.sop_uid else ""
