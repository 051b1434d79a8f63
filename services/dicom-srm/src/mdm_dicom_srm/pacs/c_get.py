"""Retrieval by DIMSE C-GET (PS3.4 annex C)."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import pynetdicom
from mdm_wire.errors import Unavailable
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role, evt

from mdm_dicom_srm.pacs.part10 import Header, headers_of
from mdm_dicom_srm.pacs.port import InstanceLocator, RetrievedInstance

_MAX_PDU = 128 * 1024
_CONTEXTS = 128  # per association: odd identifiers 1 to 255 (PS3.8 section 9.3.2.2)
_UIDS_PER_REQUEST = 64
_REMEMBERED_SERIES = 256
_SUCCESS = 0x0000
_PENDING = frozenset({0xFF00, 0xFF01})
_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")  # Study Root Query/Retrieve Information Model - FIND (PS3.4 table C.6.2-1)
_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")  # the same - GET
_VERIFICATION = UID("1.2.840.10008.1.1")
# One presentation context per transfer syntax: the PACS accepts each as it is, so it can send what it stores unchanged.
_SYNTAXES = tuple(pynetdicom.ALL_TRANSFER_SYNTAXES)
_CLASSES_PER_ASSOCIATION = (_CONTEXTS - 1) // len(_SYNTAXES)


class CGet:
    """A PACS behind DIMSE; safe for several threads, each call has its own associations.

    Which SOP class an instance has, and so which presentation contexts to propose, is asked by C-FIND and remembered. This also keeps
    instances that the PACS does not have out of a C-GET: some (Orthanc 1.10) then send none of the others.
    """

    def __init__(self, host: str, port: int, *, ae_title: str, calling_ae_title: str, timeout: float = 60.0) -> None:
        self._host, self._port, self._ae_title, self._calling = host, port, ae_title, calling_ae_title
        self._timeout = timeout
        self._known: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._lock = Lock()

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance]:
        """Yield the instances; see `Pacs.retrieve`."""
        by_series: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        for locator in instances:
            by_series[locator.study_uid, locator.series_uid][locator.sop_uid] = None
        for (study_uid, series_uid), sop_uids in by_series.items():
            missing = dict(sop_uids)
            try:
                yield from self._retrieve_series(study_uid, series_uid, missing)
            except Unavailable:
                # What we remember of the series may be out of date: forget it and ask once more for what did not come.
                if not self._forget(series_uid):
                    raise
                yield from self._retrieve_series(study_uid, series_uid, missing)

    def headers(self, study_uid: str) -> Iterator[Header]:
        """Yield the headers of a study; see `Pacs.headers`."""
        for series in self._find("SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID=""):
            series_uid = _uid(series, "SeriesInstanceUID")
            locators = [InstanceLocator(study_uid, series_uid, sop_uid) for sop_uid in self._look_up(study_uid, series_uid, [""])]
            yield from headers_of(instance.part10 for instance in self.retrieve(locators))

    def ping(self) -> None:
        """Return when C-ECHO succeeds; see `Pacs.ping`."""
        with self._association([build_context(_VERIFICATION)]) as association:
            status = association.send_c_echo()
            if status.get("Status") != _SUCCESS:
                raise Unavailable("PACS_REFUSED", "The PACS did not answer C-ECHO with success; check its log.")

    def _retrieve_series(self, study_uid: str, series_uid: str, missing: dict[str, None]) -> Iterator[RetrievedInstance]:
        """Yield instances of one series and take them out of `missing`; those that the PACS does not have stay there."""
        by_class: dict[str, list[str]] = defaultdict(list)
        for sop_uid, sop_class in self._sop_classes(study_uid, series_uid, list(missing)).items():
            by_class[sop_class].append(sop_uid)
        for group in _batches(sorted(by_class), _CLASSES_PER_ASSOCIATION):
            received: list[RetrievedInstance] = []
            wanted = [sop_uid for sop_class in group for sop_uid in by_class[sop_class]]
            with self._association(_get_contexts(group), _roles(group), received) as association:
                for batch in _batches(wanted, _UIDS_PER_REQUEST):
                    identifier = _identifier("IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid, SOPInstanceUID=batch)
                    yield from _get(association, identifier, received, missing)

    def _sop_classes(self, study_uid: str, series_uid: str, sop_uids: list[str]) -> dict[str, str]:
        """Return the SOP class of each of these instances that the PACS has."""
        with self._lock:
            known = dict(self._known.get(series_uid, {}))
        unknown = [sop_uid for sop_uid in sop_uids if sop_uid not in known]
        for batch in _batches(unknown, _UIDS_PER_REQUEST):
            known |= self._look_up(study_uid, series_uid, batch)
        return {sop_uid: known[sop_uid] for sop_uid in sop_uids if sop_uid in known}

    def _look_up(self, study_uid: str, series_uid: str, sop_uids: list[str]) -> dict[str, str]:
        """Ask for the SOP classes of instances, [""] for all of a series, and remember them."""
        images = self._find("IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid, SOPInstanceUID=sop_uids, SOPClassUID="")
        found = {_uid(image, "SOPInstanceUID"): _uid(image, "SOPClassUID") for image in images}
        if not all(found.values()):
            raise Unavailable("PACS_REFUSED", "The PACS does not tell SOP Class UIDs by C-FIND, which C-GET needs; use wado-rs.")
        with self._lock:
            self._known.setdefault(series_uid, {}).update(found)
            self._known.move_to_end(series_uid)
            while len(self._known) > _REMEMBERED_SERIES:
                self._known.popitem(last=False)
        return found

    def _forget(self, series_uid: str) -> bool:
        """Forget a series; return whether anything was remembered."""
        with self._lock:
            return bool(self._known.pop(series_uid, None))

    def _find(self, level: str, **keys: str | list[str]) -> list[Dataset]:
        found: list[Dataset] = []
        code = None
        with self._association([build_context(_FIND)]) as association:
            for status, match in association.send_c_find(_identifier(level, **keys), _FIND):
                code = status.get("Status")
                if code in _PENDING and match is not None:
                    found.append(match)
        if code != _SUCCESS:
            raise _refused("C-FIND", code)
        return found

    @contextmanager
    def _association(
        self, contexts: list[Any], roles: Sequence[Any] = (), received: list[RetrievedInstance] | None = None
    ) -> Iterator[Any]:
        ae = AE(self._calling)
        ae.maximum_pdu_size = _MAX_PDU
        ae.connection_timeout = min(self._timeout, 5.0)
        ae.acse_timeout = ae.dimse_timeout = self._timeout
        ae.network_timeout = None  # the consumer of the generator may be slow; dimse_timeout watches the PACS
        association = ae.associate(
            self._host,
            self._port,
            contexts,
            ae_title=self._ae_title,
            max_pdu=_MAX_PDU,
            ext_neg=list(roles),
            evt_handlers=[(evt.EVT_C_STORE, _receiver(received))] if received is not None else [],
        )
        connection = association.dul.socket.socket if association.dul.socket else None
        try:
            if association.is_rejected:
                raise Unavailable("PACS_REFUSED", "The PACS rejected our association; register our AE title and address there.")
            if not association.is_established:
                raise Unavailable("PACS_UNAVAILABLE", "The PACS cannot be reached by DICOM; check that it is running and try again.")
            yield association
        finally:
            _end(association, connection)


def _end(association: Any, connection: Any) -> None:
    if association.is_established:
        association.release()
    elif not association.is_rejected:
        association.abort()
    # pynetdicom leaves the socket to the garbage collector where the peer closes first.
    if connection is not None:
        connection.close()


def _get(association: Any, identifier: Dataset, received: list[RetrievedInstance], missing: dict[str, None]) -> Iterator[RetrievedInstance]:
    """Yield what a C-GET brings and take it out of `missing`.

    Raises:
        Unavailable: not every instance asked for could be sent.
    """
    code = None
    for status, _ in association.send_c_get(identifier, _GET):
        code = status.get("Status")
        for instance in received:
            if instance.sop_uid in missing:
                del missing[instance.sop_uid]
                yield instance
        received.clear()
    if code != _SUCCESS:
        raise _refused("C-GET", code)


def _refused(operation: str, code: int | None) -> Unavailable:
    if code is None:
        return Unavailable("PACS_BROKE_OFF", f"The PACS did not finish a {operation}; try again later.")
    return Unavailable("PACS_REFUSED", f"The PACS answered {operation} with status 0x{code:04X}; check its log.")


def _receiver(received: list[RetrievedInstance]) -> Callable[[Any], int]:
    def receive(event: Any) -> int:
        received.append(RetrievedInstance(str(event.request.AffectedSOPInstanceUID), event.encoded_dataset()))
        return _SUCCESS

    return receive


def _get_contexts(sop_classes: Sequence[str]) -> list[Any]:
    """Return the contexts that let each SOP class come in every transfer syntax; at most 128."""
    storage = [build_context(sop_class, syntax) for sop_class in sop_classes for syntax in _SYNTAXES]
    return [build_context(_GET), *storage]


def _roles(sop_classes: Sequence[str]) -> list[Any]:
    return [build_role(sop_class, scp_role=True) for sop_class in sop_classes]


def _identifier(level: str, **keys: str | list[str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _uid(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword, "") or "").strip("\0 ")


def _batches(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
