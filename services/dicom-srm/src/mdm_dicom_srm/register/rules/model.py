"""Registrations: what is queued, its states, what operators see of it, and what instances state."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from mdm_deid import Patient

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.register.rules.facts import Facts

Value = str | int | float | bool | None
#: SOP Instance UID and digest of the header: what an instance says at a time.
Version = tuple[str, bytes]

PATIENTS, STUDIES, SERIES = "patients", "studies", "series"
LEVELS = (PATIENTS, STUDIES, SERIES)
#: Collection and key of a shared entry.
Key = tuple[str, str]


class State(StrEnum):
    """How far the registration of an instance is: RECEIVED → KEYED → DESCRIBED → PUBLISHED.

    FILTERED, QUARANTINED and FAILED are registrations that went no further. REMOVING → REMOVED ends a generation.
    """

    RECEIVED = "RECEIVED"
    KEYED = "KEYED"
    DESCRIBED = "DESCRIBED"
    PUBLISHED = "PUBLISHED"
    FILTERED = "FILTERED"
    QUARANTINED = "QUARANTINED"
    FAILED = "FAILED"
    REMOVING = "REMOVING"
    REMOVED = "REMOVED"


class Removal(StrEnum):
    """Why a generation ends, where no newer one of its instance says so."""

    GONE = "GONE"
    UNREGISTERED = "UNREGISTERED"
    SITE_POLICY = "SITE_POLICY"


#: States that a worker takes on.
OPEN = (State.RECEIVED, State.KEYED, State.DESCRIBED, State.REMOVING)
#: States from which a person may queue a registration again.
RETRIABLE = (State.FAILED, State.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance to be registered. `header` is its Part 10 file without pixel data, `digest` the keyed hash of what it says.

    `instance` is the GUID of its generation 0, `size` the bytes of the whole file. `judgement` is the decision about all of it; where it
    is None a worker awaits that of the arrival, or retrieves the instance. It is judged as one of `judged_as`, the patient of its study,
    and names that patient itself if it `agrees`. `listing` is the digest of what a PACS would list of it, `calling_ae` who sent it, "" if
    it was retrieved. `rule` is the one of the site policy that leaves it out, "" if none does, and `policy` the fingerprint of that
    policy. `arriving`: a judgement of it is under way in this process, so others leave it alone for a moment.
    """

    instance: UUID
    study_token: bytes
    series_token: bytes
    locator: InstanceLocator
    header: bytes
    digest: bytes
    size: int
    listing: bytes
    facts: Facts = field(repr=False)
    judgement: Judgement | None = None
    calling_ae: str = ""
    policy: bytes = b""
    rule: str = ""
    judged_as: Patient | None = field(default=None, repr=False)
    agrees: bool = False
    arriving: bool = False

    @property
    def version(self) -> Version:
        """What the instance says, by name."""
        return self.locator.sop_uid, self.digest


@dataclass(frozen=True, slots=True)
class Job:
    """A registration that a worker holds. Header and judgement are None where they are not kept: the PACS has the instance.

    `keyed`: its key was made once. `changed`: what the grid has comes from an earlier header. `restoring`: what the grid has may be
    incomplete. `lfn` and `patient_key` are those under which it was published, "" if it was not. `digest` is that of the header.
    """

    guid: UUID
    generation: int
    state: State
    locator: InstanceLocator
    header: bytes | None
    judgement: Judgement | None
    size: int | None = None
    keyed: bool = False
    changed: bool = False
    restoring: bool = False
    lfn: str = ""
    patient_key: str = ""
    digest: bytes | None = None


@dataclass(frozen=True)
class Batch:
    """The registrations of one series that a worker holds under one lease, and brings forward together."""

    lease_id: UUID
    series_token: bytes
    jobs: tuple[Job, ...]

    @cached_property
    def by_guid(self) -> Mapping[UUID, Job]:
        """The jobs by GUID."""
        return {job.guid: job for job in self.jobs}


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration as operators see it: nothing identifying. `rule` is the one of the site policy that leaves it out."""

    guid: UUID
    state: State
    reason: str
    attempts: int
    created_at: datetime
    modified_at: datetime
    rule: str = ""


class Action(StrEnum):
    """What a person decides about an instance: it may leave, it is left out, it is judged or registered again."""

    RELEASED = "RELEASED"
    DROPPED = "DROPPED"
    RETRIED = "RETRIED"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about one instance, which then waited or had failed for `reason`."""

    at: datetime
    subject: str
    action: Action
    guid: UUID
    reason: str
    note: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list of registrations, in order of GUID; the next one is after `next_after`, None on the last page."""

    registrations: Sequence[Registration]
    next_after: UUID | None


@dataclass(frozen=True, slots=True)
class Queued:
    """What became of instances that arrived: how many were queued (new, changed or to be described again), how many known or under way."""

    queued: int = 0
    known: int = 0

    def __add__(self, other: "Queued") -> "Queued":
        return Queued(self.queued + other.queued, self.known + other.known)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A metadata entry for which instances state different values of `attributes`; the values themselves are only in their headers."""

    collection: str
    key: str
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """What one instance says of the entry `key` of the collection `level`: values by attribute, None where it says nothing."""

    level: str
    key: str
    acl_id: UUID
    values: Mapping[str, Value]

    def encode(self) -> bytes:
        """Return the statement as bytes; equal statements give equal bytes."""
        return json.dumps([self.level, self.key, str(self.acl_id), dict(self.values)], sort_keys=True).encode()


def decode(content: bytes) -> Statement:
    """Return the statement that `Statement.encode` wrote."""
    level, key, acl_id, values = json.loads(content)
    return Statement(level, key, UUID(acl_id), values)


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """A metadata entry that several instances share (a patient, study or series), while nobody else writes it.

    `statements` are those of its instances, each with how many make it; `earlier` counts instances that an earlier version of this
    service published, which state nothing; `written` is the digest of what the metadata have, if known. `save` keeps digest and
    conflicts of what was written.
    """

    statements: Sequence[tuple[Statement, int]]
    earlier: int
    written: bytes | None
    save: Callable[[bytes, Sequence[str]], None]

    @property
    def count(self) -> int:
        """How many instances share the entry."""
        return sum(count for _, count in self.statements) + self.earlier
