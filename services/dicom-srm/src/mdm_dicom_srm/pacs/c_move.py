"""Retrieval by DIMSE C-MOVE to our own Storage SCP (PS3.4 annex C), which hands over the instances that a retrieval awaits."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

from mdm_wire.errors import Unavailable
from pynetdicom.dimse_primitives import C_MOVE

from mdm_dicom_srm.pacs.connection import Patience
from mdm_dicom_srm.pacs.dimse import AssociationPool, Proposal
from mdm_dicom_srm.pacs.dimse_message import Answer, identifier
from mdm_dicom_srm.pacs.dimse_retrieval import UIDS_PER_REQUEST, DimseRetrieval, batches
from mdm_dicom_srm.pacs.port import InstanceLocator, RetrievedInstance
from mdm_dicom_srm.pacs.query import IMAGE, STUDY

MOVE = "1.2.840.10008.5.1.4.1.2.2.2"  # Study Root Query/Retrieve Information Model - MOVE (PS3.4 table C.6.2-1)
_UNKNOWN_DESTINATION = 0xA801
_TICK = 0.01
_IN_MEMORY = 2  # instances of a retrieval; further ones wait in their associations
_GRACE = 5.0  # for instances that the PACS says are sent


class Delivery:
    """What one C-MOVE awaits, and what of it has arrived."""

    def __init__(self, seconds: float) -> None:
        self._arrived: queue.Queue[tuple[str, bytes]] = queue.Queue(_IN_MEMORY)
        self._seconds = seconds
        self.closed = False

    def put(self, sop_uid: str, part10: bytes) -> bool:
        """Hand over an instance; return whether there was room in time."""
        until = time.monotonic() + self._seconds
        while not self.closed and time.monotonic() < until:
            try:
                self._arrived.put((sop_uid, part10), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def take(self) -> Iterator[tuple[str, bytes]]:
        """Yield what has arrived."""
        while True:
            try:
                yield self._arrived.get_nowait()
            except queue.Empty:
                return


class MoveDestination:
    """Where the Storage SCP and retrievals by C-MOVE meet. An instance that is awaited goes to its retrieval, whoever sends it."""

    def __init__(self, ae_title: str) -> None:
        self.ae_title = ae_title
        self._awaited: dict[str, list[Delivery]] = defaultdict(list)
        self._lock = threading.Lock()

    def offer(self, sop_uid: str, part10: bytes) -> bool:
        """Hand an instance that was sent to us over if a retrieval awaits it; return whether one does.

        Raises:
            Unavailable: PACS_NOT_AWAITED, the retrieval did not take it in time.
        """
        with self._lock:
            deliveries = self._awaited.get(sop_uid)
            if not deliveries:
                return False
            delivery = deliveries.pop(0)
            if not deliveries:
                del self._awaited[sop_uid]
        if not delivery.put(sop_uid, part10):
            raise Unavailable("PACS_NOT_AWAITED", "The retrieval that awaited this instance is over.")
        return True

    @contextmanager
    def expect(self, sop_uids: Sequence[str], seconds: float) -> Iterator[Delivery]:
        """Await instances for as long as the context lasts; each may wait `seconds` to be taken."""
        delivery = Delivery(seconds)
        with self._lock:
            for sop_uid in sop_uids:
                self._awaited[sop_uid].append(delivery)
        try:
            yield delivery
        finally:
            delivery.closed = True
            with self._lock:
                for sop_uid in sop_uids:
                    left = [other for other in self._awaited.get(sop_uid, ()) if other is not delivery]
                    if left:
                        self._awaited[sop_uid] = left
                    else:
                        self._awaited.pop(sop_uid, None)


class CMove(DimseRetrieval):
    """A PACS that sends to our Storage SCP, whose AE title and address it knows."""

    def __init__(self, pool: AssociationPool, destination: MoveDestination, *, name: str = "") -> None:
        super().__init__(pool, name=name)
        self._destination = destination

    def offers(self) -> None:
        """Return when the PACS takes a C-MOVE to our AE title.

        Raises:
            Unavailable: it does not.
        """
        nothing = {"StudyInstanceUID": "2.25.294382651037857216740914468203573415921"}
        request = C_MOVE()
        request.MoveDestination = self._destination.ae_title
        for answer in self._pool.exchange(Proposal(MOVE), request, identifier(STUDY, nothing)):
            if isinstance(answer, Answer):
                _check(answer, self._destination.ae_title)

    def _batches(self, classes: Mapping[str, str]) -> Iterator[list[str]]:
        return batches(list(classes), UIDS_PER_REQUEST)

    def _transfer(self, locator: InstanceLocator, classes: Mapping[str, str], alone: bool) -> Iterator[RetrievedInstance]:
        keys = {"StudyInstanceUID": locator.study_uid, "SeriesInstanceUID": locator.series_uid, "SOPInstanceUID": list(classes)}
        request, patience, count = C_MOVE(), Patience(self._pool.peer.timeout), 0
        request.MoveDestination = self._destination.ae_title
        exchange = self._pool.exchange(Proposal(MOVE), request, identifier(IMAGE, keys), patience=patience, tick=_TICK)
        with self._destination.expect(list(classes), self._pool.peer.timeout) as delivery, closing(exchange):
            sent = 0
            for answer in exchange:
                for sop_uid, part10 in delivery.take():
                    count += 1
                    yield RetrievedInstance(sop_uid, part10, self._name)
                    patience.renew()
                if answer is not None and isinstance(answer, Answer):
                    if len(classes) == 1:  # some PACS answer so to a list of UIDs that they cannot match; each is asked for alone then
                        _check(answer, self._destination.ae_title)
                    sent = answer.completed
            until = time.monotonic() + min(_GRACE, self._pool.peer.timeout)
            while count < min(sent, len(classes)) and time.monotonic() < until:
                for sop_uid, part10 in delivery.take():
                    count += 1
                    yield RetrievedInstance(sop_uid, part10, self._name)
                time.sleep(_TICK)


def _check(answer: Answer, ae_title: str) -> None:
    """Raise `Unavailable` where the PACS does not know where to send; any other failure is one of the instances that do not come."""
    if answer.status == _UNKNOWN_DESTINATION:
        raise Unavailable("PACS_REFUSED", f"The PACS does not know {ae_title}, the destination of C-MOVE; register it there.")
