"""Associations with a PACS: opened, kept while they are idle, used again (PS3.7, PS3.8); and pynetdicom's logs."""

import logging
import ssl
import threading
import time
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import count
from typing import Any

import pynetdicom._config
from mdm_deid.encoding.pydicom_log import silence_pydicom
from mdm_wire.errors import Unavailable
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import encode

from mdm_dicom_srm.pacs.connection import Patience, receive_exactly, shut
from mdm_dicom_srm.pacs.dimse_message import SUCCESS, Answer, BrokenOff, Stored, acknowledge, answer_of, stored

VERIFICATION = "1.2.840.10008.1.1"
MAX_PDU = 128 * 1024
_CONNECT_SECONDS = 5.0
_QUEUED_MESSAGES = 256
_MAX_IDLE = 4  # of all proposals together: a PACS may take few associations
_REJECTED_FOR_NOW = 2  # A-ASSOCIATE-RJ, result: rejected-transient (PS3.8 table 9-21)
_REJECTIONS, _REJECTION_PAUSE = 3, 0.5
_PAUSE_SECONDS = 2.0
_message_ids = count(1)


def silence_dicom() -> None:
    """Turn off the logs, warnings and value checks of pydicom and pynetdicom, process-wide: they quote values of patients."""
    silence_pydicom()
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    pynetdicom._config.LOG_HANDLER_LEVEL = "none"
    pynetdicom._config.LOG_RESPONSE_IDENTIFIERS = False
    pynetdicom._config.LOG_REQUEST_IDENTIFIERS = False
    warnings.filterwarnings("ignore", module=r"pynetdicom\b")


