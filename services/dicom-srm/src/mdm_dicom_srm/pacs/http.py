"""HTTP/1.1 as DICOMweb needs it: GET over connections that are kept, with bodies that are received straight into memory."""

import http.client
import select
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from mdm_wire.errors import Unavailable

from mdm_dicom_srm.pacs.connection import STEADY_BYTES

_CONNECT_SECONDS = 5.0
_KEPT = 8
# A rest of an answer up to this size is read, so that its connection can be used again.
_SMALL_REST = 64 * 1024
_REST_SECONDS = 0.5


class Credential(Protocol):
    """Returns the value of the header Authorization; with `again`, after the server refused the one before."""

    def __call__(self, again: bool = False) -> str: ...


class Answer:
    """Status and headers of an answer, and its body, which is read once.

    A body that comes too slowly is given up; the time between two calls does not count.
    """

    def __init__(self, response: http.client.HTTPResponse, seconds: float, tls: str) -> None:
        self.status = response.status
        self.tls = tls
        self._response = response
        self._seconds = seconds
        self._waited, self._brought = 0.0, 0
        self.left = response.length  # None where the length is not known beforehand

    def header(self, name: str) -> str:
        """Return a header, "" for none."""
        return self._response.getheader(name) or ""

    def read_into(self, view: memoryview) -> int:
        """Receive up to the size of `view`, at least one byte unless the body has ended; return how many.

        Raises:
            Unavailable: PACS_TIMEOUT, it comes too slowly.
            OSError, http.client.HTTPException: it breaks off.
        """
        began = time.monotonic()
        count = self._receive(view)
        if count:
            self._brought += count
            self._waited += time.monotonic() - began
            if self._brought >= STEADY_BYTES:
                self._waited, self._brought = 0.0, 0
            elif self._waited > self._seconds:
                raise Unavailable("PACS_TIMEOUT", "The PACS answers too slowly; try again later.")
        return count

    def finish(self) -> bool:
        """Read the rest if it is small; return whether the connection can be used again."""
        response = self._response
        if response.will_close or (self.left is not None and self.left > _SMALL_REST):
            return False
        rest, taken = memoryview(bytearray(_SMALL_REST)), 0
        while taken <= _SMALL_REST and (count := self._receive(rest)):
            taken += count
        whole = response.isclosed() or self.left == 0
        response.close()
        return whole

    def close(self) -> None:
        """Read no more."""
        self._response.close()

    def _receive(self, view: memoryview) -> int:
        response = self._response
        if self.left is None and response.chunked:
            data = response.read1(len(view))
            view[: len(data)] = data
            return len(data)
        if self.left == 0 or response.fp is None:
            return 0
        count: int = response.fp.readinto1(view if self.left is None else view[: self.left])
        if self.left is not None:
            if not count:
                raise http.client.IncompleteRead(b"", self.left)
            self.left -= count
        return count


class HttpClient:
    """A server by its URL. Safe for several threads: each answer has a connection of its own while it is read."""

    def __init__(self, url: str, *, credential: Credential | None, tls: ssl.SSLContext | None, seconds: float) -> None:
        """Give up a server that does not answer for `seconds`; without `tls` the system's certification authorities count."""
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._credential = credential
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            kept, self._kept = self._kept, []
        for connection in kept:
            connection.close()

    @contextmanager
    def get(self, path: str, accept: str, parameters: Sequence[tuple[str, str]] = ()) -> Iterator[Answer]:
        """Give the answer to a GET, its body not yet read.

        Raises:
            Unavailable: the server is away, does not answer in time, or breaks off, also while the body is read.
        """
        target = f"{self._path}/{path}" + (f"?{urlencode(parameters)}" if parameters else "")
        # Images hardly compress; a server that tries anyway (Orthanc) becomes several times slower.
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        try:
            connection, answer = self._ask(target, headers)
            kept = False
            try:
                yield answer
                kept = self._keep(connection, answer)
            except GeneratorExit:  # the one who reads has enough
                kept = self._keep(connection, answer)
                raise
            finally:
                answer.close()
                if not kept:
                    connection.close()
        except TimeoutError:
            raise Unavailable("PACS_TIMEOUT", "The PACS did not answer a DICOMweb request in time; try again later.") from None
        except (OSError, http.client.HTTPException):
            raise Unavailable("PACS_BROKE_OFF", "The PACS broke off a DICOMweb answer; try again later.") from None

    def _ask(self, target: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPConnection, Answer]:
        """Send a request; once more with another credential where the server refuses the first."""
        authorization = self._credential() if self._credential else ""
        connection, answer = self._send(target, headers, authorization)
        if answer.status == HTTPStatus.UNAUTHORIZED and self._credential and (newer := self._credential(again=True)) != authorization:
            answer.close()
            connection.close()
            return self._send(target, headers, newer)
        return connection, answer

    def _send(self, target: str, headers: Mapping[str, str], authorization: str) -> tuple[http.client.HTTPConnection, Answer]:
        """Send a request over a connection that was kept, or over a new one if its server has closed it meanwhile."""
        headers = {**headers, "Authorization": authorization} if authorization else headers
        for connection in iter(self._taken, None):
            try:
                return connection, self._answer(connection, target, headers)
            except (ConnectionError, http.client.RemoteDisconnected):
                connection.close()
        connection = self._connected()
        try:
            return connection, self._answer(connection, target, headers)
        except BaseException:
            connection.close()
            raise

    def _answer(self, connection: http.client.HTTPConnection, target: str, headers: Mapping[str, str]) -> Answer:
        connection.request("GET", target, headers=headers)
        tls = _secured(connection)
        return Answer(connection.getresponse(), self._seconds, tls)

    def _connected(self) -> http.client.HTTPConnection:
        seconds = min(self._seconds, _CONNECT_SECONDS)
        if self._tls is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=self._tls)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        try:
            connection.connect()
        except TimeoutError:
            connection.close()
            raise
        except OSError:
            connection.close()
            message = "The PACS cannot be reached by DICOMweb; check that it is running, with TLS the certificates, and try again."
            raise Unavailable("PACS_UNAVAILABLE", message) from None
        connection.sock.settimeout(self._seconds)
        return connection

    def _taken(self) -> http.client.HTTPConnection | None:
        """Take a connection that was kept and is still open; None if there is none."""
        while True:
            with self._lock:
                if not self._kept:
                    return None
                connection = self._kept.pop()
            if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                return connection
            connection.close()  # the server has closed it, or says something that nobody asked for

    def _keep(self, connection: http.client.HTTPConnection, answer: Answer) -> bool:
        """Keep a connection for the next request if its answer has been read, or nearly; return whether it is kept."""
        if connection.sock is None:
            return False
        try:
            connection.sock.settimeout(_REST_SECONDS)
            if not answer.finish():
                return False
            connection.sock.settimeout(self._seconds)
        except (OSError, http.client.HTTPException):
            return False
        with self._lock:
            if len(self._kept) >= _KEPT:
                return False
            self._kept.append(connection)
            return True


def _secured(connection: http.client.HTTPConnection) -> str:
    """Return how a connection is secured, "" if it is not."""
    if isinstance(connection.sock, ssl.SSLSocket):
        cipher = connection.sock.cipher()
        return f"{connection.sock.version()} {cipher[0] if cipher else ''}"
    return ""
