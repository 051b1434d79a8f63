"""The requests in memory: who waits for which file, which pins are held and until when."""

import heapq
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from mdm_wire.errors import Exhausted, NotFound

from mdm_dicom_srm.stage.rules.model import PENDING, Request, StagedFile, State, same_owner, token_digest
from mdm_dicom_srm.stage.rules.port import Clock, Spool

# Pins of one request that end within this time are ended together.
_LOOK_SECONDS = 1.0


class Recorder(Protocol):
    """Keeps changes of requests; called under the book's lock, so it must not wait."""

    def changed(self, request: Request, position: int) -> None: ...
    def aborted(self, request: Request) -> None: ...
    def forgotten(self, request: Request) -> None: ...


@dataclass(frozen=True, slots=True)
class View:
    """A request as it was at one moment; `files` are copies, `seen` is where the next view of changes goes on."""

    state: State
    files: tuple[StagedFile, ...]
    seen: int
    pending: bool


@dataclass(slots=True, eq=False)
class Live:
    """A request in memory with the log of positions that changed, which watchers follow, and when it is next looked at."""

    request: Request
    changed: threading.Condition
    log: list[int] = field(default_factory=list)
    due: float = math.inf
    over_since: float = math.inf


@dataclass(frozen=True, slots=True)
class Limits:
    """How long requests live, in seconds, and how many files one caller may have in requests at a time."""

    request_seconds: float = 3600
    retention_seconds: float = 3600
    files_per_owner: int = 100_000


