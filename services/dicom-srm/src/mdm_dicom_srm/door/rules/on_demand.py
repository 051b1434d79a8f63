"""Staging on demand: a file that is read without having been asked for is asked for once, and how that ended is remembered."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from mdm_wire.errors import Forbidden, MdmError, NotFound, Unavailable
from mdm_wire.url import surl

from mdm_dicom_srm.door.rules.copy import Copy
from mdm_dicom_srm.stage.rules.model import PENDING, StagedFile, State
from mdm_dicom_srm.stage.rules.service import StagingService, Wish

_MOST_REMEMBERED = 100_000
_LOCKS = 64
#: How long a failure is answered without asking again: one that passes, and one that a person has to see to.
PASSING_SECONDS, LASTING_SECONDS = 30.0, 600.0
_LASTING = frozenset({State.FAILURE, State.FILE_LOST, State.INTERNAL_ERROR})
_LONGEST_WAIT, _USUAL_WAIT = 60, 5


@dataclass(frozen=True, slots=True)
class Waiting:
    """The file is being staged: ask again in so many seconds."""

    seconds: int


class FileFailed(MdmError):
    """A defect of the service kept the file from being staged."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: MdmError
    until: float


class OnDemand:
    """Asks for files as their callers read them: one request for each caller and file, as long as its pin lasts."""

    def __init__(self, service: StagingService, authority: str, pin_seconds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._authority = authority
        self._pin_seconds = pin_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: OrderedDict[tuple[str, UUID], str] = OrderedDict()
        self._failures: OrderedDict[tuple[str, UUID], _Failure] = OrderedDict()
        self._asking = [threading.Lock() for _ in range(_LOCKS)]

    def open(self, owner: str, guid: UUID) -> Copy | Waiting:
        """Return the staged file, opened; or, having it staged, when to ask again.

        Raises:
            NotFound: unknown, forbidden or lost. Forbidden: the image may not be released, or the right was taken back.
            Unavailable: it cannot be staged now. FileFailed: a defect. FailedPrecondition: another instance has it.
            Exhausted: the caller has too many files in requests.
        """
        found = self.token(owner, guid)
        if isinstance(found, Waiting):
            return found
        try:
            return open_copy(self._service, owner, found, guid)
        except (NotFound, Unavailable) as error:
            if error.reason in ("NOT_PINNED", "REQUEST_NOT_FOUND", "STAGED_FILE_GONE"):  # evicted, or released between two looks
                self._forget(owner, guid)
                return Waiting(1)
            raise

    def token(self, owner: str, guid: UUID) -> str | Waiting:
        """Return the token of a request that has the file pinned; or, having it staged, when to ask again. Raises as `open`."""
        self._raise_remembered(owner, guid)
        with self._asking[hash((owner, guid)) % _LOCKS]:
            token, file, seconds = self._asked(owner, guid) or self._ask(owner, guid)
        if file.state in PENDING:
            return Waiting(seconds)
        if file.state is not State.FILE_PINNED:
            raise self._remembered(owner, guid, file)
        return token

    def _asked(self, owner: str, guid: UUID) -> tuple[str, StagedFile, int] | None:
        """Return the file of an earlier request that still counts."""
        with self._lock:
            token = self._tokens.get((owner, guid))
        if token is None:
            return None
        try:
            status = self._service.status(owner, token)
        except NotFound:
            status = None
        if status is None or status.files[0].state in (State.RELEASED, State.ABORTED, State.FILE_LIFETIME_EXPIRED):
            self._forget(owner, guid)
            return None
        return token, status.files[0], _wait(self._service.estimate(status))

    def _ask(self, owner: str, guid: UUID) -> tuple[str, StagedFile, int]:
        token, status = self._service.prepare(owner, Wish([surl(self._authority, guid)], pin_seconds=self._pin_seconds))
        with self._lock:
            self._tokens[owner, guid] = token
            if len(self._tokens) > _MOST_REMEMBERED:
                self._tokens.popitem(last=False)
        return token, status.files[0], _wait(self._service.estimate(status))

    def _forget(self, owner: str, guid: UUID) -> None:
        with self._lock:
            self._tokens.pop((owner, guid), None)

    def _raise_remembered(self, owner: str, guid: UUID) -> None:
        with self._lock:
            failure = self._failures.get((owner, guid))
            if failure is not None and failure.until <= self._clock():
                del self._failures[owner, guid]
                failure = None
        if failure is not None:
            raise failure.error.saying(failure.error.message)

    def _remembered(self, owner: str, guid: UUID, file: StagedFile) -> MdmError:
        self._forget(owner, guid)
        error = failure_of(file)
        seconds = LASTING_SECONDS if file.state in _LASTING else PASSING_SECONDS
        if not isinstance(error, NotFound) or file.state in _LASTING:  # a right that is given counts at once
            with self._lock:
                self._failures[owner, guid] = _Failure(error, self._clock() + seconds)
                if len(self._failures) > _MOST_REMEMBERED:
                    self._failures.popitem(last=False)
        return error


def open_copy(service: StagingService, owner: str, token: str, guid: UUID) -> Copy:
    """Return a pinned file of a caller's request, opened. Raises as `Reading.open`."""
    reading = service.reading(owner, token)
    file, data = reading.open(guid)
    return Copy(guid, file.size, data, lambda: reading.check(guid))


def failure_of(file: StagedFile) -> MdmError:
    """Return the error that a file's state is, for a caller who reads it."""
    reason = file.reason or file.state.value
    match file.state:
        case State.INVALID_PATH | State.FILE_LOST:
            return NotFound(reason, "The file is not there, or not for you.")
        case State.FAILURE | State.AUTHORIZATION_FAILURE:
            return Forbidden(reason, "The file may not be released to you.")
        case State.INTERNAL_ERROR:
            return FileFailed(reason, "The file could not be staged; the service's log has more under this code.")
        case _:
            return Unavailable(reason, "The file cannot be staged now; try again later.")


def _wait(estimate: float | None) -> int:
    return _USUAL_WAIT if estimate is None else max(1, min(round(estimate), _LONGEST_WAIT))
