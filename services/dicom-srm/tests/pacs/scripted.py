"""A PACS by DIMSE, and one by DICOMweb, in this process, whose faults can be had at will."""

import io
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
from pydicom.multival import MultiValue
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

_LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class ScriptedPacs:
    """Answers C-ECHO, C-FIND, C-GET and C-MOVE from memory.

    `limit` cuts the answers to a C-FIND, what is `withheld` is not moved; `on_get` is called before each instance of a C-GET is sent
    and may wait, abort or return another data set to send.
    """

    def __init__(
        self, ae_title: str, files: Sequence[bytes], move_port: int = 1, *, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.stored = {str(item.SOPInstanceUID): item for item in (pydicom.dcmread(io.BytesIO(file)) for file in files)}
        self.limit: int | None = None
        self.on_get: Callable[[Any, pydicom.Dataset], pydicom.Dataset | None] = lambda event, item: None
        self.finds: list[pydicom.Dataset] = []
        self.gets: list[list[str]] = []
        self.associations = 0
        self.withheld: set[str] = set()
        self._address, self._tls = ("127.0.0.1", port), tls
        self._lock = threading.Lock()
        self._move_port = move_port
        self._ae = AE(ae_title)
        self._ae.supported_contexts = [
            build_context(StudyRootQueryRetrieveInformationModelFind),
            build_context(StudyRootQueryRetrieveInformationModelGet),
            build_context(StudyRootQueryRetrieveInformationModelMove),
            build_context(Verification),
        ]
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True)

    def __enter__(self) -> "ScriptedPacs":
        handlers: list[Any] = [
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_MOVE, self._move),
        ]
        self._server = self._ae.start_server(self._address, block=False, evt_handlers=handlers, ssl_context=self._tls)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def send(self, port: int, sop_uid: str, tls: ssl.SSLContext | None = None) -> int | None:
        """Auto-forward an instance; return its status, None where there is no association."""
        item = self.stored[sop_uid]
        contexts = [build_context(item.SOPClassUID, item.file_meta.TransferSyntaxUID)]
        association = self._ae.associate(
            "127.0.0.1", port, contexts, ae_title="MDM", tls_args=(tls, "127.0.0.1") if tls is not None else None
        )
        if not association.is_established:
            if association.dul.socket and association.dul.socket.socket:
                association.dul.socket.socket.close()  # pynetdicom leaves it to the garbage collector
            return None
        status = association.send_c_store(item).Status
        association.release()
        return int(status)

    def _accepted(self, _: Any) -> None:
        self.associations += 1

    def _matches(self, identifier: pydicom.Dataset) -> list[pydicom.Dataset]:
        keys = {name: _values(identifier.get(name)) for name in (*_LEVELS.values(), "PatientID", "AccessionNumber")}
        found = [item for item in self.stored.values() if all(not wanted or str(item.get(name)) in wanted for name, wanted in keys.items())]
        days, times = str(identifier.get("StudyDate") or ""), str(identifier.get("StudyTime") or "")
        return [item for item in found if _in_range(item.get("StudyDate"), days) and _in_range(item.get("StudyTime"), times)]

    def _find(self, event: evt.Event) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        with self._lock:
            self.finds.append(event.identifier)
        level = _LEVELS[event.identifier.QueryRetrieveLevel]
        found = list({item[level].value: item for item in self._matches(event.identifier)}.values())
        for item in found[: self.limit]:
            answer = pydicom.Dataset()
            for element in event.identifier:
                if element.keyword in item:
                    setattr(answer, element.keyword, item[element.keyword].value)
            answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
            yield 0xFF00, answer

    def _get(self, event: evt.Event) -> Iterator[object]:
        found = self._matches(event.identifier)
        with self._lock:
            self.gets.append([str(item.SOPInstanceUID) for item in found])
        yield len(found)
        for item in found:
            yield 0xFF00, self.on_get(event, item) or item

    def _move(self, event: evt.Event) -> Iterator[object]:
        found = self._matches(event.identifier)
        # At most 128 contexts: those of the classes that are sent, each in its transfer syntax.
        contexts = [build_context(*pair) for pair in sorted({(item.SOPClassUID, item.file_meta.TransferSyntaxUID) for item in found})]
        if event.move_destination != "MDM":
            yield None, None
            return
        yield (
            "127.0.0.1",
            self._move_port,
            {"contexts": contexts or [build_context(Verification)]},
        )
        yield len(found)
        for item in found:
            if item.SOPInstanceUID in self.withheld:
                strange = pydicom.Dataset()
                strange.SOPClassUID, strange.SOPInstanceUID = "1.2.3.4.5", item.SOPInstanceUID
                yield 0xFF00, strange
            else:
                yield 0xFF00, item