class RequestBook:
    """Every request of this process. Thread-safe; implements the staging engine's `Listener`."""

    def __init__(self, spool: Spool, recorder: Recorder, clock: Clock, limits: Limits) -> None:
        self._spool = spool
        self._recorder = recorder
        self._clock = clock
        self._limits = limits
        self._lock = threading.RLock()
        self._live: dict[bytes, Live] = {}
        self._waiting: defaultdict[UUID, dict[bytes, int]] = defaultdict(dict)
        self._pinned: defaultdict[UUID, dict[bytes, int]] = defaultdict(dict)
        self._owned: Counter[str] = Counter()
        self._due: list[tuple[float, bytes]] = []

    def check_room(self, owner: str, files: int) -> None:
        """Refuse a caller who keeps too many files in requests.

        Raises:
            Exhausted: release some, or wait until requests end.
        """
        with self._lock:
            if self._owned[owner] + files > self._limits.files_per_owner:
                raise Exhausted("TOO_MANY_FILES", f"At most {self._limits.files_per_owner} files at a time; release some first.")

    def add(self, request: Request) -> list[UUID]:
        """Take a request, pin what the spool has, and return the files that are to be staged."""
        with self._lock:
            live = Live(request, threading.Condition(self._lock))
            self._live[request.digest] = live
            self._owned[request.owner] += len(request.files)
            missing: list[UUID] = []
            for position, file in enumerate(request.files):
                if file.guid is None:
                    continue
                if file.state is State.FILE_PINNED:
                    self._readopt(live, position, file.guid)
                if file.state in PENDING and not self._pin(live, position, file.guid):
                    self._waiting[file.guid][request.digest] = position
                    missing.append(file.guid)
            self._plan(live, request.created + self._limits.request_seconds)
            self._after_change(live)
            return missing

    def find(self, owner: str, token: str) -> Live:
        """Return the caller's request.

        Raises:
            NotFound: no such request, or another caller's: nobody can tell which.
        """
        with self._lock:
            live = self._live.get(token_digest(token))
            if live is None or not same_owner(live.request.owner, owner):
                raise NotFound("REQUEST_NOT_FOUND", "No such request of yours; it may have ended. Ask for the files again.")
            return live

    def view(self, live: Live) -> View:
        """Return the whole request as it is now."""
        with self._lock:
            self._expire()
            return self._view(live, range(len(live.request.files)))

    def changes(self, live: Live, seen: int, timeout: float) -> View:
        """Return what changed after `seen`, waiting up to `timeout` seconds while nothing did and files are pending."""
        with self._lock:
            if seen == len(live.log) and live.request.pending:
                live.changed.wait(timeout)
            return self._view(live, dict.fromkeys(live.log[seen:]))

    def pinned(self, live: Live, guid: UUID) -> StagedFile:
        """Return the file of a request while it is pinned.

        Raises:
            NotFound: it is not, or not any more.
        """
        with self._lock:
            self._expire()
            position = live.request.positions.get(guid)
            if position is None or live.request.files[position].state is not State.FILE_PINNED:
                raise NotFound("NOT_PINNED", "The file is not pinned by this request; ask for it again.")
            return live.request.files[position].copy()

    def release(self, live: Live, guids: Iterable[UUID] | None) -> list[StagedFile]:
        """Release files of a request (None: all) and return them; queued ones are dropped, ended ones stay as they are."""
        with self._lock:
            self._expire()
            positions = range(len(live.request.files)) if guids is None else [live.request.positions[guid] for guid in guids]
            for position in positions:
                self._end(live, position, State.RELEASED)
            self._after_change(live)
            return [live.request.files[position].copy() for position in positions]

    def release_everywhere(self, owner: str, guids: Sequence[UUID]) -> set[UUID]:
        """Release the pins that requests of `owner` hold on files; return the files that had one."""
        released: set[UUID] = set()
        with self._lock:
            self._expire()
            for guid in guids:
                for digest, position in list(self._pinned.get(guid, {}).items()):
                    live = self._live[digest]
                    if same_owner(live.request.owner, owner):
                        self._end(live, position, State.RELEASED)
                        self._after_change(live)
                        released.add(guid)
        return released

    def abort(self, live: Live) -> State:
        """End a request: what waits is dropped, what is pinned released. Repeating it changes nothing."""
        with self._lock:
            if not live.request.over:
                live.request.aborted = True
                self._recorder.aborted(live.request)
                for position in range(len(live.request.files)):
                    self._end(live, position, State.ABORTED)
                self._after_change(live)
            return live.request.state

    def tick(self) -> None:
        """Do what is due: expire pins, time out requests, forget old ones."""
        with self._lock:
            self._expire()

    # The engine's listener.

    def wanted(self, guid: UUID) -> bool:
        """Tell whether any request waits for the file."""
        return guid in self._waiting

    def started(self, guids: Sequence[UUID]) -> None:
        """Note that the files are being retrieved."""
        self._each(guids, lambda live, position, _: live.request.move(position, State.REQUEST_INPROGRESS), keep=True)

    def ready(self, guid: UUID) -> None:
        """Pin a file for everybody who waits for it."""

        def pin(live: Live, position: int, guid: UUID) -> None:
            if not self._pin(live, position, guid):
                live.request.move(position, State.FILE_UNAVAILABLE, "STAGED_FILE_GONE")

        self._each((guid,), pin)

    def failed(self, guids: Iterable[UUID], state: State, reason: str) -> None:
        """Tell everybody who waits for the files why they do not come."""
        self._each(guids, lambda live, position, _: live.request.move(position, state, reason))

    def _each(self, guids: Iterable[UUID], move: Callable[[Live, int, UUID], None], keep: bool = False) -> None:
        with self._lock:
            touched: dict[bytes, Live] = {}
            for guid in guids:
                waiting = self._waiting.get(guid, {}) if keep else self._waiting.pop(guid, {})
                for digest, position in waiting.items():
                    live = touched[digest] = self._live[digest]
                    if not keep or live.request.files[position].state is State.REQUEST_QUEUED:
                        move(live, position, guid)
                        self._note(live, position)
            for live in touched.values():
                self._after_change(live)

    def _pin(self, live: Live, position: int, guid: UUID) -> bool:
        size = self._spool.pin(guid, live.request.digest)
        if size is None:
            return False
        file = live.request.files[position]
        file.size, file.pin_until = size, self._clock() + live.request.pin_seconds
        live.request.move(position, State.FILE_PINNED)
        self._hold(live, position, guid)
        self._note(live, position)
        return True

    def _readopt(self, live: Live, position: int, guid: UUID) -> None:
        """Take over a pin of an earlier process; a file that the spool lost is staged again."""
        if self._spool.pin(guid, live.request.digest) is None:
            live.request.requeue(position)
            self._note(live, position)
        else:
            self._hold(live, position, guid)

    def _hold(self, live: Live, position: int, guid: UUID) -> None:
        self._pinned[guid][live.request.digest] = position
        self._plan(live, live.request.files[position].pin_until)

    def _end(self, live: Live, position: int, state: State, reason: str = "") -> None:
        """Take a file out of what waits or is pinned; one that has ended already stays as it is."""
        file, digest = live.request.files[position], live.request.digest
        if file.guid is None or not (file.state in PENDING or file.state is State.FILE_PINNED):
            return
        for where in (self._waiting, self._pinned):
            holders = where.get(file.guid)
            if holders is not None:
                holders.pop(digest, None)
                if not holders:
                    del where[file.guid]
        self._spool.unpin(file.guid, digest)
        live.request.move(position, state, reason)
        self._note(live, position)

    def _note(self, live: Live, position: int) -> None:
        live.log.append(position)
        self._recorder.changed(live.request, position)

    def _after_change(self, live: Live) -> None:
        live.changed.notify_all()
        if live.request.over and live.over_since == math.inf:
            live.over_since = self._clock()
            self._plan(live, live.over_since + self._limits.retention_seconds)

    def _forget(self, live: Live) -> None:
        owner = live.request.owner
        del self._live[live.request.digest]
        self._owned[owner] -= len(live.request.files)
        if not self._owned[owner]:
            del self._owned[owner]
        self._recorder.forgotten(live.request)

    def _view(self, live: Live, positions: Iterable[int]) -> View:
        request = live.request
        return View(request.state, tuple(request.files[p].copy() for p in positions), len(live.log), request.pending > 0)

    def _plan(self, live: Live, moment: float) -> None:
        """Have the request looked at when `moment` comes. Only the earliest plan of a request counts."""
        if moment < live.due:
            live.due = moment
            heapq.heappush(self._due, (moment, live.request.digest))

    def _expire(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            moment, digest = heapq.heappop(self._due)
            live = self._live.get(digest)
            if live is not None and live.due == moment:
                live.due = math.inf
                self._look(live, now)

    def _look(self, live: Live, now: float) -> None:
        request = live.request
        late = request.created + self._limits.request_seconds
        following = math.inf
        for position, file in enumerate(request.files):
            pending, pinned = file.state in PENDING, file.state is State.FILE_PINNED
            if pending and late <= now:
                self._end(live, position, State.FILE_UNAVAILABLE, "REQUEST_TIMED_OUT")
            elif pinned and file.pin_until <= now:
                self._end(live, position, State.FILE_LIFETIME_EXPIRED)
            elif pending or pinned:
                following = min(following, late if pending else file.pin_until)
        self._after_change(live)
        end = live.over_since + self._limits.retention_seconds
        if end <= now:
            self._forget(live)
        else:
            self._plan(live, max(min(following, end), now + _LOOK_SECONDS))
