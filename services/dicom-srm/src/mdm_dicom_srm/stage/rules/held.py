"""The files of requests that this instance holds: which wait, which are pinned and until when."""

import heapq
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from mdm_wire.errors import Exhausted

from mdm_dicom_srm import metrics
from mdm_dicom_srm.stage.rules.active import ActiveRequest, RequestLimits
from mdm_dicom_srm.stage.rules.holding import Holdings
from mdm_dicom_srm.stage.rules.journal import RequestJournal
from mdm_dicom_srm.stage.rules.model import PENDING, TIMED_OUT, ReadRights, Request, State
from mdm_dicom_srm.stage.rules.port import Clock, SiteStore, Spool

_log = logging.getLogger(__name__)
# Pins of one request that end within this time are ended together.
_CHECK_SECONDS = 1.0
#: A request of another instance is kept in memory so long after it was last asked for.
GUEST_SECONDS = 60.0
#: States of files that an instance holds: they wait, or are pinned.
HELD = PENDING | {State.FILE_PINNED}


class HeldFiles:
    """What this instance holds of requests: files that wait for their retrieval here, and pins, with their ends.

    Thread-safe; retrievals ask it which files are wanted, and report what becomes of them. Of a request it has every file, those that
    other instances hold as well; these it leaves alone.
    """

    def __init__(self, spool: Spool, journal: RequestJournal, site: SiteStore, clock: Clock, limits: RequestLimits) -> None:
        self.instance = site.instance
        self._site = site
        self._spool = spool
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._lock = threading.RLock()
        self._active: dict[bytes, ActiveRequest] = {}
        self._holdings = Holdings(spool)
        self._owned: Counter[str] = Counter()
        self._due: list[tuple[float, bytes]] = []
        self._missing: list[tuple[ActiveRequest, int, UUID]] = []

    def check_room(self, owner: str, files: int) -> None:
        """Refuse a caller who keeps too many files in requests.

        Raises:
            Exhausted: release some, or wait until requests end.
        """
        with self._lock:
            if self._owned[owner] + files > self._limits.files_per_owner:
                raise Exhausted("TOO_MANY_FILES", f"At most {self._limits.files_per_owner} files at a time; release some first.")

    def _adopt(self, request: Request, rights: ReadRights) -> ActiveRequest:
        with self._lock:
            active = ActiveRequest(
                request, threading.Condition(self._lock), threading.Condition(self._lock), rights=rights, used=self._clock()
            )
            self._active[request.digest] = active
            if request.home == self.instance:
                self._owned[request.owner] += len(request.files)
            for position, file in enumerate(request.files):
                if file.guid is not None and file.state is State.FILE_PINNED and file.holder == self.instance:
                    self._readopt(active, position, file.guid)
            active.shared = any(file.guid is not None and file.holder != self.instance for file in request.files)
            self._schedule(active, request.deadline)
            self._begin(active)
            self._after_change(active)
            return active

    def _begin(self, active: ActiveRequest) -> None:
        """Pin what the spool has of a request whose time has come, and have the rest staged."""
        request = active.request
        if active.begun or request.suspended:
            return
        if request.start > self._clock():
            self._schedule(active, request.start)
            return
        active.begun = True
        for position, file in enumerate(request.files):
            if file.guid is None or file.state not in PENDING or file.holder != self.instance:
                continue
            if not self._pin(active, position, file.guid):
                self._holdings.wait(file.guid, request.digest, position)
                self._missing.append((active, position, file.guid))

    def _pause(self, active: ActiveRequest) -> None:
        request = active.request
        request.suspended, active.begun = True, False
        for position, file in enumerate(request.files):
            if file.guid is not None and file.state in PENDING and file.holder == self.instance:
                self._drop(file.guid, request.digest)
                if file.state is State.REQUEST_INPROGRESS:
                    request.requeue(position)
                    self._note(active, position)

    def wanted(self, guid: UUID) -> bool:
        """Return whether any request waits for the file."""
        return self._holdings.wanted(guid)

    def started(self, guids: Sequence[UUID]) -> None:
        """Note that the files are being retrieved."""
        self._move_waiting(guids, lambda active, position, _: active.request.move(position, State.REQUEST_INPROGRESS), keep=True)

    def ready(self, guid: UUID) -> None:
        """Pin a file for everybody who waits for it."""

        def pin(active: ActiveRequest, position: int, guid: UUID) -> None:
            if not self._pin(active, position, guid):
                active.request.move(position, State.FILE_UNAVAILABLE, "STAGED_FILE_GONE")

        self._move_waiting((guid,), pin)

    def failed(self, guids: Iterable[UUID], state: State, reason: str) -> None:
        """Fail the files for everybody who waits for them."""
        self._move_waiting(guids, lambda active, position, _: active.request.move(position, state, reason))

    def _move_waiting(self, guids: Iterable[UUID], move: Callable[[ActiveRequest, int, UUID], None], keep: bool = False) -> None:
        with self._lock:
            touched: dict[bytes, ActiveRequest] = {}
            for guid in guids:
                waiting = self._holdings.waiting(guid) if keep else self._holdings.take_waiting(guid)
                for digest, position in waiting.items():
                    active = touched[digest] = self._active[digest]
                    if not keep or active.request.files[position].state is State.REQUEST_QUEUED:
                        move(active, position, guid)
                        self._note(active, position)
                if not self._holdings.held(guid):
                    self._journal.claim(guid, held=False)
            # That a file is being retrieved is no news that anybody waits for: it goes along with the next.
            for active in touched.values() if not keep else ():
                self._after_change(active)

    def _pin(self, active: ActiveRequest, position: int, guid: UUID) -> bool:
        size = self._holdings.pin(guid, active.request.digest, position)
        if size is None:
            return False
        file = active.request.files[position]
        self._journal.claim(guid, held=True)
        file.size, file.pin_until = size, self._clock() + active.request.pin_seconds
        active.request.move(position, State.FILE_PINNED)
        self._schedule(active, file.pin_until)
        self._note(active, position)
        return True

    def _readopt(self, active: ActiveRequest, position: int, guid: UUID) -> None:
        """Take over a pin of an earlier process; a file that the spool lost is staged again."""
        if self._holdings.pin(guid, active.request.digest, position) is None:
            active.request.requeue(position)
            self._note(active, position)
        else:
            self._journal.claim(guid, held=True)
            self._schedule(active, active.request.files[position].pin_until)

    def _drop(self, guid: UUID, digest: bytes) -> None:
        """End the waiting and the pin of a request; a file that nobody here waits for or has pinned is not claimed any more."""
        self._holdings.drop(guid, digest)
        if not self._holdings.held(guid):
            self._journal.claim(guid, held=False)

    def _end(self, active: ActiveRequest, position: int, state: State, reason: str = "") -> None:
        """End the waiting or the pin of a file; one that has ended already stays as it is."""
        file, digest = active.request.files[position], active.request.digest
        if file.guid is None or file.state not in HELD or file.holder != self.instance:
            return
        self._drop(file.guid, digest)
        active.request.move(position, state, reason)
        self._note(active, position)

    def _note(self, active: ActiveRequest, position: int) -> None:
        active.log.append(position)
        self._journal.changed(active.request, position)

    def _after_change(self, active: ActiveRequest) -> None:
        active.changed.notify_all()
        if not active.request.pending:
            active.settled.notify_all()
        if active.request.over and active.over_since == math.inf:
            active.over_since = self._clock()
            self._schedule(active, active.over_since + self._limits.retention_seconds)

    def _forget(self, active: ActiveRequest) -> None:
        self._leave(active)
        self._journal.forgotten(active.request)

    def _leave(self, active: ActiveRequest) -> None:
        """Have a request in memory no longer."""
        request = active.request
        del self._active[request.digest]
        for file in request.files:
            if file.guid is not None and file.state in HELD and file.holder == self.instance:
                self._drop(file.guid, request.digest)
        if request.home == self.instance:
            self._owned[request.owner] -= len(request.files)
            if not self._owned[request.owner]:
                del self._owned[request.owner]

    def _schedule(self, active: ActiveRequest, moment: float) -> None:
        """Have the request checked at `moment`. Only the earliest moment of a request counts."""
        if moment < active.due:
            active.due = moment
            heapq.heappush(self._due, (moment, active.request.digest))

    def _expire(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            moment, digest = heapq.heappop(self._due)
            active = self._active.get(digest)
            if active is not None and active.due == moment:
                active.due = math.inf
                self._check(active, now)

    def _check(self, active: ActiveRequest, now: float) -> None:
        request = active.request
        late, following = request.deadline, math.inf
        self._begin(active)
        for position, file in enumerate(request.files):
            if file.state not in HELD or file.holder != self.instance:
                continue
            pending = file.state in PENDING
            if pending and late <= now:
                metrics.STAGED_FILES.labels(State.FILE_UNAVAILABLE.value).inc()
                fields = {"guid": str(file.guid), "state": State.FILE_UNAVAILABLE.value, "reason": TIMED_OUT}
                _log.warning("not staged", extra=fields)
                self._end(active, position, State.FILE_UNAVAILABLE, TIMED_OUT)
            elif not pending and file.pin_until <= now:
                self._end(active, position, State.FILE_LIFETIME_EXPIRED)
            else:
                following = min(following, late if pending else file.pin_until)
        self._after_change(active)
        guest = request.home != self.instance
        end = active.used + GUEST_SECONDS if guest else active.over_since + self._limits.retention_seconds
        if end > now:
            self._schedule(active, max(min(following, end), now + _CHECK_SECONDS))
        elif not guest:
            self._forget(active)
        elif following == math.inf:
            self._leave(active)
        else:
            self._schedule(active, following)