@dataclass(frozen=True, slots=True)
class Peer:
    """A PACS as DIMSE knows it; `timeout` seconds without progress are a failure."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str
    timeout: float = 60.0
    tls: ssl.SSLContext | None = None
    max_message_bytes: int = 4 * 1024**3
    idle_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """The presentation contexts of an association: one for `operation`, and one for each class and syntax that is to be sent to us."""

    operation: str
    stored: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True, eq=False)
class _Link:
    """An established association, its socket, and what the thread that reads it notes."""

    association: Any
    connection: Any
    limit: int
    patience: Patience
    unread: int = 0
    idle_since: float = 0.0
    closing: bool = False

    def received(self, event: Any) -> None:
        """Count bytes; an endless message ends the association."""
        self.unread += len(event.data)
        self.patience.received(len(event.data))
        if self.unread > self.limit:
            shut(self.connection)

    def hold(self, _: Any) -> None:
        """Let the peer wait while its messages are not taken."""
        while self.association.dimse.msg_queue.qsize() >= _QUEUED_MESSAGES and not self.closing:
            time.sleep(0.005)

    @property
    def usable(self) -> bool:
        return bool(self.association.is_established) and self.association.dul.is_alive()

    def end(self, *, politely: bool) -> None:
        self.closing = True
        association = self.association
        if politely and self.usable:
            association.release()
        else:
            shut(self.connection)
            association.abort()
        # pynetdicom leaves the socket to the garbage collector where the peer closes first.
        self.connection.close()


class AssociationPool:
    """The associations with one PACS. Safe for several threads; an association serves one operation at a time."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._idle: list[tuple[Proposal, _Link]] = []  # longest idle first
        self._lock = threading.Condition()
        self._closed = False
        self._reaper: threading.Thread | None = None

    def close(self) -> None:
        """End the idle associations; those in use end when they are given back."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._end_idle()

    def echo(self) -> str:
        """Return how the connection is secured when C-ECHO succeeds.

        Raises:
            Unavailable: it does not.
        """
        link = self._open(Proposal(VERIFICATION))
        try:
            if link.association.send_c_echo().get("Status") != SUCCESS:
                raise Unavailable("PACS_REFUSED", "The PACS did not answer C-ECHO with success; check its log.")
            return f"{link.connection.version()} {link.connection.cipher()[0]}" if self.peer.tls else ""
        finally:
            link.end(politely=True)

    def offers(self, operation: str) -> None:
        """Return when the PACS accepts an association for an operation.

        Raises:
            Unavailable: it does not.
        """
        proposal = Proposal(operation)
        self._give_back(proposal, self._open(proposal))

    def exchange(
        self,
        proposal: Proposal,
        request: C_FIND | C_GET | C_MOVE,
        identifier: Dataset,
        *,
        patience: Patience | None = None,
        tick: float | None = None,
    ) -> Generator[Answer | Stored | None, None, None]:
        """Send a request and yield what comes up to the final answer; with `tick`, None after so many seconds without anything.

        An instance is acknowledged when the next item is asked for. An idle association that turns out to be broken is replaced once.

        Raises:
            BrokenOff: the association ended, or there was no progress in time.
            Unavailable: no association.
        """
        while True:
            link, reused = self._take(proposal)
            link.patience = patience or Patience(self.peer.timeout)
            link.patience.renew()
            began = finished = False
            try:
                self._send(link, proposal, request, identifier)
                for item in self._receive(link, proposal, tick):
                    began = began or item is not None
                    finished = isinstance(item, Answer) and not item.pending
                    if finished:
                        self._give_back(proposal, link)
                    yield item
                return
            except BrokenOff as error:
                # An association that the PACS ended while it was idle says nothing about the PACS now.
                if began or not reused or error.reason == "PACS_TIMEOUT":
                    raise
            finally:
                if not finished:
                    link.end(politely=False)

    def _send(self, link: _Link, proposal: Proposal, request: Any, identifier: Dataset) -> None:
        association = link.association
        context = next(c for c in association.accepted_contexts if c.abstract_syntax == proposal.operation)
        syntax = context.transfer_syntax[0]
        encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        if encoded is None:
            raise Unavailable("PACS_REFUSED", "What is asked for cannot be written as a DICOM query.")
        request.MessageID = next(_message_ids) % 65535 + 1
        request.AffectedSOPClassUID = UID(proposal.operation)
        request.Priority = 0
        request.Identifier = BytesIO(encoded)
        # Messages are ours while the association's own thread waits.
        association._reactor_checkpoint.clear()
        until = time.monotonic() + _PAUSE_SECONDS
        while not association._is_paused and time.monotonic() < until:
            time.sleep(0.0001)
        if not link.usable:
            raise BrokenOff("PACS_BROKE_OFF", "The PACS ended an association.")
        link.unread = 0
        association.dimse.send_msg(request, context.context_id)

    def _receive(self, link: _Link, proposal: Proposal, tick: float | None) -> Generator[Answer | Stored | None, None, None]:
        association, progress = link.association, (0, 0)
        while True:
            message = self._next(link, tick)
            if message is None:
                yield None
            elif isinstance(message, C_STORE):
                yield stored(association, message)
                acknowledge(association, message)
                link.patience.renew()
            else:
                answer = answer_of(association, proposal.operation, message)
                if answer.identifier is not None or (answer.completed, answer.failed) != progress:
                    link.patience.renew()
                progress = answer.completed, answer.failed
                if not answer.pending:
                    association._reactor_checkpoint.set()  # the link is another's from the next line on
                    yield answer
                    return
                yield answer
                link.patience.renew()

    def _next(self, link: _Link, tick: float | None) -> Any:
        """Return the next message, or None after a tick."""
        association = link.association
        while True:
            left = link.patience.left
            association._dimse_timeout = max(0.001, min(left, 1.0 if tick is None else tick))
            context_id, message = association.dimse.get_msg(block=True)
            if message is not None:
                link.unread = 0
                message.context_id = context_id
                return message
            if not link.usable:
                raise BrokenOff("PACS_BROKE_OFF", "The PACS ended an association in the middle of an operation; try again later.")
            if not link.patience.left:
                raise BrokenOff("PACS_TIMEOUT", "The PACS did not answer in time; try again later.")
            if tick is not None:
                return None

    def _take(self, proposal: Proposal) -> tuple[_Link, bool]:
        while True:
            with self._lock:
                link = next((link for other, link in reversed(self._idle) if other == proposal), None)
                self._idle = [item for item in self._idle if item[1] is not link]
            if link is None:
                return self._open(proposal), False
            if link.usable:
                return link, True
            link.end(politely=False)

    def _give_back(self, proposal: Proposal, link: _Link) -> None:
        link.idle_since = time.monotonic()
        surplus = []
        with self._lock:
            if self._closed or not link.usable:
                surplus.append(link)
            else:
                self._idle.append((proposal, link))
                surplus += [old for _, old in self._idle[:-_MAX_IDLE]]
                del self._idle[:-_MAX_IDLE]
                if self._reaper is None:
                    self._reaper = threading.Thread(target=self._reap, name="pacs-idle", daemon=True)
                    self._reaper.start()
        for old in surplus:
            old.end(politely=True)

    def _end_idle(self) -> bool:
        """End the idle associations; return whether there were any."""
        with self._lock:
            links = [link for _, link in self._idle]
            self._idle.clear()
        for link in links:
            link.end(politely=True)
        return bool(links)

    def _reap(self) -> None:
        """End associations that are idle for too long; return when there are none."""
        while True:
            limit = time.monotonic() - self.peer.idle_seconds
            with self._lock:
                old = [link for _, link in self._idle if link.idle_since <= limit or not link.usable]
                self._idle = [item for item in self._idle if item[1] not in old]
                if not self._idle and not old:
                    self._reaper = None
                    return
            for link in old:
                link.end(politely=True)
            with self._lock:
                self._lock.wait(min(1.0, self.peer.idle_seconds / 2))

    def _open(self, proposal: Proposal) -> _Link:
        for attempt in range(_REJECTIONS):
            link, rejected_for_now = self._request(proposal)
            if link is not None:
                return link
            # It may be that we hold too many associations ourselves.
            if self._end_idle():
                continue
            if not rejected_for_now:
                break
            time.sleep(_REJECTION_PAUSE * (attempt + 1))
        raise Unavailable("PACS_REFUSED", "The PACS rejected our association; register our AE title and address there.")

    def _request(self, proposal: Proposal) -> tuple[_Link | None, bool]:
        peer, ae = self.peer, AE(self.peer.calling_ae_title)
        ae.maximum_pdu_size = MAX_PDU
        ae.connection_timeout = min(peer.timeout, _CONNECT_SECONDS)
        ae.acse_timeout = ae.dimse_timeout = peer.timeout
        ae.network_timeout = None  # who takes the instances may be slow; `Patience` watches the PACS
        by = "DICOM over TLS; check that it is running, its certificate and ours" if peer.tls else "DICOM; check that it is running"
        away = Unavailable("PACS_UNAVAILABLE", f"The PACS cannot be reached by {by} and try again.")
        try:
            association = ae.associate(
                peer.host,
                peer.port,
                [build_context(proposal.operation), *(build_context(sop_class, syntax) for sop_class, syntax in proposal.stored)],
                ae_title=peer.ae_title,
                max_pdu=MAX_PDU,
                ext_neg=[build_role(sop_class, scp_role=True) for sop_class in dict.fromkeys(c for c, _ in proposal.stored)],
                tls_args=(peer.tls, peer.host) if peer.tls else None,
                evt_handlers=[(evt.EVT_CONN_OPEN, partial(_bound, seconds=peer.timeout))],
            )
        except OSError:  # the name of its host is not known
            raise away from None
        connection = association.dul.socket.socket if association.dul.socket else None
        if association.is_established and connection is not None:
            link = _Link(association, connection, peer.max_message_bytes, Patience(peer.timeout))
            association.bind(evt.EVT_DATA_RECV, link.received)
            association.bind(evt.EVT_DIMSE_RECV, link.hold)
            if any(context.abstract_syntax == proposal.operation for context in association.accepted_contexts):
                return link, False
            link.end(politely=True)
            raise Unavailable("PACS_REFUSED", f"The PACS does not offer {UID(proposal.operation).name}.")
        if connection is not None:
            shut(connection)
            connection.close()
        if association.is_rejected:
            answer = association.acceptor.primitive
            return None, answer is not None and answer.result == _REJECTED_FOR_NOW
        if association.rejected_contexts:
            raise Unavailable("PACS_REFUSED", f"The PACS does not offer {UID(proposal.operation).name}.")
        raise away


def _bound(event: Any, seconds: float) -> None:
    """Make the connection read PDUs within bounds, and by larger pieces than pynetdicom does."""
    wrapper = event.assoc.dul.socket
    wrapper.recv = partial(receive_exactly, wrapper.socket, seconds=seconds)
