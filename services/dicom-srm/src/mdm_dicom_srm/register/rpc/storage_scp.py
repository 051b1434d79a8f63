"""Storage SCP, to which the PACS auto-forwards: success means durably queued; pixel data are not kept."""

import logging
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pynetdicom
import pynetdicom._config
from mdm_deid.encoding.header import Header, unread_header
from mdm_service.settings import ConfigurationError
from mdm_wire.errors import Invalid
from pydicom._uid_dict import UID_dictionary
from pynetdicom import AE, evt
from pynetdicom.transport import AssociationServer

from mdm_dicom_srm import metrics
from mdm_dicom_srm.pacs.c_move import MoveDestination
from mdm_dicom_srm.pacs.dimse import MAX_PDU, VERIFICATION
from mdm_dicom_srm.pacs.dimse_message import SUCCESS
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.register.rpc.c_store import StoreReader, StoreRequest
from mdm_dicom_srm.register.rpc.notification import Notifications
from mdm_dicom_srm.register.rules.service import RegistrationService

_log = logging.getLogger(__name__)
#: Connections at a time; deploy/relay, which stands before it, lets each host have half of them.
MAX_CONNECTIONS = 64
PDU_SECONDS = 30.0
_REQUEST_SECONDS = 10  # in which a connection must become an association
_STORAGE_COMMITMENT = "1.2.840.10008.1.20."
# Status codes of C-STORE (PS3.4 table B.2-1, PS3.7 annex C).
_CLASS_NOT_SUPPORTED, _OUT_OF_RESOURCES, _MISMATCH, _CANNOT_UNDERSTAND = 0x0122, 0xA700, 0xA900, 0xC000


def is_storage_class(uid: str) -> bool:
    """Return whether instances of a SOP class may be stored: a storage class of PS3.6 table A-1, retired or not, or one it does not list.

    A private class cannot be distinguished from a private service; a sender that stores by it declares it a class.
    """
    name, kind, *_ = UID_dictionary.get(uid, ("", "SOP Class"))
    return kind == "SOP Class" and (not name or "Storage" in name) and not uid.startswith(_STORAGE_COMMITMENT)


class _Contexts(list[Any]):
    """Presentation contexts that associations share: pynetdicom copies them for each, which costs more than all else of an association."""

    def __deepcopy__(self, _: object) -> "_Contexts":
        return self


class _Server(AssociationServer):
    """Closes connections beyond the limit at once, before they cost anything."""

    request_queue_size = 128
    tls: ssl.SSLContext | None = None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a new connection may be taken."""
        return len(self.active_associations) < MAX_CONNECTIONS

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection; the TLS handshake, which may take long, is left to the first reading, in the association's own thread."""
        connection, address = self.socket.accept()  # type: ignore[union-attr]
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def service_actions(self) -> None:
        """Do nothing between connections; the inherited method stops the process to collect garbage, which Python does by itself."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Drop a connection that broke while it was taken; the default prints it with the peer's data."""

    def shutdown(self) -> None:
        """Stop listening. The inherited method works only for servers that `AE.start_server` made."""
        super(AssociationServer, self).shutdown()
        self.server_close()


