"""Storage SCP: the PACS auto-forwards to it. Pixel data are dropped unread; success means durably queued."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pynetdicom
import pynetdicom._config
from mdm_service.errors import ConfigurationError
from mdm_wire.errors import Invalid
from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import AE

from mdm_dicom_srm.pacs.part10 import Header, header_of, unread_header
from mdm_dicom_srm.register import metrics
from mdm_dicom_srm.register.rpc.listener import MAX_CONNECTIONS, make_server
from mdm_dicom_srm.register.rules.service import RegistrationService

_log = logging.getLogger(__name__)
_MAX_PDU = 128 * 1024
_REQUEST_SECONDS = 10  # in which a connection must become an association
_VERIFICATION = UID("1.2.840.10008.1.1")
_STORAGE_COMMITMENT = "1.2.840.10008.1.20."
# Status codes of C-STORE (PS3.4 table B.2-1, PS3.7 annex C).
_SUCCESS, _CLASS_NOT_SUPPORTED, _OUT_OF_RESOURCES, _MISMATCH, _CANNOT_UNDERSTAND = 0x0000, 0x0122, 0xA700, 0xA900, 0xC000


def is_storage_class(uid: str) -> bool:
    """Return whether instances of a SOP class may be stored: a storage class of PS3.6 table A-1, retired or not, or one it does not list.

    A private class cannot be told from a private service; who stores by it says which it is.
    """
    name, kind, *_ = UID_dictionary.get(uid, ("", "SOP Class"))
    return kind == "SOP Class" and (not name or "Storage" in name) and not uid.startswith(_STORAGE_COMMITMENT)


class StorageScp:
    """Listens from `start` to `stop`. A caller whose AE title is not allowed is rejected at the association.

    Everything else that a PACS may store is accepted, whatever its SOP class and transfer syntax: what becomes of it is a registration.
    """

    def __init__(self, service: RegistrationService, host: str, port: int, ae_title: str, allowed: Sequence[str]) -> None:
        self._service = service
        self._address = (host, port)
        self._ae = AE(ae_title)
        self._ae.maximum_pdu_size = _MAX_PDU
        self._ae.maximum_associations = MAX_CONNECTIONS
        self._ae.acse_timeout = _REQUEST_SECONDS
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(allowed)
        self._ae.add_supported_context(_VERIFICATION)
        # Classes that pynetdicom does not know at all it accepts by this setting, which is the process's.
        pynetdicom._config.UNRESTRICTED_STORAGE_SERVICE = True
        for uid in filter(is_storage_class, UID_dictionary):
            self._ae.add_supported_context(uid, pynetdicom.ALL_TRANSFER_SYNTAXES)
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
            self._server = make_server(self._ae, self._address, self._store)
        except OSError as error:
            raise ConfigurationError(f"scp: cannot listen on {self._address[0]}:{self._address[1]}: {error.strerror}") from error
        threading.Thread(target=self._server.serve_forever, name="scp", daemon=True).start()

    def stop(self) -> None:
        """Stop listening and end the associations."""
        if self._server is not None:
            self._server.shutdown()

    def _store(self, event: Any) -> Dataset:
        """Answer one C-STORE; whatever goes wrong is a status, never an exception."""
        try:
            sop_class, sop_uid = str(event.request.AffectedSOPClassUID), str(event.request.AffectedSOPInstanceUID)
            if not (is_storage_class(sop_class) and is_storage_class(str(event.context.abstract_syntax))):
                return _refusal(_CLASS_NOT_SUPPORTED, "NOT_A_STORAGE_CLASS", "Not a storage SOP class")
            header = _header(event.encoded_dataset(), str(event.context.transfer_syntax), sop_class, sop_uid)
            if header.sop_uid != sop_uid:
                return _refusal(_MISMATCH, "SOP_INSTANCE_UID_MISMATCH", "SOP Instance UID differs from the request's")
            self._service.enqueue([header])
        except Invalid as error:
            return _refusal(_CANNOT_UNDERSTAND, error.reason, error.message)
        except Exception as error:
            return _refusal(_OUT_OF_RESOURCES, type(error).__name__, "Cannot be queued now; send it again later")
        return _status(_SUCCESS)


def _header(part10: bytes, transfer_syntax: str, sop_class: str, sop_uid: str) -> Header:
    """Return the header of an instance, of one in a transfer syntax that nobody knows by its request if need be.

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
    return unread_header(part10, transfer_syntax, sop_class, sop_uid)


def _refusal(code: int, reason: str, comment: str) -> Dataset:
    _log.warning("an instance was refused", extra={"status": f"0x{code:04X}", "reason": reason})
    metrics.REFUSED.labels(reason).inc()
    status = _status(code)
    status.ErrorComment = comment[:64]
    return status


def _status(code: int) -> Dataset:
    status = Dataset()
    status.Status = code
    return status
