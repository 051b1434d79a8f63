"""What a PACS says and asks beside storing: Instance Availability Notification and Storage Commitment (PS3.4 annexes R and J)."""

import logging
import queue
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import InstanceAvailabilityNotification, StorageCommitmentPushModel  # type: ignore[attr-defined]

from mdm_dicom_srm.register.rules.commitment import Commitment, Commitments, Reference, commit
from mdm_dicom_srm.register.rules.scanner import ScanService

_log = logging.getLogger(__name__)
_UID = re.compile(r"[0-9.]{1,64}")
_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
_MAX_REFERENCES = 20_000
_SECONDS = 30
_IDLE_SECONDS = 1.0
# Statuses (PS3.7 annex C), and why an instance is not committed (PS3.3 C.14.1.1).
_SUCCESS, _PROCESSING_FAILURE, _INVALID_VALUE, _INVALID_INSTANCE = 0x0000, 0x0110, 0x0106, 0x0117
_MISSING_ATTRIBUTE, _NO_SUCH_ACTION, _BUSY = 0x0120, 0x0123, 0x0213
_NO_SUCH_INSTANCE = 0x0112


@dataclass(frozen=True, slots=True)
class Peer:
    """Where an AE title listens; `tls` where it demands that."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Notifications:
    """Handles both services for a Storage SCP. A notification is acknowledged when the inspection that it asks for is durable.

    A request for commitment is answered when its report is durable. The report follows: over the association over which it was asked for
    while that lasts, else over one to where the caller listens, by whichever instance of the site gets to it, until the caller takes it
    or it is too old.
    """

    def __init__(
        self, scans: ScanService, commitments: Commitments, ae_title: str, peers: Mapping[str, Peer], idle_seconds: float = _IDLE_SECONDS
    ) -> None:
        """Look for reports that are due every `idle_seconds`."""
        self._scans = scans
        self._commitments = commitments
        self._ae_title = ae_title
        self._peers = dict(peers)
        self._idle_seconds = idle_seconds
        self._asked_here: queue.Queue[tuple[Commitment, Any]] = queue.Queue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._report_all, name="commitment", daemon=True)

    def offer(self, ae: AE) -> list[Any]:
        """Have an AE accept both services; return the handlers of its server."""
        ae.add_supported_context(InstanceAvailabilityNotification)
        ae.add_supported_context(StorageCommitmentPushModel)
        return [(evt.EVT_N_CREATE, self._notified), (evt.EVT_N_ACTION, self._asked)]

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was not reported is reported by the next process."""
        self._stopped.set()

    def _notified(self, event: Any) -> tuple[int, Dataset | None]:
        """Answer an N-CREATE: have the study looked at that it names."""
        return _answer("notification", lambda: self._look(event.attribute_list))

    def _look(self, content: Dataset) -> int:
        study_uid = str(content.get("StudyInstanceUID", "") or "")
        if not study_uid:
            return _MISSING_ATTRIBUTE
        if not _UID.fullmatch(study_uid):
            return _INVALID_VALUE
        self._scans.look(study_uid)
        return _SUCCESS

    def _asked(self, event: Any) -> tuple[int, Dataset | None]:
        """Answer an N-ACTION: report later which instances the registry has."""
        calling_ae = event.assoc.requestor.ae_title.strip()
        return _answer("request for commitment", lambda: self._commit(event, calling_ae))

    def _commit(self, event: Any, calling_ae: str) -> int:
        if str(event.request.RequestedSOPInstanceUID) != _COMMITMENT_INSTANCE:
            return _INVALID_INSTANCE
        if event.action_type != 1:
            return _NO_SUCH_ACTION
        content = event.action_information
        references = list(content.get("ReferencedSOPSequence", None) or ())
        if not references or not content.get("TransactionUID", None):
            return _MISSING_ATTRIBUTE
        if len(references) > _MAX_REFERENCES:
            return _BUSY
        named = [(str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", ""))) for item in references]
        commitment = commit(calling_ae, str(content.TransactionUID), named, self._scans.held)
        if not self._commitments.add(commitment, _SECONDS):
            return _BUSY
        self._asked_here.put((commitment, event.assoc))
        return _SUCCESS

    def _report_all(self) -> None:
        while not self._stopped.is_set():
            try:
                commitment, association = self._asked_here.get(timeout=self._idle_seconds)
            except queue.Empty:
                self._report_due()
                continue
            self._try(commitment, association)

    def _report_due(self) -> None:
        """Report what is due, whichever instance was asked."""
        try:
            expired = self._commitments.expire()
            if expired:
                _log.warning("commitments are not reported any more", extra={"reason": "PEER_UNREACHABLE", "reports": expired})
            while not self._stopped.is_set() and (commitment := self._commitments.claim(2 * _SECONDS)) is not None:
                self._try(commitment, None)
        except Exception as error:
            _log.warning("commitments cannot be read", extra={"error": type(error).__name__})

    def _try(self, commitment: Commitment, association: Any) -> None:
        """Report to a caller, or have that done later."""
        try:
            if self._send(commitment, association):
                self._commitments.reported(commitment.id)
                return
        except Exception as error:
            _log.warning("a commitment was not reported", extra={"error": type(error).__name__})
        try:
            self._commitments.postpone(commitment.id)
        except Exception as error:
            _log.warning("a commitment is reported again", extra={"error": type(error).__name__})

    def _send(self, commitment: Commitment, association: Any) -> bool:
        """Send a report; return whether the caller took it."""
        if association is not None and association.is_established:
            return _sent(association, commitment)
        peer = self._peers.get(commitment.calling_ae)
        if peer is None:
            return False
        ae = AE(self._ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _SECONDS
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        tls = None if peer.tls is None else (peer.tls, peer.host)
        own = ae.associate(peer.host, peer.port, ae_title=commitment.calling_ae, ext_neg=[role], tls_args=tls)
        try:
            return own.is_established and _sent(own, commitment)
        finally:
            if own.is_established:
                own.release()


def _sent(association: Any, commitment: Commitment) -> bool:
    """Send a report: event 1 if all instances are committed, else 2."""
    event_type = 2 if commitment.failed else 1
    status, _ = association.send_n_event_report(_content(commitment), event_type, StorageCommitmentPushModel, _COMMITMENT_INSTANCE)
    return bool("Status" in status and status.Status == _SUCCESS)


def _content(commitment: Commitment) -> Dataset:
    """Return what a report says; a sequence that would be empty is left out."""
    content = Dataset()
    content.TransactionUID = commitment.transaction
    if commitment.committed:
        content.ReferencedSOPSequence = [_item(reference) for reference in commitment.committed]
    if commitment.failed:
        content.FailedSOPSequence = [_item(reference) for reference in commitment.failed]
        for item in content.FailedSOPSequence:
            item.FailureReason = _NO_SUCH_INSTANCE
    return content


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item


def _answer(what: str, handle: Callable[[], int]) -> tuple[int, Dataset | None]:
    """Return what a handler answers; whatever goes wrong is a status, never an exception."""
    try:
        code = handle()
    except Exception as error:
        _log.warning(f"a {what} was refused", extra={"error": type(error).__name__})
        return _PROCESSING_FAILURE, None
    if code != _SUCCESS:
        _log.warning(f"a {what} was refused", extra={"status": f"0x{code:04X}"})
    return code, Dataset() if code == _SUCCESS else None