class StorageScp:
    """Listens from `start` to `stop`. A caller whose AE title is not allowed is rejected at the association.

    Everything else that a PACS may store is accepted, whatever its SOP class and transfer syntax: its registration says what became of it.
    """

    def __init__(
        self,
        service: RegistrationService,
        host: str,
        port: int,
        ae_title: str,
        allowed: Sequence[str],
        *,
        pacs_of: Mapping[str, str] | None = None,
        destination: MoveDestination | None = None,
        tls: ssl.SSLContext | None = None,
        notifications: Notifications | None = None,
    ) -> None:
        """Prepare; `pacs_of` names the PACS of an AE title, `destination` takes what a C-MOVE brings, `tls` is demanded of callers.

        `notifications` handles what they say beside storing.
        """
        self._service = service
        self._pacs_of = dict(pacs_of or {})
        self._destination = destination or MoveDestination(ae_title)
        self._tls = tls
        self._address = (host, port)
        self._ae = AE(ae_title)
        self._ae.maximum_pdu_size = MAX_PDU
        self._ae.maximum_associations = MAX_CONNECTIONS
        self._ae.acse_timeout = _REQUEST_SECONDS
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = sorted({*allowed, *self._pacs_of})
        self._ae.add_supported_context(VERIFICATION)
        # By this setting, which is the process's, pynetdicom accepts classes that it does not know.
        pynetdicom._config.UNRESTRICTED_STORAGE_SERVICE = True
        for uid in filter(is_storage_class, UID_dictionary):
            self._ae.add_supported_context(uid, pynetdicom.ALL_TRANSFER_SYNTAXES)
        self._handlers: list[Any] = [(evt.EVT_CONN_OPEN, self._read), (evt.EVT_REQUESTED, _prefer_known)]
        self._notifications = notifications
        if notifications is not None:
            self._handlers += notifications.offer(self._ae)
        self._server: Any = None

    @property
    def port(self) -> int:
        """The port on which it listens, once started."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigurationError: the address cannot be used.
        """
        try:
            self._server = self._ae.make_server(self._address, evt_handlers=self._handlers, server_class=_Server)
        except OSError as error:
            raise ConfigurationError(f"scp: cannot listen on {self._address[0]}:{self._address[1]}: {error.strerror}") from error
        self._server.tls = self._tls
        self._server.contexts = _Contexts(self._server.contexts)
        threading.Thread(target=self._server.serve_forever, name="scp", daemon=True).start()
        if self._notifications is not None:
            self._notifications.start()

    def stop(self) -> None:
        """Stop listening and end the associations."""
        if self._notifications is not None:
            self._notifications.stop()
        if self._server is not None:
            self._server.shutdown()

    def _read(self, event: Any) -> None:
        """Have the connection of a new association read within bounds of time and size."""
        association = event.assoc

        def store(request: StoreRequest, part10: bytes) -> tuple[int, str]:
            return self._store(request, part10, association.requestor.ae_title.strip())

        StoreReader(association, store, PDU_SECONDS).attach()

    def _store(self, request: StoreRequest, part10: bytes, calling_ae: str) -> tuple[int, str]:
        """Return the status of one C-STORE; whatever goes wrong is a status, never an exception."""
        try:
            if not (is_storage_class(request.sop_class) and is_storage_class(request.abstract_syntax)):
                return _refusal(_CLASS_NOT_SUPPORTED, "NOT_A_STORAGE_CLASS", "Not a storage SOP class")
            if self._destination.offer(request.sop_uid, part10):
                return SUCCESS, ""
            header = _header(part10, request.transfer_syntax, request.sop_uid)
            if header.sop_uid != request.sop_uid:
                return _refusal(_MISMATCH, "SOP_INSTANCE_UID_MISMATCH", "SOP Instance UID differs from the request's")
            self._service.enqueue([header], pacs=self._pacs_of.get(calling_ae, ""), calling_ae=calling_ae)
        except Invalid as error:
            return _refusal(_CANNOT_UNDERSTAND, error.reason, error.message)
        except Exception as error:
            return _refusal(_OUT_OF_RESOURCES, type(error).__name__, "Cannot be queued now; send it again later")
        return SUCCESS, ""


def _header(part10: bytes, transfer_syntax: str, sop_uid: str) -> Header:
    """Return the header of an instance; for an unknown transfer syntax, if need be, one made of the request.

    Raises:
        Invalid: it cannot be read though its transfer syntax is known.
    """
    known = transfer_syntax in UID_dictionary
    try:
        header = header_of(part10)
    except Invalid:
        if known:
            raise
    else:
        if known or header.sop_uid == sop_uid:
            return header
    return unread_header(part10, sop_uid)


def _prefer_known(event: Any) -> None:
    """Put transfer syntaxes that can be read first: for a class that pynetdicom does not know it accepts the first one proposed."""
    for context in event.assoc.requestor.primitive.presentation_context_definition_list:
        context.transfer_syntax = sorted(context.transfer_syntax, key=lambda syntax: syntax not in pynetdicom.ALL_TRANSFER_SYNTAXES)


def _refusal(code: int, reason: str, comment: str) -> tuple[int, str]:
    _log.warning("an instance was refused", extra={"status": f"0x{code:04X}", "reason": reason})
    metrics.REFUSED.labels(reason).inc()
    return code, comment
