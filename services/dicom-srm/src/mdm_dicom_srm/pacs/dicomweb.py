"""DICOMweb: the connection with a server, its credentials, and queries by QIDO-RS (PS3.18 section 10.6)."""

import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from mdm_wire.errors import Unavailable
from pydicom.datadict import tag_for_keyword

from mdm_dicom_srm.pacs.http import Answer, Credential, HttpClient
from mdm_dicom_srm.pacs.query import IMAGE, SERIES, STUDY, Match, normalise

_JSON = "application/dicom+json"
_PAGE = 200
_READ_BYTES = 64 * 1024
_MAX_PAGE_BYTES = 64 * 1024 * 1024
_MAX_MATCHES = 1_000_000
_CUT = "299"  # the warning that there are more matches (PS3.18 section 8.3.4.4)


class TokenFile:
    """A bearer token in a file, read again when the file changes, and when the server refuses the one that was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self, again: bool = False) -> str:
        """Return the value of Authorization.

        Raises:
            Unavailable: PACS_TOKEN_UNREADABLE.
        """
        with self._lock:
            try:
                state = self._path.stat()
                seen = (state.st_mtime_ns, state.st_size, state.st_ino)
                if again or seen != self._seen:
                    self._token, self._seen = self._path.read_text(encoding="ascii").strip(), seen
            except (OSError, ValueError):
                raise Unavailable("PACS_TOKEN_UNREADABLE", "The file with the PACS's bearer token cannot be read.") from None
            return f"Bearer {self._token}"


class Password:
    """A user with a password (RFC 7617)."""

    def __init__(self, user: str, password: str) -> None:
        self._authorization = "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    def __call__(self, again: bool = False) -> str:
        """Return the value of Authorization."""
        return self._authorization


class DicomWeb:
    """A DICOMweb server: a client with bounds, and its query service; see `query.Search`. Safe for several threads."""

    def __init__(self, url: str, *, credential: Credential | None = None, tls: ssl.SSLContext | None = None, timeout: float = 60.0) -> None:
        client = HttpClient(url, credential=credential, tls=tls, seconds=timeout)
        self.get, self.close = client.get, client.close

    def find(self, level: str, keys: Mapping[str, str | Sequence[str]]) -> Iterator[Match]:
        """Yield the matches at a level, page by page; see `query.Search.find`.

        Raises:
            Unavailable: also where the server has more matches than it gives.
        """
        path, parameters = _query(level, keys)
        offset, before = 0, None
        while offset < _MAX_MATCHES:
            page, cut = self._page(path, [*parameters, ("limit", str(_PAGE)), ("offset", str(offset))])
            if not page or page == before:
                if page and (cut or len(page) >= _PAGE):
                    raise Unavailable("PACS_CUT_ANSWER", "The PACS has more matches than its QIDO-RS gives, and ignores the offset.")
                return
            for item in page:
                yield {keyword: _value(item, keyword) or _asked(keys, keyword) for keyword in keys}
            offset, before = offset + len(page), page
        raise Unavailable("PACS_BROKE_OFF", "The PACS answers a QIDO-RS query without end.")

    def ping(self) -> str:
        """Return how the connection is secured when the server answers a query.

        Raises:
            Unavailable: it does not.
        """
        with self.get("studies", _JSON, [("limit", "1")]) as answer:
            accepted(answer)
            return answer.tls

    def _page(self, path: str, parameters: Sequence[tuple[str, str]]) -> tuple[list[Mapping[str, object]], bool]:
        with self.get(path, _JSON, parameters) as answer:
            if answer.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
                return [], False
            accepted(answer)
            body, buffer = bytearray(), memoryview(bytearray(_READ_BYTES))
            while count := answer.read_into(buffer):
                body += buffer[:count]
                if len(body) > _MAX_PAGE_BYTES:
                    raise Unavailable("PACS_BROKE_OFF", "The PACS answers a QIDO-RS query without end.")
        try:
            page = json.loads(body) if body else []
        except ValueError:
            page = None
        if not isinstance(page, list) or not all(isinstance(item, dict) for item in page):
            raise Unavailable("PACS_REFUSED", "The PACS answers a QIDO-RS query with something else than DICOM JSON.")
        return page, _CUT in answer.header("Warning")


def segment(uid: str) -> str:
    """Return a UID as one path segment, whatever it holds."""
    return quote(uid, safe="")


def accepted(answer: Answer) -> Answer:
    """Return the answer; nothing of a URL, which has UIDs, is in the error.

    Raises:
        Unavailable: PACS_REFUSED, its status is an error.
    """
    if answer.status >= HTTPStatus.BAD_REQUEST:
        message = f"The PACS answered a DICOMweb request with HTTP {answer.status}; check its log and our credentials there."
        raise Unavailable("PACS_REFUSED", message)
    return answer


def _query(level: str, keys: Mapping[str, str | Sequence[str]]) -> tuple[str, list[tuple[str, str]]]:
    """Return path and parameters of a query."""
    study, series = keys.get("StudyInstanceUID", ""), keys.get("SeriesInstanceUID", "")
    in_study = f"studies/{segment(study)}/" if isinstance(study, str) and study else ""
    path = {
        STUDY: "studies",
        SERIES: f"{in_study}series",
        IMAGE: f"{in_study}series/{segment(series)}/instances" if isinstance(series, str) and series else f"{in_study}instances",
    }[level]
    in_path = {"StudyInstanceUID": level != STUDY and in_study, "SeriesInstanceUID": level == IMAGE and series}
    matching = [(keyword, value if isinstance(value, str) else ",".join(value)) for keyword, value in keys.items() if value]
    fields = [("includefield", f"{tag_for_keyword(keyword):08X}") for keyword in keys]
    return path, [*((keyword, value) for keyword, value in matching if not in_path.get(keyword)), *fields]


def _asked(keys: Mapping[str, str | Sequence[str]], keyword: str) -> str:
    """Return a UID that was in the path, so that a server may leave it out."""
    value = keys[keyword]
    return value if isinstance(value, str) and keyword in ("StudyInstanceUID", "SeriesInstanceUID") else ""


def _value(item: Mapping[str, object], keyword: str) -> str:
    element = item.get(f"{tag_for_keyword(keyword):08X}")
    values = element.get("Value", []) if isinstance(element, dict) else []
    return normalise(keyword, [_text(value) for value in values] if isinstance(values, list) else [])


def _text(value: object) -> object:
    """Return a value of DICOM JSON; the component groups of a person's name as one text (PS3.18 section F.2.2)."""
    if isinstance(value, dict):
        return "=".join(str(value.get(group) or "") for group in ("Alphabetic", "Ideographic", "Phonetic"))
    return value
