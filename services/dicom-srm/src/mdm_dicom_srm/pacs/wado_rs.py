"""Retrieval by DICOMweb WADO-RS (PS3.18 section 10.4)."""

import time
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from http import HTTPStatus

from mdm_deid.encoding.header import Header
from mdm_wire.errors import Unavailable

from mdm_dicom_srm.pacs import query
from mdm_dicom_srm.pacs.dicomweb import DicomWeb, accepted, segment
from mdm_dicom_srm.pacs.header import headers_of, sop_instance_uid
from mdm_dicom_srm.pacs.http import Answer
from mdm_dicom_srm.pacs.multipart import MultipartBroken, boundary_of, parts, whole
from mdm_dicom_srm.pacs.port import NOT_IN_PACS, InstanceLocator, ListedInstance, MissingInstance, RetrievedInstance, Scope
from mdm_dicom_srm.shared_memory import BlockPool, Piece

# With `*` the server sends each instance in the transfer syntax it stores (PS3.18 section 8.7.3.5.2).
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.NO_CONTENT)
_LATER = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_FORBIDDEN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
# From this share of a series on, one request for all of it is cheaper than one per instance.
_WHOLE_SERIES_SHARE = 0.5
_FEW = 3
_MAX_FAILURES = 3  # in a row, then the server counts as away
_PAUSE = 0.5
_SURPLUS = 1000  # instances that nobody asked for, then the answer is left


class _Absent(Exception):
    """The server says that it does not have what is asked for."""


class _NotSent(Exception):
    """The server answers, but does not send what is asked for."""


class WadoRs:
    """A PACS behind DICOMweb; safe for several threads."""

    def __init__(self, web: DicomWeb, *, name: str = "", max_instance_bytes: int = 4 * 1024**3) -> None:
        self._web, self._name = web, name
        self._limit = max_instance_bytes
        self._pool = BlockPool()

    def close(self) -> None:
        """Close the connections."""
        self._web.close()

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        """Yield the instances; see `Pacs.retrieve`."""
        by_series: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        for locator in instances:
            by_series[locator.study_uid, locator.series_uid][locator.sop_uid] = None
        for (study_uid, series_uid), wanted in by_series.items():
            path = f"studies/{segment(study_uid)}/series/{segment(series_uid)}"
            if self._whole_series_pays(study_uid, series_uid, len(wanted)):
                try:
                    yield from self._series(path, wanted)
                except _Absent:
                    yield from (MissingInstance(sop_uid, NOT_IN_PACS) for sop_uid in wanted)
                    continue
                except (_NotSent, Unavailable):
                    time.sleep(_PAUSE)
            # What is asked for alone, or did not come with its series: the answer says of each whether it is there.
            yield from self._one_by_one(path, wanted)

    def headers(self, study_uid: str) -> Iterator[tuple[Header, str]]:
        """Yield the headers of a study; see `Pacs.headers`."""
        try:
            for header in headers_of(piece.view for piece in self._parts(f"studies/{segment(study_uid)}")):
                yield header, self._name
        except _Absent:
            return
        except _NotSent:
            raise Unavailable("PACS_NOT_DELIVERED", "The PACS does not send this study; check its log.") from None

    def studies(self, scope: Scope) -> Iterator[str]:
        """Yield the studies of a scope; see `Pacs.studies`."""
        return query.studies(self._web, scope)

    def listing(self, study_uid: str) -> Iterator[ListedInstance]:
        """Yield the instances of a study; see `Pacs.listing`."""
        return query.listing(self._web, study_uid, self._name)

    def ping(self) -> None:
        """Return when the DICOMweb service answers a query; see `Pacs.ping`."""
        self._web.ping()

    def _series(self, path: str, wanted: dict[str, None]) -> Iterator[RetrievedInstance]:
        """Yield what is wanted of a series and take it out of `wanted`."""
        surplus = 10 * len(wanted) + _SURPLUS
        with closing(self._parts(path)) as files:
            for piece in files:
                part10 = piece.view
                sop_uid = sop_instance_uid(part10, wanted.keys())
                if sop_uid in wanted:
                    del wanted[sop_uid]
                    yield RetrievedInstance(sop_uid, part10, self._name, piece)
                else:
                    surplus -= 1
                if not wanted or surplus < 0:
                    return

    def _one_by_one(self, path: str, wanted: Collection[str]) -> Iterator[RetrievedInstance | MissingInstance]:
        """Yield single instances. One that breaks the connection does not hold up the others, unless several in a row do.

        Raises:
            Unavailable: the server is away.
        """
        failures, most = 0, min(_MAX_FAILURES, len(wanted))
        for sop_uid in list(wanted):
            try:
                yield self._one(f"{path}/instances/{segment(sop_uid)}", sop_uid)
                failures = 0
            except Unavailable as error:
                failures += 1
                if error.reason not in ("PACS_BROKE_OFF", "PACS_TIMEOUT") or failures == most:
                    raise
                yield MissingInstance(sop_uid, error.reason)

    def _one(self, path: str, sop_uid: str) -> RetrievedInstance | MissingInstance:
        try:
            with closing(self._parts(path)) as files:
                piece = next(files, None)
        except _Absent:
            return MissingInstance(sop_uid, NOT_IN_PACS)
        except _NotSent:
            piece = None
        if piece is None or not piece.size:
            return MissingInstance(sop_uid, "PACS_NOT_DELIVERED")
        part10 = piece.view
        if sop_instance_uid(part10, {sop_uid}) != sop_uid:
            return MissingInstance(sop_uid, "PACS_SENT_ANOTHER")
        return RetrievedInstance(sop_uid, part10, self._name, piece)

    def _parts(self, path: str) -> Generator[Piece, None, None]:
        """Yield the files that the server sends.

        Raises:
            _Absent, _NotSent: it does not send them.
            Unavailable: it is away, refuses us or breaks off.
        """
        for last in (False, True):
            with self._web.get(path, _ACCEPT) as answer:
                if answer.status in _LATER and not last:
                    pause = _PAUSE
                else:
                    yield from self._files(answer)
                    return
            time.sleep(pause)

    def _files(self, answer: Answer) -> Iterator[Piece]:
        if answer.status in _ABSENT:
            raise _Absent
        if answer.status in (*_LATER, *_FORBIDDEN):
            accepted(answer)
        if answer.status != HTTPStatus.OK and answer.status != HTTPStatus.PARTIAL_CONTENT:
            raise _NotSent
        content_type = answer.header("Content-Type")
        try:
            if content_type.startswith("application/dicom") and "json" not in content_type:
                yield whole(answer.read_into, self._limit, self._pool)
            else:
                yield from parts(answer.read_into, boundary_of(content_type), self._limit, self._pool)
        except MultipartBroken:
            raise Unavailable("PACS_BROKE_OFF", "The PACS broke off a DICOMweb answer; try again later.") from None

    def _whole_series_pays(self, study_uid: str, series_uid: str, count: int) -> bool:
        """Return whether to ask for a whole series to get `count` instances of it; where its size is not known, it does."""
        if count <= _FEW:
            return False
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "NumberOfSeriesRelatedInstances": ""}
        try:
            series = next((match for match in self._web.find(query.SERIES, keys) if match["SeriesInstanceUID"] == series_uid), None)
        except Unavailable as error:
            if error.reason == "PACS_UNAVAILABLE":
                raise
            return True
        size = series["NumberOfSeriesRelatedInstances"] if series else ""
        return not size.isdigit() or count >= int(size) * _WHOLE_SERIES_SHARE
