"""Storage SCP: the PACS auto-forwards to it. Pixel data are dropped unread; success means durably queued."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pynetdicom
from mdm_service.errors import ConfigurationError
from mdm_wire.errors import Invalid
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts

from mdm_dicom_srm.pacs.part10 import header_of
from mdm_dicom_srm.register.rpc.listener import MAX_CONNECTIONS, make_server
from mdm_dicom_srm.register.rules.service import RegistrationService

_log = logging.getLogger(__name__)
_MAX_PDU = 128 * 1024
_REQUEST_SECONDS = 10  # in which a connection must become an association
_VERIFICATION = UID("1.2.840.10008.1.1")
# Status codes of C-STORE (PS3.4 table B.2-1).
_SUCCESS, _OUT_OF_RESOURCES, _MISMATCH, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000


class StorageScp:
    """Listens from `start` to `stop`. A caller whose AE title is not allowed is rejected at the association."""

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
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(str(context.abstract_syntax), pynetdicom.ALL_TRANSFER_SYNTAXES)
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
            header = header_of(event.encoded_dataset())
            if header.sop_uid != str(event.request.AffectedSOPInstanceUID):
                return _refusal(_MISMATCH, "SOP_INSTANCE_UID_MISMATCH", "SOP Instance UID differs from the request's")
            self._service.enqueue([header])
        except Invalid as error:
            return _refusal(_CANNOT_UNDERSTAND, error.reason, error.message)
        except Exception as error:
            return _refusal(_OUT_OF_RESOURCES, type(error).__name__, "Cannot be queued now; send it again later")
        return _status(_SUCCESS)


def _refusal(code: int, reason: str, comment: str) -> Dataset:
    _log.warning("an instance was refused", extra={"status": f"0x{code:04X}", "reason": reason})
    status = _status(code)
    status.ErrorComment = comment[:64]
    return status


def _status(code: int) -> Dataset:
    status = Dataset()
    status.Status = code
    return status
