"""Registrations: what is queued, its states, and what the steps make of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from mdm_dicom_srm.pacs.port import InstanceLocator


class State(StrEnum):
    """RECEIVED → KEYED → DESCRIBED → PUBLISHED, or where it left that way."""

    RECEIVED = "RECEIVED"
    KEYED = "KEYED"
    DESCRIBED = "DESCRIBED"
    PUBLISHED = "PUBLISHED"
    FILTERED = "FILTERED"
    QUARANTINED = "QUARANTINED"
    FAILED = "FAILED"


#: States that a worker takes on.
OPEN = (State.RECEIVED, State.KEYED, State.DESCRIBED)
#: States from which a person may queue a registration again.
RETRIABLE = (State.FAILED, State.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance to be registered. `header` is its Part 10 file without pixel data."""

    guid: UUID
    study_token: bytes
    series_token: bytes
    locator: InstanceLocator
    header: bytes


@dataclass(frozen=True, slots=True)
class Job:
    """A registration that a worker holds."""

    guid: UUID
    state: State
    locator: InstanceLocator
    header: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Registrations of one series, held under one lease."""

    lease_id: UUID
    series_token: bytes
    jobs: tuple[Job, ...]


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
    """How many instances were newly queued, and how many were known."""

    queued: int = 0
    known: int = 0

    def __add__(self, other: "Queued") -> "Queued":
        return Queued(self.queued + other.queued, self.known + other.known)
