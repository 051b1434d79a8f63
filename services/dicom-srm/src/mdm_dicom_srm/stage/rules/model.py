"""What a staging request is: its files, the states of SRM v2.2 and the moves between them."""

import hashlib
import hmac
import secrets
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from mdm_wire.url import MAX_NAMED_SURL_BYTES

MAX_FILES = 10_000
#: Of a token: 256 bits in base64url.
RANDOM_LENGTH = 43
#: Why a file is not staged that was not ready when its request's life time ended.
TIMED_OUT = "REQUEST_TIMED_OUT"


class State(StrEnum):
    """Status of a request or a file, named as in SRM v2.2."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    PARTIAL_SUCCESS = "PARTIAL_SUCCESS"
    REQUEST_QUEUED = "REQUEST_QUEUED"
    REQUEST_INPROGRESS = "REQUEST_INPROGRESS"
    FILE_PINNED = "FILE_PINNED"
    RELEASED = "RELEASED"
    ABORTED = "ABORTED"
    INVALID_PATH = "INVALID_PATH"
    AUTHORIZATION_FAILURE = "AUTHORIZATION_FAILURE"
    NO_FREE_SPACE = "NO_FREE_SPACE"
    FILE_LIFETIME_EXPIRED = "FILE_LIFETIME_EXPIRED"
    FILE_LOST = "FILE_LOST"
    FILE_UNAVAILABLE = "FILE_UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    INVALID_REQUEST = "INVALID_REQUEST"
    REQUEST_SUSPENDED = "REQUEST_SUSPENDED"
    REQUEST_TIMED_OUT = "REQUEST_TIMED_OUT"
    TOO_MANY_RESULTS = "TOO_MANY_RESULTS"


class Kind(StrEnum):
    """What a request asks for: files to read now, or files that will be wanted later."""

    GET = "GET"
    BRING_ONLINE = "BRING_ONLINE"


#: States in which a file waits for the staging engine.
PENDING = frozenset({State.REQUEST_QUEUED, State.REQUEST_INPROGRESS})
#: States that count as success of a file.
GOOD = frozenset({State.FILE_PINNED, State.RELEASED})
_FAILED = frozenset(
    {
        State.FAILURE,
        State.NO_FREE_SPACE,
        State.FILE_LOST,
        State.FILE_UNAVAILABLE,
        State.INTERNAL_ERROR,
    }
)
#: States of files that have ended well: nothing of them waits or is pinned any more.
FINISHED = frozenset({State.RELEASED, State.ABORTED, State.FILE_LIFETIME_EXPIRED})
#: Which state of a file may follow which; states that are not listed are final.
FOLLOWS: dict[State, frozenset[State]] = {
    State.REQUEST_QUEUED: _FAILED | {State.REQUEST_INPROGRESS, State.FILE_PINNED, State.RELEASED, State.ABORTED},
    State.REQUEST_INPROGRESS: _FAILED | {State.FILE_PINNED, State.RELEASED, State.ABORTED},
    State.FILE_PINNED: frozenset({State.RELEASED, State.ABORTED, State.FILE_LIFETIME_EXPIRED}),
}


@dataclass(slots=True)
class StagedFile:
    """One file of a request. `reason` is a stable code where it failed; `pin_until` is in seconds since the epoch.

    `holder` names the instance that stages and pins it.
    """

    surl: str
    guid: UUID | None
    state: State
    reason: str = ""
    size: int = 0
    pin_until: float = 0.0
    holder: str = ""

    def copy(self) -> "StagedFile":
        """Return the file as it is now; four times faster than `dataclasses.replace`, and called for every file of every status."""
        return StagedFile(self.surl, self.guid, self.state, self.reason, self.size, self.pin_until, self.holder)


@dataclass(slots=True)
class Request:
    """What one caller asked for at once. Of its token only the SHA-256 is here.

    Work on it begins at `start` and ends `seconds` later; times are in seconds since the epoch. `pending` and `pinned` count files: a
    request has up to 10,000, and a change must not cost a pass over all of them. `home` is the instance that answers for it.
    """

    digest: bytes
    owner: str
    pin_seconds: int
    created: float
    files: list[StagedFile]
    aborted: bool = False
    kind: Kind = Kind.GET
    start: float = 0.0
    seconds: float = 3600.0
    suspended: bool = False
    home: str = ""
    pending: int = 0
    pinned: int = 0
    positions: dict[UUID, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = max(self.start, self.created)
        self.pending = sum(file.state in PENDING for file in self.files)
        self.pinned = sum(file.state is State.FILE_PINNED for file in self.files)
        self.positions = {file.guid: position for position, file in enumerate(self.files) if file.guid is not None}

    @property
    def deadline(self) -> float:
        """When files that are not ready by then have failed."""
        return self.start + self.seconds

    def move(self, position: int, state: State, reason: str = "") -> None:
        """Put a file into `state`.

        Raises:
            ValueError: that state cannot follow the present one.
        """
        file = self.files[position]
        if state not in FOLLOWS.get(file.state, frozenset()):
            raise ValueError(f"{state} cannot follow {file.state}")
        self._set(file, state)
        file.reason = reason

    def requeue(self, position: int) -> None:
        """Queue a file again: one in progress whose request is suspended, or a pinned one that the spool has lost."""
        self._set(self.files[position], State.REQUEST_QUEUED)

    def replace(self, position: int, file: StagedFile) -> None:
        """Take over what another instance has made of a file; the SURL stays as it was asked."""
        mine = self.files[position]
        self._set(mine, file.state)
        mine.reason, mine.size, mine.pin_until, mine.holder = file.reason, file.size, file.pin_until, file.holder

    def _set(self, file: StagedFile, state: State) -> None:
        self.pending += (state in PENDING) - (file.state in PENDING)
        self.pinned += (state is State.FILE_PINNED) - (file.state is State.FILE_PINNED)
        file.state = state

    @property
    def state(self) -> State:
        """The state of the request as a whole."""
        timed_out = not self.pending and any(file.reason == TIMED_OUT for file in self.files)
        return overall(Counter(file.state for file in self.files), self.aborted, self.suspended, timed_out)

    @property
    def over(self) -> bool:
        """Whether nothing of it waits or is pinned any more."""
        return not self.pending and not self.pinned


def overall(files: Mapping[State, int], aborted: bool, suspended: bool, timed_out: bool) -> State:
    """Return the state of a request by how many of its files are in which state, and what else is known of it."""
    total, queued = sum(files.values()), files.get(State.REQUEST_QUEUED, 0)
    if aborted:
        return State.ABORTED
    if queued or files.get(State.REQUEST_INPROGRESS):
        if suspended:
            return State.REQUEST_SUSPENDED
        return State.REQUEST_QUEUED if queued == total else State.REQUEST_INPROGRESS
    if timed_out:
        return State.REQUEST_TIMED_OUT
    good = sum(count for state, count in files.items() if state in GOOD)
    if good == total:
        return State.SUCCESS
    return State.PARTIAL_SUCCESS if good else State.FAILURE


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """A request without its files: how many are in which state."""

    digest: bytes
    token: str
    description: str
    kind: Kind
    created: float
    files: Mapping[State, int]
    aborted: bool
    suspended: bool
    timed_out: bool

    @property
    def state(self) -> State:
        """The state of the request as a whole."""
        return overall(self.files, self.aborted, self.suspended, self.timed_out)


@dataclass(slots=True)
class ReadRights:
    """What the catalog last said about reading the files of one request, and when it was asked."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: dict[UUID, tuple[float, bool]] = field(default_factory=dict)


def new_token(instance: str) -> str:
    """Return a fresh request token: who answers for it, and 256 random bits, URL-safe."""
    return f"{instance}-{secrets.token_urlsafe(32)}"


def token_at(token: str, instance: str) -> str:
    """Return the token of the same request as another instance would name it."""
    return f"{instance}-{token[-RANDOM_LENGTH:]}"


def token_digest(token: str) -> bytes:
    """Return what is kept of a token's random part, so that neither memory order nor the database reveals one."""
    return hashlib.sha256(token[-RANDOM_LENGTH:].encode()).digest()


def same_owner(first: str, second: str) -> bool:
    """Compare two subjects in constant time."""
    return hmac.compare_digest(first.encode(), second.encode())


def refused_file(text: str, state: State = State.INVALID_PATH, reason: str = "NO_SUCH_FILE") -> StagedFile:
    """Return the file of a SURL that is not staged; by default of one that is not ours, unknown or forbidden: the three look alike."""
    # The text is kept as long as the request: no more of it than the length of a SURL.
    return StagedFile(text[:MAX_NAMED_SURL_BYTES], None, state, reason)