def _values(value: object) -> set[str]:
    return {str(item) for item in value if item} if isinstance(value, MultiValue) else {str(value)} - {"", "None"}


def _in_range(value: object, wanted: str) -> bool:
    if not wanted:
        return True
    first, dash, last = wanted.partition("-")
    text = str(value or "")
    return bool(text) and (first <= text <= (last or "99999999") if dash else text == first)


class ScriptedWeb:
    """Answers WADO-RS, and the QIDO-RS that goes with it, for one series.

    A fault of an instance is a status, another file to send, or `drop`, `hang`, `endless`. The answer to the whole series ends early
    `series_ends_after` so many instances; `busy` requests are answered with 503. `credential` is demanded as the header Authorization.
    """

    def __init__(self, files: dict[str, bytes], tls: ssl.SSLContext | None = None) -> None:
        self.files = files
        self.faults: dict[str, int | bytes | str] = {}
        self.series_ends_after: int | None = None
        self.busy = 0
        self.credential = ""
        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def __enter__(self) -> "ScriptedWeb":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        path = parts.path.removeprefix("/dicom-web/").split("/")
        if self.credential and request.headers.get("Authorization") != self.credential:
            request.send_error(401)
        elif self.busy:
            self.busy -= 1
            request.send_error(503)
        elif len(path) == 6:
            self._instance(request, path[5])
        elif len(path) == 4:
            sent = list(self.files.values())[: self.series_ends_after]
            self._multipart(request, sent, whole=self.series_ends_after is None)
        else:
            first = "offset" not in parse_qs(parts.query) or parse_qs(parts.query)["offset"] == ["0"]
            self._json(request, [_series(len(self.files))] if first and len(path) == 3 else [])

    def _instance(self, request: BaseHTTPRequestHandler, sop_uid: str) -> None:
        fault = self.faults.get(sop_uid, self.files.get(sop_uid, 404))
        if isinstance(fault, int):
            request.send_error(fault)
        elif isinstance(fault, bytes):
            self._multipart(request, [fault])
        else:
            self._multipart(request, [self.files[sop_uid][:1000]], whole=False)
            if fault == "hang":
                self.ended.wait(20)
            while fault == "endless" and not self.ended.is_set():
                request.wfile.write(bytes(100_000))

    def _multipart(self, request: BaseHTTPRequestHandler, files: list[bytes], *, whole: bool = True) -> None:
        """Send files; one that is not `whole` lacks its end."""
        request.send_response(200)
        request.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=b')
        request.end_headers()
        body = b"".join(b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + file for file in files)
        request.wfile.write(body + (b"\r\n--b--" if whole else b""))

    def _json(self, request: BaseHTTPRequestHandler, items: list[Any]) -> None:
        body = json.dumps(items).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/dicom+json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    scripted.answer(self)
                except OSError:
                    self.close_connection = True  # the client has left

            def log_message(self, *_: object) -> None:
                return

        return Handler


def _series(count: int) -> dict[str, Any]:
    return {"0020000E": {"vr": "UI", "Value": ["1.2.826.0.1.99.1.1"]}, "00201209": {"vr": "IS", "Value": [count]}}
