"""Retrieval by DIMSE, whatever operation brings the instances: which are there, in batches, then one by one (PS3.4 annex C)."""

from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

from mdm_deid.encoding.header import Header
from mdm_wire.errors import Unavailable

from mdm_dicom_srm.pacs import query
from mdm_dicom_srm.pacs.c_find import CFind
from mdm_dicom_srm.pacs.dimse import AssociationPool
from mdm_dicom_srm.pacs.dimse_message import BrokenOff
from mdm_dicom_srm.pacs.header import headers_of
from mdm_dicom_srm.pacs.port import NOT_IN_PACS, InstanceLocator, ListedInstance, MissingInstance, RetrievedInstance, Scope

UIDS_PER_REQUEST = 64
_REMEMBERED_SERIES = 256
_MAX_FAILURES = 3  # operations in a row that broke off, then the PACS counts as away
_MAX_REFUSALS = 16  # instances in a row that were not sent, then the others of the series are not asked for
NOT_DELIVERED = "PACS_NOT_DELIVERED"


class DimseRetrieval(ABC):
    """A PACS behind DIMSE; safe for several threads.

    Which instances the PACS has, and of which SOP class they are, is asked by C-FIND and remembered. This also keeps those that it does
    not have out of a C-GET: some (Orthanc 1.10) then send none of the others.
    """

    def __init__(self, pool: AssociationPool, *, name: str = "") -> None:
        self._pool, self._name = pool, name
        self._search = CFind(pool)
        self._known: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._lock = Lock()

    @abstractmethod
    def _batches(self, classes: Mapping[str, str]) -> Iterator[list[str]]:
        """Yield instances, given with their SOP classes, as they are to be asked for together."""

    @abstractmethod
    def _transfer(self, locator: InstanceLocator, classes: Mapping[str, str], alone: bool) -> Iterator[RetrievedInstance]:
        """Yield what the PACS sends of the instances in `classes`, of the series of `locator`; `alone` of one in a last attempt.

        Raises:
            BrokenOff: the PACS did not finish.
            Unavailable: it is away or refuses us.
        """

    def close(self) -> None:
        """End the idle associations."""
        self._pool.close()

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        """Yield the instances; see `Pacs.retrieve`."""
        by_series: dict[tuple[str, str], dict[str, InstanceLocator]] = defaultdict(dict)
        for locator in instances:
            by_series[locator.study_uid, locator.series_uid][locator.sop_uid] = locator
        for wanted in by_series.values():
            yield from self._series(wanted)

    def headers(self, study_uid: str) -> Iterator[tuple[Header, str]]:
        """Yield the headers of a study; see `Pacs.headers`."""
        failed: list[MissingInstance] = []

        def files(locators: Sequence[InstanceLocator]) -> Iterator[bytes | memoryview]:
            for item in self.retrieve(locators):
                if isinstance(item, RetrievedInstance):
                    yield item.part10
                elif not item.gone:
                    failed.append(item)

        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": ""}
        for series_uid in [match["SeriesInstanceUID"] for match in self._search.find(query.SERIES, keys)]:
            found = self._look_up(study_uid, series_uid, [""])
            for header in headers_of(files([InstanceLocator(study_uid, series_uid, sop_uid) for sop_uid in found])):
                yield header, self._name
        if failed:
            raise Unavailable(failed[0].reason, "The PACS did not send all instances of the study; try again later.")

    def studies(self, scope: Scope) -> Iterator[str]:
        """Yield the studies of a scope; see `Pacs.studies`."""
        return query.studies(self._search, scope)

    def listing(self, study_uid: str) -> Iterator[ListedInstance]:
        """Yield the instances of a study; see `Pacs.listing`."""
        return query.listing(self._search, study_uid, self._name)

    def ping(self) -> None:
        """Return when C-ECHO succeeds; see `Pacs.ping`."""
        self._pool.echo()

    def _series(self, wanted: dict[str, InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        """Yield instances of one series and take them out of `wanted`."""
        series = next(iter(wanted.values()))
        known = self._recall(series.series_uid, wanted)
        known |= self._look_up(series.study_uid, series.series_uid, [sop_uid for sop_uid in wanted if sop_uid not in known])
        yield from _absent(wanted, known)
        failures = 0
        for batch in self._batches({sop_uid: known[sop_uid] for sop_uid in wanted}):
            before = len(wanted)
            try:
                yield from self._received(series, {sop_uid: known[sop_uid] for sop_uid in batch}, wanted, alone=False)
            except BrokenOff:
                failures = 0 if len(wanted) < before else failures + 1
                if failures == _MAX_FAILURES:
                    raise
        if wanted:
            # What we remember may be out of date; and one that cannot be sent may have kept others from being sent.
            found = self._look_up(series.study_uid, series.series_uid, list(wanted))
            yield from _absent(wanted, found)
            yield from self._one_by_one(series, found, wanted)

    def _one_by_one(
        self, series: InstanceLocator, classes: Mapping[str, str], wanted: dict[str, InstanceLocator]
    ) -> Iterator[RetrievedInstance | MissingInstance]:
        failures = refusals = 0
        most = min(_MAX_FAILURES, len(wanted))
        for sop_uid in list(wanted):
            reason = NOT_DELIVERED
            try:
                if refusals < _MAX_REFUSALS:
                    yield from self._received(series, {sop_uid: classes[sop_uid]}, wanted, alone=True)
                failures = 0
            except BrokenOff as error:
                failures, reason = failures + 1, error.reason
                if failures == most:
                    raise
            refusals = refusals + 1 if sop_uid in wanted else 0
            if wanted.pop(sop_uid, None) is not None:
                yield MissingInstance(sop_uid, reason)

    def _received(
        self, series: InstanceLocator, classes: Mapping[str, str], wanted: dict[str, InstanceLocator], *, alone: bool
    ) -> Iterator[RetrievedInstance]:
        for instance in self._transfer(series, classes, alone):
            # A PACS may send what nobody asked for, or the same twice.
            if wanted.pop(instance.sop_uid, None) is not None:
                yield instance

    def _recall(self, series_uid: str, sop_uids: Mapping[str, object]) -> dict[str, str]:
        with self._lock:
            known = self._known.get(series_uid, {})
            return {sop_uid: known[sop_uid] for sop_uid in sop_uids if sop_uid in known}

    def _look_up(self, study_uid: str, series_uid: str, sop_uids: list[str]) -> dict[str, str]:
        """Ask for the SOP classes of instances, [""] for all of a series; those that the PACS has are returned and remembered."""
        found: dict[str, str] = {}
        for batch in batches(sop_uids, UIDS_PER_REQUEST):
            keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": batch, "SOPClassUID": ""}
            found |= {match["SOPInstanceUID"]: match["SOPClassUID"] for match in self._search.find(query.IMAGE, keys)}
        found.pop("", None)
        with self._lock:
            known = self._known.setdefault(series_uid, {})
            for sop_uid in sop_uids:
                known.pop(sop_uid, None)
            known.update(found)
            self._known.move_to_end(series_uid)
            while len(self._known) > _REMEMBERED_SERIES:
                self._known.popitem(last=False)
        return found if sop_uids == [""] else {sop_uid: found[sop_uid] for sop_uid in sop_uids if sop_uid in found}


def batches(items: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield at most `size` items at a time."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _absent(wanted: dict[str, InstanceLocator], found: Mapping[str, str]) -> Iterator[MissingInstance]:
    """Yield what the PACS says that it does not have and take it out of `wanted`."""
    for sop_uid in [sop_uid for sop_uid in wanted if sop_uid not in found]:
        del wanted[sop_uid]
        yield MissingInstance(sop_uid, NOT_IN_PACS)
