"""The model of resharing: jobs, rounds, and what keystores send each other when keys get new shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

from mdm_crypto.resharing import Sharing, Subshare
from mdm_service.access.acl import Acl
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Forbidden

from mdm_keystore.rules.model import KeyRecord


class Kind(IntEnum):
    """Why keys get new shares; the values are those of the protocol and of the database."""

    REFRESH = 1
    REPAIR = 2
    RESHARE = 3


class JobState(IntEnum):
    """State of a job; the values are those of the protocol and of the database."""

    RUNNING = 1
    CANCELLING = 2
    DONE = 3
    CANCELLED = 4


class RoundState(IntEnum):
    """State of a batch; the values are those of the database."""

    DEALING = 1
    COMMITTING = 2
    RETIRING = 3


@dataclass(frozen=True, slots=True)
class Shareholders:
    """The keystores as this one knows them: its own share index, every one's certificate subject by share index (its own included),
    and the lowest threshold that it accepts.
    """

    index: int
    subjects: Mapping[int, str]
    minimum_threshold: int = 2

    @property
    def subject(self) -> str:
        """This keystore's own subject."""
        return self.subjects[self.index]

    def index_of(self, caller: Caller) -> int:
        """Return the share index of the keystore that calls.

        Raises:
            Forbidden: PEER_WRONG.
        """
        for index, subject in self.subjects.items():
            if subject == caller.dn:
                return index
        raise Forbidden("PEER_WRONG", "The caller is not among this keystore's peers.")


@dataclass(frozen=True, slots=True)
class HeldSharing:
    """A sharing of which a server has a share, and whether it can open the share."""

    sharing: Sharing
    readable: bool


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key that a server has a share of, without secrets."""

    guid: UUID
    epoch: int
    confirmed: bool
    current: HeldSharing
    previous: HeldSharing | None

    @property
    def sharings(self) -> tuple[HeldSharing, ...]:
        """The present sharing and, if there is one, the one before."""
        return (self.current,) if self.previous is None else (self.current, self.previous)


@dataclass(frozen=True, slots=True)
class Deal:
    """A key to give new shares: the sharing to deal from, and the number of the new one."""

    guid: UUID
    base: Sharing
    version: int


@dataclass(frozen=True, slots=True)
class RoundTerms:
    """The terms of a round: its id, the helpers, and k and n of the new sharing."""

    id: UUID
    helpers: tuple[int, ...]
    threshold: int
    total: int


@dataclass(frozen=True, slots=True)
class Part:
    """A helper's subshare for one target and key, with the facts about the key for a target that lacks it."""

    deal: Deal
    subshare: Subshare
    epoch: int
    creator: str
    acl_id: UUID
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts that one helper sends one target in a round."""

    round_id: UUID
    helper: int
    threshold: int
    total: int
    parts: tuple[Part, ...]
    acls: tuple[Acl, ...]


class RoundParts:
    """The parts that all helpers of a round have sent this target."""

    def __init__(self, by_helper: Sequence[Parts]) -> None:
        first = by_helper[0]
        self.threshold, self.total = first.threshold, first.total
        self.helpers = len(by_helper)
        #: Whether all helpers split for the same k and n.
        self.alike = all((parts.threshold, parts.total) == (first.threshold, first.total) for parts in by_helper)
        #: The ACLs that all helpers gave alike.
        self.acls = _agreed([parts.acls for parts in by_helper])
        self._parts = {parts.helper: {part.deal.guid: part for part in parts.parts} for parts in by_helper}

    @property
    def acl_ids(self) -> set[UUID]:
        """The ids of all ACLs that any part names."""
        return {part.acl_id for parts in self._parts.values() for part in parts.values()}

    def parts(self, guid: UUID) -> dict[int, Part]:
        """Return a key's parts by helper."""
        return {helper: parts[guid] for helper, parts in self._parts.items() if guid in parts}

    def first(self, guid: UUID) -> Part | None:
        """Return any part of a key; representative if all helpers agree."""
        return next(iter(self.parts(guid).values()), None)

    def base(self, guid: UUID) -> Sharing:
        """Return the sharing that a key is dealt from."""
        return next(iter(self.parts(guid).values())).deal.base


@dataclass(frozen=True, slots=True)
class Unprepared:
    """Why a target has not prepared a key, and the helper that is at fault (0: none is)."""

    reason: str
    message: str
    guilty: int = 0


@dataclass(frozen=True, slots=True)
class PreparedShare:
    """A new share as it is stored until the round is decided; `base` joins the commitments of the sharing it was made from."""

    record: KeyRecord
    round_id: UUID
    coordinator: int
    base: bytes


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on a round: unless `undecided`, the keys `guids` are committed and the others are not."""

    undecided: bool
    guids: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A refresh, repair or re-share of all keys. `threshold` and `total` are 0 where each key keeps its own."""

    id: UUID
    kind: Kind
    state: JobState
    threshold: int
    total: int
    lost: tuple[int, ...]
    begun_by: str
    begin_time: datetime
    end_time: datetime | None
    cursor: UUID | None
    keys_done: int
    keys_failed: int
    message: str


@dataclass(frozen=True, slots=True)
class Round:
    """A batch of a job under way.

    `guids` are the keys to do or, once decided, those that are committed; `deleted` are those that their owners have deleted meanwhile.
    """

    id: UUID
    job_id: UUID
    state: RoundState
    attempt: int
    guids: tuple[UUID, ...]
    total: int
    deleted: tuple[UUID, ...] = ()


def _agreed(by_helper: Sequence[Sequence[Acl]]) -> dict[UUID, Acl]:
    first, *others = ({acl.id: (acl.owner, frozenset(acl.entries)) for acl in acls} for acls in by_helper)
    alike = {acl_id for acl_id, content in first.items() if all(other.get(acl_id) == content for other in others)}
    return {acl.id: acl for acl in by_helper[0] if acl.id in alike}
