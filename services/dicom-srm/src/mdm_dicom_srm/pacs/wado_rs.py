"""Retrieval by DICOMweb WADO-RS (PS3.18 section 10.4)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import httpx
from mdm_wire.errors import Invalid, Unavailable

from mdm_dicom_srm.pacs.multipart import MultipartBroken, boundary_of, parts
from mdm_dicom_srm.pacs.part10 import Header, header_of, headers_of, sop_instance_uid
from mdm_dicom_srm.pacs.port import InstanceLocator, RetrievedInstance

# With `*` the server sends each instance in the transfer syntax it stores (PS3.18 section 8.7.3.5.2).
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
# From this share of a series on, one request for all of it is cheaper than one per instance.
_WHOLE_SERIES_SHARE = 0.5
_FEW = 3
_NUMBER_OF_SERIES_INSTANCES = "00201209"


class WadoRs:
    """A PACS behind DICOMweb; safe for several threads."""

    def __init__(self, url: str, *, user: str = "", password: str = "", timeout: float = 60.0) -> None:
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/",
            auth=(user, password) if user else None,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=8),
            # Images hardly compress; a server that tries anyway (Orthanc) becomes several times slower.
            headers={"Accept-Encoding": "identity"},
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance]:
        """Yield the instances; see `Pacs.retrieve`."""
        by_series: dict[tuple[str, str], dict[str, InstanceLocator]] = defaultdict(dict)
        for locator in instances:
            by_series[locator.study_uid, locator.series_uid][locator.sop_uid] = locator
        for (study_uid, series_uid), wanted in by_series.items():
            path = f"studies/{_segment(study_uid)}/series/{_segment(series_uid)}"
            if self._whole_series_pays(study_uid, series_uid, len(wanted)):
                yield from self._wanted(path, set(wanted))
            else:
                for sop_uid in wanted:
                    yield from self._wanted(f"{path}/instances/{_segment(sop_uid)}", {sop_uid})

    def headers(self, study_uid: str) -> Iterator[Header]:
        """Yield the headers of a study; see `Pacs.headers`."""
        yield from headers_of(self._parts(f"studies/{_segment(study_uid)}"))

    def ping(self) -> None:
        """Return when the DICOMweb service answers a query; see `Pacs.ping`."""
        try:
            self._client.get("studies", params={"limit": "1"}, headers={"Accept": "application/dicom+json"}).raise_for_status()
        except httpx.HTTPError as error:
            raise _unavailable(error) from None

    def _wanted(self, path: str, sop_uids: set[str]) -> Iterator[RetrievedInstance]:
        for part10 in self._parts(path):
            sop_uid = _sop_uid(part10, sop_uids)
            if sop_uid in sop_uids:
                sop_uids.discard(sop_uid)
                yield RetrievedInstance(sop_uid, part10)
            if not sop_uids:
                return

    def _parts(self, path: str) -> Iterator[bytes]:
        try:
            with self._client.stream("GET", path, headers={"Accept": _ACCEPT}) as response:
                if response.status_code in (httpx.codes.NOT_FOUND, httpx.codes.GONE, httpx.codes.NO_CONTENT):
                    return
                response.raise_for_status()
                content_type = response.headers.get("content-type", "")
                if content_type.startswith("application/dicom"):
                    yield response.read()
                else:
                    yield from parts(response.iter_raw(), boundary_of(content_type))
        except (httpx.HTTPError, MultipartBroken) as error:
            raise _unavailable(error) from None

    def _whole_series_pays(self, study_uid: str, series_uid: str, count: int) -> bool:
        if count <= _FEW:
            return False
        size = self._series_size(study_uid, series_uid)
        return size is None or count >= size * _WHOLE_SERIES_SHARE

    def _series_size(self, study_uid: str, series_uid: str) -> int | None:
        """Return how many instances the series has, None if the server does not tell."""
        parameters = {"SeriesInstanceUID": series_uid, "includefield": _NUMBER_OF_SERIES_INSTANCES}
        try:
            response = self._client.get(
                f"studies/{_segment(study_uid)}/series", params=parameters, headers={"Accept": "application/dicom+json"}
            )
            if response.status_code != httpx.codes.OK:
                return None
            return int(response.json()[0][_NUMBER_OF_SERIES_INSTANCES]["Value"][0])
        except httpx.HTTPError as error:
            raise _unavailable(error) from None
        except (ValueError, LookupError, TypeError):
            return None


def _segment(uid: str) -> str:
    """Return a UID as one path segment, whatever it holds."""
    return quote(uid, safe="")


def _sop_uid(part10: bytes, wanted: set[str]) -> str:
    """Return the SOP Instance UID of a file: by its meta information, or by its data set where that names another."""
    try:
        uid = sop_instance_uid(part10)
        return uid if uid in wanted else header_of(part10).sop_uid
    except Invalid:
        return ""


def _unavailable(error: Exception) -> Unavailable:
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        return Unavailable(
            "PACS_REFUSED", f"The PACS answered a DICOMweb request with HTTP {code}; check its log and our credentials there."
        )
    if isinstance(error, httpx.TimeoutException):
        return Unavailable("PACS_TIMEOUT", "The PACS did not answer a DICOMweb request in time; try again later.")
    if isinstance(error, MultipartBroken):
        return Unavailable("PACS_BROKE_OFF", "The PACS broke off a DICOMweb answer; try again later.")
    return Unavailable("PACS_UNAVAILABLE", "The PACS cannot be reached by DICOMweb; check that it is running and try again.")
