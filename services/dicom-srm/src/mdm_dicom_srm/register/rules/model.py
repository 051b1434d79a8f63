"""Registrations: what is queued, its states, and what the steps make of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.port import InstanceLocator


class State(StrEnum):
    """RECEIVED → KEYED → DESCRIBED → PUBLISHED, or where it left that way; REMOVING → REMOVED ends a generation."""

    RECEIVED = "RECEIVED"
    KEYED = "KEYED"
    DESCRIBED = "DESCRIBED"
    PUBLISHED = "PUBLISHED"
    FILTERED = "FILTERED"
    QUARANTINED = "QUARANTINED"
    FAILED = "FAILED"
    REMOVING = "REMOVING"
    REMOVED = "REMOVED"


#: States that a worker takes on.
OPEN = (State.RECEIVED, State.KEYED, State.DESCRIBED, State.REMOVING)
#: States from which a person may queue a registration again.
RETRIABLE = (State.FAILED, State.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance to be registered. `header` is its Part 10 file without pixel data, `digest` the keyed hash of what it says.

    `instance` is the GUID of its generation 0, `size` the bytes of the whole file. `judgement` is what all of it led to; a worker asks
    the PACS for an instance that has none.
    """

    instance: UUID
    study_token: bytes
    series_token: bytes
    locator: InstanceLocator
    header: bytes
    digest: bytes
    size: int
    judgement: Judgement | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A registration that a worker holds. Of header and judgement, what is not kept (any more) is None: the PACS has it.

    `keyed`: its key was made once. `changed`: what the grid has of it is of an earlier header. `restoring`: what the grid has may be
    incomplete. `lfn` and `patient_key` are what it was published under, "" if it was not.
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


@dataclass(frozen=True)
class Batch:
    """Registrations of one series, held under one lease."""

    lease_id: UUID
    series_token: bytes
    jobs: tuple[Job, ...]

    @cached_property
    def by_guid(self) -> Mapping[UUID, Job]:
        """The jobs by GUID."""
        return {job.guid: job for job in self.jobs}


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration as operators see it: nothing identifying."""

    guid: UUID
    state: State
    reason: str
    attempts: int
    created_at: datetime
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Registrations in order of GUID; `next_after` is None on the last page."""

    registrations: Sequence[Registration]
    next_after: UUID | None


@dataclass(frozen=True, slots=True)
class Queued:
    """How many instances were queued, new, changed or to be described again, and how many were known or under way."""

    queued: int = 0
    known: int = 0

    def __add__(self, other: "Queued") -> "Queued":
        return Queued(self.queued + other.queued, self.known + other.known)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A metadata entry of whose attributes instances state different values; the values themselves are in their headers only."""

    collection: str
    key: str
    attributes: tuple[str, ...]
