"""Use cases of staging: files are asked for, watched and read."""

import math
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from mdm_wire.errors import Exhausted, Invalid, Unavailable

from mdm_dicom_srm.stage.rules.active import RequestStatus
from mdm_dicom_srm.stage.rules.model import MAX_FILES, Kind, ReadRights, Request, StagedFile, State, new_token, token_digest
from mdm_dicom_srm.stage.rules.port import Clock
from mdm_dicom_srm.stage.rules.reading import Reading
from mdm_dicom_srm.stage.rules.recheck import Rechecker
from mdm_dicom_srm.stage.rules.request import Missing, Requests
from mdm_dicom_srm.stage.rules.target import TargetResolver

MAX_DESCRIPTION_BYTES = 255
# A watcher gets the first change and the last at once, those between gathered over this time: a message per file would cost more than the
# file.
_GATHER_SECONDS = 0.05
_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The site's life times in seconds, and how many callers may watch at once (each takes a server thread)."""

    default_pin_seconds: int
    max_pin_seconds: int
    watches: int
    request_seconds: int = 3600
    max_request_seconds: int = 86_400

    def pin(self, wanted: int) -> int:
        """Return how long files are pinned: 0 means the site's default, and more than its maximum the maximum.

        Raises:
            Invalid: a negative time.
        """
        return min(_natural(wanted, "pin_seconds", "BAD_PIN_TIME") or self.default_pin_seconds, self.max_pin_seconds)

    def request(self, wanted: int) -> int:
        """Return how long a request is worked on, as `pin`."""
        return min(_natural(wanted, "request_seconds", "BAD_REQUEST_TIME") or self.request_seconds, self.max_request_seconds)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks for: files and directories, of these `levels` (0: all), and for how many seconds each; 0: the site's default."""

    surls: Sequence[str]
    kind: Kind = Kind.GET
    pin_seconds: int = 0
    request_seconds: int = 0
    deferred_seconds: int = 0
    description: str = ""
    levels: int = 1


class Staging(Protocol):
    """Has files staged, and knows how long that takes."""

    def expect(self, guids: Iterable[UUID]) -> None: ...
    def submit(self, guids: Iterable[UUID], owner: str) -> None: ...
    def estimate(self, files: int) -> float | None: ...


class StagingService:
    """Requests of callers for files of this site."""

    def __init__(
        self, resolver: TargetResolver, rechecker: Rechecker, requests: Requests, staging: Staging, lifetimes: Lifetimes, clock: Clock
    ) -> None:
        self._resolver = resolver
        self._rechecker = rechecker
        self._requests = requests
        self._staging = staging
        self._lifetimes = lifetimes
        self._clock = clock
        self._watches = threading.BoundedSemaphore(lifetimes.watches)
        self._stopping = threading.Event()

    def resume(self) -> None:
        """Take over the requests of an earlier process: pins are held again, unfinished files staged again."""
        self.submit(self._requests.resume())

    def stop(self) -> None:
        """End watches."""
        self._stopping.set()

    def submit(self, missing: Missing) -> None:
        """Have files staged."""
        for owner, guids in missing.items():
            self._staging.submit(guids, owner)

    def prepare(self, owner: str, wish: Wish) -> tuple[str, RequestStatus]:
        """Ask for files; return the request's token and its present state, without waiting for files.

        A SURL that is not ours, unknown or forbidden is INVALID_PATH; it does not fail the others.

        Raises:
            Invalid: no SURLs, too many, or a time, level or description that cannot be.
            Exhausted: the caller keeps too many files.
            Unavailable: rights cannot be checked now.
        """
        if not 0 < len(wish.surls) <= MAX_FILES:
            raise Invalid("BAD_BATCH", f"Ask for 1 to {MAX_FILES} files at a time.", fields={"surls": "too few or too many"})
        pin_seconds, request_seconds = self._lifetimes.pin(wish.pin_seconds), self._lifetimes.request(wish.request_seconds)
        deferred = _natural(wish.deferred_seconds, "deferred_seconds", "BAD_START")
        if deferred > self._lifetimes.max_pin_seconds:
            limit = self._lifetimes.max_pin_seconds
            raise Invalid("BAD_START", f"Staging begins at most {limit} s from now.", fields={"deferred_seconds": "too late"})
        levels = _natural(wish.levels, "levels", "BAD_LEVELS")
        _check_description(wish.description)
        self._requests.check_room(owner, len(wish.surls))
        rights = ReadRights()
        files = self._resolver.files(owner, wish.surls, levels, lambda guids: self._rechecker.ask(owner, guids, rights))
        self._requests.check_room(owner, len(files))
        token, now = new_token(self._requests.instance), self._clock()
        request = Request(
            token_digest(token), owner, pin_seconds, now, files, kind=wish.kind, start=now + deferred, seconds=request_seconds
        )
        if not deferred:
            self._staging.expect(file.guid for file in files if file.guid is not None and file.state is State.REQUEST_QUEUED)
        self.submit(self._requests.add(request, token, wish.description, rights))
        return token, self.status(owner, token)

    def status(self, owner: str, token: str) -> RequestStatus:
        """Return the caller's request as it is now.

        Raises:
            NotFound: no such request of this caller.
        """
        return self._requests.status(self._requests.find(owner, token))

    def estimate(self, status: RequestStatus) -> float | None:
        """Return in how many seconds the last file of a request may be ready; None if that is not known, or nothing waits."""
        return self._staging.estimate(status.pending) if status.pending else None

    def watch(self, owner: str, token: str, disconnected: threading.Event) -> Iterator[RequestStatus]:
        """Yield the request, then its changes until no file is pending or the caller has `disconnected`.

        Raises:
            NotFound: no such request of this caller.
            Exhausted: too many callers watch already; ask for the status instead.
            Unavailable: the service is being stopped.
        """
        active = self._requests.find(owner, token)
        if not self._watches.acquire(blocking=False):
            raise Exhausted("TOO_MANY_WATCHES", "Too many requests are being watched; ask for the status from time to time instead.")
        try:
            status, told = self._requests.status(active), -math.inf
            yield status
            while status.pending and not disconnected.is_set():
                if self._stopping.is_set():
                    raise Unavailable("STOPPING", "The service is being stopped; the request goes on when it is back.")
                status = self._requests.changes(active, status.seen, _WAIT_SECONDS, told + _GATHER_SECONDS)
                if status.files:
                    told = time.monotonic()
                    yield status
        finally:
            self._watches.release()

    def reading(self, owner: str, token: str) -> Reading:
        """Return the reading of the caller's request.

        Raises:
            NotFound: no such request of this caller.
        """
        return Reading(owner, token, self._requests, self._rechecker)

    def follow(
        self, reading: Reading, wanted: Collection[UUID], disconnected: threading.Event
    ) -> Iterator[tuple[float, Sequence[StagedFile]]]:
        """Yield the time and files that are to be read, each once, as `Reading.follow`; who waits here and who watches count together."""
        return reading.follow(wanted, self._watches, self._stopping, disconnected)


def _natural(value: int, field: str, reason: str) -> int:
    if value < 0:
        raise Invalid(reason, f"{field} cannot be negative.", fields={field: "negative"})
    return value


def _check_description(text: str) -> None:
    if len(text.encode()) > MAX_DESCRIPTION_BYTES or not text.isprintable():
        message = f"A description is one line of at most {MAX_DESCRIPTION_BYTES} bytes."
        raise Invalid("BAD_DESCRIPTION", message, fields={"description": "too long, or not printable"})
