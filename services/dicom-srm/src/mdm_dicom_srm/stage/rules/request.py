"""The requests that this instance knows, and what callers may do with them wherever their files are held."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO
from uuid import UUID

from mdm_wire.errors import FailedPrecondition, NotFound, Unavailable

from mdm_dicom_srm.stage.rules.active import ActiveRequest, RequestStatus
from mdm_dicom_srm.stage.rules.held import GUEST_SECONDS, HELD, HeldFiles
from mdm_dicom_srm.stage.rules.model import ReadRights, Request, StagedFile, State, same_owner, token_digest

_log = logging.getLogger(__name__)
# What other instances hold is looked at again after this time, when somebody asks.
_REFRESH_SECONDS = 0.25

#: Files that are to be staged, by who wants them.
Missing = dict[str, list[UUID]]


class Requests(HeldFiles):
    """The requests that this instance answers for, or holds files of, or was asked for lately.

    Thread-safe. What other instances hold is read from the database and changed there; they are let know.
    """

    def add(self, request: Request, token: str, description: str, rights: ReadRights) -> Missing:
        """Keep a new request and, unless it begins later, pin what the spool has; return the files that are to be staged."""
        request.home = self.instance
        for file in request.files:
            file.holder = self.instance
        self._journal.add(request, token, description)
        self._adopt(request, rights)
        return self._placed()

    def resume(self) -> Missing:
        """Take over the requests of an earlier process with their pins; return the files that are to be staged again."""
        for request in self._journal.load():
            self._adopt(request, ReadRights())
        return self._placed()

    def look_again(self, digest: bytes) -> Missing:
        """Take over what other instances have changed of a request; return the files that are to be staged here."""
        self._journal.flush()
        request = self._site.find(digest)
        with self._lock:
            active = self._active.get(digest)
            if request is None:
                if active is not None:
                    self._leave(active)
            elif active is None:
                self._adopt(request, ReadRights())
            else:
                self._merge(active, request)
        missing = self._placed()
        self._journal.flush()
        return missing

    def look_again_at_all(self) -> Missing:
        """Look again at every request, after an absence."""
        with self._lock:
            digests = list(self._active)
        missing: defaultdict[str, list[UUID]] = defaultdict(list)
        for digest in digests:
            for owner, guids in self.look_again(digest).items():
                missing[owner] += guids
        return missing

    def _merge(self, active: ActiveRequest, request: Request) -> None:
        """Take over a request's rows: what others hold as it is there, of our own files what others have ended, extended or handed over."""
        mine = active.request
        mine.aborted, mine.home = request.aborted, request.home
        for position, (own, row) in enumerate(zip(mine.files, request.files, strict=True)):
            if row.guid is None:
                continue
            if own.holder == row.holder == self.instance:
                if row.state not in HELD and own.state in HELD:
                    self._take_over(active, position, row)
                elif own.state is row.state is State.FILE_PINNED and own.pin_until != row.pin_until:
                    own.pin_until = row.pin_until
                    self._schedule(active, own.pin_until)
            elif own.holder != self.instance:
                if row.holder == self.instance:
                    active.begun = False
                self._take_over(active, position, row)
        active.shared = any(file.guid is not None and file.holder != self.instance for file in mine.files)
        if request.suspended and not mine.suspended:
            self._pause(active)
        mine.suspended = request.suspended
        self._begin(active)
        self._after_change(active)

    def _take_over(self, active: ActiveRequest, position: int, row: StagedFile) -> None:
        own, guid = active.request.files[position], active.request.files[position].guid
        if guid is not None and own.holder == self.instance:
            self._drop(guid, active.request.digest)
        if (own.state, own.reason, own.size, own.pin_until, own.holder) != (row.state, row.reason, row.size, row.pin_until, row.holder):
            active.request.replace(position, row)
            active.log.append(position)

    def _placed(self) -> Missing:
        """Hand files over that another instance stages or has pinned; return the others, which are to be staged here, by owner."""
        with self._lock:
            missing, self._missing = self._missing, []
        others: dict[UUID, str] = {}
        if missing:
            try:
                others = self._site.claim([guid for *_, guid in missing])
                handed = [(active.request.digest, position, others[guid]) for active, position, guid in missing if guid in others]
                if handed:
                    self._site.hand_over(handed)
            except Exception as error:
                # Each instance can stage every file: at worst the PACS is asked twice.
                _log.warning("files could not be placed: %s", type(error).__name__)
                others = {}
        here: defaultdict[str, list[UUID]] = defaultdict(list)
        with self._lock:
            for active, position, guid in missing:
                if guid not in others:
                    here[active.request.owner].append(guid)
                    continue
                self._holdings.drop(guid, active.request.digest)
                active.shared = True
                active.request.files[position].holder = others[guid]
                self._end_at_holder(active, position)
        return here

    def _end_at_holder(self, active: ActiveRequest, position: int) -> None:
        """End a file at the other instance that its caller has ended while it was handed over."""
        file = active.request.files[position]
        if file.state not in HELD:
            self._site.end(active.request.digest, [position], file.state)

    def find(self, owner: str, token: str) -> ActiveRequest:
        """Return the caller's request.

        Raises:
            NotFound: no such request, or another caller's: the two look alike.
        """
        digest = token_digest(token)
        with self._lock:
            active = self._active.get(digest)
        if active is None and (request := self._site.find(digest)) is not None:
            with self._lock:
                active = self._active.get(digest) or self._adopt(request, ReadRights())
        if active is None or not same_owner(active.request.owner, owner):
            raise NotFound("REQUEST_NOT_FOUND", "No such request of yours; it may have ended. Ask for the files again.")
        active.used = self._clock()
        return active

    def status(self, active: ActiveRequest) -> RequestStatus:
        """Return the whole request as it is now."""
        self._refresh(active)
        with self._lock:
            self._expire()
            return active.status(range(len(active.request.files)), self._clock())

    def changes(self, active: ActiveRequest, seen: int, timeout: float, gather_until: float = -math.inf) -> RequestStatus:
        """Return what changed after `seen`; while nothing did and files are pending, wait up to `timeout` seconds.

        After a change, more are gathered until the moment `gather_until` (of the monotonic clock), or until no file is pending.
        """
        self._refresh(active)
        with self._lock:
            if seen == len(active.log) and active.request.pending:
                active.changed.wait(min(timeout, _REFRESH_SECONDS) if active.shared else timeout)
            if active.request.pending and (rest := gather_until - time.monotonic()) > 0:
                active.settled.wait(rest)
        self._refresh(active)
        with self._lock:
            active.used = self._clock()
            return active.status(dict.fromkeys(active.log[seen:]), self._clock())

    def _refresh(self, active: ActiveRequest, at_once: bool = False) -> None:
        """Read what other instances hold of a request, unless that was done just now."""
        now = time.monotonic()
        if not active.shared or (now - active.refreshed < _REFRESH_SECONDS and not at_once):
            return
        active.refreshed = now
        rows = self._site.files_of_others(active.request.digest)
        with self._lock:
            for position, row in rows.items():
                if active.request.files[position].holder != self.instance:
                    self._take_over(active, position, row)
            self._after_change(active)

    def open(self, active: ActiveRequest, guid: UUID, confirm: Callable[[], None]) -> tuple[StagedFile, BinaryIO]:
        """Return a pinned file and its ciphertext, opened, if `confirm` does not raise; the caller closes it.

        Raises:
            NotFound: the file is not pinned by the request.
            FailedPrecondition: another instance has it, on another machine.
            Unavailable: the spool has lost it.
        """
        self._refresh(active)
        file = self._pinned_file(active, guid)
        confirm()
        if file.holder == self.instance:
            data = self._spool.open(guid)
        else:
            data = self._spool.open_beside(file.holder, guid)
            if data is None:
                raise FailedPrecondition("OTHER_INSTANCE", f"The file is staged at {file.holder}: read it there.")
        if data is None:
            raise Unavailable("STAGED_FILE_GONE", "The spool has lost the staged file; release it and ask for it again.")
        return file, data

    def all_pinned(self, active: ActiveRequest) -> list[UUID]:
        """Return the files of a request that are pinned now."""
        with self._lock:
            return [file.guid for file in active.request.files if file.guid is not None and file.state is State.FILE_PINNED]

    def pins(self, owner: str, guids: Sequence[UUID]) -> dict[UUID, float]:
        """Return until when requests of `owner` keep files pinned, wherever; 0 for a file that only others have pinned."""
        self._journal.flush()
        return self._site.pins(owner, guids)

    def end(self, active: ActiveRequest, positions: Iterable[int], state: State) -> list[StagedFile]:
        """Release or abort files of a request and return them; queued ones are dropped, ended ones stay as they are."""
        with self._lock:
            self._expire()
            chosen = list(positions)
            for position in chosen:
                self._end(active, position, state)
            self._after_change(active)
            held_by_others = self._held_by_others(active, chosen)
        self._journal.flush()
        if held_by_others:
            self._site.end(active.request.digest, held_by_others, state)
            self._refresh(active, at_once=True)
        return self._copies(active, chosen)

    def extend(self, active: ActiveRequest, positions: Iterable[int], seconds: int) -> tuple[float, list[StagedFile]]:
        """Let the pins of files of a request end `seconds` from now; return the time and the files, those without a pin as they are."""
        with self._lock:
            self._expire()
            chosen, now = list(positions), self._clock()
            for position in chosen:
                file = active.request.files[position]
                if file.state is State.FILE_PINNED and file.holder == self.instance:
                    file.pin_until = now + seconds
                    self._schedule(active, file.pin_until)
                    self._note(active, position)
            self._after_change(active)
            held_by_others = self._held_by_others(active, chosen)
        self._journal.flush()
        if held_by_others:
            self._site.extend(active.request.digest, held_by_others, now + seconds)
            self._refresh(active, at_once=True)
        return now, self._copies(active, chosen)

    def suspend(self, active: ActiveRequest) -> State:
        """Let what is not staged yet of a request wait. Repeating it changes nothing."""
        self._refresh(active)
        with self._lock:
            self._expire()
            request = active.request
            if request.pending and not request.suspended:
                self._pause(active)
                self._journal.noted(request)
                self._after_change(active)
            state = request.state
        self._let_know(active)
        return state

    def unsuspend(self, active: ActiveRequest) -> tuple[State, Missing]:
        """End a suspension; return the request's state and the files that are to be staged."""
        self._refresh(active)
        with self._lock:
            request = active.request
            if request.suspended:
                request.suspended = False
                self._journal.noted(request)
                self._begin(active)
                self._after_change(active)
            state = request.state
        self._let_know(active)
        return state, self._placed()

    def release_everywhere(self, owner: str, guids: Sequence[UUID]) -> set[UUID]:
        """Release the pins that requests of `owner` hold on files; return the files that had one."""
        released: set[UUID] = set()
        with self._lock:
            self._expire()
            for guid in guids:
                for digest, position in list(self._holdings.pins(guid).items()):
                    active = self._active[digest]
                    if same_owner(active.request.owner, owner):
                        self._end(active, position, State.RELEASED)
                        self._after_change(active)
                        released.add(guid)
        self._journal.flush()
        return released | self._site.release(owner, guids)

    def abort(self, active: ActiveRequest) -> State:
        """End a request: what waits is dropped, what is pinned released. Repeating it changes nothing."""
        self._refresh(active, at_once=True)
        with self._lock:
            if not active.request.over:
                active.request.aborted = True
                self._journal.noted(active.request)
        self.end(active, range(len(active.request.files)), State.ABORTED)
        self._let_know(active)
        return active.request.state

    def _held_by_others(self, active: ActiveRequest, positions: Iterable[int]) -> list[int]:
        files = active.request.files
        return [position for position in positions if files[position].guid is not None and files[position].holder != self.instance]

    def _copies(self, active: ActiveRequest, positions: Iterable[int]) -> list[StagedFile]:
        with self._lock:
            return [active.request.files[position].copy() for position in positions]

    def _let_know(self, active: ActiveRequest) -> None:
        """Save what is new of a request as a whole, and have the other instances that hold files of it, or answer for it, look again."""
        self._journal.flush()
        request = active.request
        others = {request.home, *(file.holder for file in request.files if file.guid is not None)} - {self.instance}
        if others:
            self._site.notify(request.digest, others)

    def tick(self) -> Missing:
        """Expire pins, time out requests, forget old ones, begin those whose time has come; return what is to be staged of these."""
        with self._lock:
            self._expire()
            stale = [active for active in self._active.values() if active.shared and not active.request.over]
        for active in stale:
            if time.monotonic() - active.refreshed > GUEST_SECONDS / 10:
                self._refresh(active)
        return self._placed()

    def _pinned_file(self, active: ActiveRequest, guid: UUID) -> StagedFile:
        with self._lock:
            self._expire()
            position = active.request.positions.get(guid)
            if position is None or active.request.files[position].state is not State.FILE_PINNED:
                raise NotFound("NOT_PINNED", "The file is not pinned by this request; ask for it again.")
            return active.request.files[position].copy()
